"""Reading the warehouse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Engine

from airflow_provider_talkable.protocol.errors import InvalidRefund, TalkableError
from airflow_provider_talkable.sync.rows import Row, RowReader

_AT_A_TIME = 1000  # rows


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
    :raises InvalidRefund: if the columns are not those of a refund, or ``parameters`` is something else.
    :raises TalkableError: if the statement gives no rows at all, such as an UPDATE.
    """
    given = _checked(parameters)
    # Without parameters nothing in the text is a placeholder, a lone % for instance.
    options = {"stream_results": True, "max_row_buffer": _AT_A_TIME, "no_parameters": given is None}
    with engine.begin() as connection:
        result = connection.execution_options(**options).exec_driver_sql(sql, given)
        if not result.returns_rows:
            raise TalkableError("sql: gives no rows; it has to be one statement that selects refunds")
        reader = RowReader(
            list(result.keys()),
            site_slug=site_slug,
            more=more,
            needs=needs,
            require_subtotal=require_subtotal,
        )
        for rows in result.partitions(_AT_A_TIME):
            for row in rows:
                yield reader.read(row)


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
