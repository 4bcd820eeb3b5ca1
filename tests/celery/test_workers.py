"""The sync on two Celery workers, of which one is killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.airflow.deployment import Deployment
from tests.airflow.four_sites import SHORT_HEARTBEATS, SITES, deployed, fill, outcomes_of

DAGS = """
from datetime import timedelta
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

with DAG("sites", schedule=None):
    SqlToTalkableRefundOperator.partial(
        task_id="sync",
        sql_conn_id="shop",
        sql="SELECT refund_key, order_number, refund_subtotal FROM refunds"
        " WHERE site = %(site)s ORDER BY number",
        parameters={"site": "{{ task.site_slug }}"},
        initial_rate=None,
        max_in_flight=4,
        ignore=("not_found", "unconfirmed"),
        retries=2,
        retry_delay=timedelta(seconds=1),
    ).expand(site_slug=["ca", "de", "uk", "us"])
"""


@pytest.fixture
def deployment(tmp_path: Path, postgres_server: Callable[[], URL], redis: str) -> Iterator[Deployment]:
    """Two workers with room for two tasks each, and 200 refunds on each of four sites."""
    settings = {
        **SHORT_HEARTBEATS,
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CELERY__BROKER_URL": redis,
    }
    with deployed(DAGS, tmp_path, postgres_server, settings) as deployment:
        for name in ("first", "second"):
            worker = ("celery", "worker", "--concurrency", "2", "--celery-hostname", name)
            deployment.start(*worker, name=name)
        fill(deployment)
        yield deployment


def sent(deployment: Deployment) -> Counter[str]:
    """How many requests were sent for each site."""
    requests = deployment.airflow.sandbox.requests
    return Counter(request["path"].split("/")[4].split("-")[0] for request in requests)


def growth(deployment: Deployment, before: Counter[str]) -> list[int]:
    """How many requests were sent for each site since."""
    return [number - before[site] for site, number in sent(deployment).items()]


def test_a_worker_that_is_killed_leaves_nothing_undone(deployment: Deployment) -> None:
    deployment.airflow.sandbox.dials.latency = 0.6
    deployment.command("dags", "trigger", "sites")
    deadline = time.monotonic() + 150
    while len(counts := sent(deployment)) < 4 or min(counts.values()) < 20:
        assert time.monotonic() < deadline, deployment.all_logs()
        time.sleep(0.1)
    # With the supervisors of two tasks, whose own processes live on in groups of their own.
    deployment.kill("first")
    before = sent(deployment)
    while sum(grown := sorted(growth(deployment, before))) < 60:
        assert time.monotonic() < deadline, deployment.all_logs()
        time.sleep(0.1)
    # Those two let end what is on the wire, which at most four requests are, and the other two go on.
    assert max(grown[:2]) <= 4 < 20 < min(grown[2:])
    deployment.wait_for({"success"}, dag_id="sites", count=4)
    outcomes = outcomes_of(deployment, SITES, in_doubt=True)
    tries = deployment.task_instances("try_number", dag_id="sites")
    assert Counter(tries) == {(1,): 2, (2,): 2}
    reported: Counter[str] = Counter()
    for summary in deployment.summaries("sites"):
        reported += Counter(summary["outcomes"])
    assert reported == outcomes
    # The orphans have stopped: nothing is left in doubt by a retry that would have run beside them.
    assert outcomes == {"refunded": 720, "not_found": 80}
