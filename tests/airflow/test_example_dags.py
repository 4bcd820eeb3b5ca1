"""The example DAGs run in Airflow as they are, against a warehouse and a sandbox."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_talkable.sandbox import Sandbox
from tests.conftest import KEY, Sandboxes

EXAMPLES = Path(__file__).parents[2] / "example_dags"
LATE = {"status": "approved", "ad_rewarded": True}


@dataclass
class Airflow:
    """An Airflow home of its own, in which DAGs are run by ``airflow dags test``."""

    home: Path
    sandbox: Sandbox

    @property
    def warehouse(self) -> sqlite3.Connection:
        return sqlite3.connect(self.home / "warehouse.sqlite")

    def run(self, dag_id: str, *, folder: Path = EXAMPLES) -> str:
        """Run a DAG and return all that was logged, at DEBUG level."""
        host = self.sandbox.url.removeprefix("http://")
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "AIRFLOW_CONN_SHOP_WAREHOUSE": json.dumps(
                {"conn_type": "sqlite", "host": str(self.home / "warehouse.sqlite")}
            ),
            "AIRFLOW_CONN_TALKABLE_DEFAULT": f"talkable://http://:{KEY}@{host}/?site_slug=my-store",
        }
        log = ""
        for command in (["db", "migrate"], ["dags", "test", dag_id]):
            done = subprocess.run(
                [sys.executable, "-m", "airflow", *command],
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            log += done.stdout + done.stderr
        return log

    def metadata(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            return database.execute(query).fetchall()

    def states(self) -> dict[str, set[str]]:
        states: dict[str, set[str]] = {}
        for task_id, state in self.metadata("SELECT task_id, state FROM task_instance"):
            states.setdefault(task_id, set()).add(state)
        return states

    def xcom(self, task_id: str, key: str) -> list[Any]:
        query = f"SELECT value FROM xcom WHERE task_id = '{task_id}' AND key = '{key}' ORDER BY map_index"
        values = [json.loads(value) for (value,) in self.metadata(query)]
        return [json.loads(value) if isinstance(value, str) else value for value in values]


@pytest.fixture
def airflow(tmp_path: Path, sandboxes: Sandboxes) -> Airflow:
    """A shop with the orders A to E: A to D were refunded today, E long ago; Talkable never saw D."""
    sandbox = sandboxes(generation="seed")
    for slug in "ABCE":
        order = {"order_number": slug, "subtotal": 100, "referral": LATE if slug == "C" else {}}
        sandbox.talkable.create_purchase("my-store", order)
    now = datetime.now(UTC)
    airflow = Airflow(tmp_path, sandbox)
    with closing(airflow.warehouse) as warehouse, warehouse:
        warehouse.execute("CREATE TABLE refunded_orders (order_number, refunded_at, refund_subtotal)")
        for minutes, slug, subtotal in ((1, "A", None), (2, "B", 25.5), (3, "C", None), (4, "D", None)):
            at = (now - timedelta(minutes=minutes)).isoformat()
            warehouse.execute("INSERT INTO refunded_orders VALUES (?, ?, ?)", (slug, at, subtotal))
        at = (now - timedelta(days=30)).isoformat()
        warehouse.execute("INSERT INTO refunded_orders VALUES ('E', ?, NULL)", (at,))
    return airflow


def by_slug(results: list[Any]) -> dict[str, Any]:
    return {result["origin_slug"]: result for result in results}


def assert_key_is_nowhere(airflow: Airflow, log: str) -> None:
    """Neither in the log nor in anything that Airflow keeps: XCom, rendered fields, the task store."""
    kept = b"".join(path.read_bytes() for path in airflow.home.rglob("*") if path.is_file())
    # At DEBUG level `airflow dags test`, and nothing else in Airflow, writes down what it is to mask.
    log = "\n".join(line for line in log.splitlines() if "msg=MaskSecret(" not in line)
    assert b"Refunds: " in log.encode() + kept
    for secret in (KEY, "aTl1aWw3blFnRGp1Y0NpVEp1"):
        assert secret not in log
        assert secret.encode() not in kept


def test_refunds_of_the_last_day_go_through_xcom(airflow: Airflow) -> None:
    log = airflow.run("example_talkable_refunds")
    assert airflow.states() == {"refunded_orders": {"success"}, "refund": {"success"}}, log[-3000:]
    [results] = airflow.xcom("refund", "return_value")
    assert airflow.xcom("refund", "results") == [results]
    assert {slug: r["outcome"] for slug, r in by_slug(results).items()} == {
        "A": "refunded",
        "B": "refunded",
        "C": "refunded",
        "D": "not_found",
    }
    assert by_slug(results)["C"]["referral"]["status"] == "approved"
    assert by_slug(results)["A"]["referral"]["status"] == "voided"
    assert "D: not_found: No origin found" in log
    assert_key_is_nowhere(airflow, log)


def test_each_refund_in_a_task_of_its_own(airflow: Airflow) -> None:
    log = airflow.run("example_talkable_refunds_mapped")
    assert airflow.states() == {"latest_refunds": {"success"}, "refund": {"success"}}, log[-3000:]
    results = airflow.xcom("refund", "return_value")
    assert [r["origin_slug"] for r in results] == ["A", "B", "C", "D", "E"]
    assert airflow.sandbox.talkable.snapshot()["my-store"]["B"]["refund_subtotal"] == 25.5
    assert_key_is_nowhere(airflow, log)


def test_results_are_written_back_to_the_warehouse(airflow: Airflow) -> None:
    log = airflow.run("example_talkable_refunds_write_back")
    assert set().union(*airflow.states().values()) == {"success"}, log[-3000:]
    with closing(airflow.warehouse) as warehouse:
        rows = warehouse.execute("SELECT * FROM talkable_refunds ORDER BY 1").fetchall()
    assert rows == [
        ("A", "refunded", "voided", 0, None),
        ("B", "refunded", "pending", 0, None),
        ("C", "refunded", "approved", 1, None),
        ("D", "not_found", None, None, "No origin found by `origin_slug`."),
    ]
    assert "@example.com" not in json.dumps(airflow.xcom("refund", "results"))


RETRIED = """
from datetime import timedelta
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_talkable.operators.refund import TalkableRefundOperator

with DAG("retried", schedule=None):
    TalkableRefundOperator(
        task_id="refund",
        refunds=[{"origin_slug": "A"}, {"origin_slug": "B", "refund_subtotal": 25.5}, {"origin_slug": "D"}],
        retries=1,
        retry_delay=timedelta(seconds=1),
    )
"""


def test_a_retry_sends_nothing_that_is_settled(airflow: Airflow) -> None:
    folder = airflow.home / "dags"
    folder.mkdir()
    (folder / "retried.py").write_text(RETRIED)
    log = airflow.run("retried", folder=folder)
    assert airflow.states() == {"refund": {"failed"}}, log[-3000:]
    [results] = airflow.xcom("refund", "results")
    sent = [request["path"].split("/")[4] for request in airflow.sandbox.requests]
    from airflow import __version__

    if tuple(map(int, __version__.split(".")[:2])) >= (3, 3):
        assert sent == ["A", "B", "D", "D"]
        assert [r["outcome"] for r in results] == ["refunded", "refunded", "not_found"]
    else:
        assert sent == ["A", "B", "D", "A", "D"]
        assert [r["outcome"] for r in results] == ["already_refunded", "unconfirmed", "not_found"]
    assert airflow.sandbox.talkable.snapshot()["my-store"]["B"]["times_refunded"] == 1
    assert_key_is_nowhere(airflow, log)


def test_airflow_lists_the_provider(run_airflow: Callable[..., str]) -> None:
    assert "airflow-provider-talkable" in run_airflow("providers", "list")
    assert "talkable" in run_airflow("providers", "hooks")


@pytest.fixture
def run_airflow(tmp_path: Path) -> Callable[..., str]:
    """Runs an Airflow command in an empty home and returns what it printed."""

    def run(*arguments: str) -> str:
        environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "airflow", *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        assert "talkable" not in done.stderr, "Airflow warns about the provider"
        return done.stdout

    return run
