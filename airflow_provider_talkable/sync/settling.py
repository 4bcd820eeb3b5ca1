"""Refunds in doubt: what the ledger knows of them, and what somebody who has looked them up says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Table, and_, or_, select
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from airflow_provider_talkable.protocol.errors import InvalidRefund, TalkableError, printable
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.values import in_digits
from airflow_provider_talkable.sync.columns import Key, in_utc
from airflow_provider_talkable.sync.entries import HAS_IT, SUBMITTED, Entry, History, Settlement
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.overview import Period, is_newest
from airflow_provider_talkable.sync.rows import Row

_AT_A_TIME = 500  # keys in one statement
_SHOWN = (
    "entry_id",
    "logged_at",
    "site_slug",
    "refund_key",
    "origin_slug",
    "event",
    "refund_subtotal",
    "order_subtotal",
    "refunded_at",
    "http_status",
    "error_message",
    "attempts",
    "counted_subtotal",
    "settled_by",
    "settled_note",
    "sending_until",
    "dag_id",
    "run_id",
    "task_id",
    "map_index",
    "try_number",
)


def settle(
    ledger: Ledger,
    refund_key: str,
    settlement: Settlement,
    *,
    by: str,
    note: str,
    site_slug: str | None = None,
    now: datetime | None = None,
) -> None:
    """Append what somebody who has looked a refund up in Talkable says of it.

    It ends the doubt of the runs that have submitted the refund before, by name: a run that submits it at the
    same time stays in doubt, whatever the order of their entries.

    :param ledger: The ledger, opened.
    :param refund_key: The refund's own id.
    :param settlement: What is in Talkable.
    :param by: Who says so.
    :param note: Why: what was seen, and where.
    :param site_slug: The Talkable site id, where refunds of several sites have the key.
    :param now: The time; default: the present.
    :raises InvalidRefund: if the key names no refund or several, or there is no note.
    :raises TalkableError: if Talkable itself has answered that it has the refund, or a run may be sending it,
        now or since this one has looked.
    """
    for field, value in (("note", note), ("by", by)):
        if not value.strip():
            raise InvalidRefund.of(field, value, "is empty; say what you saw in Talkable, and who you are")
    row, history = _known(ledger, refund_key, site_slug)
    _check(row, history, now or datetime.now(UTC))
    ledger.append([ledger.settlement(row, settlement, history, by=by, note=note.strip())])
    _, after = _known(ledger, refund_key, row.site_slug)
    known = {*history.doubts, *history.noticed}
    if meanwhile := {*after.doubts, *after.noticed} - known:
        until = max(doubt.sent_until for doubt in meanwhile)
        raise TalkableError(
            f"{_named(row)}: a run began to send it while it was settled, and may be sending it until "
            f"{_shown(until)}; look the order up again after that"
        )


def unconfirmed(
    ledger: Ledger, *, site_slug: str | None = None, now: datetime | None = None
) -> list[dict[str, Any]]:
    """The partial refunds that Talkable may or may not have, as dictionaries, oldest first.

    Those that a run may be sending are left out: nobody can look them up yet.

    :param ledger: The ledger, opened.
    :param site_slug: Those of one Talkable site id; default: of all.
    :param now: The time; default: the present.
    """
    moment = now or datetime.now(UTC)

    def read(connection: Connection, table: Table) -> list[Any]:
        columns = table.columns
        wanted = (columns.site_slug, columns.refund_key, columns.origin_slug, columns.logged_at)
        newest = (
            *is_newest(table, Period(site_slug), connection.dialect),
            columns.event.in_((Outcome.UNCONFIRMED.value, SUBMITTED)),
        )
        return list(connection.execute(select(*wanted).where(*newest).order_by(columns.entry_id)))

    found: list[dict[str, Any]] = []
    rows = ledger.read(read)
    for start in range(0, len(rows), _AT_A_TIME):
        some = rows[start : start + _AT_A_TIME]
        histories = ledger.histories([Row(site, key, slug) for site, key, slug, _ in some])
        for site, key, slug, logged_at in some:
            history = histories[site, key]
            entry = _in_question(history)
            if entry is None or entry.is_whole or history.sent_until(moment):
                continue
            found.append(
                {
                    "site_slug": site,
                    "refund_key": key,
                    "origin_slug": slug,
                    "refund_subtotal": _json_safe(entry.refund_subtotal),
                    "refunded_at": _json_safe(entry.refunded_at),
                    "logged_at": _json_safe(in_utc(logged_at)),
                    "error_message": entry.error_message,
                }
            )
    return found


def entries_of(ledger: Ledger, key_or_order: str, *, site_slug: str | None = None) -> list[dict[str, Any]]:
    """All entries about a refund and about every other part of its order, as dictionaries, newest last.

    :param ledger: The ledger, opened.
    :param key_or_order: A refund key, or an origin slug.
    :param site_slug: Those of one Talkable site id; default: of all.
    """

    def read(connection: Connection, table: Table) -> list[dict[str, Any]]:
        columns = table.columns
        asked = or_(columns.refund_key == key_or_order, columns.origin_slug == key_or_order)
        orders = select(columns.site_slug, columns.origin_slug).where(asked, *_of(table, site_slug))
        found = [
            and_(
                columns.site_slug == site,
                or_(columns.origin_slug == slug, columns.refund_key == key_or_order),
            )
            for site, slug in connection.execute(orders.distinct())
        ]
        if not found:
            return []
        shown = select(*(ledger.column(name).label(name) for name in _SHOWN)).where(or_(*found))
        rows = connection.execute(shown.order_by(columns.entry_id))
        return [{name: _json_safe(value) for name, value in zip(_SHOWN, row, strict=True)} for row in rows]

    return ledger.read(read)


def _known(ledger: Ledger, refund_key: str, site_slug: str | None) -> tuple[Row, History]:
    """The one refund that is meant, as the ledger has it."""

    def read(connection: Connection, table: Table) -> list[str]:
        sites = select(table.columns.site_slug).where(
            table.columns.refund_key == refund_key, *_of(table, site_slug)
        )
        return list(connection.execute(sites.distinct().order_by(table.columns.site_slug)).scalars())

    sites = ledger.read(read)
    if not sites:
        where = "" if site_slug is None else f" of site {printable(site_slug)}"
        raise InvalidRefund.of(
            "refund_key",
            refund_key,
            f"the ledger {ledger.name} has no such refund{where}; 'airflow talkable ledger show' finds it by "
            "its order",
        )
    if len(sites) > 1:
        raise InvalidRefund.of(
            "refund_key", refund_key, f"is a refund of each of the sites {', '.join(sites)}; give --site-slug"
        )
    key: Key = (sites[0], refund_key)
    history = ledger.histories([Row(*key, "")])[key]
    entry = history.doubt or history.decisive or history.newest
    if entry is None:
        raise InvalidRefund.of("refund_key", refund_key, "has just been deleted from the ledger")
    return (
        Row(*key, entry.origin_slug, entry.refunded_at, entry.refund_subtotal, entry.order_subtotal),
        history,
    )


def _check(row: Row, history: History, now: datetime) -> None:
    if until := history.sent_until(now):
        error = TalkableError(
            f"{_named(row)}: a run may be sending it until {_shown(until)}; look the order up in Talkable "
            "after that, and settle it then"
        )
        error.retry_after = (until - now).total_seconds()
        raise error
    decisive = history.decisive
    if decisive and not history.doubts and decisive.event in HAS_IT - {Settlement.REFUNDED}:
        raise TalkableError(
            f"{_named(row)}: Talkable itself has answered that it has this refund ({decisive.event}); there "
            "is nothing to settle"
        )


def _in_question(history: History) -> Entry | None:
    """The entry of which nobody knows whether Talkable has its refund."""
    decisive = history.decisive
    if history.doubt:
        return history.doubt
    return decisive if decisive and decisive.event == Outcome.UNCONFIRMED else None


def _of(table: Table, site_slug: str | None) -> Iterator[ColumnElement[bool]]:
    if site_slug is not None:
        yield table.columns.site_slug == site_slug


def _named(row: Row) -> str:
    return (
        f"{printable(row.refund_key)}, a refund of {printable(row.origin_slug)} at {printable(row.site_slug)}"
    )


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _json_safe(value: object) -> Any:
    match value:
        case datetime():
            return in_utc(value).isoformat()
        case Decimal():
            return in_digits(value)
        case float():
            return in_digits(Decimal(repr(value)))
    return value
