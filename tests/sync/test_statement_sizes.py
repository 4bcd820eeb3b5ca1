"""How much goes into one statement, and into one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.statement_sizes import (
    LookUpSize,
    batch_size,
    most_parameters,
    most_rows,
    parts_at_a_time,
)


@pytest.mark.parametrize(
    ("dialect", "seconds", "sizes"),
    [
        pytest.param("sqlite", 0.006, [500, 500], id="fast"),
        pytest.param("redshift", 2.0, [500, 4000, 10_000, 10_000], id="slow"),
        pytest.param("redshift", 6.0, [500, 500], id="slow for what is in it"),
        pytest.param("mssql", 2.0, [500, 1988], id="at most what it takes"),
        pytest.param("databricks", 2.0, [243, 243], id="few"),
    ],
)
def test_more_keys_are_looked_up_at_a_time_where_a_statement_is_slow(
    dialect: str, seconds: float, sizes: list[int]
) -> None:
    size = LookUpSize(dialect)
    for expected in sizes:
        assert size.keys == expected
        size.learn(size.keys, seconds)


def test_fewer_keys_are_looked_up_once_it_takes_too_long() -> None:
    size = LookUpSize("redshift")
    size.learn(500, 2)
    size.learn(4000, 16)
    assert size.keys == 2000
    size.learn(100, 1)
    assert size.keys == 2000


@pytest.mark.parametrize(
    ("rate", "append", "size"),
    [(0, 0.01, 16), (400, 0.01, 100), (10_000, 0.01, 500), (0, 2, 256), (300, 2, 1200), (10_000, 2, 2000)],
)
def test_a_batch_is_as_many_as_are_sent_while_two_are_written(rate: float, append: float, size: int) -> None:
    assert batch_size(16, rate, append) == size


@pytest.mark.parametrize(
    ("before", "left", "size"),
    [(300, 0, 600), (300, 100, 300), (300, 200, 128), (1500, 0, 2000)],
    ids=["all sent", "most sent", "few sent", "at most"],
)
def test_a_batch_grows_while_a_slow_ledger_holds_up_the_sending(before: int, left: int, size: int) -> None:
    assert batch_size(16, 10, 1, before=before, left=left) == size
    assert batch_size(16, 10, 0.01, before=before, left=left) == 16


@pytest.mark.parametrize(
    ("rate", "append", "parts"),
    [
        pytest.param(1_000, 0.01, 24, id="fast"),
        pytest.param(math.inf, 0.5, 96, id="slow"),
        pytest.param(math.inf, 10, 96, id="at most"),
        pytest.param(8, 2, 48, id="as many as are sent meanwhile"),
        pytest.param(1, 2, 24, id="no fewer"),
    ],
)
def test_more_parts_are_in_doubt_only_where_statements_are_slow(
    rate: float, append: float, parts: int
) -> None:
    assert parts_at_a_time(16, rate, append) == parts


@pytest.mark.parametrize(("dialect", "rows"), [("databricks", 8), ("mssql", 64), ("redshift", 967)])
def test_an_insert_has_no_more_parameters_than_the_database_takes(dialect: str, rows: int) -> None:
    assert most_rows(dialect, 31) == rows


# What SQLAlchemy before 2 says of SQLite in place of the database.
@pytest.mark.filterwarnings(r"ignore:Dialect \w+\+pysqlite does \*not\* support Decimal")
@pytest.mark.parametrize("dialect", ["databricks", "mssql", "oracle"])
@pytest.mark.parametrize(
    "look_up",
    [
        pytest.param(lambda ledger, rows: ledger.histories(rows), id="keys"),
        pytest.param(lambda ledger, rows: ledger.orders(rows), id="orders"),
    ],
)
def test_a_look_up_has_no_more_parameters_than_the_database_takes(
    sqlite: URL, engines: Callable[[URL], Engine], dialect: str, look_up: Callable[[Ledger, Any], Any]
) -> None:
    engine = engines(sqlite)
    rows = [Row("my-store", f"key-{n}", f"order-{n}") for n in range(2 * most_parameters(dialect) + 1)]
    written = Ledger(engine)
    written.open()
    written.append([written.outcome(row, RefundResult(row.origin_slug, Outcome.REFUNDED)) for row in rows])
    # SQLite answers, asked in the way of a database that has neither arrays nor JSON.
    engine.dialect.name = dialect
    parameters: list[int] = []

    def count(*execution: Any) -> None:
        given: Iterable[Any] = execution[3]
        parameters.append(len(list(given)))

    event.listen(engine, "before_cursor_execute", count)
    assert len(look_up(Ledger(engine), rows)) == len(rows)
    assert 0 < max(parameters) <= most_parameters(dialect)
