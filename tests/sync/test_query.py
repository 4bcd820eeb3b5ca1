"""Reading the warehouse."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import InvalidRefund, TalkableError
from airflow_provider_talkable.sync.query import rows_of
from tests.conftest import sized
from tests.shop import SQL, Shop, connect_of


@pytest.fixture
def warehouse(shop: Shop) -> Engine:
    shop.refund("A", "B", "50%")
    return shop.engine


def slugs(warehouse: Engine, sql: str, parameters: Any = None) -> list[str]:
    return [row.origin_slug for row in rows_of(connect_of(warehouse), sql, parameters, site_slug="my-store")]


@pytest.mark.parametrize(
    ("condition", "parameters"),
    [
        ("origin_slug IN (?, ?)", ["A", "B"]),
        ("origin_slug IN (?, ?)", ("A", "B")),
        ("origin_slug IN (:one, :other)", {"one": "A", "other": "B"}),
        ("origin_slug NOT LIKE '%\\%' ESCAPE '\\'", None),
    ],
    ids=["list", "tuple", "mapping", "none, and a percent sign"],
)
def test_parameters_are_given_in_the_drivers_own_style(
    warehouse: Engine, condition: str, parameters: Any
) -> None:
    assert slugs(warehouse, f"SELECT ORIGIN_SLUG FROM refunds WHERE {condition}", parameters) == ["A", "B"]


def test_a_percent_sign_is_one_on_postgres_too(postgres_shop: Shop) -> None:
    postgres_shop.refund("A", "50%")
    sql = "SELECT origin_slug FROM refunds WHERE origin_slug LIKE '5%'"
    assert slugs(postgres_shop.engine, sql) == ["50%"]
    sql = "SELECT origin_slug FROM refunds WHERE origin_slug = %(slug)s"
    assert slugs(postgres_shop.engine, sql, {"slug": "A"}) == ["A"]


def test_a_statement_without_rows_is_refused_and_undone(warehouse: Engine) -> None:
    with pytest.raises(TalkableError, match="sql: gives no rows; it has to be one statement that selects"):
        slugs(warehouse, "DELETE FROM refunds")
    assert slugs(warehouse, "SELECT origin_slug FROM refunds") == ["A", "B", "50%"]


def test_columns_are_checked_before_the_first_row(warehouse: Engine) -> None:
    with pytest.raises(InvalidRefund, match="column='amount'"):
        next(rows_of(connect_of(warehouse), "SELECT origin_slug, 1 AS amount FROM refunds"))


@pytest.mark.parametrize("ends_early", [True, False])
def test_the_connection_is_closed(postgres_shop: Shop, ends_early: bool) -> None:
    postgres_shop.refund("A", "B")
    opened: list[Any] = []

    def connect() -> Any:
        opened.append(connect_of(postgres_shop.engine)())
        return opened[-1]

    rows = rows_of(connect, "SELECT origin_slug FROM refunds")
    assert not opened
    next(rows)
    assert not opened[0].closed
    if ends_early:
        rows.close()  # type: ignore[attr-defined]
    else:
        list(rows)
    assert opened[0].closed
    assert len(opened) == 1


def test_what_the_warehouse_refuses_is_its_own_words_and_nobody_elses(shop: Shop) -> None:
    """Local disk, where the rows are copied to, is an SQLite file too."""
    with pytest.raises(TalkableError, match="^sql: the query failed: no such table: nowhere$"):
        shop.sync(sql="SELECT origin_slug FROM nowhere")


def test_a_warehouse_that_cannot_be_connected_to_is_said_to_be_that(shop: Shop, tmp_path: Path) -> None:
    connect = partial(sqlite3.connect, tmp_path / "nowhere" / "warehouse.sqlite")
    with pytest.raises(TalkableError, match="The query's database cannot be connected to: unable to open"):
        list(rows_of(connect, SQL))


@pytest.mark.parametrize("factory", ["DictCursor", "RealDictCursor", "NamedTupleCursor"])
def test_rows_are_plain_whatever_cursor_the_connection_is_set_up_with(
    postgres_shop: Shop, factory: str
) -> None:
    postgres_shop.refund("A")
    extras = import_module("psycopg2.extras")
    connect = partial(connect_of(postgres_shop.engine), cursor_factory=getattr(extras, factory))
    assert [row.origin_slug for row in rows_of(connect, SQL, site_slug="my-store")] == ["A"]


def test_psycopg_3_reads_too(postgres: URL, postgres_shop: Shop) -> None:
    postgres_shop.refund("A", "B")
    place = postgres.render_as_string(hide_password=False).replace("+psycopg2", "")
    rows = rows_of(partial(psycopg.connect, place, row_factory=psycopg.rows.dict_row), SQL, site_slug="s")
    assert [row.origin_slug for row in rows] == ["A", "B"]


def test_mariadb_gives_its_rows_one_by_one(mariadb: URL, engines: Callable[[URL], Engine]) -> None:
    engine = engines(mariadb)
    connect = partial(connect_of(engine), cursorclass=import_module("pymysql.cursors").DictCursor)
    sql = "SELECT CONCAT('O', seq, '😀') AS order_number FROM seq_1_to_2500"
    assert [row.origin_slug for row in rows_of(connect, sql, site_slug="s")] == [
        f"O{number}😀" for number in range(1, 2501)
    ]
    with pytest.raises(TalkableError, match="gives no rows"):
        list(rows_of(connect, "SET @a = 1"))


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_memory_does_not_grow_with_the_rows(
    kind: str, request: pytest.FixtureRequest, engines: Callable[[URL], Engine]
) -> None:
    """All of the rows are some 100 MB: fewer and longer in `make check`."""
    count = sized(100_000)
    connect = connect_of(engines(request.getfixturevalue(kind)))
    numbers = {"postgres": f"generate_series(1, {count}) AS numbers (n)", "mariadb": f"seq_1_to_{count}"}[
        kind
    ]
    # In this column, since to read a long one as an order's takes most of the time.
    long = f"REPEAT('x', {100_000_000 // count}) AS refunded_at"
    sql = f"SELECT {count} AS order_number, {long} FROM {numbers}"
    process = psutil.Process()
    before = most = process.memory_info().rss
    for number, _ in enumerate(rows_of(connect, sql, site_slug="s")):
        # What is held until the last row is let go of after it.
        if number % (count // 100) == 0:
            most = max(most, process.memory_info().rss)
    assert number == count - 1
    assert most - before < 30_000_000
