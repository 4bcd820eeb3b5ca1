"""Airflow as people run it: its own processes, on PostgreSQL."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import requests
from airflow import __version__
from sqlalchemy.engine import Engine

from tests.airflow.commands import fork, start
from tests.airflow.conftest import Airflow
from tests.airflow.metadata import task_instances, xcom
from tests.network import free_port

IS_AIRFLOW_3 = int(__version__.split(".")[0]) >= 3


@dataclass
class Deployment:
    """Airflow with all its processes, its metadata on PostgreSQL, and a pool ``talkable``."""

    airflow: Airflow
    metadata: Engine
    warehouse: Engine
    folder: Path
    variables: Mapping[str, str | None]
    """Of the environment; None takes one away."""
    port: int = field(default_factory=free_port)
    jwt_secret: str = field(default_factory=partial(secrets.token_hex, 32))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[Deployment]:
        self.command("db", "migrate")
        self.command("pools", "set", "talkable", "4", "Syncs to Talkable")
        # Before there are others that would write the same rows at the same time.
        # What it writes of a DAG depends on settings that are read when Airflow is imported.
        self.command("dags", "reserialize", run=start)
        components: list[tuple[str, ...]] = [("scheduler",), ("triggerer",)]
        if IS_AIRFLOW_3:
            components += [("api-server", "--port", str(self.port)), ("dag-processor",)]
        try:
            for component in components:
                self.start(*component)
            if IS_AIRFLOW_3:
                # Airflow fails a task that starts before the API server answers.
                self.wait_until_listening()
            yield self
        finally:
            self.stop()

    def command(self, *arguments: str, run: Callable[..., CompletedProcess[str]] = fork) -> str:
        done = run("airflow", *arguments, environment=self.environment, folder=self.airflow.home)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        url = self.metadata.url.render_as_string(hide_password=False)
        variables = {
            **self.airflow.environment(self.folder),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self.port}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": self.jwt_secret,
            # Airflow 3.0 has none by default, which PyJWT has refused since.
            "AIRFLOW__API_AUTH__JWT_ISSUER": "airflow",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            **self.variables,
        }
        return {name: value for name, value in variables.items() if value is not None}

    def start(self, *arguments: str, name: str | None = None) -> None:
        """Start a component.

        :param name: Of the process and its log; default: the component's.
        """
        name = name or arguments[0]
        command = [sys.executable, "-m", "airflow", *arguments]
        if arguments[0] in ("scheduler", "triggerer", "celery"):
            # The logs lie on this machine; what serves them would listen on all of its addresses.
            command.append("--skip-serve-logs")
        with (self.airflow.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def kill(self, component: str) -> None:
        """End a process and its children, as if the machine had gone."""
        process = self.processes[component]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for component, process in self.processes.items():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill(component)

    def wait_until_listening(self) -> None:
        """Wait until the API server takes connections."""
        deadline = time.monotonic() + 150
        with socket.socket() as trying:
            while trying.connect_ex(("127.0.0.1", self.port)):
                assert time.monotonic() < deadline, self.all_logs()
                time.sleep(0.2)

    def query(self, sql: str) -> list[Any]:
        with self.metadata.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql)]

    def task_instances(self, *columns: str, **filters: Any) -> list[tuple[Any, ...]]:
        """Columns of the newest try of each task instance that the filters let through."""
        return task_instances(self.metadata, *columns, **filters)

    def get(self, path: str) -> Any:
        """What the API server says."""
        return self._ask("GET", path)

    def post(self, path: str, content: Any) -> Any:
        """What the API server says to JSON."""
        return self._ask("POST", path, json=content)

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        address = f"http://127.0.0.1:{self.port}"
        token = requests.get(f"{address}/auth/token", timeout=150).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        answer = requests.request(method, f"{address}{path}", headers=headers, timeout=150, **more)
        answer.raise_for_status()
        return answer.json()

    def wait_for(self, states: set[str], *, dag_id: str, count: int = 1) -> None:
        """Wait until all task instances of a DAG are in one of these states."""
        deadline = time.monotonic() + 150
        while True:
            found = [state for (state,) in self.task_instances("state", dag_id=dag_id)]
            if len(found) == count and set(found) <= states:
                return
            assert time.monotonic() < deadline, f"{found}\n{self.all_logs()}"
            assert states == {"failed"} or "failed" not in found, self.all_logs()
            time.sleep(0.3)

    def logs(self) -> str:
        """All logs of tasks."""
        return "".join(path.read_text() for path in sorted(self.airflow.home.rglob("attempt=*.log*")))

    def all_logs(self) -> str:
        """The ends of the logs of tasks and of Airflow's components."""
        components = sorted(self.airflow.home.glob("*.log"))
        return "\n".join([self.logs()[-6000:], *(path.read_text()[-3000:] for path in components)])

    def ledger(self) -> dict[tuple[str, str], list[str]]:
        """The events of each refund, oldest first."""
        events: dict[tuple[str, str], list[str]] = {}
        with self.warehouse.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT site_slug, refund_key, event FROM talkable_refund_ledger ORDER BY entry_id"
            )
            for site, key, event in rows:
                events.setdefault((site, key), []).append(event)
        return events

    def summaries(self, dag_id: str) -> list[dict[str, Any]]:
        return xcom(self.metadata, "return_value", dag_id=dag_id)
