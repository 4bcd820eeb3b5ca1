"""The ledger: an append-only table that says of every refund what happened to it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import Table, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql import ColumnElement

from airflow_provider_talkable.protocol.errors import LedgerError, LedgerValueError
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.columns import (
    OF_OUTCOMES,
    Key,
    Values,
    columns,
    values_of_outcome,
    values_of_restated,
    values_of_settlement,
    values_of_submitted,
)
from airflow_provider_talkable.sync.entries import TICKS, Entry, History, Settlement
from airflow_provider_talkable.sync.inserts import Inserts
from airflow_provider_talkable.sync.liveness import longest_sending
from airflow_provider_talkable.sync.lookups import Lookups
from airflow_provider_talkable.sync.orders import Taken
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.settled import DATABASES
from airflow_provider_talkable.sync.statement_sizes import LookUpSize
from airflow_provider_talkable.sync.tables import Layout, OwnTable
from airflow_provider_talkable.sync.unkeepable import sift

log = logging.getLogger(__name__)

T = TypeVar("T")

# Whatever was written within this time is read, for its run may be alive.
_LONGEST_ALIVE = timedelta(hours=4)

DEFAULT_TABLE = "talkable_refund_ledger"
LEDGER = Layout(
    "ledger", columns, indexed="origin_slug", indexed_where=OF_OUTCOMES, indexed_moment="logged_at"
)


@dataclass(frozen=True, slots=True)
class TaskRun:
    """Which run of which task writes, in Airflow's terms; kept with every entry."""

    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    try_number: int | None = None


class Ledger:
    """Reads and appends entries. It belongs to one thread.

    :param engine: The database, which may be the warehouse itself.
    :param table: The table's name, quoted as it is.
    :param schema: Its schema, quoted as it is; it is not made. Default: the connection's.
    :param task_run: What is kept with every entry.
    :param writer: Eight hexadecimal digits for this run, which its entries' ids end with; default:
        random ones. A resumed run gives those it began with.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        table: str = DEFAULT_TABLE,
        schema: str | None = None,
        task_run: TaskRun | None = None,
        writer: str | None = None,
    ) -> None:
        self.writer = writer or secrets.token_hex(4)
        self._own = OwnTable(engine, LEDGER, table, schema)
        self._engine = engine
        self._table = self._own.table
        self.name = self._own.name
        self._exists = True
        written_by = {name: getattr(task_run or TaskRun(), name) for name in TaskRun.__slots__}
        self._lookups = Lookups(self._own, written_by)
        self._inserts = Inserts(self._table, written_by)
        self._ticks = 0
        self._tried: frozenset[str] = frozenset()
        self._look_up_size = LookUpSize(engine.dialect.name)
        self.append_seconds = 0.0
        """How long it takes of late to append a batch."""
        self.longest_sending = longest_sending()
        """For how long this run may be sending a refund once it has submitted it."""

    def open(self, *, create: bool = True) -> bool:
        """Make the table if it is missing; if it is not, check its columns and add those that came later.

        :param create: Whether to do so. Otherwise a missing table reads as empty.
        :return: Whether it is there.
        :raises LedgerError: if another table has that name, the database does not let it, or the table is
            not there once it was made.
        """
        self._exists = self._own.open(create=create)
        # Each statement takes so long at least, whatever is in it.
        self.append_seconds = self._own.reading_seconds
        self._look_up_size.learn(self._look_up_size.keys, self._own.reading_seconds)
        if self.is_new:
            place = self._engine.url.set(username=None, password=None, query={})
            log.warning(
                "There was no ledger %s in %s: it is made, and knows of no refund that was sent before. If "
                "there should be one, check ledger_conn_id, ledger_schema and ledger_table",
                self.name,
                place,
            )
        return self._exists

    @property
    def is_new(self) -> bool:
        """Whether :meth:`open` has made the table."""
        return self._own.is_new

    def read(self, reading: Callable[[Connection, Table], T]) -> T:
        """Read from the table with a connection, again from the beginning while the database is gone.

        :raises LedgerLost: if it is gone for too long.
        :raises LedgerError: if the database does not let it.
        """
        return self._read(lambda connection: reading(connection, self._table))

    def change(self, changing: Callable[[Connection, Table], object], *, needs: str) -> None:
        """Change the table in one transaction, again from its beginning while the database is gone.

        :param needs: What the connection needs to be allowed, for the error.
        :raises LedgerLost: if it is gone for too long.
        :raises LedgerError: if the database does not let it.
        """

        def change() -> None:
            with self._engine.begin() as connection:
                changing(connection, self._table)

        self._own.patiently(change, needs=needs)

    @property
    def seconds(self) -> float:
        """How long its database was waited for."""
        return self._own.seconds

    @property
    def query(self) -> str:
        """The statement, in the database's own SQL, that selects what this task has written in this run."""
        by_age = self._table.columns.entry_id
        statement = select(self._table).where(*self._lookups.statements.is_of_task).order_by(by_age)
        return str(statement.compile(self._engine, compile_kwargs={"literal_binds": True}))

    @property
    def keys_at_a_time(self) -> int:
        """How many rows it is best asked about at a time."""
        return self._look_up_size.keys

    def hurry(self) -> None:
        """There is no time left to wait for a database that is gone."""
        self._own.stopping = True

    def histories(self, rows: Sequence[Row], *, beside: AbstractSet[str] = frozenset()) -> dict[Key, History]:
        """What is known of the rows' keys; of new ones nothing.

        :param rows: At most :attr:`keys_at_a_time`: their keys go into one statement for each site.
        :param beside: The ids of entries of these keys that were written before, and are not looked at.
        :raises LedgerError: if it does not show one of those: then it may hide others as well.
        :raises LedgerValueError: if the database cannot look up all of the keys.
        """
        if not (rows and self._exists):
            return {}
        alive = max(_LONGEST_ALIVE, 2 * self.longest_sending) // timedelta(microseconds=1) * 1000
        since = f"{max(0, time.time_ns() - alive):0{TICKS}x}"
        began = time.monotonic()
        found = self._read(lambda connection: self._lookups.entries(connection, rows, settled_before=since))
        self._look_up_size.learn(len(rows), time.monotonic() - began)
        for entries in found.values():
            self._ticks = max(self._ticks, entries[-1].ticks)
        if beside and not beside <= {entry.entry_id for entries in found.values() for entry in entries}:
            raise LedgerError(
                f"The ledger {self.name} does not show what was just written to it, as where reads come from "
                "a copy that lags behind: what other runs have sent is not known, so nothing more is sent; "
                "give ledger_conn_id a connection that reads where it writes"
            )
        return {
            key: History.of(entry for entry in entries if entry.entry_id not in beside)
            for key, entries in found.items()
        }

    def look_up(self, rows: Sequence[Row]) -> tuple[dict[Key, History], dict[Key, str]]:
        """The same also where the database cannot look up all of the keys.

        :return: What is known, and of which keys it cannot look up an entry, and why.
        """
        known: dict[Key, History] = {}
        refused = sift(rows, lambda some: known.update(self.histories(some)))
        return known, {(row.site_slug, row.refund_key): error.reason for row, error in refused}

    def newest(self, site_slug: str, keys: str) -> str | None:
        """What the newest entry of each key says, for a snapshot to leave out what is plainly settled.

        :param keys: A list in JSON, of at most :attr:`keys_at_a_time`.
        :return: By key, as an object in JSON; ``None`` where the database cannot say it so.
        :raises LedgerError: if it cannot be read.
        """
        if not self._exists or self._engine.dialect.name not in DATABASES:
            return None
        began = time.monotonic()
        try:
            said, entry_id = self._read(lambda connection: self._lookups.newest(connection, site_slug, keys))
        except LedgerValueError:
            # One of the keys is such that the database cannot look it up.
            return None
        self._look_up_size.learn(self._look_up_size.keys, time.monotonic() - began)
        if entry_id:
            self._ticks = max(self._ticks, int(entry_id[:TICKS], 16))
        return said

    def append(self, entries: Sequence[Values]) -> None:
        """Write entries, all or none, but for those that the database cannot keep.

        If a call fails, it may be repeated with the same entries, and more: what was written is not
        written again.

        :raises LedgerLost: if the database is gone for too long.
        :raises LedgerValueError: once all others are written, with those that it cannot keep.
        """
        if not entries:
            return
        began = time.monotonic()
        given = frozenset(entry["entry_id"] for entry in entries)
        refused = sift(entries, lambda some: self._own.patiently(lambda: self._append(some)))
        self._tried = given
        self.append_seconds = (self.append_seconds + time.monotonic() - began) / 2
        if refused:
            reasons = {entry["entry_id"]: error.reason for entry, error in refused}
            error = refused[0][1]
            raise LedgerValueError(error.args[0], reason=error.reason, refused=reasons)

    def column(self, name: str) -> ColumnElement[Any]:
        """A column to read, of nothing where the table lacks it."""
        return self._lookups.statements.column(name)

    def orders(self, rows: Iterable[Row]) -> dict[Key, list[Taken]]:
        """What Talkable has taken, or may have, of the rows' orders, by site and slug; each refund once."""
        slugs: dict[str, set[str]] = {}
        for row in rows:
            slugs.setdefault(row.site_slug, set()).add(row.origin_slug)
        if not slugs or not self._exists:
            return {}
        return self._read(lambda connection: self._lookups.orders(connection, slugs))

    def has_taken(self, site_slug: str) -> bool:
        """Whether it knows of any refund of a site that Talkable has taken."""
        return self._exists and self._read(lambda connection: self._lookups.has_taken(connection, site_slug))

    def unknown_orders(self, site_slug: str) -> int:
        """Of how many refunds of a site it knows that Talkable has not found the order."""
        if not self._exists:
            return 0
        return self._read(lambda connection: self._lookups.unknown_orders(connection, site_slug))

    def submitted(self, row: Row) -> Values:
        """The entry that a refund is about to be sent."""
        return self._entry(values_of_submitted(row, self.longest_sending))

    def settlement(self, row: Row, event: Settlement, history: History, *, by: str, note: str) -> Values:
        """The entry that a person has looked a refund up in Talkable.

        It sorts right after the newest entry that it knows of: what a run writes meanwhile counts more.
        """
        newest = history.newest.entry_id if history.newest else None
        return self._entry(values_of_settlement(row, event, history, by, note), newest)

    def outcome(
        self,
        row: Row,
        result: RefundResult,
        *,
        after: str | None = None,
        sent_subtotal: Decimal | None = None,
    ) -> Values:
        """The entry that says what happened to it.

        :param sent_subtotal: What was sent of the order in all, this refund included.
        :param after: The id of an entry that this one is about: it sorts right after that, and before
            whatever another run has written meanwhile.
        """
        return self._entry(values_of_outcome(row, result, sent_subtotal), after)

    def restated(self, row: Row, entry: Entry, *, after: str) -> Values:
        """The entry that repeats what an earlier one has settled; without ``attempts``, as it took none.

        :param after: The id of the entry that hides it, as above.
        """
        return self._entry(values_of_restated(row, entry), after)

    def _entry(self, values: Values, after: str | None = None) -> Values:
        return {"entry_id": self._id_after(after) if after else self._next_id()} | values

    def _read(self, reading: Callable[[Connection], T]) -> T:
        def read() -> T:
            with self._engine.connect() as connection:
                return reading(connection)

        return self._own.patiently(read)

    def _next_id(self) -> str:
        """Nanoseconds since 1970 and the writer, as 24 hexadecimal digits, which sort in any collation.

        It never falls behind an entry that was read, so that the newest entry of a key sorts last
        whatever happens to the clocks of the machines that write.
        """
        self._ticks = max(time.time_ns(), self._ticks + 1)
        return self._id(self._ticks)

    def _id_after(self, entry_id: str) -> str:
        return self._id(int(entry_id[:TICKS], 16) + 1)

    def _id(self, ticks: int) -> str:
        return f"{ticks:0{TICKS}x}{self.writer}"

    def _append(self, entries: Sequence[Values]) -> None:
        with self._engine.begin() as connection:
            if again := [entry for entry in entries if entry["entry_id"] in self._tried]:
                # An earlier call may have written them though it failed at its end.
                written = self._inserts.written(connection, again)
                entries = [entry for entry in entries if entry["entry_id"] not in written]
            self._tried |= {entry["entry_id"] for entry in entries}
            if entries:
                self._inserts.insert(connection, entries)
