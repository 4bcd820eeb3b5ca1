"""The example DAG that asks about refunds in doubt, under a scheduler, answered through the API server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from airflow import __version__
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.sandbox import Reset
from tests.airflow.deployment import Deployment
from tests.airflow.metadata import questions
from tests.conftest import Sandboxes
from tests.shop import Shop

pytestmark = pytest.mark.skipif(
    tuple(map(int, __version__.split(".")[:2])) < (3, 1),
    reason="Airflow before 3.1 asks nobody; that the example has no DAG there test_example_dags.py tests",
)
DAG_ID = "example_talkable_settle"


def test_each_answer_settles_its_refund(
    deployment: Deployment, engines: Callable[[URL], Engine], sandboxes: Sandboxes
) -> None:
    warehouse = URL.create("sqlite", database=str(deployment.airflow.home / "warehouse.sqlite"))
    shop = Shop(engines(warehouse), sandboxes())
    shop.order("A", "B", "C", "D")
    shop.refund(*((slug.lower(), slug, None, "5") for slug in "ABCD"))
    shop.sandbox.dials.next(Reset(acted=True), Reset(acted=True), Reset(acted=False), Reset(acted=True))
    assert shop.sync(pace=Pace(max_in_flight=1, initial_rate=None)).outcomes == {"unconfirmed": 4}
    deployment.command("dags", "trigger", DAG_ID, "--run-id", "asked")
    questions = wait_for_questions(deployment, 4)
    assert {subject for subject, _ in questions.values()} == {
        f"Does Talkable have refund {key}?" for key in "abcd"
    }
    answers = {
        "a": "Talkable has it",
        "b": "Talkable has it",
        "c": "Talkable does not have it",
        "d": "Ask me later",
    }
    # The scheduler takes some seconds to learn that the processes that asked have ended. Tasks that are
    # resumed before that, Airflow up to 3.3 takes for killed: https://github.com/apache/airflow/issues/72716
    time.sleep(12)
    for map_index, (subject, body) in questions.items():
        key = subject[-2]
        for known in (f"refund_key: {key}", f"origin_slug: {key.upper()}", "refund_subtotal: 5", "my-store"):
            assert known in body
        answer(deployment, map_index, answers[key], note=f"seen {key}")
    deployment.wait_for({"success"}, dag_id=DAG_ID, count=1 + 3 * 4)
    assert shop.states() == {
        "a": "settled_refunded",
        "b": "settled_refunded",
        "c": "settled_not_refunded",
        "d": "unconfirmed",
    }
    settled = {entry["settled_note"]: entry["settled_by"] for entry in shop.ledger() if entry["settled_note"]}
    assert set(settled) == {"seen a", "seen b", "seen c"}
    assert all(settled.values())
    assert shop.sync().outcomes == {"refunded": 1}
    assert [shop.times_refunded(slug) for slug in "ABCD"] == [1, 1, 1, 1]


def wait_for_questions(deployment: Deployment, count: int) -> dict[int, tuple[str, str]]:
    """What is asked by each mapped task."""
    deadline = time.monotonic() + 240
    while len(found := questions(deployment.metadata)) < count:
        assert time.monotonic() < deadline, f"{found}\n{deployment.all_logs()}"
        time.sleep(0.3)
    return {map_index: (subject, body) for map_index, subject, body in found}


def answer(deployment: Deployment, map_index: int, option: str, **params: Any) -> None:
    """Answer as the page of required actions does."""
    address = f"http://127.0.0.1:{deployment.port}"
    token = requests.get(f"{address}/auth/token", timeout=30).json()["access_token"]
    answered = requests.patch(
        f"{address}/api/v2/dags/{DAG_ID}/dagRuns/asked/taskInstances/each.ask/{map_index}/hitlDetails",
        json={"chosen_options": [option], "params_input": params},
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
    )
    answered.raise_for_status()
