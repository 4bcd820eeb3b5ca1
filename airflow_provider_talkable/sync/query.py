"""Reading the warehouse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.exc import SQLAlchemyError

from airflow_provider_talkable.protocol.errors import InvalidRefund, TalkableError
from airflow_provider_talkable.sync.database_errors import is_of_a_value, short, state_of
from airflow_provider_talkable.sync.rows import Row, RowReader

_AT_A_TIME = 1000  # rows
_DATE = "refunded_at"
_NO_TEXTS = frozenset({_DATE, "refund_subtotal", "order_subtotal"})


def rows_of(
    engine: Engine,
    sql: str,
    parameters: Mapping[str, Any] | Sequence[Any] | None = None,
    *,
    site_slug: str | None = None,
    more: Sequence[str] = (),
    needs: Sequence[str] = (),
    require_subtotal: bool = False,
) -> Iterator[Row]:
    """Run a query and read its rows as they come; when they are at their end, its transaction is too.

    :param engine: The warehouse.
    :param sql: One statement, in the warehouse's own SQL; sent as it is.
    :param parameters: Values for its placeholders, in the driver's own style: a mapping or a sequence.
    :param site_slug: The site of rows that name none.
    :param more: Other columns that may be there.
    :param needs: Those of them that have to be.
    :param require_subtotal: Whether a row without ``refund_subtotal`` is invalid.
    :raises InvalidRefund: if the columns are not those of a refund, ``parameters`` is something else, or the
        driver cannot read a row; then it names the row's number.
    :raises TalkableError: if the statement gives no rows at all, such as an UPDATE.
    """
    given = _checked(parameters)
    read = 0
    columns: list[str] = []
    try:
        with engine.begin() as connection:
            with _reading():
                result = _execute(connection, sql, given)
            if not result.returns_rows:
                raise TalkableError("sql: gives no rows; it has to be one statement that selects refunds")
            columns += result.keys()
            reader = RowReader(
                columns, site_slug=site_slug, more=more, needs=needs, require_subtotal=require_subtotal
            )
            while rows := _fetch(result):
                for row in rows:
                    yield reader.read(row)
                read += len(rows)
    except _Unreadable as error:
        raise _explained(engine, sql, given, read, columns, error.cause) from None


class _Unreadable(Exception):
    """The driver cannot read a value that the database has given."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Of a date that Python does not know psycopg2 says so in a ValueError. What the database itself
        # finds wrong may be in any row: it computes some before it gives the first.
        if (is_of_a_value(error) or isinstance(error, ValueError)) and not state_of(error):
            raise _Unreadable(error) from None
        raise


def _execute(
    connection: Connection, sql: str, given: Mapping[str, Any] | tuple[Any, ...] | None
) -> CursorResult[Any]:
    # Without parameters nothing in the text is a placeholder, a lone % for instance.
    options = {"stream_results": True, "max_row_buffer": _AT_A_TIME, "no_parameters": given is None}
    return connection.execution_options(**options).exec_driver_sql(sql, given)


def _fetch(result: CursorResult[Any]) -> Sequence[Any]:
    with _reading():
        return result.fetchmany(_AT_A_TIME)


def _explained(
    engine: Engine,
    sql: str,
    given: Mapping[str, Any] | tuple[Any, ...] | None,
    read: int,
    columns: Sequence[str],
    cause: Exception,
) -> InvalidRefund:
    """The error that names a row that cannot be read, and what may be wrong with it."""
    number = _first_unreadable(engine, sql, given, read)
    row = f"row {number}" if number else f"a row after row {read}"
    return InvalidRefund(
        f"sql: {row} of the query cannot be read ({short(cause)}), and nothing was sent: "
        f"{_remedy(columns, cause)}",
        field="sql",
    )


def _remedy(columns: Sequence[str], cause: Exception) -> str:
    """What may be wrong with a row; its columns are not known where it is the first."""
    if isinstance(cause, UnicodeDecodeError) or "decode" in short(cause):
        texts = [column for column in columns if column.lower() not in _NO_TEXTS] or ["a column"]
        return (
            f"{' or '.join(texts)} holds no text in the encoding of the connection; convert it in the query, "
            f"in PostgreSQL for instance with convert_from({texts[0]}::bytea, 'LATIN1')"
        )
    dates = [column for column in columns or [_DATE] if column.lower() == _DATE]
    name = (dates or columns)[0]
    return (
        f"{' or '.join(dates or columns)} holds what Python does not know, as a date after 9999 or BC; "
        f"select CAST({name} AS VARCHAR(40)) AS {name} (AS CHAR in MySQL), then this row alone is invalid"
    )


def _first_unreadable(
    engine: Engine, sql: str, given: Mapping[str, Any] | tuple[Any, ...] | None, read: int
) -> int | None:
    """Read again, from where it failed row by row; ``None``: this time it does not fail.

    :param read: How many rows could be read, in full batches.
    """
    number = 0
    with suppress(SQLAlchemyError), engine.begin() as connection:
        try:
            with _reading():
                result = _execute(connection, sql, given)
            while number < read and (rows := _fetch(result)):
                number += len(rows)
            result.yield_per(1)
            with _reading():
                while result.fetchone() is not None:
                    number += 1
        except _Unreadable:
            return number + 1
    return None


def _checked(parameters: object) -> Mapping[str, Any] | tuple[Any, ...] | None:
    match parameters:
        case None | Mapping():
            return parameters
        # A text is a sequence too, of its characters.
        case Sequence() if not isinstance(parameters, str | bytes | bytearray | memoryview):
            return tuple(parameters)
    raise InvalidRefund.of(
        "parameters", parameters, "give a mapping or a sequence of values, e.g. {'country': 'DE'} or ['DE']"
    )
