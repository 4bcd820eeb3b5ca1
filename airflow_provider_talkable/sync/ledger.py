"""The ledger: an append-only table that says of every refund what became of it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import (
    Boolean,
    Column,
    Integer,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    column,
    distinct,
    func,
    literal,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql import ColumnElement, Insert

from airflow_provider_talkable.protocol.answers import counted_subtotal_of, order_subtotal_of
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.entries import SETTLED, SUBMITTED, TICKS, Entry, History, Settlement
from airflow_provider_talkable.sync.liveness import longest_sending
from airflow_provider_talkable.sync.orders import Taken
from airflow_provider_talkable.sync.rows import MAX_KEY, MAX_SITE, Row
from airflow_provider_talkable.sync.tables import OwnTable, added, amount_type, moment_type, storable

Values = dict[str, Any]
Key = tuple[str, str]
T = TypeVar("T")

DEFAULT_TABLE = "talkable_refund_ledger"

_AT_A_TIME = 500  # keys in one statement
_FOUR_DECIMALS = Decimal("0.0001")
_READ = tuple(name for name in Entry.__dataclass_fields__ if name != "is_of_this_task")
_AMOUNTS = ("refund_subtotal", "order_subtotal", "counted_subtotal", "sent_subtotal")
_RESTATED = (
    "error_message",
    "referral_id",
    "referral_status",
    "ad_rewarded",
    "partially_refunded",
    "counted_subtotal",
    "sent_subtotal",
    "origin_id",
    "reward_paid",
    "reward_known_by",
    "void_outcome",
)
_TAKEN = tuple(outcome.value for outcome in Outcome if outcome.is_success)
_TASK = ("dag_id", "run_id", "task_id", "map_index")


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
        self._own = OwnTable(engine, "ledger", table, schema, _columns(), indexed="origin_slug")
        self._engine = engine
        self._table = self._own.table
        self.name = self._own.name
        self._exists = True
        self._task_run = {name: getattr(task_run or TaskRun(), name) for name in TaskRun.__slots__}
        self._ticks = 0
        self._tried: frozenset[str] = frozenset()
        self.longest_sending = longest_sending()
        """For how long this run may be sending a refund once it has submitted it."""

    def open(self, *, create: bool = True) -> bool:
        """Make the table if it is missing; if it is not, check its columns and add those that came later.

        :param create: Whether to do so. Otherwise a missing table reads as empty.
        :return: Whether it is there.
        :raises LedgerError: if another table has that name, or the database does not let it.
        """
        self._exists = self._own.open(create=create)
        return self._exists

    def read(self, reading: Callable[[Connection, Table], T]) -> T:
        """Read from the table with a connection, again from the beginning while the database is gone.

        :raises LedgerLost: if it is gone for too long.
        :raises LedgerError: if the database does not let it.
        """

        def read() -> T:
            with self._engine.connect() as connection:
                return reading(connection, self._table)

        return self._own.patiently(read)

    @property
    def query(self) -> str:
        """The statement, in the database's own SQL, that selects what this task has written in this run."""
        columns = self._table.columns
        of_this_task = (columns[name] == self._task_run[name] for name in _TASK)
        statement = select(self._table).where(*of_this_task).order_by(columns.entry_id)
        return str(statement.compile(self._engine, compile_kwargs={"literal_binds": True}))

    def hurry(self) -> None:
        """There is no time left to wait for a database that is gone."""
        self._own.stopping = True

    def histories(
        self, rows: Sequence[Row], *, without: AbstractSet[str] = frozenset()
    ) -> dict[Key, History]:
        """What is known of the rows' keys; of new ones nothing.

        :param rows: At most a few hundred: their keys go into one statement for each site.
        :param without: The ids of entries that are not looked at.
        """
        if not self._exists:
            return {}
        return self._own.patiently(lambda: self._histories(rows, without))

    def append(self, entries: Sequence[Values]) -> None:
        """Write entries, all or none.

        If a call fails, it may be repeated with the same entries, and more: what was written is not
        written again.

        :raises LedgerLost: if the database is gone for too long.
        """
        if entries:
            self._own.patiently(lambda: self._append(entries))

    def column(self, name: str) -> ColumnElement[Any]:
        """A column to read, of nothing where the table lacks it."""
        column = self._table.columns[name]
        return null() if name in self._own.missing else column

    def orders(self, rows: Iterable[Row]) -> dict[Key, list[Taken]]:
        """What Talkable has taken, or may have, of the rows' orders, by site and slug; each refund once."""
        slugs: dict[str, set[str]] = {}
        for row in rows:
            slugs.setdefault(row.site_slug, set()).add(row.origin_slug)
        if not slugs or not self._exists:
            return {}
        return self._own.patiently(lambda: self._orders(slugs))

    def has_taken(self, site_slug: str) -> bool:
        """Whether it knows of any refund of a site that Talkable has taken."""

        def read(connection: Connection, table: Table) -> bool:
            of_site = (table.columns.site_slug == site_slug, table.columns.event.in_(_TAKEN))
            return connection.execute(select(literal(1)).where(*of_site).limit(1)).first() is not None

        return self._exists and self.read(read)

    def unknown_orders(self, site_slug: str) -> int:
        """Of how many refunds of a site it knows that Talkable has not found the order."""

        def read(connection: Connection, table: Table) -> int:
            of_site = (table.columns.site_slug == site_slug, table.columns.event == Outcome.NOT_FOUND.value)
            count = select(func.count(distinct(table.columns.refund_key))).where(*of_site)
            return int(connection.execute(count).scalar_one())

        return self.read(read) if self._exists else 0

    def submitted(self, row: Row) -> Values:
        """The entry that a refund is about to be sent."""
        return self._entry(row, SUBMITTED, sending_until=datetime.now(UTC) + self.longest_sending)

    def settlement(self, row: Row, event: Settlement, history: History, *, by: str, note: str) -> Values:
        """The entry that a person has looked a refund up in Talkable.

        It sorts right after the newest entry that it knows of: what a run writes meanwhile counts more.
        """
        return self._entry(
            row,
            event.value,
            attempts=0,
            settles=" ".join(doubt.entry_id for doubt in history.doubts) or None,
            settled_by=storable(by),
            settled_note=storable(note),
            **self._sorted(history.newest.entry_id if history.newest else None),
        )

    def outcome(
        self,
        row: Row,
        result: RefundResult,
        *,
        after: str | None = None,
        sent_subtotal: Decimal | None = None,
    ) -> Values:
        """The entry that says what became of it.

        :param sent_subtotal: What was sent of the order in all, this refund included.
        :param after: The id of an entry that this one is about: it sorts right after that, and before
            whatever another run has come to meanwhile.
        """
        referral = result.referral or {}
        referral_id = referral.get("id")
        status = referral.get("status")
        origin_id = (result.origin or {}).get("id", referral.get("referred_origin_id"))
        counted, partially = counted_subtotal_of(result.origin)
        payment = result.payment
        return self._entry(
            row,
            result.outcome.value,
            http_status=result.http_status,
            error_message=storable(result.error_message),
            attempts=result.attempts,
            referral_id=storable(referral_id, 64),
            referral_status=storable(status, 32),
            ad_rewarded=result.ad_rewarded,
            order_subtotal=row.order_subtotal or order_subtotal_of(result.origin, result.referral),
            partially_refunded=partially,
            counted_subtotal=counted,
            sent_subtotal=sent_subtotal,
            origin_id=storable(origin_id, 64),
            reward_paid=payment.paid,
            reward_known_by=payment.known_by and payment.known_by.value,
            void_outcome=result.void_outcome and str(result.void_outcome),
            **self._sorted(after),
        )

    def restated(self, row: Row, entry: Entry, *, after: str) -> Values:
        """The entry that repeats what an earlier one has settled; without ``attempts``, as it took none.

        :param after: The id of the entry that hides it, as above.
        """
        return self._entry(
            row,
            entry.event,
            **{name: getattr(entry, name) for name in _RESTATED},
            **self._sorted(after),
        )

    def _entry(self, row: Row, event: str, **values: object) -> Values:
        return {
            "entry_id": self._next_id(),
            "logged_at": datetime.now(UTC),
            "event": event,
            "site_slug": row.site_slug,
            "refund_key": row.refund_key,
            "origin_slug": row.origin_slug,
            "refunded_at": row.refunded_at,
            "refund_subtotal": row.refund_subtotal,
            "order_subtotal": row.order_subtotal,
            **values,
        }

    def _next_id(self) -> str:
        """Nanoseconds since 1970 and the writer, as 24 hexadecimal digits, which sort in any collation.

        It never falls behind an entry that was read, so that the newest entry of a key sorts last
        whatever happens to the clocks of the machines that write.
        """
        self._ticks = max(time.time_ns(), self._ticks + 1)
        return self._id(self._ticks)

    def _sorted(self, after: str | None) -> Values:
        return {"entry_id": self._id(int(after[:TICKS], 16) + 1)} if after else {}

    def _id(self, ticks: int) -> str:
        return f"{ticks:0{TICKS}x}{self.writer}"

    def _histories(self, rows: Sequence[Row], without: AbstractSet[str]) -> dict[Key, History]:
        found: dict[Key, list[Entry]] = {}
        columns = self._table.columns
        in_task = and_(*(columns[name] == self._task_run[name] for name in _TASK))
        # As a number: not every database can select a condition.
        of_this_task = case((in_task, 1), else_=0) if self._task_run["dag_id"] else literal(0)
        wanted = [
            columns.site_slug,
            columns.refund_key,
            *(self.column(name).label(name) for name in _READ),
            of_this_task,
        ]
        with self._engine.connect() as connection:
            for site, of_site in groupby(sorted(rows, key=_site), key=_site):
                keys = [row.refund_key for row in of_site]
                query = select(*wanted).where(columns.site_slug == site, columns.refund_key.in_(keys))
                for site_slug, refund_key, *values in connection.execute(query):
                    entry = _read(values)
                    if entry.entry_id not in without:
                        found.setdefault((site_slug, refund_key), []).append(entry)
        for entries in found.values():
            entries.sort(key=lambda entry: entry.entry_id)
            self._ticks = max(self._ticks, int(entries[-1].entry_id[:TICKS], 16))
        return {key: History.of(entries) for key, entries in found.items()}

    def _orders(self, slugs: Mapping[str, AbstractSet[str]]) -> dict[Key, list[Taken]]:
        columns = self._table.columns
        wanted = ("refund_key", "event", "refund_subtotal", "order_subtotal")
        found: dict[Key, dict[str, Taken]] = {}
        with self._engine.connect() as connection:
            for site, of_site in slugs.items():
                query = (
                    select(columns.origin_slug, *(self.column(name).label(name) for name in wanted))
                    .where(
                        columns.site_slug == site,
                        columns.origin_slug.in_(sorted(of_site)),
                        columns.event.in_((*_TAKEN, Outcome.UNCONFIRMED.value, *SETTLED)),
                    )
                    .order_by(columns.entry_id)
                )
                for slug, key, event, amount, whole in connection.execute(query):
                    by_key = found.setdefault((site, slug), {})
                    if event == Settlement.NOT_REFUNDED:
                        by_key.pop(key, None)
                    else:
                        by_key[key] = Taken(key, event, _amount(amount), _amount(whole))
        return {order: list(by_key.values()) for order, by_key in found.items()}

    def _append(self, entries: Sequence[Values]) -> None:
        given = frozenset(entry["entry_id"] for entry in entries)
        with self._engine.begin() as connection:
            if again := [entry for entry in entries if entry["entry_id"] in self._tried]:
                written = self._written(connection, again)
                entries = [entry for entry in entries if entry["entry_id"] not in written]
            self._tried |= given
            if entries:
                self._insert(connection, entries)
        self._tried = given

    def _insert(self, connection: Connection, entries: Sequence[Values]) -> None:
        if connection.dialect.name == "postgresql":
            # As one text instead of a parameter for each value takes a fifth of the time.
            given = {"entries": json.dumps(entries, default=str)} | self._task_run
            connection.execute(self._insert_json, given)
            return
        # Their columns differ: what is submitted has none of what comes back.
        for _, alike in groupby(sorted(entries, key=len), key=len):
            connection.execute(self._table.insert(), [entry | self._task_run for entry in alike])

    @cached_property
    def _insert_json(self) -> Insert:
        columns = self._table.columns
        varying = [column(each.name, each.type) for each in columns if each.name not in self._task_run]
        entries = func.json_to_recordset(cast(bindparam("entries"), JSON)).table_valued(*varying)
        rows = entries.render_derived(with_types=True).columns
        same = (cast(bindparam(name), columns[name].type) for name in self._task_run)
        names = [*rows.keys(), *self._task_run]
        return self._table.insert().from_select(names, select(*rows, *same))

    def _written(self, connection: Connection, entries: Sequence[Values]) -> set[str]:
        """The ids of those entries that an earlier call has written, though it may have failed at its end."""
        columns = [self._table.columns[name] for name in ("site_slug", "refund_key", "entry_id")]
        written: set[str] = set()
        for start in range(0, len(entries), _AT_A_TIME):
            some = entries[start : start + _AT_A_TIME]
            matching = (column.in_([entry[column.name] for entry in some]) for column in columns)
            written.update(
                connection.execute(select(self._table.columns.entry_id).where(*matching)).scalars()
            )
        return written


def _columns() -> list[Column[Any]]:
    return [
        # One index serves the look-up of keys, and names the newest entry of each; some warehouses know
        # no other than a primary key.
        Column("site_slug", String(MAX_SITE), primary_key=True),
        Column("refund_key", String(MAX_KEY), primary_key=True),
        Column("entry_id", String(24), primary_key=True),
        Column("logged_at", moment_type(), nullable=False),
        Column("event", String(32), nullable=False),
        Column("origin_slug", Text, nullable=False),
        Column("refunded_at", moment_type()),
        Column("refund_subtotal", amount_type()),
        Column("http_status", Integer),
        Column("error_message", Text),
        Column("attempts", Integer),
        Column("referral_id", String(64)),
        Column("referral_status", String(32)),
        Column("ad_rewarded", Boolean),
        added(Column("reward_paid", Boolean)),
        added(Column("reward_known_by", String(32))),
        added(Column("void_outcome", String(32))),
        added(Column("order_subtotal", amount_type())),
        added(Column("counted_subtotal", amount_type())),
        added(Column("partially_refunded", Boolean)),
        added(Column("sent_subtotal", amount_type())),
        added(Column("origin_id", String(64))),
        added(Column("sending_until", moment_type())),
        added(Column("settles", Text)),
        added(Column("settled_by", Text)),
        added(Column("settled_note", Text)),
        *task_columns(),
    ]


def task_columns() -> list[Column[Any]]:
    """The columns that say which run of which task has written; named as :class:`TaskRun`'s fields."""
    return [
        Column("dag_id", String(250)),
        Column("run_id", String(250)),
        Column("task_id", String(250)),
        Column("map_index", Integer),
        Column("try_number", Integer),
    ]


def in_utc(moment: datetime) -> datetime:
    """A moment that was read: not every database keeps the offset, and what was written is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _site(row: Row) -> str:
    return row.site_slug


def _read(values: Iterable[Any]) -> Entry:
    *columns, is_of_this_task = values
    read = dict(zip(_READ, columns, strict=True))
    for name in ("refunded_at", "sending_until"):
        if read[name] is not None:
            read[name] = in_utc(read[name])
    for name in _AMOUNTS:
        read[name] = _amount(read[name])
    return Entry(**read, is_of_this_task=bool(is_of_this_task))


def _amount(value: object) -> Decimal | None:
    if value is None:
        return None
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    return exact.quantize(_FOUR_DECIMALS)
