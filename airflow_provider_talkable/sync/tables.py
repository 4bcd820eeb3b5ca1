"""Tables of this package in somebody's database: made if missing, checked if not, waited for if gone."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import Column, Index, MetaData, Table, inspect, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.schema import CreateColumn, CreateIndex
from sqlalchemy.sql import quoted_name
from sqlalchemy.sql.elements import TextClause
from tenacity import Retrying, retry_if_exception, wait_random_exponential

from airflow_provider_talkable.protocol.errors import LedgerError, LedgerLost, LedgerValueError
from airflow_provider_talkable.sync.column_types import type_in_clickhouse
from airflow_provider_talkable.sync.database_errors import (
    is_gone,
    is_missing_table,
    is_of_a_value,
    short,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_ADDED = "added"
# The others know no index on a text, or none at all; they scan fast.
_INDEXING = ("sqlite", "postgresql", "mysql", "mariadb")
# Their keys are none, or a promise that nobody checks.
_WITHOUT_KEYS = ("bigquery", "databricks")
_ADD_WITHOUT_COLUMN = ("mssql", "oracle")
_POSTGRES_INDEXES = text(
    "SELECT relname FROM pg_catalog.pg_index JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid"
    " WHERE indrelid = CAST(:table AS regclass)"
)
_NEEDS_NO_QUOTES = re.compile("[a-z][a-z0-9_]*")

PATIENCE = 120.0
"""Seconds that a database may be gone before it counts as lost."""
OPENING_PATIENCE = 5.0
"""The same before anything was sent: then it is more likely a mistake in the connection."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What a table of this package's is like, in whichever database.

    :param what: What errors call it, e.g. ``ledger``.
    :param columns: Makes its columns. One made by :func:`added` came later: a table without it gets it.
    :param indexed: A column of text that look-ups go by, beside the primary key; indexed where the database
        can.
    :param indexed_where: A condition that those look-ups have word by word: only what meets it is indexed,
        where the database can.
    :param indexed_moment: A column of moments that periods are looked up by, likewise.
    """

    what: str
    columns: Callable[[], Sequence[Column[Any]]]
    indexed: str | None = None
    indexed_where: TextClause | None = None
    indexed_moment: str | None = None


class OwnTable:
    """A table of this package's. It belongs to one thread.

    :param engine: The database.
    :param layout: What it is like.
    :param name: The table's name, quoted as it is; one of small letters is not, where the database folds
        those to capitals.
    :param schema: Its schema, likewise; it is not made. Default: the connection's.
    :raises LedgerError: if there is no telling where the table lies, or the database can keep none.
    """

    def __init__(self, engine: Engine, layout: Layout, name: str, schema: str | None) -> None:
        what, dialect = layout.what, engine.dialect
        if "." in name:
            before, _, last = name.rpartition(".")
            raise LedgerError(
                f"{what}_table={name!r}: give the table's name alone, as {what}_schema={before!r} and "
                f"{what}_table={last!r}"
            )
        if dialect.name == "bigquery" and not (schema or engine.url.database):
            raise LedgerError(
                f"{what}_schema={schema!r}: BigQuery keeps tables in datasets; give {what}_schema the name "
                f"of the dataset that the {what} lies in"
            )
        if dialect.name == "awsathena":
            raise LedgerError(
                f"Athena cannot keep the {what}: it makes no table without a location in S3, deletes no rows "
                "of such a table, and reads 256 KiB of SQL at most; give ledger_conn_id a connection to "
                "another database, PostgreSQL for instance"
            )
        self.engine = engine
        self.what = what
        self.name = f"{schema}.{name}" if schema else name
        self.table = _table(layout, dialect.name, name, schema, folds=dialect.requires_name_normalize)
        self._indexes = sorted(self.table.indexes, key=lambda index: str(index.name))
        self.missing: frozenset[str] = frozenset()
        """The columns that a table lacks which was opened to be read only."""
        self.is_new = False
        """Whether :meth:`open` has made it."""
        self.seconds = 0.0
        """How long the database was waited for."""
        self.reading_seconds = 0.0
        """How long it took to read nothing from it."""
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

    def patiently(
        self,
        call: Callable[[], T],
        patience: float | None = None,
        *,
        needs: str = "to create it, or to select from it and insert into it",
    ) -> T:
        """Call, and call again while the database is gone.

        :param patience: For how many seconds; default: :data:`PATIENCE`.
        :param needs: What the connection needs to be allowed, for the error.
        :raises LedgerLost: if it is gone for longer.
        :raises LedgerValueError: if it refuses a value.
        :raises LedgerError: if it does not let it.
        """
        # SQLAlchemy's own errors show the statement and a thousand entries: none of that is for the log.
        seconds = PATIENCE if patience is None else patience
        retrying = Retrying(
            retry=retry_if_exception(is_gone),
            stop=lambda state: self.stopping or (state.seconds_since_start or 0) > seconds,
            wait=wait_random_exponential(multiplier=0.2, max=2),
            before_sleep=lambda state: log.warning(
                "The %s %s cannot be reached (%s); trying again",
                self.what,
                self.name,
                short(state.outcome.exception() if state.outcome else None),
            ),
            reraise=True,
        )
        began = time.monotonic()
        try:
            return retrying(call)
        except (SQLAlchemyError, UnicodeError, OverflowError) as error:
            if is_of_a_value(error):
                raise LedgerValueError(
                    f"The {self.what} {self.name} cannot keep a value ({short(error)}); change it in the "
                    "query, or use a database that can, e.g. one in UTF-8",
                    reason=short(error),
                ) from None
            if is_gone(error):
                raise LedgerLost(
                    f"The {self.what} {self.name} cannot be reached ({short(error)}); once its database is "
                    "back, run this again: it goes on where the ledger ends"
                ) from None
            raise LedgerError(
                f"The {self.what} {self.name} cannot be used ({short(error)}); the connection needs to be "
                f"allowed {needs}"
            ) from None
        finally:
            self.seconds += time.monotonic() - began

    def _open(self, *, create: bool) -> bool:
        names = self._column_names()
        if names is None and create:
            names = self._create()
        if names is None:
            return False
        lacking = self._lacking(names)
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

    def _create(self) -> set[str]:
        """Make the table, unless another task makes it in this moment."""
        try:
            self.table.create(self.engine)
        except DBAPIError:
            if (names := self._column_names()) is not None:
                return names
            raise
        self.is_new = True
        if (names := self._column_names()) is not None:
            return names
        raise LedgerError(
            f"The {self.what} {self.name} was made and is not there: the connection does not read where "
            "it writes, or its transactions are undone"
        )

    def _column_names(self) -> set[str] | None:
        """The names of the table's columns, as a query gets them; ``None``: it is not there."""
        # Reading proves what reflection only claims, and works where that does not.
        nothing = select(text("*")).select_from(self.table).where(text("1 = 0"))
        try:
            with self.engine.connect() as connection:
                began = time.monotonic()
                names = list(connection.execute(nothing).keys())
                self.reading_seconds = time.monotonic() - began
        except DBAPIError as error:
            if is_missing_table(error):
                return None
            raise
        # BigQuery's driver names no columns of a result without rows, nor says before that there is no table.
        with suppress(NoSuchTableError):
            names = names or self._reflected_names()
        return {name.lower() for name in names} or None

    def _reflected_names(self) -> list[str]:
        found = inspect(self.engine).get_columns(self.table.name, schema=self.table.schema)
        return [column["name"] for column in found]

    def _lacking(self, names: set[str]) -> list[Column[Any]]:
        return [column for column in self.table.columns if column.name not in names]

    def _add(self, lacking: Sequence[Column[Any]]) -> None:
        """Add columns, each of which another task may add in this moment."""
        for column in lacking:
            try:
                with self.engine.begin() as connection:
                    connection.execution_options(no_parameters=True).exec_driver_sql(self._adding(column))
            except DBAPIError as error:
                left = self._lacking(self._column_names() or set())
                if column.name not in [each.name for each in left]:
                    continue
                if error.connection_invalidated or "locked" in short(error):
                    # It is gone, or SQLite while another task writes.
                    raise
                raise LedgerError(
                    f"The {self.what} {self.name} lacks columns that this version writes, and the connection "
                    f"may not add them ({short(error)}); have its owner run: {self._statements(left)}"
                ) from None
            log.info("The %s %s has a new column: %s", self.what, self.name, column.name)

    def _add_indexes(self) -> None:
        if not self._indexes or self.is_new:
            return
        names = self._index_names()
        for index in self._indexes:
            if index.name in names:
                continue
            try:
                index.create(self.engine)
            except DBAPIError as error:
                # Another task has made it in this moment; or else look-ups by it only take longer.
                log.info("The %s %s has no index %s: %s", self.what, self.name, index.name, short(error))

    def _index_names(self) -> list[str | None]:
        if self.engine.dialect.name != "postgresql":
            there = inspect(self.engine).get_indexes(self.table.name, schema=self.table.schema)
            return [index["name"] for index in there]
        # Reflection takes five statements.
        table = self.engine.dialect.identifier_preparer.format_table(self.table)
        with self.engine.connect() as connection:
            return list(connection.execute(_POSTGRES_INDEXES, {"table": table}).scalars())

    def _adding(self, column: Column[Any]) -> str:
        dialect = self.engine.dialect
        table = dialect.identifier_preparer.format_table(self.table)
        add = "ADD" if dialect.name in _ADD_WITHOUT_COLUMN else "ADD COLUMN"
        return f"ALTER TABLE {table} {add} {CreateColumn(column).compile(dialect=dialect)}"

    def _statements(self, lacking: Sequence[Column[Any]]) -> str:
        statements = [self._adding(column) for column in lacking]
        statements += (
            " ".join(str(CreateIndex(index).compile(self.engine)).split()) for index in self._indexes
        )
        return "; ".join(statements)


def added(column: Column[Any]) -> Column[Any]:
    """A column that the table got later: it is nullable, and a table without it gets it."""
    column.info[_ADDED] = True
    return column


# To make a statement into SQL, which is done once for each table, takes longer than most take to run.
@lru_cache
def _table(layout: Layout, dialect: str, name: str, schema: str | None, *, folds: bool) -> Table:
    """The table as a database makes it, with its indexes; ``folds``: small letters to capitals."""
    columns = layout.columns()
    key = [column.name for column in columns if column.primary_key]
    options: dict[str, Any] = {}
    if dialect in _WITHOUT_KEYS:
        for column in columns:
            column.primary_key = False
    if dialect == "bigquery":
        options["bigquery_clustering_fields"] = key[:2] or None
    if dialect == "clickhousedb":
        from clickhouse_connect.cc_sqlalchemy.engines import MergeTree  # loaded by the dialect

        for column in columns:
            column.type = type_in_clickhouse(column)
        options["clickhousedb_engine"] = MergeTree(order_by=key or "tuple()")
    if dialect in ("mysql", "mariadb"):
        own = {"engine": "InnoDB", "charset": "utf8mb4", "row_format": "DYNAMIC"}
        options = {f"{dialect}_{option}": value for option, value in own.items()}
    table = Table(
        _quoted(name, folds=folds),
        MetaData(),
        *columns,
        schema=_quoted(schema, folds=folds) if schema else None,
        **{option: value for option, value in options.items() if value is not None},
    )
    if dialect == "mssql":
        # The table itself would be sorted by it, and a key for that has to be shorter.
        table.primary_key.dialect_options["mssql"]["clustered"] = False
    if dialect in _INDEXING and layout.indexed:
        _index(table, layout.indexed, layout.indexed_where)
    if dialect in _INDEXING and layout.indexed_moment:
        _index_of_moment(table, layout.indexed_moment)
    return table


def _quoted(name: str, *, folds: bool) -> quoted_name:
    # What folds small letters to capitals finds the name without quotes, as people write it.
    is_plain = folds and _NEEDS_NO_QUOTES.fullmatch(name)
    return quoted_name(name, quote=None if is_plain else True)


def _index_of_moment(table: Table, column: str) -> None:
    Index(f"{table.name[:40]}_{column}"[:63], table.columns[column])


def _index(table: Table, column: str, where: TextClause | None) -> None:
    # By hash, since text may be longer than what PostgreSQL takes into a tree.
    Index(
        f"{table.name[:40]}_{column}"[:63],
        table.columns[column],
        postgresql_using="hash",
        postgresql_where=where,
        sqlite_where=where,
        mysql_length=191,
        mariadb_length=191,
    )


def storable(value: object, longest: int | None = None) -> str | None:
    """As text, without what databases cannot keep in one."""
    if value is None:
        return None
    text = str(value)
    if text.isascii() and "\0" not in text:
        return text[:longest]
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")[:longest]


def escaped(text: str) -> str:
    """As text in ASCII, which every database keeps."""
    return text.encode("ascii", "backslashreplace").decode().replace("\0", "\\x00")
