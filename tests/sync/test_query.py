"""Reading the warehouse."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.engine import Engine

from airflow_provider_talkable import InvalidRefund, TalkableError
from airflow_provider_talkable.sync.query import rows_of
from tests.shop import Shop


@pytest.fixture
def warehouse(shop: Shop) -> Engine:
    shop.refund("A", "B", "50%")
    return shop.engine


def slugs(warehouse: Engine, sql: str, parameters: Any = None) -> list[str]:
    return [row.origin_slug for row in rows_of(warehouse, sql, parameters, site_slug="my-store")]


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
        next(rows_of(warehouse, "SELECT origin_slug, 1 AS amount FROM refunds"))


@pytest.mark.parametrize("ends_early", [True, False])
def test_the_connection_is_given_back(postgres_shop: Shop, ends_early: bool) -> None:
    warehouse = postgres_shop.engine
    postgres_shop.refund("A", "B")
    rows = rows_of(warehouse, "SELECT origin_slug FROM refunds")
    assert warehouse.pool.checkedout() == 0  # type: ignore[attr-defined]
    next(rows)
    assert warehouse.pool.checkedout() == 1  # type: ignore[attr-defined]
    if ends_early:
        rows.close()  # type: ignore[attr-defined]
    else:
        list(rows)
    assert warehouse.pool.checkedout() == 0  # type: ignore[attr-defined]
