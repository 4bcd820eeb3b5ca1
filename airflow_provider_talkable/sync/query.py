"""Reading the warehouse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

from airflow_provider_talkable.protocol.errors import InvalidRefund, TalkableError
from airflow_provider_talkable.sync.cursors import columns_of, knows_its_columns, streaming_cursor
from airflow_provider_talkable.sync.database_errors import is_of_a_value, short, state_of
from airflow_provider_talkable.sync.rows import Row, RowReader

_AT_A_TIME = 1000  # rows
_DATE = "refunded_at"
_NO_TEXTS = frozenset({_DATE, "refund_subtotal", "order_subtotal"})

Connect = Callable[[], Any]
"""Opens a connection of a database's driver, as PEP 249 has it."""


def rows_of(
    connect: Connect,
    sql: str,
    parameters: Mapping[str, Any] | Sequence[Any] | None = None,
    *,
    site_slug: str | None = None,
    more: Sequence[str] = (),
    needs: Sequence[str] = (),
    require_subtotal: bool = False,
) -> Iterator[Row]:
    """Run a query and read its rows as they come; when they are at their end, its connection is closed.

    Nothing is committed: what a statement changes beside giving rows is undone.

    :param connect: Opens a connection to the warehouse, with whatever its driver was set up with.
    :param sql: One statement, in the warehouse's own SQL; sent as it is.
    :param parameters: Values for its placeholders, in the driver's own style: a mapping or a sequence.
    :param site_slug: The site of rows that name none.
    :param more: Other columns that may be there.
    :param needs: Those of them that have to be.
    :param require_subtotal: Whether a row without ``refund_subtotal`` is invalid.
    :raises InvalidRefund: if the columns are not those of a refund, ``parameters`` is something else, or the
        driver cannot read a row; then it names the row's number.
    :raises TalkableError: if the statement gives no rows at all, such as an UPDATE; if the database cannot be
        connected to, or refuses the statement: then with its own words.
    """
    given = _checked(parameters)
    read = 0
    try:
        with _executed(connect, sql, given) as cursor:
            rows = _fetch(cursor)
            reader = RowReader(
                columns_of(cursor),
                site_slug=site_slug,
                more=more,
                needs=needs,
                require_subtotal=require_subtotal,
            )
            while rows:
                for row in rows:
                    yield reader.read(row)
                read += len(rows)
                rows = _fetch(cursor)
    except _Unreadable as error:
        number = _first_unreadable(connect, sql, given, read)
        place = f"row {number}" if number else f"a row after row {read}"
        raise InvalidRefund(
            f"sql: {place} of the query cannot be read ({short(error.cause)}), and nothing was sent: "
            f"{_remedy(error.columns, error.cause)}",
            field="sql",
        ) from None


class _Unreadable(Exception):
    """The driver cannot read a value that the database has given."""

    def __init__(self, cause: Exception, columns: Sequence[str]) -> None:
        super().__init__(cause)
        self.cause = cause
        self.columns = columns


@contextmanager
def _executed(connect: Connect, sql: str, given: Mapping[str, Any] | tuple[Any, ...] | None) -> Iterator[Any]:
    with closing(_opened(connect)) as connection, closing(streaming_cursor(connection)) as cursor:
        with _reading(cursor):
            # Without parameters nothing in the text is a placeholder, a lone % for instance.
            cursor.execute(*((sql,) if given is None else (sql, given)))
        if not knows_its_columns(cursor):
            raise TalkableError("sql: gives no rows; it has to be one statement that selects refunds")
        yield cursor


def _opened(connect: Connect) -> Any:
    try:
        return connect()
    except Exception as error:
        raise TalkableError(f"The query's database cannot be connected to: {short(error)}") from error


@contextmanager
def _reading(cursor: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Of a date that Python does not know psycopg2 says so in a ValueError. What the database itself
        # finds wrong may be in any row: it computes some before it gives the first.
        if (is_of_a_value(error) or isinstance(error, ValueError)) and not state_of(error):
            raise _Unreadable(error, columns_of(cursor)) from None
        raise TalkableError(f"sql: the query failed: {short(error)}") from error


def _fetch(cursor: Any) -> Sequence[Any]:
    with _reading(cursor):
        rows: Sequence[Any] = cursor.fetchmany(_AT_A_TIME)
    return rows


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
    connect: Connect, sql: str, given: Mapping[str, Any] | tuple[Any, ...] | None, read: int
) -> int | None:
    """Read again, from where it failed row by row; ``None``: this time it does not fail.

    :param read: How many rows could be read, in full batches.
    """
    number = 0
    # Whatever is wrong the second time, the first error is the one to report.
    with suppress(TalkableError):
        try:
            with _executed(connect, sql, given) as cursor:
                while number < read and (rows := _fetch(cursor)):
                    number += len(rows)
                with _reading(cursor):
                    while cursor.fetchone() is not None:
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
