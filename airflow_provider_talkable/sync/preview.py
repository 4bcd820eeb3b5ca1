"""What a sync would do, without doing it."""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.decisions import Note, Send, decide
from airflow_provider_talkable.sync.entries import History
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.sites import doubtful_sites
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.summary import SHOWN, Summary, described, named
from airflow_provider_talkable.sync.unkeepable import variants

log = logging.getLogger(__name__)

TO_SEND = "to_send"


def preview(
    snapshot: Snapshot,
    ledger: Ledger,
    resend: AbstractSet[Outcome],
    *,
    resend_keys: AbstractSet[str] = frozenset(),
    void_referral: bool = False,
) -> Summary:
    """Read the rows and the ledger, send nothing and write nothing.

    :return: A summary in which ``to_send`` counts what would be sent; the log has the first of them.
    """
    summary = Summary(rows=snapshot.rows, duplicates=snapshot.rows - snapshot.refunds)
    doubtful = doubtful_sites(ledger, snapshot.sites)
    while rows := snapshot.take(ledger.keys_at_a_time):
        histories, refused = ledger.look_up(rows)
        for row in rows:
            key = (row.site_slug, row.refund_key)
            if key in refused:
                row = next(variants(row, refused[key]))
            history = histories.get(key, History())
            match decide(
                row,
                history,
                resend=resend,
                resend_keys=resend_keys,
                is_doubtful_site=row.site_slug in doubtful,
                void_referral=void_referral,
            ):
                case Send():
                    summary.outcomes[TO_SEND] += 1
                    if summary.outcomes[TO_SEND] <= SHOWN:
                        log.info("Would send: %s", described(named(row)))
                case Note(outcome, message):
                    summary.count(row, outcome, message)
                case _:
                    summary.skipped += 1
    log.info("Preview: nothing was sent, and nothing was written")
    return summary
