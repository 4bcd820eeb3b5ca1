"""What OpenLineage receives beside a sync's numbers: columns, and the tasks that use the hook."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import lineage
from tests.airflow.conftest import Airflow

HOST = "https://www.talkable.com"
SHOP = "shop.public.refunds"
PAYMENTS = "shop.billing.payments"


@pytest.fixture
def shop(postgres: URL, engines: Callable[[URL], Engine], monkeypatch: pytest.MonkeyPatch) -> str:
    """A connection to PostgreSQL; its database's name."""
    with engines(postgres).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE refunds (refund_id text)")
    monkeypatch.setenv(
        "AIRFLOW_CONN_SHOP",
        json.dumps(
            {
                "conn_type": "postgres",
                "host": postgres.query["host"],
                "login": postgres.username,
                "schema": postgres.database,
            }
        ),
    )
    return str(postgres.database)


def columns(sql: str, database: str) -> dict[str, set[tuple[str, str]]]:
    """By column of a refund, the tables and columns that it is made of."""
    told = lineage.of_sync(HOST, ["a", "b"], sql=sql, sql_conn_id="shop", summary=None)
    facets: list[Any] = [(output.facets or {}).get("columnLineage") for output in told.outputs]
    assert facets[0] == facets[1]
    inputs = {(table.namespace, table.name) for table in told.inputs}
    fields = facets[0].fields if facets[0] else {}
    for field in fields.values():
        assert {(source.namespace, source.name) for source in field.inputFields} <= inputs
    return {
        name: {(source.name.replace(f"{database}.", "shop."), source.field) for source in field.inputFields}
        for name, field in fields.items()
    }


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        pytest.param(
            "SELECT refund_id AS refund_key, order_number, note FROM refunds WHERE at > %(since)s",
            {"refund_key": {(SHOP, "refund_id")}, "order_number": {(SHOP, "order_number")}},
            id="renamed",
        ),
        pytest.param(
            "SELECT r.id AS refund_key, coalesce(r.amount, p.amount) AS refund_subtotal, 'x' AS site_slug"
            " FROM public.refunds r JOIN billing.payments p ON p.id = r.id",
            {
                "refund_key": {(SHOP, "id")},
                "refund_subtotal": {(SHOP, "amount"), (PAYMENTS, "amount")},
            },
            id="of two tables",
        ),
        pytest.param(
            "SELECT id AS REFUND_KEY, n AS order_number FROM (SELECT id, n FROM refunds) x",
            {"refund_key": {(SHOP, "id")}, "order_number": {(SHOP, "n")}},
            id="of a subquery",
        ),
        pytest.param("SELECT * FROM refunds", {}, id="unknown"),
        pytest.param("SELECT 1 AS order_number", {}, id="of no table"),
    ],
)
def test_the_columns_of_a_refund_come_from_the_querys_tables(
    shop: str, sql: str, expected: dict[str, set[tuple[str, str]]]
) -> None:
    assert columns(sql, shop) == expected


PYTHON = """
from airflow.providers.common.compat.sdk import DAG, task
from airflow_provider_talkable import Refund
from airflow_provider_talkable.hooks.talkable import TalkableHook

with DAG("by_hand", schedule=None):

    @task
    def one():
        TalkableHook().refund("A")

    @task
    def many():
        refunds = [Refund.parse("B", site_slug="my-store"), Refund.parse("F", site_slug="my-store-de")]
        list(TalkableHook().refund_many(refunds * 2))

    one() >> many()
"""


def test_python_tasks_that_use_the_hook_are_seen(airflow: Airflow) -> None:
    folder = airflow.home / "dags"
    folder.mkdir()
    (folder / "by_hand.py").write_text(PYTHON)
    log = airflow.run("by_hand", folder=folder)
    assert airflow.states() == {"one": {"success"}, "many": {"success"}}, log[-3000:]
    for task_id, sites in (("one", {"my-store"}), ("many", {"my-store", "my-store-de"})):
        [ended] = [event for event in airflow.lineage(task_id) if event["eventType"] == "COMPLETE"]
        # Here both tasks run in one process, whose hooks add up.
        outputs = {(output["namespace"], output["name"]) for output in ended["outputs"]}
        assert outputs == {("talkable://www.talkable.com", f"{site}.refunds") for site in sites}
