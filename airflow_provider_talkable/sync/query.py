"""Reading the warehouse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Engine

from airflow_provider_talkable.protocol.errors import TalkableError
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
) -> Iterator[Row]:
    """Run a query and read its rows as they come; when they are at their end, its transaction is too.

    :param engine: The warehouse.
    :param sql: One statement, in the warehouse's own SQL; sent as it is.
    :param parameters: Values for its placeholders, in the driver's own style: a mapping or a sequence.
    :param site_slug: The site of rows that name none.
    :param more: Other columns that may be there.
    :param needs: Those of them that have to be.
    :raises InvalidRefund: if the columns are not those of a refund.
    :raises TalkableError: if the statement gives no rows at all, such as an UPDATE.
    """
    given = parameters if parameters is None or isinstance(parameters, Mapping) else tuple(parameters)
    # Without parameters nothing in the text is a placeholder, a lone % for instance.
    options = {"stream_results": True, "max_row_buffer": _AT_A_TIME, "no_parameters": given is None}
    with engine.begin() as connection:
        result = connection.execution_options(**options).exec_driver_sql(sql, given)
        if not result.returns_rows:
            raise TalkableError("sql: gives no rows; it has to be one statement that selects refunds")
        reader = RowReader(list(result.keys()), site_slug=site_slug, more=more, needs=needs)
        for rows in result.partitions(_AT_A_TIME):
            for row in rows:
                yield reader.read(row)
