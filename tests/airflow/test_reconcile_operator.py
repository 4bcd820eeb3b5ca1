"""The reconciliation's operator, run as Airflow runs it, with real databases and HTTP."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException

from airflow_provider_talkable import InvalidRefund, LedgerError, TalkableAuthError
from airflow_provider_talkable.operators.reconcile import TalkableRefundReconcileOperator
from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator
from tests.airflow.task import TaskInstance
from tests.conftest import Sandboxes

Connect = Callable[..., str]
SQL = "SELECT order_number, email, currency FROM refunds"
LATE = {"status": "approved", "ad_rewarded": True}


class Shop:
    """Two orders, A and B, refunded and synced; the advocate of B had been paid. C is not synced yet."""

    def __init__(self, path: Path, sandbox: Sandbox) -> None:
        self.path, self.sandbox = path, sandbox
        for slug, referral in {"A": {}, "B": LATE, "C": {}}.items():
            order = {"order_number": slug, "email": f"{slug}@example.com", "referral": referral}
            sandbox.talkable.create_purchase("my-store", order)
        self.execute("CREATE TABLE refunds (order_number, email, currency)")
        self.refund("A", "B")
        self.sync()
        self.refund("C")

    def execute(self, statement: str) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as warehouse, warehouse:
            return warehouse.execute(statement).fetchall()

    def refund(self, *slugs: str) -> None:
        for slug in slugs:
            self.execute(f"INSERT INTO refunds VALUES ('{slug}', '{slug}@example.com', 'EUR')")

    def run(self, operator: Any, ti: TaskInstance, params: Any = None) -> Any:
        context: Any = {"ti": ti, "params": params or {}}
        operator.render_template_fields(context)
        return operator.execute(context)

    def sync(self) -> None:
        sql = "SELECT order_number FROM refunds"
        dag = DAG("shop", schedule=None)
        fields: Any = {"sql_conn_id": "warehouse", "initial_rate": None, "fetch_referral": True}
        sync = SqlToTalkableRefundOperator(task_id="sync", dag=dag, sql=sql, **fields)
        self.run(sync, TaskInstance("sync"))

    def reconcile(self, *, ti: TaskInstance | None = None, params: Any = None, **fields: Any) -> Any:
        fields = {"sql": SQL, "sql_conn_id": "warehouse", "initial_rate": None, **fields}
        operator = TalkableRefundReconcileOperator(
            task_id="reconcile", dag=DAG("shop", schedule=None), **fields
        )
        return self.run(operator, ti or TaskInstance("reconcile"), params)

    def report(self, table: str = "talkable_refund_discrepancies") -> list[Any]:
        return self.execute(f'SELECT kind, origin_slug, reward FROM "{table}" ORDER BY origin_slug')


@pytest.fixture
def shop(tmp_path: Path, sandboxes: Sandboxes, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Shop:
    path = tmp_path / "warehouse.sqlite"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    sandbox = sandboxes()
    connect(sandbox)
    return Shop(path, sandbox)


def test_the_summary_is_returned_and_pushed(shop: Shop) -> None:
    ti = TaskInstance("reconcile")
    summary = shop.reconcile(ti=ti, ask_talkable=True, max_discrepancies=2, max_rewards=10)
    assert ti.xcom == {"summary": summary}
    counts = {kind: count for kind, count in summary["discrepancies"].items() if count}
    assert (counts, summary["rewards"]) == ({"missing": 1, "rewarded": 1}, {"EUR": "10.00"})
    assert shop.report() == [("rewarded", "B", 10.0), ("missing", "C", None)]


def test_too_many_rows_fail_it_and_all_is_told(shop: Shop) -> None:
    ti = TaskInstance("reconcile")
    with pytest.raises(AirflowFailException, match=r"2 discrepancies .*max_discrepancies=0"):
        shop.reconcile(ti=ti)
    assert ti.xcom["summary"]["discrepancies"]["missing"] == 1
    assert shop.report() == [("rewarded", "B", None), ("missing", "C", None)]


def test_too_much_money_fails_it(shop: Shop) -> None:
    with pytest.raises(AirflowFailException, match=r"paid 10\.00 EUR, more than max_rewards=9\.99"):
        shop.reconcile(ask_talkable=True, max_discrepancies=None, max_rewards=9.99)


def test_a_retry_replaces_the_report(shop: Shop) -> None:
    for _ in range(2):
        shop.reconcile(max_discrepancies=None)
    assert len(shop.report()) == 2


def test_without_talkable_nothing_is_asked_and_no_address_needed(shop: Shop) -> None:
    before = len(shop.sandbox.requests)
    shop.reconcile(sql="SELECT order_number FROM refunds", max_discrepancies=None)
    assert len(shop.sandbox.requests) == before


def test_a_question_without_an_answer_fails_it_after_the_report(shop: Shop, connect: Connect) -> None:
    connect(shop.sandbox, key="wrong-api-key")
    ti = TaskInstance("reconcile")
    with pytest.raises(TalkableAuthError, match="Talkable refused the API key"):
        shop.reconcile(ti=ti, ask_talkable=True)
    assert (ti.xcom["summary"]["asked"], ti.xcom["summary"]["unanswered"]) == (2, 2)
    assert shop.report() == [("rewarded", "B", None), ("missing", "C", None)]


def test_tables_are_templated(shop: Shop) -> None:
    fields = set(TalkableRefundReconcileOperator.template_fields)
    assert fields >= {"sql", "parameters", "ledger_table", "report_table", "site_slug"}
    params = {"table": "Late ones"}
    shop.reconcile(max_discrepancies=None, report_table="{{ params.table }}", params=params)
    assert len(shop.report("Late ones")) == 2


def test_a_query_without_addresses_is_refused_before_anything_is_asked(shop: Shop) -> None:
    before = len(shop.sandbox.requests)
    with pytest.raises(InvalidRefund, match=r"columns=\['order_number'\]: one has to be email"):
        shop.reconcile(sql="SELECT order_number FROM refunds", ask_talkable=True)
    assert len(shop.sandbox.requests) == before


def test_a_ledger_that_is_not_there_is_an_error(shop: Shop) -> None:
    with pytest.raises(LedgerError, match="There is no ledger typo; the sync makes it: check ledger_table"):
        shop.reconcile(ledger_table="typo")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_discrepancies": -1}, "max_discrepancies=-1: give 0 or more"),
        ({"max_rewards": -1, "ask_talkable": True}, "max_rewards=-1: give 0 or more"),
        ({"max_rewards": 5}, "max_rewards=5: needs ask_talkable=True"),
    ],
)
def test_bad_thresholds_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TalkableRefundReconcileOperator(task_id="reconcile", sql=SQL, sql_conn_id="warehouse", **fields)


def test_what_cannot_be_told_is_not_in_order(shop: Shop) -> None:
    shop.execute(
        "UPDATE talkable_refund_ledger SET referral_id = NULL, origin_id = NULL, reward_known_by = NULL"
    )
    fields: dict[str, Any] = {"ask_talkable": True, "max_discrepancies": None}
    with pytest.raises(AirflowFailException, match=r"refunds could not be checked, more than max_unknown=0"):
        shop.reconcile(**fields)
    summary = shop.reconcile(max_unknown=3, **fields)
    assert summary["unknown"] > 0
    with pytest.raises(ValueError, match="max_unknown=-1: give 0 or more, or None"):
        shop.reconcile(max_unknown=-1)
