"""How much goes into one statement, and into one batch."""

from __future__ import annotations

import pytest

from airflow_provider_talkable.sync.statement_sizes import LookUpSize, batch_size, most_rows


@pytest.mark.parametrize(
    ("dialect", "seconds", "sizes"),
    [
        pytest.param("sqlite", 0.006, [500, 500], id="fast"),
        pytest.param("redshift", 2.0, [500, 4000, 10_000, 10_000], id="slow"),
        pytest.param("redshift", 6.0, [500, 500], id="slow for what is in it"),
        pytest.param("mssql", 2.0, [500, 1995], id="at most what it takes"),
        pytest.param("databricks", 2.0, [250, 250], id="few"),
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


@pytest.mark.parametrize(("dialect", "rows"), [("databricks", 8), ("mssql", 64), ("redshift", 967)])
def test_an_insert_has_no_more_parameters_than_the_database_takes(dialect: str, rows: int) -> None:
    assert most_rows(dialect, 31) == rows
