"""Tables of this package in somebody's database: made if missing, checked if not, waited for if gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import TIMESTAMP, Column, DateTime, Float, Index, MetaData, Numeric, Table, inspect
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.schema import CreateColumn, CreateIndex
from sqlalchemy.sql import quoted_name
from sqlalchemy.sql.elements import TextClause
from tenacity import Retrying, retry_if_exception, wait_random_exponential

from airflow_provider_talkable.protocol.errors import LedgerError, LedgerLost

log = logging.getLogger(__name__)

T = TypeVar("T")

_ADDED = "added"
# The others know no index on a text, or none at all; they scan fast.
_INDEXING = ("sqlite", "postgresql", "mysql", "mariadb")

PATIENCE = 120.0
"""Seconds that a database may be gone before it counts as lost."""
OPENING_PATIENCE = 5.0
"""The same before anything was sent: then it is more likely a mistake in the connection."""


class OwnTable:
    """A table of this package's. It belongs to one thread.

    :param engine: The database.
    :param what: What errors call it, e.g. ``ledger``.
    :param name: The table's name, quoted as it is.
    :param schema: Its schema, quoted as it is; it is not made. Default: the connection's.
    :param columns: Its columns. One made by :func:`added` came later: a table without it gets it.
    :param indexed: A column that look-ups go by, beside the primary key; indexed where the database can.
    :param indexed_where: A condition that those look-ups have word by word: only what meets it is indexed,
        where the database can.
    :param ordered: A column that ranges are read by; indexed in its order where the database can.
    """

    def __init__(
        self,
        engine: Engine,
        what: str,
        name: str,
        schema: str | None,
        columns: Sequence[Column[Any]],
        *,
        indexed: str | None = None,
        indexed_where: TextClause | None = None,
        ordered: str | None = None,
    ) -> None:
        if "." in name:
            before, _, last = name.rpartition(".")
            raise LedgerError(
                f"{what}_table={name!r}: give the table's name alone, as {what}_schema={before!r} and "
                f"{what}_table={last!r}"
            )
        self.engine = engine
        self.what = what
        self.name = f"{schema}.{name}" if schema else name
        self.table = Table(
            quoted_name(name, quote=True),
            MetaData(),
            *columns,
            schema=None if schema is None else quoted_name(schema, quote=True),
        )
        self.missing: frozenset[str] = frozenset()
        """The columns that a table lacks which was opened to be read only."""
        self._indexes: list[Index] = []
        if indexed and engine.dialect.name in _INDEXING:
            self._indexes.append(_index(self.table, indexed, indexed_where))
        if ordered and engine.dialect.name in _INDEXING:
            self._indexes.append(Index(_index_name(self.table, ordered), self.table.columns[ordered]))
        self.is_new = False
        """Whether :meth:`open` has made it."""
        self.stopping = False
        """Whether there is no time left to wait for a database that is gone."""

    def open(self, *, create: bool = True) -> bool:
        """Make the table if it is missing; if it is not, check its columns and add those that came later.

        :param create: Whether to do so. Otherwise a missing table and :attr:`missing` columns stay missing.
        :return: Whether it is there.
        :raises LedgerError: if another table has that name, or the database does not let it. It has the
            statements that somebody else may run.
        """
        return self.patiently(lambda: self._open(create=create), OPENING_PATIENCE)

    def patiently(self, call: Callable[[], T], patience: float | None = None) -> T:
        """Call, and call again while the database is gone.

        :param patience: For how many seconds; default: :data:`PATIENCE`.
        :raises LedgerLost: if it is gone for longer.
        :raises LedgerError: if it does not let it.
        """
        # SQLAlchemy's own errors show the statement and a thousand entries: none of that is for the log.
        seconds = PATIENCE if patience is None else patience
        retrying = Retrying(
            retry=retry_if_exception(_is_gone),
            stop=lambda state: self.stopping or (state.seconds_since_start or 0) > seconds,
            wait=wait_random_exponential(multiplier=0.2, max=2),
            before_sleep=lambda state: log.warning(
                "The %s %s cannot be reached (%s); trying again",
                self.what,
                self.name,
                _short(state.outcome.exception() if state.outcome else None),
            ),
            reraise=True,
        )
        try:
            return retrying(call)
        except SQLAlchemyError as error:
            if _is_gone(error):
                raise LedgerLost(
                    f"The {self.what} {self.name} cannot be reached ({_short(error)}); once its database is "
                    "back, run this again: it goes on where the ledger ends"
                ) from None
            raise LedgerError(
                f"The {self.what} {self.name} cannot be used ({_short(error)}); the connection needs to be "
                "allowed to create it, or to select from it and insert into it"
            ) from None

    def _open(self, *, create: bool) -> bool:
        if create and not self._is_there():
            try:
                self.table.create(self.engine)
                self.is_new = True
            except DBAPIError:
                # Another task has made it in this moment, or else it is an error.
                if not self._is_there():
                    raise
        if not self._is_there():
            if not create:
                return False
            raise LedgerError(
                f"The {self.what} {self.name} was made and is not there: the connection does not read where "
                "it writes, or its transactions are undone"
            )
        lacking = self._lacking()
        if foreign := [column.name for column in lacking if not column.info.get(_ADDED)]:
            raise LedgerError(
                f"The table {self.name} is no {self.what} of refunds: it has no column {', '.join(foreign)}; "
                f"give {self.what}_table another name"
            )
        if create:
            self._add(lacking)
            self._add_indexes()
        else:
            self.missing = frozenset(column.name for column in lacking)
        return True

    def _lacking(self) -> list[Column[Any]]:
        found = inspect(self.engine).get_columns(self.table.name, schema=self.table.schema)
        names = {column["name"].lower() for column in found}
        return [column for column in self.table.columns if column.name not in names]

    def _add(self, lacking: Sequence[Column[Any]]) -> None:
        """Add columns, each of which another task may add in this moment."""
        for column in lacking:
            try:
                with self.engine.begin() as connection:
                    connection.execution_options(no_parameters=True).exec_driver_sql(self._adding(column))
            except DBAPIError as error:
                left = self._lacking()
                if column.name not in [each.name for each in left]:
                    continue
                if error.connection_invalidated or "locked" in _short(error):
                    # It is gone, or SQLite while another task writes.
                    raise
                raise LedgerError(
                    f"The {self.what} {self.name} lacks columns that this version writes, and the connection "
                    f"may not add them ({_short(error)}); have its owner run: {self._statements(left)}"
                ) from None
            log.info("The %s %s has a new column: %s", self.what, self.name, column.name)

    def _add_indexes(self) -> None:
        found = inspect(self.engine).get_indexes(self.table.name, schema=self.table.schema)
        names = [index["name"] for index in found]
        for index in self._indexes:
            if index.name in names:
                continue
            try:
                index.create(self.engine)
            except DBAPIError as error:
                # Another task has made it in this moment; or else look-ups by it only take longer.
                log.info("The %s %s has no index %s: %s", self.what, self.name, index.name, _short(error))

    def _adding(self, column: Column[Any]) -> str:
        dialect = self.engine.dialect
        table = dialect.identifier_preparer.format_table(self.table)
        return f"ALTER TABLE {table} ADD COLUMN {CreateColumn(column).compile(dialect=dialect)}"

    def _statements(self, lacking: Sequence[Column[Any]]) -> str:
        statements = [self._adding(column) for column in lacking]
        statements += [
            " ".join(str(CreateIndex(each).compile(self.engine)).split()) for each in self._indexes
        ]
        return "; ".join(statements)

    def _is_there(self) -> bool:
        return inspect(self.engine).has_table(self.table.name, schema=self.table.schema)


def added(column: Column[Any]) -> Column[Any]:
    """A column that the table got later: it is nullable, and a table without it gets it."""
    column.info[_ADDED] = True
    return column


def _index(table: Table, column: str, where: TextClause | None) -> Index:
    # By hash, since text may be longer than what PostgreSQL takes into a tree.
    return Index(
        _index_name(table, column),
        table.columns[column],
        postgresql_using="hash",
        postgresql_where=where,
        sqlite_where=where,
        mysql_length=191,
        mariadb_length=191,
    )


def _index_name(table: Table, column: str) -> str:
    return f"{table.name[:40]}_{column}"[:63]


def moment_type() -> DateTime:
    """A moment, to the millisecond at least, on every database."""
    return (
        DateTime(timezone=True)
        .with_variant(DATETIME(fsp=6), "mysql")  # which drops milliseconds unless told to keep them
        .with_variant(TIMESTAMP(timezone=True), "bigquery")  # whose DATETIME takes no offset
    )


def amount_type() -> Numeric[Any]:
    """An amount of money, to four decimals."""
    # SQLite has no decimals; four of them survive a float.
    return Numeric(15, 4).with_variant(Float(), "sqlite")


def storable(value: object, longest: int | None = None) -> str | None:
    """As text, without what databases cannot keep in one."""
    if value is None:
        return None
    text = str(value)
    if text.isascii() and "\0" not in text:
        return text[:longest]
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")[:longest]


def _is_gone(error: BaseException) -> bool:
    # A server that ends without a word is no operational error to psycopg2, but SQLAlchemy knows it.
    return isinstance(error, (OperationalError, InterfaceError)) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def _short(error: BaseException | None) -> str:
    """Without the statement and its parameters, which SQLAlchemy's message goes on with."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
