"""Refunds by mapped operators, under a real scheduler."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from benchmarks.servers import KEY, free_port, process

TASKS = 24

_DAGS = f"""
from airflow.providers.common.compat.sdk import DAG
from airflow.providers.http.operators.http import HttpOperator
from airflow_provider_talkable.operators.refund import TalkableRefundOperator

slugs = [f"order-{{number}}" for number in range({TASKS})]

with DAG("HttpOperator", schedule=None, max_active_tasks={TASKS}):
    HttpOperator.partial(
        task_id="refund", http_conn_id="http_bench", data='{{"site_slug": "my-store"}}',
        headers={{"Content-Type": "application/json"}},
    ).expand(endpoint=[f"api/v2/origins/{{slug}}/refund" for slug in slugs])

with DAG("TalkableRefundOperator", schedule=None, max_active_tasks={TASKS}):
    TalkableRefundOperator.partial(
        task_id="refund", talkable_conn_id="talkable_bench"
    ).expand(origin_slug=slugs)

with DAG("TalkableRefundOperator_list", schedule=None):
    TalkableRefundOperator(task_id="refund", talkable_conn_id="talkable_bench", origin_slug=slugs)
"""

DAG_IDS = ("HttpOperator", "TalkableRefundOperator", "TalkableRefundOperator_list")


class Scheduler:
    """An Airflow with the LocalExecutor.

    :param database: SQLAlchemy's URL of its metadata.
    """

    def __init__(self, environment: dict[str, str], database: str) -> None:
        self._environment = environment
        self._metadata = create_engine(database)

    def run(self, dag_id: str) -> float:
        """Refunds per second of one run, as Airflow has its start and its end."""
        run_id = f"bench-{secrets.token_hex(4)}"
        airflow(self._environment, "dags", "trigger", "--run-id", run_id, dag_id)
        deadline = time.monotonic() + 300
        while self._one("SELECT state FROM dag_run WHERE run_id = %s", run_id)[0] != "success":
            assert time.monotonic() < deadline, f"{dag_id} does not end"
            time.sleep(0.5)
        query = "SELECT extract(epoch FROM end_date - start_date) FROM dag_run WHERE run_id = %s"
        [seconds] = self._one(query, run_id)
        return TASKS / float(seconds)

    def close(self) -> None:
        """Let the metadata go."""
        self._metadata.dispose()

    def _one(self, query: str, run_id: str) -> tuple[Any, ...]:
        with self._metadata.connect() as connection:
            return tuple(connection.exec_driver_sql(query, (run_id,)).one())


@contextmanager
def scheduler(url: str, database: str, folder: Path) -> Iterator[Scheduler]:
    """Airflow's components, until their DAGs are known."""
    port = free_port()
    (folder / "dags").mkdir()
    (folder / "dags" / "bench.py").write_text(_DAGS)
    host = url.removeprefix("http://")
    environment = os.environ | {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW_CONN_TALKABLE_BENCH": f"talkable://http://:{KEY}@{host}/?site_slug=my-store",
        "AIRFLOW_CONN_HTTP_BENCH": json.dumps(
            {"conn_type": "http", "host": url, "login": KEY, "password": ""}
        ),
    }
    airflow(environment, "db", "migrate")
    airflow(environment, "dags", "reserialize")
    with ExitStack() as running:
        for component in (("scheduler",), ("api-server",), ("dag-processor",)):
            running.enter_context(process([sys.executable, "-m", "airflow", *component], environment))
        started = Scheduler(environment, database)
        try:
            started.run("TalkableRefundOperator_list")
            yield started
        finally:
            started.close()


def airflow(environment: dict[str, str], *arguments: str) -> None:
    """Run one of Airflow's commands."""
    command = [sys.executable, "-m", "airflow", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
