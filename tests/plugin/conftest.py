"""Airflow's own API server with the pages in it, in a process of its own, on a real database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import create_engine
from sqlalchemy.engine import URL

from airflow_provider_talkable.sync.ledger import Ledger, TaskRun
from tests.airflow import commands
from tests.airflow.conftest import migrated as migrated
from tests.network import free_port

NOW = datetime.now(UTC).replace(microsecond=0)
MIDNIGHT = NOW.replace(hour=0, minute=0, second=0)
EVENTS = {400: "unconfirmed", 300: "failed", 60: "rejected", 40: "not_found", 20: "already_refunded"}
SCRIPT = "<img src=x onerror=alert(1)>"
DAGS = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator

for dag_id in ("shop", "secret", "settle"):
    with DAG(dag_id, schedule=None) as dag:
        EmptyOperator(task_id="sync")
    globals()[dag_id] = dag
"""
AUTH = """
import os

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class PerDag(SimpleAuthManager):
    # The user "finance" reads one DAG and no connection, "nobody" reads none, "admin" reads everything.

    def is_authorized_dag(self, *, user, details=None, **more):
        allowed = {"finance": ("shop", "settle"), "nobody": ()}.get(user.username)
        if allowed is not None:
            return bool(details) and details.id in allowed
        return super().is_authorized_dag(user=user, details=details, **more)
"""


@dataclass
class Server:
    """The API server, and who asks it."""

    url: str
    tokens: dict[str, str]
    history: dict[str, int]
    """How many refunds the other ledger has by event."""
    warehouse: URL
    """Where the ledgers are."""

    def get(self, path: str, user: str | None = "admin") -> requests.Response:
        """What a browser with this user's cookie gets."""
        cookies = {"_token": self.tokens[user]} if user else {}
        return requests.get(f"{self.url}{path}", cookies=cookies, timeout=60, allow_redirects=False)


def write_entries(url: URL) -> None:
    """Three days of refunds, one DAG's beside another's and beside what somebody did by hand."""
    engine = create_engine(url)
    clock = iter(range(10_000))

    def write(ledger: Ledger, event: str, key: str, days_ago: float, **more: Any) -> None:
        at = NOW - timedelta(days=days_ago)
        entry = {
            "entry_id": f"{int(at.timestamp() * 1e9) + next(clock):016x}{ledger.writer}",
            "logged_at": at,
            "event": event,
            "site_slug": "my-store",
            "refund_key": key,
            "origin_slug": f"order-{key}",
            "refunded_at": at - timedelta(hours=6),
        }
        ledger.append([entry | more])

    referral = {"referral_id": "7", "referral_status": "approved"}
    paid = referral | {"reward_paid": True, "reward_known_by": "rewards", "reward_amount": 12.5}
    shop = Ledger(engine, task_run=TaskRun("shop", "run:1+a", "sync", -1, 1))
    shop.open()
    write(shop, "submitted", "a", 2)
    write(shop, "refunded", "a", 2)
    write(shop, "refunded", "b", 1, **paid, refunded_at=NOW - timedelta(days=21))
    write(shop, "not_found", "c", 1, origin_slug=SCRIPT, error_message="who@example.com is unknown")
    write(shop, "submitted", "d", 1)
    write(shop, "refunded", "d", 0.9)
    write(shop, "submitted", "e", 0.9, refund_subtotal=5)
    write(shop, "refunded", "old", 200)
    for number in range(60):
        write(shop, "rejected", f"r{number:02}", 0.5, error_message="=cmd()")
    secret = Ledger(engine, task_run=TaskRun("secret", "r", "sync", -1, 1))
    write(secret, "refunded", "hidden", 1, site_slug="other-store")
    by_hand = Ledger(engine)
    write(by_hand, "settled_refunded", "f", 1)
    engine.dispose()


def write_history(url: URL) -> dict[str, int]:
    """A month of another ledger, as a shop has it; return how many refunds there are by event."""
    engine = create_engine(url)
    ledger = Ledger(engine, table="history", task_run=TaskRun("shop", "scheduled", "sync", -1, 1))
    ledger.open()
    counts: Counter[str] = Counter()
    entries = []
    paid = {
        "referral_id": "7",
        "referral_status": "approved",
        "reward_paid": True,
        "reward_known_by": "rewards",
    }
    for number in range(1200):
        at = MIDNIGHT - timedelta(days=29 - (number + number**2 // 97) % 29)
        event = next((event for share, event in EVENTS.items() if number % share == 7), "refunded")
        is_late = event == "refunded" and number % 30 == 1
        counts[event] += 1
        entries.append(
            {
                "entry_id": f"{int(at.timestamp() * 1e9) + number:016x}{ledger.writer}",
                "logged_at": at,
                "event": event,
                "site_slug": "my-store",
                "refund_key": f"R-{number}",
                "origin_slug": f"SHOP-{number}",
                "refunded_at": at - timedelta(hours=5 + number % 11),
                **(paid | {"reward_amount": 10} if is_late else dict.fromkeys([*paid, "reward_amount"])),
            }
        )
    ledger.append(entries)
    engine.dispose()
    return dict(counts)


def prepare(home: Path, environment: dict[str, str]) -> dict[str, str]:
    """The DAGs and one task instance in Airflow's database, and a token for each user."""
    program = f"""
import json
from datetime import UTC, datetime
from inspect import signature
from airflow.api_fastapi.app import create_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from airflow.utils.types import DagRunType, DagRunTriggeredByType

with create_session() as session:
    version = DagVersion.get_latest_version("shop", session=session)
    dag = SerializedDagModel.get("shop", session=session).dag
    now = datetime.now(UTC)
    run = DagRun(dag_id="shop", run_id="run:1+a", run_type=DagRunType.MANUAL, run_after=now, start_date=now,
                 triggered_by=DagRunTriggeredByType.TEST)
    run.run_after = datetime.fromisoformat({str(NOW - timedelta(days=3))!r})
    session.add(run)
    session.flush()
    ti = TaskInstance(dag.get_task("sync"), run_id=run.run_id, dag_version_id=version.id)
    ti.state = "failed"
    session.add(ti)
    session.flush()
    ids = dict(dag_id="shop", run_id=run.run_id, task_id="sync", map_index=-1)
    # As a task's own is stored; before Airflow 3.2 it cannot be said.
    as_it_is = {{"serialize": False}} if "serialize" in signature(XComModel.set).parameters else {{}}
    XComModel.set("summary", {{
        "outcomes": {{"refunded": 3, "not_found": 1, "rejected": 60}}, "skipped": 4, "rewarded": 1,
        "requests": 70, "throttled_requests": 2, "rate": 3.5, "stopped": None}},
        **ids, **as_it_is, session=session)
    fields = dict(sql_conn_id="shop_warehouse", ledger_conn_id=None, ledger_table="talkable_refund_ledger",
                  ledger_schema=None)
    session.add(RenderedTaskInstanceFields(ti, render_templates=False, rendered_fields=fields))
from airflow.api_fastapi.app import get_auth_manager, init_auth_manager
manager = init_auth_manager()
users = {{"admin": "ADMIN", "finance": "VIEWER", "nobody": "VIEWER"}}
print("TOKENS" + json.dumps({{
    name: manager.generate_jwt(SimpleAuthManagerUser(username=name, role=role))
    for name, role in users.items()
}}))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    tokens: dict[str, str] = json.loads(done.stdout.split("TOKENS")[1])
    return tokens


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    migrated: Path,
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("airflow")
    shutil.copy(migrated, home)
    url = (
        URL.create("sqlite", database=str(home / "warehouse.sqlite"))
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_server")()
    )
    write_entries(url)
    history = write_history(url)
    (home / "dags").mkdir()
    (home / "dags" / "shop.py").write_text(DAGS)
    (home / "per_dag.py").write_text(AUTH)
    uri = {"conn_type": "sqlite", "host": url.database}
    if request.param == "postgres":
        uri = {
            "conn_type": "postgres",
            "host": str(url.query.get("host") or url.host),
            "login": str(url.username),
            "schema": str(url.database),
        }
    port = free_port()
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": f"{home}{os.pathsep}{Path(__file__).parents[2]}",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__AUTH_MANAGER": "per_dag.PerDag",
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests that is long enough for anyone" * 2,
        "AIRFLOW__API_AUTH__JWT_ISSUER": "airflow",
        # The last one is made by the test that looks at it.
        "AIRFLOW__TALKABLE__LEDGERS": "shop_warehouse, shop_warehouse:history, shop_warehouse:large",
        "AIRFLOW__TALKABLE__APPROVAL_DELAY_DAYS": "14",
        "AIRFLOW__TALKABLE__SETTLE_DAG_ID": "settle",
        "AIRFLOW_CONN_SHOP_WAREHOUSE": json.dumps(uri),
    }
    # Whoever signs in is no business of what reads DAGs.
    reading = {name: value for name, value in environment.items() if name != "AIRFLOW__CORE__AUTH_MANAGER"}
    commands.fork("airflow", "dags", "reserialize", environment=reading, folder=home).check_returncode()
    tokens = prepare(home, environment)
    command = [sys.executable, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--workers", "1"], env=environment, cwd=home, stdout=log, stderr=log
        )
    started = Server(f"http://127.0.0.1:{port}", tokens, history, url)
    try:
        deadline = time.monotonic() + 150
        while True:
            try:
                started.get("/api/v2/version")
                break
            except requests.ConnectionError:
                assert time.monotonic() < deadline, (home / "api.log").read_text()[-3000:]
                time.sleep(0.3)
        yield started
    finally:
        process.terminate()
        process.wait(30)
