"""A real Airflow with a warehouse, beside a sandbox."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow import __version__
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.sandbox import Sandbox
from tests.airflow import commands
from tests.airflow.metadata import task_instances, xcom
from tests.conftest import KEY, Sandboxes
from tests.servers import locked

if TYPE_CHECKING:
    from tests.airflow.deployment import Deployment
    from tests.airflow.shared import Shared

RUN_DATE = datetime(2026, 1, 10, tzinfo=UTC)
LATE = {"status": "approved", "ad_rewarded": True}
EXAMPLES = Path(__file__).parents[2] / "example_dags"


@dataclass
class Airflow:
    """An Airflow home of its own, in which DAGs are run by ``airflow dags test``."""

    home: Path
    sandbox: Sandbox
    connection: str | None = None
    """To Talkable, as JSON or a URI; by default to the sandbox."""
    is_started_anew: bool = False
    """Whether each command starts Python, as people do, and is not forked from what has imported Airflow."""

    @property
    def warehouse(self) -> sqlite3.Connection:
        return sqlite3.connect(self.home / "warehouse.sqlite")

    def run(self, dag_id: str, *arguments: str, folder: Path = EXAMPLES, date: datetime = RUN_DATE) -> str:
        """Run a DAG for a date and return all that was logged, at DEBUG level."""
        log = ""
        if __version__.startswith("3.0."):
            # Its `airflow dags test` refuses assets that no DAG processor has seen yet.
            log = self.command("dags", "reserialize", folder=folder)
        return log + self.command("dags", "test", *arguments, dag_id, date.isoformat(), folder=folder)

    def environment(self, folder: Path = EXAMPLES) -> dict[str, str]:
        """What Airflow's processes need to know."""
        host = self.sandbox.url.removeprefix("http://")
        return {
            **os.environ,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(self.home / "lineage.jsonl"), "append": True}
            ),
            "AIRFLOW_CONN_SHOP_WAREHOUSE": json.dumps(
                {"conn_type": "sqlite", "host": str(self.home / "warehouse.sqlite")}
            ),
            "AIRFLOW_CONN_TALKABLE_DEFAULT": self.connection
            or f"talkable://http://:{KEY}@{host}/?site_slug=my-store",
        }

    def command(self, *arguments: str, folder: Path = EXAMPLES) -> str:
        """Run an Airflow command and return what it printed."""
        run = commands.start if self.is_started_anew else commands.fork
        done = run("airflow", *arguments, environment=self.environment(folder), folder=self.home)
        return done.stdout + done.stderr

    def lineage(self, task_id: str) -> list[dict[str, Any]]:
        """The events of a task that Airflow's listener has told OpenLineage, oldest first."""
        events = map(json.loads, (self.home / "lineage.jsonl").read_text().splitlines())
        return [event for event in events if event["job"]["name"].endswith(f".{task_id}")]

    def metadata(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            return database.execute(query).fetchall()

    def states(self) -> dict[str, set[str]]:
        states: dict[str, set[str]] = {}
        with self._engine() as engine:
            for task_id, state in task_instances(engine, "task_id", "state"):
                states.setdefault(task_id, set()).add(state)
        return states

    def xcom(self, task_id: str, key: str) -> list[Any]:
        with self._engine() as engine:
            return xcom(engine, key, task_id=task_id)

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        engine = create_engine(f"sqlite:///{self.home / 'airflow.db'}")
        yield engine
        engine.dispose()


@pytest.fixture(scope="session")
def migrated(shared_folder: Path) -> Path:
    """Airflow's database as it is in the beginning; making one takes longer than most that is done in it."""
    home = shared_folder / "migrated"
    made = home / "airflow.db"
    # Whoever comes first makes it.
    with locked(shared_folder, "migrated"):
        if not home.exists():
            home.mkdir()
            environment = {**os.environ, "AIRFLOW_HOME": str(home)}
            done = commands.fork("airflow", "db", "migrate", environment=environment, folder=home)
            assert not done.returncode, done.stderr
    return made


@pytest.fixture
def airflow(tmp_path: Path, sandboxes: Sandboxes, migrated: Path) -> Airflow:
    """A shop with the orders A to E and G: A to D were refunded today, E long ago; Talkable never saw D.

    Another of its sites has an order F, refunded today too.
    """
    sandbox = sandboxes(site_slugs=("my-store", "my-store-ca", "my-store-de", "my-store-uk"))
    sandbox.talkable.create_purchase("my-store-de", {"order_number": "F", "subtotal": 100})
    for slug in "ABCEG":
        order = {"order_number": slug, "subtotal": 100, "email": f"{slug}@example.com"}
        sandbox.talkable.create_purchase("my-store", order | {"referral": LATE if slug == "C" else {}})
    airflow = Airflow(tmp_path, sandbox)
    shutil.copy(migrated, airflow.home)
    with closing(airflow.warehouse) as warehouse, warehouse:
        warehouse.execute("CREATE TABLE refunded_orders (order_number, refunded_at, refund_subtotal)")
        for minutes, slug, subtotal in ((1, "A", None), (2, "B", 25.5), (3, "C", None), (4, "D", None)):
            at = (RUN_DATE - timedelta(minutes=minutes)).isoformat()
            warehouse.execute("INSERT INTO refunded_orders VALUES (?, ?, ?)", (slug, at, subtotal))
        at = (RUN_DATE - timedelta(days=30)).isoformat()
        warehouse.execute("INSERT INTO refunded_orders VALUES ('E', ?, NULL)", (at,))
        warehouse.execute(
            "CREATE TABLE refunds (refund_id, order_number, refunded_at, refund_subtotal, site_slug)"
        )
        warehouse.execute(
            "INSERT INTO refunds SELECT 'r' || rowid, order_number, refunded_at, refund_subtotal, 'my-store'"
            " FROM refunded_orders"
        )
        warehouse.execute("CREATE TABLE orders (order_number, email, currency, ordered_at)")
        at = (RUN_DATE - timedelta(days=30, hours=12)).isoformat()
        for slug in "ABCDEG":
            warehouse.execute("INSERT INTO orders VALUES (?, ?, 'EUR', ?)", (slug, f"{slug}@example.com", at))
        at = (RUN_DATE - timedelta(hours=1)).isoformat()
        warehouse.execute("INSERT INTO refunds VALUES ('r6', 'F', ?, NULL, 'my-store-de')", (at,))
    return airflow


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, postgres_server: Callable[[], URL]) -> Iterator[Shared]:
    from tests.airflow.four_sites import deployed
    from tests.airflow.shared import DAGS, Shared

    # How often Airflow 3 and 2 look for new files.
    often = {
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL": "5",
    }
    shared = Shared(
        lambda: deployed(
            DAGS,
            tmp_path_factory.mktemp("deployment"),
            postgres_server,
            often,
            examples=["example_talkable_settle"],
        )
    )
    yield shared
    shared.close()


@pytest.fixture
def deployment(shared: Shared) -> Deployment:
    """Four sites with 200 refunds each, of which every tenth is unknown and every fifth partial."""
    from tests.airflow.four_sites import fill, forget_runs

    deployment = shared.get()
    forget_runs(deployment)
    fill(deployment)
    return deployment


# Fixtures whose tests run Airflow in a process. A test that runs one without them says so itself.
RUN_AIRFLOW = {"airflow", "cli", "deployment", "run_airflow"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and isinstance(item, pytest.Function):
            if RUN_AIRFLOW & set(item.fixturenames):
                item.add_marker("airflow_process")
            if "deployment" in item.fixturenames:
                item.add_marker("takes_long")
