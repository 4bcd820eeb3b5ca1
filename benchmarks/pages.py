"""What the pages in Airflow take over a ledger of millions of entries: ``python -m benchmarks.pages``.

The ledger is filled by PostgreSQL itself; Airflow's own API server answers, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, make_url

from airflow_provider_talkable.sync.ledger import Ledger
from benchmarks import servers

ENTRIES = 5_000_000
DAYS = 365
RUNS = 5
RUN_ID = "ten_days_ago"

# Two entries a refund, spread evenly over the days; one refund in a hundred stays open.
_FILL = """
INSERT INTO talkable_refund_ledger (
  site_slug, refund_key, entry_id, logged_at, event, origin_slug, refunded_at, attempts, referral_id,
  referral_status, reward_paid, reward_known_by, reward_amount, dag_id, run_id, task_id, map_index, try_number
)
SELECT
  'site-' || n %% 4, 'refund-' || n,
  lpad(to_hex((extract(epoch FROM at) * 1e9)::bigint + answered), 16, '0') || 'aaaaaaaa', at,
  CASE
    WHEN answered = 0 THEN 'submitted' WHEN n %% 100 < 95 THEN 'refunded' WHEN n %% 100 < 97 THEN 'not_found'
    WHEN n %% 100 < 99 THEN 'rejected' ELSE 'failed'
  END,
  'order-' || n, at - interval '6 hours', answered,
  CASE WHEN answered = 1 AND n %% 3 = 0 THEN n::text END,
  CASE WHEN answered = 1 AND n %% 3 = 0 THEN CASE WHEN n %% 61 = 0 THEN 'approved' ELSE 'voided' END END,
  CASE WHEN answered = 1 THEN n %% 183 = 0 END,
  CASE WHEN answered = 1 THEN CASE WHEN n %% 3 = 0 THEN 'rewards' ELSE 'no_referral' END END,
  CASE WHEN answered = 1 AND n %% 183 = 0 THEN 12.5 END,
  'sync', CASE WHEN at BETWEEN now() - interval '10 days' AND now() - interval '9 days'
    THEN '{run_id}' ELSE 'scheduled__' || at::date END,
  'sync', -1, 1
FROM (
  SELECT n, answered, now() - interval '{days} days' * (1 - n / {refunds}.0)
    + interval '1 ms' * answered AS at
  FROM generate_series(0, {refunds} - 1) n, generate_series(0, 1) answered ORDER BY n, answered
) entries
"""
_DAG = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("sync", schedule=None):
    EmptyOperator(task_id="sync")
"""
_TASK = """
from datetime import UTC, datetime, timedelta
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import insert

began = datetime.now(UTC) - timedelta(days=10)
with create_session() as session:
    version = DagVersion.get_latest_version("sync", session=session)
    dag = SerializedDagModel.get("sync", session=session).dag
    run = DagRun(dag_id="sync", run_id=RUN_ID, run_type=DagRunType.MANUAL, run_after=began, start_date=began,
                 triggered_by=DagRunTriggeredByType.TEST)
    session.add(run)
    session.flush()
    ti = TaskInstance(dag.get_task("sync"), run_id=RUN_ID, dag_version_id=version.id)
    ti.state, ti.start_date, ti.end_date = "success", began, began + timedelta(days=1)
    session.add(ti)
    session.flush()
    session.execute(insert(RenderedTaskInstanceFields).values(
        dag_id="sync", run_id=RUN_ID, task_id="sync", map_index=-1,
        rendered_fields={"sql_conn_id": "shop", "ledger_table": "talkable_refund_ledger"}))
"""
_TAB = f"/talkable/task/sync/sync/{RUN_ID}"
PAGES = {
    "menu page, 7 days": "/talkable/?days=7",
    "menu page, 30 days": "/talkable/?days=30",
    "menu page, 30 days of one site": "/talkable/?days=30&site=site-1",
    "menu page, 90 days": "/talkable/?days=90",
    "search, order": "/talkable/refund?q=order-1000001",
    "search, refund key": "/talkable/refund?q=refund-1000001",
    "search, unknown order": "/talkable/refund?q=nothing",
    "tab, failed": _TAB,
    "tab, page 5 of refunded": f"{_TAB}?show=refunded&page=5",
    "tab, late": f"{_TAB}?show=late",
    "CSV of 10,000": f"{_TAB}?show=refunded&file=csv",
}


@dataclass(frozen=True, slots=True)
class Took:
    """What a page took.

    :param seconds: Each time, from the request to the last byte of the answer.
    :param kilobytes: Of the answer.
    """

    page: str
    seconds: list[float]
    kilobytes: float


def measure(database: str, entries: int = ENTRIES) -> tuple[list[Took], float]:
    """The pages in turns, and by how many megabytes the API server has grown since before the first."""
    fill(database, entries)
    with tempfile.TemporaryDirectory() as home, api_server(make_url(database), Path(home)) as (url, process):
        session = requests.Session()
        session.cookies.set("_token", session.get(f"{url}/auth/token", timeout=60).json()["access_token"])
        # What Airflow itself imports at its first answer is not the pages'.
        session.get(f"{url}/api/v2/dags", timeout=60).raise_for_status()
        before = process.memory_info().rss
        took = {name: Took(name, [], 0) for name in PAGES}
        for _ in range(RUNS):
            for name, path in PAGES.items():
                started = time.perf_counter()
                answer = session.get(f"{url}{path}", timeout=60)
                seconds = [*took[name].seconds, time.perf_counter() - started]
                answer.raise_for_status()
                assert 'role="alert"' not in answer.text, answer.text
                took[name] = Took(name, seconds, len(answer.content) / 1000)
        return list(took.values()), (process.memory_info().rss - before) / 1e6


def fill(database: str, entries: int) -> None:
    """A ledger of so many entries."""
    engine = create_engine(database)
    Ledger(engine).open()
    with engine.begin() as connection:
        connection.exec_driver_sql(_FILL.format(days=DAYS, refunds=entries // 2, run_id=RUN_ID))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE talkable_refund_ledger")
    engine.dispose()


@contextmanager
def api_server(database: URL, home: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Airflow's API server with the pages and one task of a sync; everybody is an administrator."""
    (home / "dags").mkdir()
    (home / "dags" / "sync.py").write_text(_DAG)
    port = servers.free_port()
    connection = {
        "conn_type": "postgres",
        "host": str(database.query.get("host") or database.host),
        "login": database.username,
        "schema": database.database,
    }
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__TALKABLE__LEDGERS": "shop",
        "AIRFLOW_CONN_SHOP": json.dumps(connection),
    }
    airflow = [sys.executable, "-m", "airflow"]
    for command in (
        [*airflow, "db", "migrate"],
        [*airflow, "dags", "reserialize"],
        [sys.executable, "-c", f"RUN_ID = {RUN_ID!r}\n{_TASK}"],
    ):
        done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    command = [*airflow, "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (home / "api.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log)
    try:
        servers.wait_for(port, patience=120)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    """Measure, and print it."""
    with servers.postgres() as database:
        took, megabytes = measure(database)
    for page in took:
        shown = ", ".join(f"{seconds:.2f}" for seconds in page.seconds)
        print(f"{page.page:32} {shown} s, {page.kilobytes:.0f} kB")
    print(f"The API server grew by {megabytes:.0f} MB.")


if __name__ == "__main__":
    main()
