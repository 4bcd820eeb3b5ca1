"""What a StatsD server receives of a sync."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airflow_provider_talkable import Outcome
from airflow_provider_talkable.sandbox import Canned
from tests.airflow.conftest import Airflow

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A StatsD server that Airflow is set to send to."""
    pytest.importorskip("statsd", reason="Airflow's StatsD client is in the development packages only")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(0.5)
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
        # As tags, which StatsD itself does not know.
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED", "True")
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_HOST", "127.0.0.1")
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_PORT", str(listening.getsockname()[1]))
        yield listening


Received = dict[tuple[str, str | None], str]


def received(listener: socket.socket) -> Received:
    """The values by name and site, as StatsD's protocol with InfluxDB's tags has them."""
    values: Received = {}
    while True:
        try:
            text = listener.recv(65536).decode()
        except TimeoutError:
            return values
        for line in text.splitlines():
            if found := re.match(r"airflow\.(talkable\.[^:,]+),([^:]*):(.+)", line):
                tags = dict(tag.split("=") for tag in found[2].split(","))
                assert (tags["dag_id"], tags["task_id"]) == ("measured", "sync_refunds")
                values[found[1], tags.get("site_slug")] = found[3]


def table() -> dict[str, tuple[str, bool]]:
    """The unit of each metric on the page, and whether it is by site."""
    page = (DOCS / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(talkable\.[^`]+)` \| (\w+), .* \| (yes)? ?\|$", page, re.MULTILINE)
    return {name: (kind, bool(by_site)) for name, kind, by_site in rows}


def test_the_dashboard_asks_for_every_metric_of_the_table() -> None:
    asked = set(re.findall(r"airflow_(talkable_\w+)", (DOCS / "grafana" / "talkable.json").read_text()))
    outcomes = [name.replace("<outcome>", outcome) for name in table() for outcome in Outcome]
    assert asked == {name.replace(".", "_") for name in outcomes}


MEASURED = """
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

with DAG("measured", schedule=None):
    SqlToTalkableRefundOperator(
        task_id="sync_refunds",
        sql="SELECT refund_id AS refund_key, order_number, refunded_at, site_slug FROM refunds ORDER BY 1",
        sql_conn_id="shop_warehouse",
        max_failure_ratio=1,
        max_attempts=1,
        max_in_flight=1,
    )
"""


def test_a_sync_is_counted_by_site_once_it_has_ended(airflow: Airflow, listener: socket.socket) -> None:
    airflow.is_started_anew = True
    folder = airflow.home / "dags"
    folder.mkdir()
    (folder / "measured.py").write_text(MEASURED)
    airflow.sandbox.dials.next(Canned(429), Canned(500))
    with closing(airflow.warehouse) as warehouse:
        [(first,)] = warehouse.execute("SELECT min(refunded_at) FROM refunds")
        of_sites = dict(warehouse.execute("SELECT site_slug, count(*) FROM refunds GROUP BY 1").fetchall())
    began = datetime.now(UTC)
    log = airflow.run("measured", folder=folder)
    [summary] = airflow.xcom("sync_refunds", "summary")
    values = received(listener)

    assert set(of_sites) == {"my-store", "my-store-de"}, log[-3000:]
    for site, count in of_sites.items():
        counted = {
            name.removeprefix("talkable.refunds."): int(value.removesuffix("|c"))
            for (name, of_site), value in values.items()
            if of_site == site and value.endswith("|c")
        }
        assert counted.pop("late") == (summary["rewarded"] if site == "my-store" else 0)
        assert sum(counted.values()) == count
        is_open = counted.get("failed", 0)
        assert values["talkable.refunds.open", site] == f"{is_open}|g"
        oldest = float(values["talkable.refunds.oldest_open", site].removesuffix("|g"))
        age = (began - datetime.fromisoformat(first)).total_seconds()
        assert oldest == (0 if not is_open else pytest.approx(age, rel=0.5))
        delays = [
            float(values[f"talkable.delay.{name}", site].removesuffix("|g"))
            for name in ("median", "p95")
            if ("talkable.delay." + name, site) in values
        ]
        assert len(delays) == (2 if counted.get("refunded") else 0)
        assert delays == sorted(delays)
        assert all(0 < delay <= age + 600 for delay in delays)
    totals = {name: value for (name, site), value in values.items() if site is None}
    assert totals["talkable.refunds.settled_before"] == "0|c"
    assert totals["talkable.requests"] == f"{summary['requests'] + summary['lookups']}|c"
    assert totals["talkable.requests.throttled"] == "1|c"
    assert totals["talkable.rate"].endswith("|g")
    for name in ("duration", "ledger.duration"):
        milliseconds = float(totals[f"talkable.{name}"].removesuffix("|ms"))
        seconds = summary["seconds" if name == "duration" else "ledger_seconds"]
        assert milliseconds == pytest.approx(1000 * seconds, abs=1)
        assert milliseconds > 0
    assert summary["open"] == 1
    documented = {
        (name.replace("<outcome>", outcome), by_site)
        for name, (_, by_site) in table().items()
        for outcome in summary["outcomes"]
    }
    assert documented == {(name, site is not None) for name, site in values}
