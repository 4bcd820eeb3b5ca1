"""A row of the query that the driver cannot read is named, and invalid with the cast that the error names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import InvalidRefund, TalkableError
from airflow_provider_talkable.sync.query import rows_of
from tests.shop import Shop, connect_of

DATES = ["24989-01-01 00:00", "0044-03-15 BC", "infinity", "-infinity"]


def read(engine: Engine, sql: str) -> list[Any]:
    return list(rows_of(connect_of(engine), sql, site_slug="my-store"))


def numbered(value: str, at: int, of: int = 2600) -> str:
    """A query whose one row has the value."""
    return (
        f"SELECT 'O' || n AS order_number, CASE WHEN n = {at} THEN {value} END AS refunded_at"
        f" FROM generate_series(1, {of}) n ORDER BY n"
    )


@pytest.fixture
def sql_ascii(postgres_in: Callable[[str], URL], engines: Callable[[URL], Engine]) -> Engine:
    """A PostgreSQL that keeps any bytes as text."""
    return engines(postgres_in("SQL_ASCII"))


@pytest.mark.parametrize("at", [1, 2, 1000, 1001, 2600])
@pytest.mark.parametrize("date", DATES[:2])
def test_a_date_that_python_does_not_know_is_named(postgres_shop: Shop, date: str, at: int) -> None:
    shop = postgres_shop
    with pytest.raises(InvalidRefund) as caught:
        shop.sync(sql=numbered(f"timestamp '{date}'", at))
    message = str(caught.value)
    assert message.startswith(f"sql: row {at} of the query cannot be read (year ")
    assert "CAST(refunded_at AS VARCHAR(40)) AS refunded_at" in message
    assert not shop.sandbox.requests


@pytest.mark.parametrize("at", [1, 1001])
@pytest.mark.parametrize("date", DATES)
def test_what_psycopg_3_cannot_read_is_named_too(
    postgres: URL, engines: Callable[[URL], Engine], date: str, at: int
) -> None:
    pytest.importorskip("sqlalchemy.dialects.postgresql.psycopg", reason="SQLAlchemy 1.4 does not know it")
    engine = engines(postgres.set(drivername="postgresql+psycopg"))
    with pytest.raises(InvalidRefund, match=rf"sql: row {at} of .*\(timestamp too .*CAST\(refunded_at AS"):
        read(engine, numbered(f"timestamptz '{date}'", at))


@pytest.mark.parametrize("date", DATES)
def test_with_the_cast_that_the_error_names_that_row_alone_is_invalid(postgres_shop: Shop, date: str) -> None:
    shop = postgres_shop
    shop.order("O1", "O2", "O3")
    summary = shop.sync(sql=numbered(f"CAST(timestamptz '{date}' AS VARCHAR(40))", 2, 3))
    assert summary.outcomes == {"refunded": 2, "invalid": 1}
    assert sorted(shop.sent) == ["O1", "O3"]


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_infinity_is_an_invalid_date(postgres_shop: Shop, kind: str) -> None:
    shop = postgres_shop
    shop.order("O1", "O2", "O3")
    summary = shop.sync(sql=numbered(f"{kind} 'infinity'", 2, 3))
    assert summary.outcomes == {"refunded": 2, "invalid": 1}
    assert "is a placeholder, not a date" in summary.failures[0]["error_message"]


@pytest.mark.parametrize("at", [1, 3])
def test_text_in_no_encoding_of_the_connection_is_named(sql_ascii: Engine, at: int) -> None:
    sql = (
        f"SELECT CASE WHEN n = {at} THEN convert_from('\\xe9'::bytea, 'SQL_ASCII') ELSE 'O' || n END"
        " AS order_number"
        " FROM generate_series(1, 5) n ORDER BY n"
    )
    with pytest.raises(InvalidRefund) as caught:
        read(sql_ascii, sql)
    message = str(caught.value)
    assert message.startswith(
        f"sql: row {at} of the query cannot be read ('ascii' codec can't decode byte 0xe9"
    )
    assert "::bytea, 'LATIN1')" in message


def test_text_that_is_no_utf8_is_named_on_sqlite(shop: Shop) -> None:
    shop.refund("A", "B", "C")
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE refunds SET origin_slug = CAST(x'41e9' AS TEXT) WHERE number = 2")
    with pytest.raises(InvalidRefund, match="sql: row 2 of the query cannot be read") as caught:
        shop.sync()
    assert "Could not decode to UTF-8 column 'origin_slug'" in str(caught.value)


def test_what_the_database_finds_wrong_is_left_to_its_own_words(postgres_shop: Shop) -> None:
    """It computes before it sorts: the row at fault is not the one that comes next."""
    sql = "SELECT (100 / (n - 1500))::text AS order_number FROM generate_series(1, 2000) n ORDER BY n"
    with pytest.raises(TalkableError, match="division by zero"):
        read(postgres_shop.engine, sql)


def test_what_is_wrong_with_the_statement_is_not_a_rows_fault(postgres_shop: Shop) -> None:
    with pytest.raises(TalkableError, match="does not exist"):
        read(postgres_shop.engine, "SELECT order_number FROM nowhere")
