"""The sync's processes, killed at random moments, under a real scheduler."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import URL

from airflow_provider_talkable.sandbox import Dials
from faults.conftest import Record
from tests.airflow.deployment import Deployment
from tests.airflow.four_sites import SHORT_HEARTBEATS, SITES, SYNC_ARGUMENTS, deployed, fill, outcomes_of

SEED = 20261123

DAGS = (
    SYNC_ARGUMENTS
    + """
from datetime import timedelta
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

with DAG("killed", schedule=None):
    SqlToTalkableRefundOperator.partial(
        **refunds,
        parameters={"site": "{{ task.site_slug }}"},
        max_in_flight=4,
        retries=2,
        retry_delay=timedelta(seconds=1),
    ).expand(site_slug=["ca", "de", "uk", "us"])

with DAG("often_killed", schedule=None):
    SqlToTalkableRefundOperator.partial(
        **(refunds | {"sql": refunds["sql"].replace("ORDER", "AND number < %(until)s::int ORDER")}),
        parameters={"site": "{{ task.site_slug }}", "until": "{{ dag_run.conf['until'] }}"},
        resend_keys="{{ var.value.get('resend_' ~ task.site_slug, '[]') }}",
        max_in_flight=4,
        retries=60,
        retry_delay=timedelta(seconds=1),
    ).expand(site_slug=["ca", "de", "uk", "us"])

with DAG("deferred", schedule=None):
    SqlToTalkableRefundOperator(
        **refunds,
        parameters={"site": "de"},
        site_slug="de",
        deferrable=True,
        throttle_patience=2,
        max_in_flight=2,
    )
"""
)


@pytest.fixture
def airflow(tmp_path: Path, postgres_server: Callable[[], URL]) -> Iterator[Deployment]:
    """A deployment with 200 refunds on each of four sites, each tenth unknown, each fifth partial."""
    with deployed(DAGS, tmp_path, postgres_server, SHORT_HEARTBEATS) as deployment:
        fill(deployment)
        yield deployment


Key = tuple[str, str]


def running(airflow: Deployment, dag_id: str = "killed") -> dict[int, tuple[int, int]]:
    """The try and the process of each mapped task that runs."""
    rows = airflow.task_instances("map_index", "try_number", "pid", dag_id=dag_id, state="running")
    return {map_index: (try_number, pid) for map_index, try_number, pid in rows if pid}


def is_task(pid: int) -> bool:
    """Whether it is a process that runs a task, and not one that has come to its number since."""
    try:
        return b"airflow worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_killed_and_terminated_at_random_moments(airflow: Deployment, record: Record) -> None:
    sandbox = airflow.airflow.sandbox
    sandbox.dials.latency = 0.4
    moments = random.Random(SEED)
    # Each site's task is ended twice; its third try is its last.
    signals = {site: moments.sample([signal.SIGKILL, signal.SIGTERM], 2) for site in range(len(SITES))}
    after = {(site, number): moments.uniform(0.5, 6) for site in signals for number in (1, 2)}
    airflow.command("dags", "trigger", "killed")
    seen_at: dict[tuple[int, int], float] = {}
    killed: list[str] = []
    midway = 0
    deadline = time.monotonic() + 150
    while after:
        assert time.monotonic() < deadline, (killed, airflow.logs()[-6000:])
        now = time.monotonic()
        for site, (number, pid) in running(airflow).items():
            if (site, number) not in after or not is_task(pid):
                continue
            began = seen_at.setdefault((site, number), now)
            if now - began > after[site, number]:
                of_site = sum(f'"{SITES[site]}"' in request["body"] for request in sandbox.requests)
                which = signals[site][number - 1]
                os.kill(pid, which)
                midway += 0 < of_site < 200
                killed.append(f"{which.name} after {after.pop((site, number)):.1f} s")
        time.sleep(0.1)
    airflow.wait_for({"success"}, dag_id="killed", count=4)
    outcomes = outcomes_of(airflow, SITES, in_doubt=True)
    tries = airflow.task_instances("try_number", dag_id="killed")
    assert tries == [(3,)] * 4
    # Some may come before the first request, but those alone would show nothing.
    assert midway >= 4
    assert sum("aborted" in events for events in airflow.ledger().values()) > 0
    assert sum(events.count("submitted") > 1 for events in airflow.ledger().values()) > 0
    record(
        "Airflow",
        "the process of a running sync task, killed or terminated at random moments, four tasks at a time, "
        f"two retries (seed {SEED}: {', '.join(killed)})",
        f"{len(killed)} times, {midway} of them while refunds were being sent",
        f"all tasks succeeded with their third try; of 800 refunds {told(outcomes)}; each full one taken "
        "once, each partial one sent at most once",
    )


def test_a_hundred_kills_with_people_settling_between(airflow: Deployment, record: Record) -> None:
    """Four runs of 50 refunds a site, 25 kills in each; a last one is left alone."""
    moments = random.Random(SEED)
    at_supervisors = moments.sample([True] * 34 + [False] * 66, 100)
    killed: Counter[str] = Counter()
    midway = 0
    settled: set[Key] = set()
    resent: set[Key] = set()
    for round_ in range(1, 6):
        kills = [at_supervisors.pop() for _ in range(25)] if at_supervisors else []
        conf = json.dumps({"until": min(50 * round_, 200)})
        airflow.command("dags", "trigger", "often_killed", "--run-id", f"round-{round_}", "--conf", conf)
        midway += kill(airflow, kills, moments, killed)
        airflow.airflow.sandbox.dials.latency = 0.05
        airflow.wait_for({"success"}, dag_id="often_killed", count=4 * round_)
        if round_ < 5:
            answer_doubts(airflow, settled, resent)
    outcomes = outcomes_of(airflow, SITES, in_doubt=True, answered=settled | resent)
    reported: Counter[str] = Counter()
    for summary in airflow.summaries("often_killed"):
        reported += Counter(summary["outcomes"])
    assert reported == outcomes_by_run(airflow)
    assert killed == {"tasks": 66, "supervisors": 34}
    assert midway >= 50
    assert len(settled) >= 8
    assert len(resent) >= 4
    record(
        "Airflow",
        "SIGKILL at random moments to the process of a running sync task or to its supervisor, four tasks at "
        f"a time (seed {SEED}); after each 25 somebody looks parts in doubt up and settles or resends them",
        f"66 times a task, 34 times a supervisor, {midway} of them while refunds were being sent; "
        f"{len(settled)} settled, {len(resent)} resent",
        "all tasks succeeded, and their last tries reported all that the ledger has of their run: of 800 "
        f"refunds {told(outcomes)}; none taken twice",
    )


def kill(airflow: Deployment, kills: list[bool], moments: random.Random, killed: Counter[str]) -> int:
    """Kill tasks, or their supervisors; return how many kills came while refunds were being sent."""
    sandbox = airflow.airflow.sandbox
    sandbox.dials.latency = 1.5
    before = len(sandbox.requests)
    due: dict[tuple[int, int], float] = {}
    midway = 0
    deadline = time.monotonic() + 600
    while kills:
        assert time.monotonic() < deadline, (killed, airflow.logs()[-6000:])
        now = time.monotonic()
        for site, (number, pid) in running(airflow, "often_killed").items():
            if not (kills and is_task(pid) and is_task(supervisor := psutil.Process(pid).ppid())):
                continue
            # Most of a second goes by before the first request.
            if now > due.setdefault((site, number), now + moments.uniform(0.2, 2.5)):
                due[site, number] = float("inf")
                requests = list(sandbox.requests)[before:]
                of_site = sum(f'"{SITES[site]}"' in request["body"] for request in requests)
                midway += 0 < of_site < 50
                is_supervisor = kills.pop()
                os.kill(supervisor if is_supervisor else pid, signal.SIGKILL)
                killed["supervisors" if is_supervisor else "tasks"] += 1
        time.sleep(0.1)
    return midway


def answer_doubts(airflow: Deployment, settled: set[Key], resent: set[Key]) -> None:
    """Look parts in doubt up in Talkable: settle two of each site, and resend what it does not have."""
    held = airflow.airflow.sandbox.talkable.snapshot()
    doubts = [key for key, events in airflow.ledger().items() if events[-1] == "unconfirmed"]
    with airflow.warehouse.begin() as connection:
        # As if the time had passed in which the runs that are dead may still have been sending.
        connection.exec_driver_sql(
            "UPDATE talkable_refund_ledger SET sending_until = '2026-01-01' WHERE sending_until IS NOT NULL"
        )
    for number, site in enumerate(SITES):
        keys = [key for of_site, key in doubts if of_site == site]
        for key in keys[:2]:
            is_taken = held[site][f"{site}-{key[1:]}"]["times_refunded"] == 1
            airflow.command(
                *("talkable", "ledger", "settle", "--ledger-conn-id", "shop", "--refund-key", key),
                *("--site-slug", site, "--as", "refunded" if is_taken else "not_refunded"),
                *("--note", f"looked up, {number}"),
            )
            settled.add((site, key))
        missing = [key for key in keys[2:] if held[site][f"{site}-{key[1:]}"]["times_refunded"] == 0]
        airflow.command("variables", "set", f"resend_{site}", json.dumps(missing))
        resent |= {(site, key) for key in missing}


def outcomes_by_run(airflow: Deployment) -> Counter[str]:
    """What happened to each refund in each run that had to do with it, as the ledger has it."""
    with airflow.warehouse.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT DISTINCT ON (site_slug, refund_key, run_id) event FROM talkable_refund_ledger"
            " WHERE event <> 'submitted' AND event NOT LIKE 'settled%%' AND run_id <> ''"
            " ORDER BY site_slug, refund_key, run_id, entry_id DESC"
        )
        return Counter(event for (event,) in rows)


@pytest.mark.parametrize("component", ["triggerer", "api-server"])
def test_a_component_restarted_while_the_task_is_deferred(
    airflow: Deployment, record: Record, component: str
) -> None:
    sandbox = airflow.airflow.sandbox
    sandbox.dials = Dials(rate_limit=0.001, burst=50)
    airflow.command("dags", "trigger", "deferred")
    airflow.wait_for({"deferred"}, dag_id="deferred")
    # The task's process tells Airflow more for a moment, and the task fails where nobody listens then.
    time.sleep(5)
    airflow.kill(component)
    time.sleep(3)
    airflow.start(component, *(("--port", str(airflow.port)) if component == "api-server" else ()))
    # Airflow fails a task that starts while no API server is there, before the task can say anything.
    airflow.wait_until_listening()
    sandbox.dials.rate_limit = None
    airflow.wait_for({"success"}, dag_id="deferred")
    outcomes = outcomes_of(airflow, ("de",), in_doubt=False)
    [summary] = airflow.summaries("deferred")
    refunds = sum(request["method"] == "POST" for request in sandbox.requests)
    assert outcomes == summary["outcomes"] == {"refunded": 180, "not_found": 20}
    assert (summary["rows"], summary["sent"], summary["skipped"]) == (200, 200, 0)
    assert (summary["requests"], summary["throttled_requests"]) == (refunds, refunds - 200)
    record("Airflow", f"the {component}, killed and started again during a deferral", "once", told(outcomes))


def told(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
