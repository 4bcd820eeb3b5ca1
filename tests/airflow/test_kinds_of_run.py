"""The example DAGs, and the templates on the pages, in each kind of run that Airflow knows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow import __version__
from airflow.providers.common.compat.sdk import DAG, BaseOperator

from airflow_provider_talkable.sandbox import Talkable
from airflow_provider_talkable.sandbox.talkable import Generation
from tests.airflow.conftest import EXAMPLES, RUN_DATE
from tests.airflow.deployment import Deployment
from tests.airflow.metadata import dag_runs, xcom
from tests.documents import pages

IS_AIRFLOW_3 = not __version__.startswith("2.")
DATED = re.compile(r"data_interval|run_after|logical_date|\bds\b|\bts\b")
SYNC, AFTER = "example_talkable_sync", "example_talkable_after_sync"
EXAMPLES_WITH_DATES = [path for path in sorted(EXAMPLES.glob("*.py")) if DATED.search(path.read_text())]
# By day: the end of the data interval that each kind of run has; `dags test` has a date, too.
ENDS = {
    "scheduled": RUN_DATE,
    "by hand": RUN_DATE,
    "backfill": RUN_DATE,
    # In Airflow 3 these have neither a logical date nor a data interval; in Airflow 2 each run has both.
    "by REST without a date": None,
    "by an asset": None,
}
BACKFILLED, BY_HAND = date(2026, 1, 10), date(2026, 2, 10)


@pytest.fixture
def examples(deployment: Deployment) -> Iterator[Deployment]:
    """A deployment with the examples whose windows have dates, and a refund in each kind of run's window.

    It is scheduled, and triggers what an asset does, as soon as it is there.
    """
    left = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    if (seconds := (left - datetime.now(UTC)).total_seconds()) < 240:
        time.sleep(seconds)  # Otherwise two days' runs would be scheduled.
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"scheduled": midnight.date(), "backfilled": BACKFILLED, "by-hand": BY_HAND}
    sandbox = deployment.airflow.sandbox
    sandbox.talkable = Talkable(("my-store",), Generation.SEED)
    with closing(deployment.airflow.warehouse) as warehouse, warehouse:
        # Tasks read and write at the same time.
        warehouse.execute("PRAGMA journal_mode = WAL")
        warehouse.execute("CREATE TABLE refunded_orders (order_number, refunded_at)")
        warehouse.execute(
            "CREATE TABLE refunds (refund_id, order_number, refunded_at, refund_subtotal, site_slug)"
        )
        warehouse.execute("CREATE TABLE orders (order_number, email, currency, ordered_at)")
        for order in (*days, "kept"):
            purchase = {
                "order_number": order,
                "subtotal": 100,
                "email": f"{order}@example.com",
                "referral": {},
            }
            sandbox.talkable.create_purchase("my-store", purchase)
            # Thirty days for returning "kept" end in the last minute of yesterday.
            at = (
                midnight - timedelta(days=30, minutes=1)
                if order == "kept"
                else datetime(2025, 1, 1, tzinfo=UTC)
            )
            warehouse.execute(
                "INSERT INTO orders VALUES (?, ?, 'EUR', ?)", (order, f"{order}@example.com", at.isoformat())
            )
        for order, day in days.items():
            # In the last minute before the day begins.
            at = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(minutes=1)
            warehouse.execute("INSERT INTO refunded_orders VALUES (?, ?)", (order, at.isoformat()))
            warehouse.execute(
                "INSERT INTO refunds VALUES (?, ?, ?, NULL, 'my-store')", (order, order, at.isoformat())
            )
    for path in EXAMPLES_WITH_DATES:
        (deployment.folder / path.name).write_bytes(path.read_bytes())
    dag_ids = {path.stem for path in EXAMPLES_WITH_DATES}
    deadline = time.monotonic() + 150
    while not dag_ids <= {dag_id for (dag_id,) in deployment.query("SELECT dag_id FROM serialized_dag")}:
        assert time.monotonic() < deadline, deployment.all_logs()
        time.sleep(0.3)
    yield deployment
    deployment.command("dags", "pause", "--yes", "--treat-dag-id-as-regex", "example_talkable_.*")


def test_each_kind_of_run_of_the_examples(examples: Deployment) -> None:
    """Scheduled, by hand, by REST without a date, by an asset and as a backfill, under a scheduler."""
    dag_ids = [path.stem for path in EXAMPLES_WITH_DATES]
    scheduled = {
        (path.stem, "scheduled") for path in EXAMPLES_WITH_DATES if 'schedule="@' in path.read_text()
    }
    kinds = scheduled | {
        (SYNC, "manual"),
        (AFTER, "asset_triggered" if IS_AIRFLOW_3 else "dataset_triggered"),
    }
    if IS_AIRFLOW_3:
        # A reconciliation that begins before the sync finds what is missing, and fails.
        wait_for_runs(examples, scheduled)
        for dag_id in dag_ids:
            run = trigger(examples, dag_id, None)
            assert run["logical_date"] is run["data_interval_end"] is None
            kinds.add((dag_id, "manual"))
        # As the page does, whose form has a date.
        trigger(examples, SYNC, BY_HAND)
        days = ("--from-date", BACKFILLED.isoformat(), "--to-date", BACKFILLED.isoformat())
        examples.command("backfill", "create", "--dag-id", SYNC, *days)
        kinds.add((SYNC, "backfill"))
    else:
        examples.command("dags", "trigger", SYNC, "--exec-date", BY_HAND.isoformat())
    for dag_id, run_id, run_type in wait_for_runs(examples, kinds):
        found = rows(examples, dag_id, run_id)
        assert found, (dag_id, run_type)
        # In Airflow 2 the window of what an asset triggers, which has no end, begins with the run by hand's.
        expected = ([1], [2]) if run_type == "dataset_triggered" else ([1],)
        assert {task_id: n for task_id, n in found.items() if n not in expected} == {}, (dag_id, run_type)
    held = examples.airflow.sandbox.talkable.snapshot()["my-store"]
    sent = {order: origin["times_refunded"] for order, origin in held.items()}
    assert sent == {"scheduled": 1, "by-hand": 1, "backfilled": int(IS_AIRFLOW_3), "kept": 0}
    assert held["kept"]["referral"]["status"] == "approved"


def trigger(deployment: Deployment, dag_id: str, day: date | None) -> Any:
    """Trigger a run by REST, and return what the answer says of it."""
    at = day and datetime(day.year, day.month, day.day, tzinfo=UTC).isoformat()
    content = {"logical_date": at, "dag_run_id": f"rest-{day}"}
    return deployment.post(f"/api/v2/dags/{dag_id}/dagRuns", content)


def wait_for_runs(deployment: Deployment, kinds: set[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Wait until there is a run of each DAG and type, and all have succeeded; return DAG, id and type."""
    deadline = time.monotonic() + 240
    while True:
        found = dag_runs(deployment.metadata, "dag_id", "run_id", "run_type", "state")
        states = {state for *_, state in found}
        if {(dag_id, run_type) for dag_id, _, run_type, _ in found} >= kinds and states == {"success"}:
            return [(dag_id, run_id, run_type) for dag_id, run_id, run_type, _ in found]
        assert time.monotonic() < deadline, f"{kinds}\n{found}\n{deployment.all_logs()}"
        assert "failed" not in states, f"{found}\n{deployment.all_logs()}"
        time.sleep(0.3)


def rows(deployment: Deployment, dag_id: str, run_id: str) -> dict[str, list[int]]:
    """How many orders each task that sends or compares found in its window."""
    return {
        task_id: [_count(value) for value in values]
        for task_id in ("sync_refunds", "reconcile", "refund", "void", "approve")
        if (
            values := xcom(deployment.metadata, "return_value", dag_id=dag_id, run_id=run_id, task_id=task_id)
        )
    }


def _count(value: Any) -> int:
    """Of a list of results, or of a summary."""
    return len(value) if isinstance(value, list) else int(value.get("rows", value.get("refunds")))


def templates() -> list[str]:
    """Each template over dates on the pages."""
    found = re.findall(r"\"(\{\{[^\"]*\}\})\"", "\n".join(pages().values()))
    return sorted({template for template in found if DATED.search(template)})


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("template", templates())
def test_a_template_of_the_pages_renders(template: str, kind: str) -> None:
    end = ENDS[kind] if IS_AIRFLOW_3 else RUN_DATE
    run = SimpleNamespace(data_interval_end=end, **({"run_after": RUN_DATE} if IS_AIRFLOW_3 else {}))
    context: dict[str, object] = {"dag_run": run, "macros": SimpleNamespace(timedelta=timedelta)}
    if end:
        context |= {"data_interval_end": end, "ds": end.date().isoformat()}
    task = BaseOperator(task_id="task", dag=DAG("pages", schedule=None))
    rendered = task.render_template(template, context)  # type: ignore[arg-type]
    since = datetime.fromisoformat(rendered)
    assert timedelta(0) <= RUN_DATE - since.astimezone(UTC) <= timedelta(days=31)
