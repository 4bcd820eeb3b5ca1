"""Retention: deletes from the ledger what nothing needs any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Table, and_, func, or_, select
from sqlalchemy.engine import Connection

from airflow_provider_talkable.protocol.errors import InvalidRefund
from airflow_provider_talkable.sync.columns import READ, Key, entry_of
from airflow_provider_talkable.sync.entries import TICKS, Entry, superseded
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.statement_sizes import most_parameters

SHORTEST = timedelta(days=1)
"""What is younger is kept: a run may be alive that writes about it."""

_REFUNDS = 1_000  # read at a time
_IN_A_STATEMENT = 200  # refunds whose entries it deletes: SQLite nests conditions no deeper than 1,000


@dataclass(slots=True)
class Compaction:
    """What was deleted from a ledger.

    :param before: Entries of this moment and later were kept.
    :param refunds: How many refunds had entries that nothing needs.
    :param events: How many entries of them, by event.
    """

    before: datetime
    refunds: int = 0
    events: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """The JSON-safe form."""
        return {
            "before": self.before.isoformat(),
            "refunds": self.refunds,
            "entries": self.events.total(),
            "events": dict(self.events.most_common()),
        }


def compact(
    ledger: Ledger, age: timedelta, *, is_preview: bool = False, now: datetime | None = None
) -> Compaction:
    """Delete the entries of a ledger that are superseded, as :func:`superseded` has it.

    Runs may write at the same time: each of them decides the same as before. It is repeated at no cost, and
    goes on where it was stopped.

    :param ledger: The ledger, opened.
    :param age: Entries that are younger are kept; a day or more.
    :param is_preview: Count them, and delete nothing.
    :param now: The time; default: the present.
    :raises InvalidRefund: if the age is less than a day.
    :raises LedgerError: if the database does not let it; what was deleted until then stays so.
    """
    if age < SHORTEST:
        raise InvalidRefund.of(
            "before",
            str(age),
            "keeps too little: a run may still write about entries of today; give 1d or more",
        )
    done = Compaction((now or datetime.now(UTC)) - age)
    for site_slug in ledger.read(_sites):
        for keys in _pages(ledger, site_slug, done.before):
            needless: dict[Key, list[Entry]] = {}
            for key, entries in _entries(ledger, keys, done.before).items():
                if found := superseded(entries):
                    needless[key] = found
            if not is_preview:
                _delete(ledger, list(needless.items()))
            done.refunds += len(needless)
            done.events.update(entry.event for found in needless.values() for entry in found)
    return done


def _sites(connection: Connection, table: Table) -> list[str]:
    slug = table.columns.site_slug
    return list(connection.execute(select(slug).distinct().order_by(slug)).scalars())


def _pages(ledger: Ledger, site_slug: str, before: datetime) -> Iterator[list[Key]]:
    """The refunds of a site that have several entries of before a moment, some at a time."""
    last: str | None = None

    def read(connection: Connection, table: Table) -> list[str]:
        key = table.columns.refund_key
        some = (
            select(key)
            .where(table.columns.site_slug == site_slug, table.columns.entry_id < _id_of(before))
            .group_by(key)
            .having(func.count() > 1)
            .order_by(key)
            .limit(min(_REFUNDS, most_parameters(connection.dialect.name) - 5))
        )
        return list(connection.execute(some if last is None else some.where(key > last)).scalars())

    while found := ledger.read(read):
        yield [(site_slug, key) for key in found]
        last = found[-1]


def _entries(ledger: Ledger, keys: Sequence[Key], before: datetime) -> dict[Key, list[Entry]]:
    """The refunds' entries of before a moment, oldest first."""

    def read(connection: Connection, table: Table) -> list[Any]:
        columns = table.columns
        entries = select(columns.refund_key, *(ledger.column(name).label(name) for name in READ)).where(
            columns.site_slug == keys[0][0],
            columns.refund_key.in_([key for _, key in keys]),
            columns.entry_id < _id_of(before),
        )
        return list(connection.execute(entries))

    found: dict[Key, list[Entry]] = {}
    for refund_key, *values in ledger.read(read):
        found.setdefault((keys[0][0], refund_key), []).append(entry_of([*values, False]))
    for entries in found.values():
        entries.sort(key=lambda entry: entry.entry_id)
    return found


def _delete(ledger: Ledger, entries: Sequence[tuple[Key, Sequence[Entry]]]) -> None:
    """Delete entries by their keys, so that none goes that was written since."""

    def change(connection: Connection, table: Table) -> None:
        columns = table.columns
        for some in _statements(entries, most_parameters(connection.dialect.name)):
            of_refunds = (
                and_(columns.refund_key == key, columns.entry_id.in_(ids)) for (_, key), ids in some
            )
            connection.execute(table.delete().where(columns.site_slug == some[0][0][0], or_(*of_refunds)))

    if entries:
        ledger.change(change, needs="to delete from it, which not every database lets anybody")


def _statements(
    entries: Sequence[tuple[Key, Sequence[Entry]]], most: int
) -> Iterator[list[tuple[Key, list[str]]]]:
    """What goes into each statement: so many refunds, and so many parameters."""
    some: list[tuple[Key, list[str]]] = []
    count = 1
    for key, found in entries:
        ids = [entry.entry_id for entry in found]
        for start in range(0, len(ids), most // 2):
            part = ids[start : start + most // 2]
            if some and (len(some) == _IN_A_STATEMENT or count + 1 + len(part) > most):
                yield some
                some, count = [], 1
            some.append((key, part))
            count += 1 + len(part)
    if some:
        yield some


def _id_of(moment: datetime) -> str:
    """What the ids of the entries begin with that were written at a moment; those before it are less."""
    return f"{int(moment.timestamp() * 1e9):0{TICKS}x}"
