"""Tasks whose supervisor is killed while they send, under a real scheduler with LocalExecutor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import URL

from tests.airflow.conftest import RUN_DATE, Airflow
from tests.airflow.deployment import Deployment
from tests.airflow.four_sites import SHORT_HEARTBEATS, deployed, fill, outcomes_of
from tests.shop import wait_for_requests

DAGS = """
from datetime import timedelta
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_talkable.operators.referral import TalkableReferralOperator
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

retried = dict(retries=1, retry_delay=timedelta(seconds=1))

with DAG("synced", schedule=None):
    SqlToTalkableRefundOperator(
        task_id="sync",
        sql_conn_id="shop",
        sql="SELECT refund_key, order_number, refund_subtotal FROM refunds WHERE site = 'de' ORDER BY number",
        site_slug="de",
        max_in_flight=4,
        ignore=("not_found", "unconfirmed"),
        **retried,
    )

with DAG("refunded", schedule=None):
    TalkableRefundOperator(
        task_id="refund",
        site_slug="uk",
        refunds=[f"uk-{number}" for number in range(1, 200) if number % 10],
        **retried,
    )

with DAG("approved", schedule=None):
    TalkableReferralOperator(
        task_id="approve",
        site_slug="us",
        origin_slug=[f"us-{number}" for number in range(1, 200) if number % 10],
        status="approved",
        **retried,
    )
"""

DAG_IDS = {"synced": "de", "refunded": "uk", "approved": "us"}
"""Which site each sends to."""


@pytest.fixture
def deployment(tmp_path: Path, postgres_server: Callable[[], URL]) -> Iterator[Deployment]:
    """Four sites with 200 refunds each, and answers so slow that much is left when a supervisor is killed."""
    with deployed(DAGS, tmp_path, postgres_server, SHORT_HEARTBEATS) as deployment:
        fill(deployment)
        deployment.airflow.sandbox.dials.latency = 1
        yield deployment


def requests_to(deployment: Deployment, site: str) -> int:
    """How many requests were sent for a site's orders."""
    paths = [request["path"] for request in list(deployment.airflow.sandbox.requests)]
    return sum(path.split("/")[4].startswith(f"{site}-") for path in paths)


def has_sent(deployment: Deployment, site: str, number: int) -> bool:
    return requests_to(deployment, site) >= number


def wait_until(condition: Callable[[], object], deployment: Deployment) -> None:
    deadline = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < deadline, deployment.all_logs()
        time.sleep(0.05)


def kill_supervisor(deployment: Deployment, dag_id: str) -> psutil.Process:
    """Kill the parent of the process that runs a task; return that process."""
    [(pid,)] = deployment.task_instances("pid", dag_id=dag_id)
    task = psutil.Process(pid)
    os.kill(task.ppid(), signal.SIGKILL)
    return task


def pause(deployment: Deployment, dag_id: str, *, is_paused: bool) -> None:
    """While a DAG is paused, Airflow starts no retry."""
    with deployment.metadata.begin() as connection:
        connection.exec_driver_sql("UPDATE dag SET is_paused = %s WHERE dag_id = %s", (is_paused, dag_id))


def has_ended(process: psutil.Process) -> bool:
    try:
        # In a container nobody may collect what is left of it.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_an_orphan_leaves_what_is_not_on_the_wire_to_the_retry(deployment: Deployment) -> None:
    for dag_id in DAG_IDS:
        deployment.command("dags", "trigger", dag_id)
    before, tasks = {}, []
    for dag_id, site in DAG_IDS.items():
        wait_until(partial(has_sent, deployment, site, 10), deployment)
        pause(deployment, dag_id, is_paused=True)
        tasks.append(kill_supervisor(deployment, dag_id))
        before[site] = requests_to(deployment, site)
    for task in tasks:
        wait_until(partial(has_ended, task), deployment)
    # Until it looks, in a quarter of a second, each answer may be followed by another request.
    for site, in_flight in (("de", 4), ("uk", 16), ("us", 16)):
        assert requests_to(deployment, site) <= before[site] + in_flight, site

    # What was on the wire is settled, and what was not is left, with the reason.
    newest = Counter(events[-1] for events in deployment.ledger().values())
    assert newest["submitted"] == 0
    assert newest["refunded"] + newest["not_found"] == requests_to(deployment, "de")
    assert newest["aborted"] == 200 - requests_to(deployment, "de")
    with deployment.warehouse.connect() as connection:
        [[reason]] = connection.exec_driver_sql(
            "SELECT DISTINCT error_message FROM talkable_refund_ledger WHERE event = 'aborted'"
        )
    assert "its supervisor, the process that started it, was killed" in reason

    deployment.airflow.sandbox.dials.latency = 0
    for dag_id in DAG_IDS:
        pause(deployment, dag_id, is_paused=False)
    for dag_id in DAG_IDS:
        deployment.wait_for({"success"}, dag_id=dag_id)
    assert deployment.task_instances("try_number") == [(2,)] * len(DAG_IDS)
    # The retry reports what the orphan settled as its own.
    [summary] = deployment.summaries("synced")
    outcomes = outcomes_of(deployment, ("de",), in_doubt=False)
    assert outcomes == summary["outcomes"] == {"refunded": 180, "not_found": 20}
    assert summary["skipped"] == 0
    held = deployment.airflow.sandbox.talkable.snapshot()
    assert Counter(origin["times_refunded"] for origin in held["uk"].values()) == {1: 180}


@pytest.mark.airflow_process
def test_a_run_by_hand_goes_on_without_its_parent(airflow: Airflow) -> None:
    airflow.sandbox.dials.latency = 2
    command = [sys.executable, "-m", "airflow", "dags", "test", "example_talkable_sync", RUN_DATE.isoformat()]
    # As a shell that is closed after `nohup airflow dags test … &`.
    shell = subprocess.Popen(
        ["sh", "-c", '"$@" & wait', "sh", *command],
        env=airflow.environment(),
        cwd=airflow.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_requests(airflow.sandbox, 1)
    [running] = psutil.Process(shell.pid).children()
    shell.kill()
    shell.wait()
    deadline = time.monotonic() + 240
    try:
        while not has_ended(running):
            # A task that gives up waits for its retry.
            assert time.monotonic() < deadline, airflow.states()
            time.sleep(0.1)
    finally:
        with suppress(psutil.NoSuchProcess):
            running.kill()
    assert airflow.states()["sync_refunds"] == {"success"}
