"""The recipes of the page of warehouses: their SQL is each dialect's own, and its hook is one for SQL."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseHook
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.hooks import databases
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.query import rows_of
from tests.documents import pages
from tests.shop import connect_of
from tests.warehouses.conftest import ELSEWHERE

PAGE = pages()["docs/warehouses.md"]
MARIADB = "MySQL and MariaDB"
DIALECTS = {
    "PostgreSQL": "postgres",
    MARIADB: "mysql",
    "DuckDB": "duckdb",
    "Snowflake": "snowflake",
    "BigQuery": "bigquery",
    "Databricks": "databricks",
    "Redshift": "redshift",
}
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
RECIPES = {name: text for name, text in SECTIONS.items() if "```" in text}


def test_each_recipe_is_checked() -> None:
    assert list(RECIPES) == list(DIALECTS)


@pytest.mark.parametrize("warehouse", DIALECTS)
def test_the_query_is_sql_of_the_warehouse(warehouse: str) -> None:
    sqlglot: Any = pytest.importorskip("sqlglot", reason=ELSEWHERE)
    [query] = re.findall(r'sql="""(.*?)"""', RECIPES[warehouse], re.DOTALL)
    # What the driver puts in.
    query = re.sub(r"%\(since\)s|%s|\?", "'2026-01-01'", query)
    [select] = sqlglot.parse(query, dialect=DIALECTS[warehouse])
    assert {"refund_key", "order_number", "refunded_at", "refund_subtotal"} == set(select.named_selects)


def privileges(warehouse: str) -> list[str]:
    [statements] = re.findall(r"```sql\n(.*?)```", RECIPES[warehouse], re.DOTALL)
    return [statement for statement in statements.split(";") if statement.strip()]


def test_the_privileges_on_postgres_are_enough(postgres: URL, engines: Callable[[URL], Engine]) -> None:
    with engines(postgres).begin() as connection:
        # Roles are the server's, and other tests have their databases on it.
        for statement in ("CREATE ROLE airflow LOGIN", "CREATE TABLE refunds (order_number TEXT)"):
            connection.exec_driver_sql(statement)
        for statement in privileges("PostgreSQL"):
            connection.exec_driver_sql(statement)
    as_airflow = engines(postgres.set(username="airflow"))
    assert list(rows_of(connect_of(as_airflow), "SELECT order_number FROM refunds")) == []
    ledger = Ledger(as_airflow, schema="talkable")
    ledger.open()
    assert ledger.open(create=False)


def test_the_privileges_on_mariadb_are_enough(mariadb: URL, engines: Callable[[URL], Engine]) -> None:
    with engines(mariadb).begin() as connection:
        for statement in (
            "CREATE USER airflow@localhost",
            "CREATE DATABASE shop",
            "CREATE TABLE shop.refunds (order_number TEXT)",
            *(statement.replace("TO airflow", "TO airflow@localhost") for statement in privileges(MARIADB)),
        ):
            connection.exec_driver_sql(statement)
    as_airflow = engines(mariadb.set(username="airflow", database="talkable"))
    assert list(rows_of(connect_of(as_airflow), "SELECT order_number FROM shop.refunds")) == []
    ledger = Ledger(as_airflow)
    ledger.open()
    assert ledger.open(create=False)


@pytest.mark.parametrize(
    ("conn_type", "module", "hook"),
    [
        ("databricks", "airflow.providers.databricks.hooks.databricks_sql", "DatabricksSqlHook"),
        ("google_cloud_platform", "airflow.providers.google.cloud.hooks.bigquery", "BigQueryHook"),
        ("gcpbigquery", "airflow.providers.google.cloud.hooks.bigquery", "BigQueryHook"),
    ],
)
def test_the_hook_is_the_one_for_sql(
    monkeypatch: pytest.MonkeyPatch, conn_type: str, module: str, hook: str
) -> None:
    pytest.importorskip(module, reason=ELSEWHERE)
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": conn_type}))
    assert type(databases._sql_hook(BaseHook.get_connection("warehouse"))).__name__ == hook
