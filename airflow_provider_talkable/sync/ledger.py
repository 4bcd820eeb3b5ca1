"""The ledger: an append-only table that says of every refund what became of it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import (
    TIMESTAMP,
    Boolean,
    Column,
    DateTime,
    Float,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    inspect,
    literal,
    select,
)
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.sql import quoted_name
from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from airflow_provider_talkable.protocol.errors import LedgerError, LedgerLost
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.decisions import SUBMITTED, TICKS, Entry, History
from airflow_provider_talkable.sync.rows import MAX_KEY, MAX_SITE, Row

log = logging.getLogger(__name__)

T = TypeVar("T")
Values = dict[str, Any]
Key = tuple[str, str]

DEFAULT_TABLE = "talkable_refund_ledger"
PATIENCE = 120.0
"""Seconds that a database may be gone before the ledger counts as lost."""
OPENING_PATIENCE = 5.0
"""The same before anything was sent: then it is more likely a mistake in the connection."""

_AT_A_TIME = 500  # keys in one statement
_FOUR_DECIMALS = Decimal("0.0001")
_READ = tuple(name for name in Entry.__dataclass_fields__ if name != "is_of_this_task")
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
        self.name = f"{schema}.{table}" if schema else table
        self.writer = writer or secrets.token_hex(4)
        self.stopping = False
        """Whether there is no time left to wait for a database that is gone."""
        self._engine = engine
        self._table = _table(table, schema)
        self._exists = True
        self._task_run = {name: getattr(task_run or TaskRun(), name) for name in TaskRun.__slots__}
        self._ticks = 0
        self._tried: frozenset[str] = frozenset()

    def open(self, *, create: bool = True) -> None:
        """Make the table if it is missing, and check its columns if it is not.

        :param create: Leave a missing table missing: it then reads as empty.
        :raises LedgerError: if another table has that name, or the database does not let it.
        """
        self._exists = self._patiently(lambda: self._open(create=create), OPENING_PATIENCE)

    def histories(self, rows: Sequence[Row]) -> dict[Key, History]:
        """What is known of the rows' keys; of new ones nothing.

        :param rows: At most a few hundred: their keys go into one statement for each site.
        """
        if not self._exists:
            return {}
        return self._patiently(lambda: self._histories(rows))

    def append(self, entries: Sequence[Values]) -> None:
        """Write entries, all or none.

        If a call fails, it may be repeated with the same entries, and more: what was written is not
        written again.

        :raises LedgerLost: if the database is gone for too long.
        """
        if entries:
            self._patiently(lambda: self._append(entries))

    def submitted(self, row: Row) -> Values:
        """The entry that a refund is about to be sent."""
        return self._entry(row, SUBMITTED)

    def outcome(self, row: Row, result: RefundResult) -> Values:
        """The entry that says what became of it."""
        referral = result.referral or {}
        referral_id = referral.get("id")
        status = referral.get("status")
        return self._entry(
            row,
            result.outcome.value,
            http_status=result.http_status,
            error_message=_text(result.error_message),
            attempts=result.attempts,
            referral_id=_text(referral_id, 64),
            referral_status=_text(status, 32),
            ad_rewarded=result.ad_rewarded,
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
            **self._task_run,
            **values,
        }

    def _next_id(self) -> str:
        """Nanoseconds since 1970 and the writer, as 24 hexadecimal digits, which sort in any collation.

        It never falls behind an entry that was read, so that the newest entry of a key sorts last
        whatever happens to the clocks of the machines that write.
        """
        self._ticks = max(time.time_ns(), self._ticks + 1)
        return f"{self._ticks:0{TICKS}x}{self.writer}"

    def _open(self, *, create: bool) -> bool:
        if create and not self._is_there():
            try:
                self._table.create(self._engine)
            except DBAPIError:
                # Another task has made it in this moment, or else it is an error.
                if not self._is_there():
                    raise
        if not self._is_there():
            return False
        found = inspect(self._engine).get_columns(self._table.name, schema=self._table.schema)
        names = {column["name"].lower() for column in found}
        if missing := [column.name for column in self._table.columns if column.name not in names]:
            raise LedgerError(
                f"The table {self.name} is no ledger of refunds: it has no column {', '.join(missing)}; "
                "give ledger_table another name"
            )
        return True

    def _is_there(self) -> bool:
        return inspect(self._engine).has_table(self._table.name, schema=self._table.schema)

    def _histories(self, rows: Sequence[Row]) -> dict[Key, History]:
        found: dict[Key, list[Entry]] = {}
        columns = self._table.columns
        in_task = and_(*(columns[name] == self._task_run[name] for name in _TASK))
        # As a number: not every database can select a condition.
        of_this_task = case((in_task, 1), else_=0) if self._task_run["dag_id"] else literal(0)
        wanted = [columns.site_slug, columns.refund_key, *(columns[name] for name in _READ), of_this_task]
        with self._engine.connect() as connection:
            for site, of_site in groupby(sorted(rows, key=_site), key=_site):
                keys = [row.refund_key for row in of_site]
                query = select(*wanted).where(columns.site_slug == site, columns.refund_key.in_(keys))
                for site_slug, refund_key, *values in connection.execute(query):
                    found.setdefault((site_slug, refund_key), []).append(_read(values))
        for entries in found.values():
            entries.sort(key=lambda entry: entry.entry_id)
            self._ticks = max(self._ticks, int(entries[-1].entry_id[:TICKS], 16))
        return {key: History.of(entries) for key, entries in found.items()}

    def _append(self, entries: Sequence[Values]) -> None:
        given = frozenset(entry["entry_id"] for entry in entries)
        with self._engine.begin() as connection:
            if again := [entry for entry in entries if entry["entry_id"] in self._tried]:
                written = self._written(connection, again)
                entries = [entry for entry in entries if entry["entry_id"] not in written]
            self._tried |= given
            # Their columns differ: what is submitted has none of what comes back.
            for _, alike in groupby(sorted(entries, key=len), key=len):
                self._insert(connection, list(alike))
        self._tried = given

    def _insert(self, connection: Connection, entries: list[Values]) -> None:
        if connection.dialect.name != "postgresql":
            connection.execute(self._table.insert(), entries)
            return
        # One parameter for each column instead of each value takes half the time.
        columns = self._table.columns
        varying = [name for name in entries[0] if name not in self._task_run]
        arrays = (cast(bindparam(name), ARRAY(columns[name].type)) for name in varying)
        rows = func.unnest(*arrays).table_valued(*varying).render_derived()
        same = (cast(bindparam(name), columns[name].type) for name in self._task_run)
        connection.execute(
            self._table.insert().from_select([*varying, *self._task_run], select(*rows.columns, *same)),
            self._task_run | {name: [entry[name] for entry in entries] for name in varying},
        )

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

    # SQLAlchemy's own errors show the statement and a thousand entries: none of that is for the log.
    def _patiently(self, call: Callable[[], T], patience: float | None = None) -> T:
        seconds = PATIENCE if patience is None else patience
        retrying = Retrying(
            retry=retry_if_exception_type((OperationalError, InterfaceError)),
            stop=lambda state: self.stopping or (state.seconds_since_start or 0) > seconds,
            wait=wait_random_exponential(multiplier=0.2, max=2),
            before_sleep=lambda state: log.warning(
                "The ledger %s cannot be reached (%s); trying again",
                self.name,
                _short(state.outcome.exception() if state.outcome else None),
            ),
            reraise=True,
        )
        try:
            return retrying(call)
        except (OperationalError, InterfaceError) as error:
            raise LedgerLost(
                f"The ledger {self.name} cannot be reached ({_short(error)}); once its database is back, run "
                "this again: it goes on where the ledger ends"
            ) from None
        except SQLAlchemyError as error:
            raise LedgerError(
                f"The ledger {self.name} cannot be used ({_short(error)}); the connection needs to be "
                "allowed to create it, or to select from it and insert into it"
            ) from None


def _table(name: str, schema: str | None) -> Table:
    moment = (
        DateTime(timezone=True)
        .with_variant(DATETIME(fsp=6), "mysql")  # which drops milliseconds unless told to keep them
        .with_variant(TIMESTAMP(timezone=True), "bigquery")  # whose DATETIME takes no offset
    )
    return Table(
        quoted_name(name, quote=True),
        MetaData(),
        # One index serves the look-up of keys, and names the newest entry of each; some warehouses know
        # no other than a primary key.
        Column("site_slug", String(MAX_SITE), primary_key=True),
        Column("refund_key", String(MAX_KEY), primary_key=True),
        Column("entry_id", String(24), primary_key=True),
        Column("logged_at", moment, nullable=False),
        Column("event", String(32), nullable=False),
        Column("origin_slug", Text, nullable=False),
        Column("refunded_at", moment),
        # SQLite has no decimals; four of them survive a float.
        Column("refund_subtotal", Numeric(15, 4).with_variant(Float(), "sqlite")),
        Column("http_status", Integer),
        Column("error_message", Text),
        Column("attempts", Integer),
        Column("referral_id", String(64)),
        Column("referral_status", String(32)),
        Column("ad_rewarded", Boolean),
        Column("dag_id", String(250)),
        Column("run_id", String(250)),
        Column("task_id", String(250)),
        Column("map_index", Integer),
        Column("try_number", Integer),
        schema=None if schema is None else quoted_name(schema, quote=True),
    )


def _site(row: Row) -> str:
    return row.site_slug


def _read(values: Iterable[Any]) -> Entry:
    *columns, is_of_this_task = values
    read = dict(zip(_READ, columns, strict=True))
    moment, amount = read["refunded_at"], read["refund_subtotal"]
    if moment is not None:
        # Not every database keeps the offset; what was written is UTC.
        read["refunded_at"] = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if amount is not None:
        exact = amount if isinstance(amount, Decimal) else Decimal(repr(amount))
        read["refund_subtotal"] = exact.quantize(_FOUR_DECIMALS)
    return Entry(**read, is_of_this_task=bool(is_of_this_task))


def _text(value: object, longest: int | None = None) -> str | None:
    """As text, without what databases cannot keep in one."""
    if value is None:
        return None
    text = str(value)
    if text.isascii() and "\0" not in text:
        return text[:longest]
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")[:longest]


def _short(error: BaseException | None) -> str:
    """Without the statement and its parameters, which SQLAlchemy's message goes on with."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
