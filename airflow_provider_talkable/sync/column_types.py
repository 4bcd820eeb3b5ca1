"""What the columns are on each database: texts to the letter, moments to the millisecond, amounts exactly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    TIMESTAMP,
    Boolean,
    Column,
    DateTime,
    Float,
    LargeBinary,
    Numeric,
    String,
    Text,
    and_,
    cast,
)
from sqlalchemy.dialects import mssql, mysql, oracle
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine

if TYPE_CHECKING:
    _OfTexts = TypeDecorator[str]
    _OfMoments = TypeDecorator[datetime]
else:
    # SQLAlchemy 1.4 takes no parameter there.
    _OfTexts = _OfMoments = TypeDecorator

_BYTES = 4  # in UTF-8, at most, for one character
_LONGEST_IN_REDSHIFT = 65_535  # bytes
_LONGEST_IN_ORACLE = 4_000  # bytes; its longer texts cannot be compared
_MYSQL_WITH_NO_PAD = (8, 0, 17)
_FOLDING = ("mysql", "mariadb", "mssql")
"""The databases where ``=`` takes other letters, or spaces at the end, for the same."""


class ExactText(_OfTexts):
    """A text that keeps every character, and where the database can, is compared to the letter.

    :param length: Its characters at most; ``None``: any number that the database takes.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The database's own type."""
        return dialect.type_descriptor(self._of(dialect))

    def _of(self, dialect: Dialect) -> TypeEngine[Any]:
        match dialect.name:
            case "mysql" | "mariadb":
                collation = _mysql_collation(dialect)
                if self.length:
                    return mysql.VARCHAR(self.length, charset="utf8mb4", collation=collation)
                return mysql.TEXT(charset="utf8mb4", collation=collation)
            case "mssql":
                return mssql.NVARCHAR(self.length, collation="Latin1_General_100_BIN2")
            case "oracle":
                return String(self.length or _LONGEST_IN_ORACLE)
            case "redshift":
                return String(_BYTES * self.length if self.length else _LONGEST_IN_REDSHIFT)
        return String(self.length) if self.length else Text()

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        """To Oracle an empty text is NULL, so it gets a space, which is no slug either."""
        if dialect.name == "oracle":
            return lambda value: " " if value == "" else value
        return super().bind_processor(dialect)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """The same backwards."""
        if dialect.name == "oracle":
            return lambda value: "" if value == " " else value
        return super().result_processor(dialect, coltype)


def moment_type() -> DateTime:
    """A moment, to the millisecond at least, on every database."""
    # MySQL drops milliseconds unless it is to keep them, Oracle's DATE has none, BigQuery's DATETIME takes no
    # offset. Drivers for Oracle drop the offset: what is written is UTC.
    to_the_microsecond = mysql.DATETIME(fsp=6)
    return (
        DateTime(timezone=True)
        .with_variant(to_the_microsecond, "mysql")
        .with_variant(to_the_microsecond, "mariadb")
        .with_variant(oracle.TIMESTAMP(), "oracle")
        .with_variant(TIMESTAMP(timezone=True), "bigquery")
    )


def amount_type() -> Numeric[Any]:
    """An amount of money, to four decimals."""
    # SQLite has no decimals; four of them survive a float.
    return Numeric(15, 4).with_variant(Float(), "sqlite")


def type_in_clickhouse(column: Column[Any]) -> TypeEngine[Any]:
    """The type that a column has in ClickHouse, where the type says whether there may be nothing in it."""
    from clickhouse_connect.cc_sqlalchemy import types  # loaded by the dialect

    # SQLAlchemy 1.4 wraps a type that has variants.
    match getattr(column.type, "impl", column.type):
        case String():
            own = types.String()
        case DateTime():
            return _MomentInClickHouse(nullable=bool(column.nullable))
        case Numeric(precision=int(precision), scale=int(scale)):
            own = types.Decimal(precision, scale)
        case Boolean():
            own = types.Bool()
        case _:
            own = types.Int32()
    result: TypeEngine[Any] = types.Nullable(own) if column.nullable else own
    return result


class _MomentInClickHouse(_OfMoments):
    """A moment to the microsecond, in UTC whatever the server's time zone is.

    :param nullable: Whether there may be none.
    """

    impl = DateTime
    cache_ok = True

    def __init__(self, *, nullable: bool) -> None:
        super().__init__()
        self.nullable = nullable

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        from clickhouse_connect.cc_sqlalchemy import types

        own = types.DateTime64(6, "UTC")
        return dialect.type_descriptor(types.Nullable(own) if self.nullable else own)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # noqa: ARG002
        # The driver would write it in the server's time zone, and the server would read that as UTC.
        return None if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"


def are_same(left: ColumnElement[str], right: ColumnElement[str], dialect: Dialect) -> ColumnElement[bool]:
    """The condition that two columns have the same text to the letter, also where ``=`` folds some."""
    if dialect.name not in _FOLDING:
        return left == right
    # By the bytes as well, so that an index still serves the first.
    return and_(left == right, cast(left, LargeBinary()) == cast(right, LargeBinary()))


def _mysql_collation(dialect: Dialect) -> str:
    if getattr(dialect, "is_mariadb", False):
        return "utf8mb4_nopad_bin"
    version = getattr(dialect, "server_version_info", None) or _MYSQL_WITH_NO_PAD
    return "utf8mb4_0900_bin" if version >= _MYSQL_WITH_NO_PAD else "utf8mb4_bin"
