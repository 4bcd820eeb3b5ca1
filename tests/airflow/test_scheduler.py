"""The sync and the sensor under a real scheduler with LocalExecutor, and a real triggerer, on PostgreSQL."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from urllib.parse import quote

import psutil
import pytest
from airflow import __version__
from sqlalchemy import text

from airflow_provider_talkable.sandbox import Canned, Dials
from tests.airflow.deployment import IS_AIRFLOW_3, Deployment
from tests.airflow.four_sites import SITES
from tests.airflow.metadata import xcom
from tests.airflow.task import HAS_STORE, needs_store
from tests.shop import wait_for_requests

AIRFLOW = tuple(map(int, __version__.split(".")[:2]))


def test_four_sites_at_once(deployment: Deployment) -> None:
    deployment.command("dags", "trigger", "sites")
    deployment.wait_for({"success"}, dag_id="sites", count=4)
    ledger = deployment.ledger()
    assert len(ledger) == 4 * 200
    for (site, key), events in ledger.items():
        assert events == ["submitted", "not_found" if int(key[1:]) % 10 == 0 else "refunded"], (site, key)
    for site in SITES:
        held = deployment.airflow.sandbox.talkable.snapshot()[site]
        assert Counter(origin["times_refunded"] for origin in held.values()) == {1: 180}
        assert sum(origin["refund_subtotal"] == 12.5 for origin in held.values()) == 40
    for summary in deployment.summaries("sites"):
        assert (summary["rows"], summary["sent"]) == (200, 200)
        assert summary["outcomes"] == {"refunded": 180, "not_found": 20}
    assert_lineage_is_told(deployment)
    if IS_AIRFLOW_3:  # Airflow 2 has its links in pages only.
        assert_links_lead_to_talkable_and_to_the_ledger(deployment)


def assert_lineage_is_told(deployment: Deployment) -> None:
    """The tables that were read, the sites that were written to, and the summary."""
    deadline = time.monotonic() + 60
    # A task tells it after it has ended.
    while True:
        ended = [event for event in deployment.airflow.lineage("sync") if event["eventType"] == "COMPLETE"]
        if len(ended) == len(SITES):
            break
        assert time.monotonic() < deadline, ended
        time.sleep(0.3)
    host = deployment.airflow.sandbox.url.removeprefix("http://")
    outputs = [[(output["namespace"], output["name"]) for output in event["outputs"]] for event in ended]
    assert sorted(outputs) == [[(f"talkable://{host}", f"{site}.refunds")] for site in SITES]
    for event in ended:
        [read] = event["inputs"]
        assert read["namespace"].startswith("postgres://")
        assert read["name"].endswith(".public.refunds")
        facet = event["run"]["facets"]["talkable_refunds"]
        assert (facet["rows"], facet["sent"], facet["throttledRequests"]) == (200, 200, 0)
        assert facet["outcomes"] == {"refunded": 180, "not_found": 20}


def assert_links_lead_to_talkable_and_to_the_ledger(deployment: Deployment) -> None:
    [(run_id,)] = deployment.query("SELECT run_id FROM dag_run WHERE dag_id = 'sites'")
    run = f"sites/dagRuns/{quote(run_id)}"
    links = deployment.get(f"/api/v2/dags/{run}/taskInstances/sync/links?map_index=2")["extra_links"]
    ledger = f"/dags/sites/runs/{quote(run_id, safe='')}/tasks/sync/mapped/2/xcom"
    assert links == {"Talkable": "https://admin.talkable.com/sites/uk", "Ledger query": ledger}
    entry = deployment.get(f"/api/v2/dags/{run}/taskInstances/sync/xcomEntries/ledger_query?map_index=2")
    with deployment.warehouse.connect() as connection:
        # As it would be pasted into a client.
        rows = connection.execute(text(entry["value"].replace(":", r"\:"))).mappings().all()
    assert {row["site_slug"] for row in rows} == {"uk"}
    assert len(rows) == 400


def test_a_throttled_task_is_deferred_and_goes_on_where_the_ledger_says(deployment: Deployment) -> None:
    sandbox = deployment.airflow.sandbox
    sandbox.dials = Dials(rate_limit=0.001, burst=50)
    deployment.command("dags", "trigger", "deferred")
    deployment.wait_for({"deferred"}, dag_id="deferred")
    newest = Counter(events[-1] for events in deployment.ledger().values())
    assert 0 < newest["refunded"] + newest["not_found"] <= 60
    assert newest["submitted"] == 0
    sandbox.dials.rate_limit = None
    deployment.wait_for({"success"}, dag_id="deferred")
    ledger = deployment.ledger()
    assert len(ledger) == 200
    assert Counter(events[-1] for events in ledger.values()) == {"refunded": 180, "not_found": 20}
    held = sandbox.talkable.snapshot()["de"]
    assert Counter(origin["times_refunded"] for origin in held.values()) == {1: 180}
    [summary] = deployment.summaries("deferred")
    assert summary["outcomes"] == {"refunded": 180, "not_found": 20}
    assert (summary["rows"], summary["sent"], summary["skipped"]) == (200, 200, 0)
    refunds = [request for request in sandbox.requests if request["method"] == "POST"]
    assert summary["requests"] == len(refunds)
    assert summary["throttled_requests"] == len(refunds) - 200
    assert "Talkable lets site de through again; going on" in deployment.logs()
    # The asset that it updates starts what is scheduled on it.
    deployment.wait_for({"success"}, dag_id="after")
    # A preview does not.
    deployment.command("dags", "trigger", "previewed")
    deployment.wait_for({"success"}, dag_id="previewed")
    table = "asset_event" if IS_AIRFLOW_3 else "dataset_event"
    assert deployment.query(f"SELECT DISTINCT source_dag_id FROM {table}") == [("deferred",)]


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="Airflow has retry policies from 3.3 on")
def test_a_retry_policy_spares_what_is_hopeless_and_waits_as_long_as_talkable_asks(
    deployment: Deployment,
) -> None:
    deployment.command("dags", "trigger", "refused")
    deployment.wait_for({"failed"}, dag_id="refused")
    assert deployment.task_instances("try_number", dag_id="refused") == [(1,)]
    deployment.airflow.sandbox.dials.next(Canned(429, headers={"Retry-After": "2"}))
    deployment.command("dags", "trigger", "talkable_default")
    # The task's own retry_delay is an hour.
    deployment.wait_for({"success"}, dag_id="talkable_default")
    assert deployment.task_instances("try_number", dag_id="talkable_default") == [(2,)]


def test_a_task_that_is_failed_by_hand_records_what_was_on_the_wire(deployment: Deployment) -> None:
    sandbox = deployment.airflow.sandbox
    sandbox.dials.latency = 1.5
    deployment.command("dags", "trigger", "deferred")
    deadline = time.monotonic() + 150
    while len(sandbox.requests) < 6:
        assert time.monotonic() < deadline, deployment.logs()[-6000:]
        time.sleep(0.1)
    with deployment.metadata.begin() as connection:
        connection.exec_driver_sql("UPDATE task_instance SET state = 'failed' WHERE dag_id = 'deferred'")
    # The log's last lines are written once the ledger is.
    while "Refunds: " not in deployment.logs():
        assert time.monotonic() < deadline, deployment.logs()[-6000:]
        time.sleep(0.1)
    newest = Counter(events[-1] for events in deployment.ledger().values())
    assert newest["refunded"] + newest["not_found"] == len(sandbox.requests) < 100
    assert newest["aborted"] == 200 - len(sandbox.requests)


@needs_store
def test_a_part_is_sent_once_whatever_is_cleared(deployment: Deployment) -> None:
    """Clearing leaves Airflow 3.3 its task state store; clear_on_success and Airflow 3.4 empty it."""

    def outcome(tries: int) -> str:
        deadline = time.monotonic() + 150
        # Airflow loses what is cleared before its scheduler has ended the DAG run.
        while (
            found := (
                deployment.task_instances("state", "try_number", dag_id="parts"),
                deployment.query("SELECT state FROM dag_run WHERE dag_id = 'parts'"),
            )
        ) != ([("success", tries)], [("success",)]):
            assert time.monotonic() < deadline, f"{found}\n{deployment.all_logs()}"
            time.sleep(0.3)
        [[result]] = xcom(deployment.metadata, "results", dag_id="parts")
        return str(result["outcome"])

    deployment.command("dags", "trigger", "parts")
    assert outcome(1) == "refunded"
    if HAS_STORE:
        kept = deployment.query("SELECT expires_at FROM task_state_store WHERE dag_id = 'parts'")
        assert kept == [(None,)] * 2
        deployment.command("tasks", "clear", "--yes", "parts")
        assert outcome(2) == "refunded"
        with deployment.metadata.begin() as connection:
            connection.exec_driver_sql("DELETE FROM task_state_store")
    tries = 3 if HAS_STORE else 2
    deployment.command("tasks", "clear", "--yes", "parts")
    assert outcome(tries) == "unconfirmed"
    assert deployment.airflow.sandbox.talkable.snapshot()["de"]["de-1"]["times_refunded"] == 1


def test_a_sensor_outlives_its_triggerer(deployment: Deployment) -> None:
    sandbox = deployment.airflow.sandbox
    sandbox.talkable.create_purchase("de", {"order_number": "jane-1", "email": "jane@example.com"})
    deployment.command("dags", "trigger", "waiting")
    deployment.wait_for({"deferred"}, dag_id="waiting")
    # The task has looked once; from then on it is the triggerer that asks.
    wait_for_requests(sandbox, 3)
    deployment.kill("triggerer")
    sandbox.requests.clear()
    time.sleep(3)
    assert not sandbox.requests
    sandbox.talkable.update_referral("de", "jane-1", {"status": "voided"})
    deployment.start("triggerer")
    deployment.wait_for({"success"}, dag_id="waiting")
    [referral] = deployment.summaries("waiting")
    assert referral["status"] == "voided"
    assert f"Referral {referral['id']} is voided" in deployment.logs()


def listening(process: psutil.Process) -> set[str]:
    """The addresses that a process listens on; none if it has ended."""
    with suppress(psutil.NoSuchProcess, FileNotFoundError):
        connections = process.net_connections("inet")
        return {found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN}
    return set()


def test_nothing_listens_beyond_this_machine(deployment: Deployment) -> None:
    found = {
        (component, address)
        for component, process in deployment.processes.items()
        for part in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True))
        for address in listening(part)
    }
    assert found == ({("api-server", "127.0.0.1")} if IS_AIRFLOW_3 else set())
