"""Refunding by hand: straight, through a ledger as the sync does it, or as a preview."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_talkable.cli.output import misuse
from airflow_provider_talkable.protocol.errors import InvalidRefund, TalkableConnectionError, TalkableError
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.protocol.values import identifier

if TYPE_CHECKING:
    from airflow_provider_talkable.hooks.talkable import TalkableHook
    from airflow_provider_talkable.sync.ledger import Ledger
    from airflow_provider_talkable.sync.rows import Row


def refunds_of(options: argparse.Namespace, hook: TalkableHook) -> list[Refund]:
    """All that is to be refunded, each once, or nothing."""
    for name in ("refund_subtotal", "order_subtotal", "refund_key"):
        if len(options.origin_slug) > 1 and (value := getattr(options, name)) is not None:
            flag = name.replace("_", "-")
            misuse(f"--{flag}={value}: goes with one order; refund each by itself")
    site_slug = hook.site_slug
    try:
        refunds = [
            Refund.parse(
                slug,
                site_slug=site_slug,
                refunded_at=options.refunded_at,
                refund_subtotal=options.refund_subtotal,
                order_subtotal=options.order_subtotal,
            )
            for slug in options.origin_slug
        ]
        if options.refund_key is not None:
            identifier("refund_key", options.refund_key)
    except InvalidRefund as error:
        misuse(str(error))
    if options.refund_key is not None and not options.ledger_conn_id:
        misuse(f"--refund-key={options.refund_key}: goes with --ledger-conn-id; only a ledger keeps it")
    if options.ledger_conn_id and options.refund_key is None and any(one.is_partial for one in refunds):
        misuse("--refund-subtotal: give --refund-key as well, by which the ledger tells it from other parts")
    return list(dict.fromkeys(refunds))


def send(hook: TalkableHook, refunds: Sequence[Refund]) -> list[RefundResult]:
    """Refund, and return what happened to each, also if it is interrupted."""
    results: list[RefundResult] = []
    waiting = iter(refunds)
    try:
        for result in hook.refund_many(waiting):
            results.append(result)  # noqa: PERF402 - what came before an interruption is kept
    except KeyboardInterrupt:
        stopped = TalkableConnectionError("It was interrupted before the answer came")
        not_sent = [RefundResult.not_tried(refund, TalkableError("it was interrupted")) for refund in waiting]
        sent = refunds[len(results) : len(refunds) - len(not_sent)]
        results += [RefundResult.from_error(refund, stopped, attempts=1) for refund in sent]
        results += not_sent
    return results


def send_through(hook: TalkableHook, ledger: Ledger, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Refund as a sync of these rows does, and return what the ledger says of each then.

    :raises TalkableError: if something stopped it; what the ledger says of each holds.
    """
    from airflow_provider_talkable.sync.run import RefundSync, Rules
    from airflow_provider_talkable.sync.snapshot import Snapshot

    config = hook.get_conn().config
    with Snapshot() as snapshot:
        snapshot.fill(rows)
        sync = RefundSync(snapshot, ledger, config, policy=hook.policy, pace=hook.pace, rules=Rules())
        with suppress(KeyboardInterrupt):
            sync.run()
    histories, refused = ledger.look_up(rows)
    shown = []
    for row in rows:
        key = (row.site_slug, row.refund_key)
        history = histories.get(key)
        entry = history.newest if history else None
        shown.append(
            {
                "origin_slug": row.origin_slug,
                "refund_key": row.refund_key,
                "outcome": entry.event if entry else None,
                "late": entry.late if entry else None,
                "error_message": entry.error_message if entry else refused.get(key, sync.summary.stopped),
            }
        )
    return shown


def preview(ledger: Ledger | None, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What would be sent, and what would not, by what the ledger says."""
    from airflow_provider_talkable.sync.decisions import Note, Send, Skip, decide, in_words
    from airflow_provider_talkable.sync.entries import History
    from airflow_provider_talkable.sync.preview import TO_SEND

    histories = ledger.histories(rows) if ledger else {}
    shown = []
    for row in rows:
        match decide(row, histories.get((row.site_slug, row.refund_key), History())):
            case Send():
                outcome, message = TO_SEND, None
            case Skip(entry):
                outcome, message = entry.event, entry.error_message
            case Note(noted, message):
                outcome = noted.value
        shown.append(
            {
                "origin_slug": row.origin_slug,
                "outcome": outcome,
                "sends": in_words(row),
                "why": message,
            }
        )
    return shown


def rows_of(options: argparse.Namespace, refunds: Sequence[Refund]) -> list[Row]:
    """The refunds with their keys, as a sync's query would give them."""
    from airflow_provider_talkable.sync.rows import Row

    return [Row.of(refund, options.refund_key or refund.origin_slug) for refund in refunds]
