"""A deployment whose DAGs refund the orders of four sites, and what each test finds there."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.engine import URL

from airflow_provider_talkable.sandbox import Dials, Sandbox, Talkable
from airflow_provider_talkable.sandbox.talkable import Generation
from tests.airflow.conftest import EXAMPLES, Airflow
from tests.airflow.deployment import IS_AIRFLOW_3, Deployment
from tests.conftest import KEY

SITES = ("ca", "de", "uk", "us")

SYNC_ARGUMENTS = """
refunds = dict(
    task_id="sync",
    sql_conn_id="shop",
    sql="SELECT refund_key, order_number, refund_subtotal FROM refunds WHERE site = %(site)s ORDER BY number",
    initial_rate=None,
    ignore=("not_found", "unconfirmed"),
)
"""
"""What the syncs of DAGs that are deployed here have in common, as the beginning of their file."""

SHORT_HEARTBEATS = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "1",
}
"""How long Airflow waits for a task that no longer reports, and how often it looks for such tasks."""


@contextmanager
def deployed(
    dags: str,
    home: Path,
    new_database: Callable[[], URL],
    settings: Mapping[str, str] | None = None,
    *,
    examples: Sequence[str] = (),
) -> Iterator[Deployment]:
    """An Airflow with a file of DAGs, whose connection ``shop`` leads to an empty warehouse.

    :param settings: More of Airflow's settings, as environment variables.
    :param examples: The daily example DAGs that are there too, which only tests begin.
    """
    shop = new_database()
    folder = home / "dags"
    folder.mkdir()
    (folder / "dags.py").write_text(dags)
    for name in examples:
        daily = (EXAMPLES / f"{name}.py").read_text()
        assert 'schedule="@daily"' in daily
        (folder / f"{name}.py").write_text(daily.replace('schedule="@daily"', "schedule=None"))
    with ExitStack() as opened:
        sandbox = opened.enter_context(Sandbox(api_key=KEY, generation="seed", site_slugs=SITES))
        metadata, warehouse = create_engine(new_database()), create_engine(shop)
        opened.callback(metadata.dispose)
        opened.callback(warehouse.dispose)
        connection_to_shop = {
            "conn_type": "postgres",
            "host": shop.query["host"],
            "login": "postgres",
            "schema": shop.database,
        }
        variables = {
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            # On a busy machine the API server's first answer may take longer than a task waits for it.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW_CONN_SHOP": json.dumps(connection_to_shop),
            "AIRFLOW_CONN_REFUSED": f"talkable://http://:wrong-api-key@{sandbox.url.removeprefix('http://')}/",
            # How soon another triggerer takes over from one that is gone.
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
            **(settings or {}),
        }
        deployment = Deployment(Airflow(home, sandbox), metadata, warehouse, folder, variables)
        yield opened.enter_context(deployment.running())


def fill(deployment: Deployment) -> None:
    """Begin anew with 200 refunds on each site, of which every tenth is unknown and every fifth partial."""
    sandbox = deployment.airflow.sandbox
    sandbox.talkable, sandbox.dials = Talkable(SITES, Generation.SEED), Dials()
    rows = []
    for site in SITES:
        for number in range(200):
            slug = f"{site}-{number}"
            if number % 10:
                sandbox.talkable.create_purchase(site, {"order_number": slug, "subtotal": 100})
            rows.append((number, site, f"r{number}", slug, 12.5 if number % 5 == 1 else None))
    with deployment.warehouse.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
        connection.exec_driver_sql(
            "CREATE TABLE refunds (number int, site text, refund_key text, order_number text,"
            " refund_subtotal numeric(10, 2))"
        )
        connection.exec_driver_sql("INSERT INTO refunds VALUES (%s, %s, %s, %s, %s)", rows)
    sandbox.requests.clear()


def outcomes_of(
    deployment: Deployment,
    sites: tuple[str, ...],
    *,
    in_doubt: bool,
    answered: AbstractSet[tuple[str, str]] = frozenset(),
) -> Counter[str]:
    """Compare ledger and sandbox row by row; return the newest events.

    :param in_doubt: Whether something was broken that may leave partial refunds in doubt.
    :param answered: The site and key of those that somebody has settled or sent again.
    """
    ledger = deployment.ledger()
    assert set(ledger) == {(site, f"r{number}") for site in sites for number in range(200)}
    sandbox = deployment.airflow.sandbox
    held = sandbox.talkable.snapshot()
    refunds = [request["path"] for request in sandbox.requests if request["method"] == "POST"]
    sent = Counter(path.split("/")[4] for path in refunds)
    outcomes: Counter[str] = Counter()
    for (site, key), events in ledger.items():
        number = int(key[1:])
        slug = f"{site}-{number}"
        outcomes[events[-1]] += 1
        found = (events[-1], held[site].get(slug, {}).get("times_refunded"))
        if number % 10 == 0:
            assert found == ("not_found", None), slug
        elif number % 5 != 1:
            assert found in {("refunded", 1), ("already_refunded", 1)}, slug
        else:
            doubt = {("unconfirmed", 0), ("unconfirmed", 1)} if in_doubt else set()
            if (site, key) in answered:
                doubt.add(("settled_refunded", 1))
            assert found in {("refunded", 1), *doubt}, slug
            # A 429 may be followed by another request: Talkable has not looked at that one.
            assert sent[slug] <= 1 + ((site, key) in answered) or not in_doubt, slug
    return outcomes


def is_at_rest(deployment: Deployment, *, seconds: float = 60) -> bool:
    """Whether no run is under way any more, or none is soon."""
    deadline = time.monotonic() + seconds
    while deployment.query("SELECT count(*) FROM dag_run WHERE state IN ('queued', 'running')") != [(0,)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


def forget_runs(deployment: Deployment) -> None:
    """Remove what is left of tests: runs and what hangs on them, events of assets, logs, lineage, and the
    warehouse of the examples.
    """
    assets = "asset" if IS_AIRFLOW_3 else "dataset"
    with deployment.metadata.begin() as connection:
        # Row by row: the scheduler goes on, and would not survive a deadlock over whole tables.
        for table in ("dag_run", f"{assets}_event", f"{assets}_dag_run_queue"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    for log in deployment.airflow.home.rglob("attempt=*.log*"):
        log.unlink()
    for left in ("lineage.jsonl", "warehouse.sqlite"):
        (deployment.airflow.home / left).unlink(missing_ok=True)
