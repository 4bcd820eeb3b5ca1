"""Lists of the ledger's entries for pages: what one task wrote, and all about one order. It only reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Table, and_, func, or_, select
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from airflow_provider_talkable.sync.bounded_reads import CLOCKS_DIFFER, Visible, bounded, readable
from airflow_provider_talkable.sync.columns import OF_OUTCOMES, Key
from airflow_provider_talkable.sync.entries import HAS_IT, SUBMITTED
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.overview import facts_of_a_reward, is_last, is_late_by

HISTORY = 500
"""How many entries of a search are shown."""
SUBMITTED_DAYS = 30
"""For how many days an order is found of which nothing is known but that its refund was submitted."""

_LISTED = ("entry_id", "logged_at", "site_slug", "refund_key", "origin_slug", "event", "refund_subtotal")
_OF_A_TASK = (*_LISTED, "refunded_at", "error_message")
_OF_A_REFUND = (
    *_LISTED,
    "order_subtotal",
    "refunded_at",
    "http_status",
    "error_message",
    "attempts",
    "referral_id",
    "referral_status",
    "reward_paid",
    "reward_amount",
    "void_outcome",
    "settled_note",
    "sending_until",
    "dag_id",
    "run_id",
    "task_id",
    "map_index",
)


@dataclass(frozen=True, slots=True)
class TaskEntries:
    """Which entries one task has written in one DAG run.

    :param since: When its DAG run may have begun at the earliest.
    :param until: When the task has ended; ``None``: it has not.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    since: datetime
    until: datetime | None = None


def entries_of_task(
    ledger: Ledger, task: TaskEntries, *, events: Sequence[str] | None, is_late: bool, offset: int, limit: int
) -> list[dict[str, Any]]:
    """The newest of a task's entries about each refund, oldest first, as dictionaries.

    :param ledger: An opened ledger.
    :param events: Only those of these events; ``None``: those that failed.
    :param is_late: Instead those that were late, whose advocate had been paid.
    :param offset: How many to pass over.
    :param limit: How many to read at most.
    :raises TooMuch: if the database takes longer than a page may.
    :raises LedgerError: if the database does not let it.
    """

    def read(connection: Connection, table: Table) -> list[dict[str, Any]]:
        entry, later = table.columns, table.alias("later")
        conditions = [
            *_of_task(entry, task),
            is_last(table, later, connection.dialect, *_of_task(later.columns, task)),
        ]
        facts = facts_of_a_reward(ledger)
        if is_late:
            conditions.append(entry.event.in_(sorted(HAS_IT)))
            conditions.append(or_(ledger.column("reward_paid").is_(True), entry.ad_rewarded.is_(True)))
        elif events is not None:
            conditions.append(entry.event.in_(list(events)))
        else:
            conditions.append(entry.event.not_in(sorted(HAS_IT)))
        columns = [entry[name] for name in _OF_A_TASK]
        shown = select(*columns, *facts).where(*conditions).order_by(entry.entry_id)
        found = []
        for row in connection.execute(shown.offset(offset).limit(limit)):
            values = readable(zip(_OF_A_TASK, row, strict=False))
            values["is_late"] = values["event"] in HAS_IT and is_late_by(*row[len(columns) :])
            if values["is_late"] or not is_late:
                found.append(values)
        return found

    return bounded(ledger, read)


def history(
    ledger: Ledger, visible: Visible, key_or_order: str, *, now: datetime | None = None
) -> list[dict[str, Any]]:
    """All entries about an order's refunds, oldest first, as dictionaries.

    :param ledger: An opened ledger.
    :param key_or_order: The order's origin slug, or the key of one of its refunds.
    :param now: The time; default: the present.
    :raises TooMuch: if the database takes longer than a page may.
    :raises LedgerError: if the database does not let it.
    """
    since = (now or datetime.now(UTC)) - timedelta(days=SUBMITTED_DAYS)

    def read(connection: Connection, table: Table) -> list[dict[str, Any]]:
        keys: set[Key] = {(site, key_or_order) for site in _sites(connection, table)}
        keys |= _keys_of_orders(connection, table, {key_or_order})
        if not (rows := _entries_of(connection, ledger, table, keys, visible)):
            # What was only submitted is in no index by its order.
            recent = (table.columns.logged_at >= since, table.columns.event == SUBMITTED)
            keys = _keys_of_orders(connection, table, {key_or_order}, *recent)
            return _entries_of(connection, ledger, table, keys, visible)
        orders = {(row["site_slug"], row["origin_slug"]) for row in rows}
        parts = _keys_of_orders(connection, table, {slug for _, slug in orders})
        of_sites = {site for site, _ in orders}
        keys |= {(site, key) for site, key in parts if site in of_sites}
        return _entries_of(connection, ledger, table, keys, visible)

    return bounded(ledger, read)


def _sites(connection: Connection, table: Table) -> Iterator[str]:
    """The sites in the ledger, by one look into the primary key for each."""
    slug = table.columns.site_slug
    site = connection.execute(select(func.min(slug))).scalar()
    for _ in range(HISTORY):
        if site is None:
            return
        yield site
        site = connection.execute(select(func.min(slug)).where(slug > site)).scalar()


def _keys_of_orders(
    connection: Connection, table: Table, slugs: AbstractSet[str], *conditions: ColumnElement[bool]
) -> set[Key]:
    entry = table.columns
    of_orders = (entry.origin_slug.in_(sorted(slugs)), *(conditions or (OF_OUTCOMES,)))
    wanted = select(entry.site_slug, entry.refund_key).distinct().where(*of_orders).limit(HISTORY)
    return {(site, key) for site, key in connection.execute(wanted)}


def _entries_of(
    connection: Connection, ledger: Ledger, table: Table, keys: AbstractSet[Key], visible: Visible
) -> list[dict[str, Any]]:
    by_site: defaultdict[str, list[str]] = defaultdict(list)
    for site, key in sorted(keys):
        by_site[site].append(key)
    columns = [ledger.column(name).label(name) for name in _OF_A_REFUND]
    rows: list[dict[str, Any]] = []
    for site, of_site in by_site.items():
        entries = select(*columns).where(
            table.columns.site_slug == site,
            table.columns.refund_key.in_(of_site),
            visible.condition(table),
        )
        newest = entries.order_by(table.columns.entry_id.desc()).limit(HISTORY)
        rows += [readable(zip(_OF_A_REFUND, row, strict=True)) for row in connection.execute(newest)]
    return sorted(rows, key=lambda row: str(row["entry_id"]))[-HISTORY:]


def _of_task(columns: Any, task: TaskEntries) -> Iterator[ColumnElement[bool]]:
    yield and_(columns.dag_id == task.dag_id, columns.run_id == task.run_id)
    yield and_(columns.task_id == task.task_id, columns.map_index == task.map_index)
    yield columns.logged_at >= task.since - CLOCKS_DIFFER
    if task.until:
        yield columns.logged_at <= task.until + CLOCKS_DIFFER
