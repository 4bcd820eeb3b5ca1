"""Starts Airflow with everything in it: a local Talkable, a warehouse, and a sync that has run and failed.

Run it with ``make demo UI=1``. Everything it makes lies in ``.demo/ui`` and is replaced each time. Ctrl-C
ends it, and Airflow with it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from airflow_provider_talkable.sandbox import Dials, Sandbox
from airflow_provider_talkable.sandbox.demo import EXAMPLE_DAGS, SITE, Demo

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo" / "ui"
DEMO = Demo(HOME)
DAG_ID = "example_talkable_sync"
REFUNDS = 150
PATIENCE = 180.0  # seconds
PORT = 8080
COMPONENTS = (
    ("api-server",),
    ("dag-processor",),
    ("scheduler", "--skip-serve-logs"),
    ("triggerer", "--skip-serve-logs"),
)

READY = """
Airflow runs after {seconds} s, with {refunds} refunds in it. Nobody has to log in.

  {url}/plugin/talkable
      what happened to the refunds; search {in_doubt} for a part in doubt, {unknown} for an unknown order
  {url}/dags/{dag_id}/runs/{run_id}/tasks/sync_refunds
      the sync, which failed since a firewall blocked some of them; its tab "Talkable refunds" lists them
  {url}/dags/example_talkable_settle
      the DAG that asks you about refunds in doubt

Logs are in {home}. Ctrl-C ends it."""


def main() -> int:
    """Start everything, print the addresses, and wait for Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    with suppress(KeyboardInterrupt), Sandbox() as sandbox:
        fill(sandbox)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        print("Starting Airflow …", flush=True)
        with airflow(os.environ | settings(sandbox, port)):
            run_id = sync(url)
            shown = {"in_doubt": an_order("unconfirmed"), "unknown": an_order("not_found")}
            print(
                READY.format(
                    url=url,
                    dag_id=DAG_ID,
                    run_id=quote(run_id),
                    refunds=REFUNDS,
                    home=HOME.relative_to(ROOT),
                    seconds=round(time.monotonic() - began),
                    **shown,
                ),
                flush=True,
            )
            signal.pause()
    print("\nAirflow has ended.")
    return 0


def fill(sandbox: Sandbox) -> None:
    """Yesterday's refunds: most are fine, some orders unknown, some late, some blocked, some in doubt."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - timedelta(days=1)
    with closing(sqlite3.connect(DEMO.warehouse)) as warehouse, warehouse:
        warehouse.execute(
            "CREATE TABLE refunds"
            " (refund_id TEXT, order_number TEXT, refunded_at TEXT, refund_subtotal NUMERIC, site_slug TEXT)"
        )
        for number in range(REFUNDS):
            is_blocked = number % 40 == 20
            slug = f"SHOP-{10_000 + number}" + ("-select" if is_blocked else "")
            if number % 31:
                paid = number % 10 == 0
                referral = {"status": "approved" if paid else "pending", "ad_rewarded": paid}
                order = {"order_number": slug, "subtotal": 80, "email": f"{slug}@example.com"}
                sandbox.talkable.create_purchase(SITE, order | {"referral": referral})
            part = 20 if number % 7 == 1 else None
            refunded_at = (yesterday + timedelta(minutes=number)).isoformat()
            warehouse.execute(
                "INSERT INTO refunds VALUES (?, ?, ?, ?, ?)",
                (f"R-{number}", slug, refunded_at, part, SITE),
            )
    # A firewall that takes "select" for an attack, and a line that breaks after some requests.
    sandbox.dials = Dials(blocked=("select",), resets_after=0.15)


def settings(sandbox: Sandbox, port: int) -> dict[str, str]:
    """Airflow's, with the ledger that the pages show."""
    return DEMO.environment(sandbox) | {
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLE_DAGS),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__TALKABLE__LEDGERS": "shop_warehouse",
        "AIRFLOW__TALKABLE__APPROVAL_DELAY_DAYS": "14",
        "AIRFLOW__TALKABLE__SETTLE_DAG_ID": "example_talkable_settle",
    }


def an_order(event: str) -> str:
    """An order of which the ledger says so."""
    with closing(sqlite3.connect(DEMO.warehouse)) as warehouse:
        found = warehouse.execute(
            "SELECT min(origin_slug) FROM talkable_refund_ledger WHERE event = ?", (event,)
        ).fetchone()
    return str(found[0])


def free_port() -> int:
    """Airflow's usual port, or another one where that is taken."""
    for port in (PORT, 0):
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = listening.getsockname()[1]
            return found
    raise OSError("No port is free on 127.0.0.1")


@contextmanager
def airflow(environment: Mapping[str, str]) -> Iterator[None]:
    """Airflow with all its processes, which end with the block."""
    command = [sys.executable, "-m", "airflow"]
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (HOME / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, *arguments],
                env=environment,
                cwd=HOME,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    try:
        processes.append(start("db", "migrate"))
        if processes[0].wait(PATIENCE):
            raise RuntimeError(f"airflow db migrate failed; see the logs in {HOME}")
        processes = [start(*component) for component in COMPONENTS]
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def sync(url: str) -> str:
    """Let the DAG run once Airflow knows it, and wait until its sync has failed; return the run's id."""
    deadline = time.monotonic() + PATIENCE
    with requests.Session() as session:
        dag = f"{url}/api/v2/dags/{DAG_ID}"
        token = until(deadline, session, "GET", f"{url}/auth/token")["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"
        until(deadline, session, "PATCH", dag, {"is_paused": False})
        print("The sync runs …", flush=True)
        while True:
            tasks = until(deadline, session, "GET", f"{dag}/dagRuns/~/taskInstances")["task_instances"]
            for task in tasks:
                if task["state"] in ("up_for_retry", "failed"):
                    return str(task["dag_run_id"])
            if time.monotonic() > deadline:
                raise TimeoutError(f"The sync has not failed: {tasks}; see the logs in {HOME}")
            time.sleep(0.5)


def until(deadline: float, session: requests.Session, method: str, url: str, body: Any = None) -> Any:
    """Ask until it is answered well: Airflow starts, or does not know the DAG yet."""
    while True:
        try:
            answer = session.request(method, url, json=body, timeout=30)
            if answer.ok:
                return answer.json()
            problem = f"{answer.status_code} {answer.text[:200]}"
        except requests.ConnectionError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{method} {url}: {problem}; see the logs in {HOME}")
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
