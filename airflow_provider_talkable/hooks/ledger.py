"""The hook of the ledger: refunds in doubt, how a person settles one, and how long entries are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_talkable.hooks.databases import engine_of
from airflow_provider_talkable.protocol.errors import InvalidRefund, LedgerError

if TYPE_CHECKING:
    from airflow_provider_talkable.sync.ledger import Ledger

SETTLE_AS = ("refunded", "not_refunded")
"""What a refund may be settled as: Talkable has it, or it does not."""


class TalkableLedgerHook(BaseHook):
    """Reads a sync's ledger, settles refunds in doubt, and deletes entries that nothing needs any more.

    :param ledger_conn_id: The connection of the ledger's database.
    :param ledger_table: The ledger's table, quoted as it is.
    :param ledger_schema: Its schema, quoted as it is; default: the connection's.
    """

    def __init__(
        self,
        ledger_conn_id: str,
        *,
        ledger_table: str = "talkable_refund_ledger",
        ledger_schema: str | None = None,
    ) -> None:
        super().__init__()
        self.ledger_conn_id = ledger_conn_id
        self.ledger_table = ledger_table
        self.ledger_schema = ledger_schema

    def unconfirmed(self, site_slug: str | None = None) -> list[dict[str, Any]]:
        """The partial refunds that Talkable may or may not have, oldest first, and no run is sending.

        :param site_slug: Those of one Talkable site id; default: of all.
        :return: Dictionaries with ``site_slug``, ``refund_key``, ``origin_slug``, ``refund_subtotal``,
            ``refunded_at``, ``logged_at`` and ``error_message``.
        :raises LedgerError: if there is no ledger, or the database does not let it.
        """
        from airflow_provider_talkable.sync.settling import unconfirmed

        with self.opened() as ledger:
            return unconfirmed(ledger, site_slug=site_slug)

    def settle(
        self, refund_key: str, settle_as: str, *, by: str, note: str, site_slug: str | None = None
    ) -> None:
        """Append to the ledger what somebody who has looked a refund up in Talkable says of it.

        :param refund_key: The refund's own id.
        :param settle_as: ``refunded``: Talkable has it, which settles it. ``not_refunded``: it does not, and
            the next sync whose query returns the refund sends it.
        :param by: Who says so.
        :param note: Why: what was seen, and where.
        :param site_slug: The Talkable site id, where refunds of several sites have the key.
        :raises InvalidRefund: if the key names no refund or several, or a text is empty.
        :raises TalkableError: if Talkable itself has answered that it has the refund, or a run may be sending
            it; the error says when to come back.
        :raises LedgerError: if there is no ledger, or the database does not let it.
        """
        from airflow_provider_talkable.sync.entries import Settlement
        from airflow_provider_talkable.sync.settling import settle

        if settle_as not in SETTLE_AS:
            raise InvalidRefund.of("settle_as", settle_as, f"give one of {', '.join(SETTLE_AS)}")
        with self.opened(to_write=True) as ledger:
            settlement = Settlement(f"settled_{settle_as}")
            settle(ledger, refund_key, settlement, by=by, note=note, site_slug=site_slug)

    def entries(self, key_or_order: str, site_slug: str | None = None) -> list[dict[str, Any]]:
        """All entries about a refund and about every other part of its order, newest last.

        :param key_or_order: A refund key, or an origin slug.
        :param site_slug: Those of one Talkable site id; default: of all.
        :return: Dictionaries named as the ledger's columns; times are ISO 8601 and amounts are text.
        :raises LedgerError: if there is no ledger, or the database does not let it.
        """
        from airflow_provider_talkable.sync.settling import entries_of

        with self.opened() as ledger:
            return entries_of(ledger, key_or_order, site_slug=site_slug)

    def compact(self, before: timedelta, *, preview: bool = False) -> dict[str, Any]:
        """Delete the entries that nothing needs any more; runs may write to the ledger at the same time.

        A refund keeps the entries that say how it stands, whether Talkable has it, what is in doubt and what
        a person has settled. What the sync decides, the reconciliation and the overview stay as they were.

        :param before: Entries that are younger are kept; a day or more.
        :param preview: Delete nothing: count what would be deleted.
        :return: ``before`` as a moment in ISO 8601, how many ``entries`` of how many ``refunds``, and how
            many by event in ``events``.
        :raises InvalidRefund: if ``before`` is less than a day.
        :raises LedgerError: if there is no ledger, or the database does not let it.
        """
        from airflow_provider_talkable.sync.compaction import compact

        with self.opened() as ledger:
            done = compact(ledger, before, is_preview=preview).as_dict()
        self.log.info("%s of the ledger %s: %s", "Would delete" if preview else "Deleted", ledger.name, done)
        return done

    @contextmanager
    def opened(self, *, to_write: bool = False) -> Iterator[Ledger]:
        """The ledger, until its connections are closed.

        :param to_write: Add the columns that a ledger of an earlier version lacks.
        :raises LedgerError: if there is none, or the database does not let it.
        """
        from airflow_provider_talkable.sync.ledger import Ledger

        with ExitStack() as opened:
            engine = engine_of(self.ledger_conn_id, opened)
            ledger = Ledger(engine, table=self.ledger_table, schema=self.ledger_schema or None)
            if not ledger.open(create=False):
                raise LedgerError(
                    f"There is no ledger {ledger.name} in {self.ledger_conn_id}; the sync makes it: check "
                    "ledger_conn_id, ledger_table and ledger_schema"
                )
            if to_write:
                ledger.open()
            yield ledger
