"""What a StatsD server receives of a sync."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_talkable import Outcome
from tests.airflow.conftest import Airflow


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A StatsD server that Airflow is set to send to."""
    pytest.importorskip("statsd", reason="Airflow's StatsD client is in the development packages only")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(0.5)
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_HOST", "127.0.0.1")
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_PORT", str(listening.getsockname()[1]))
        yield listening


def received(listener: socket.socket) -> dict[str, str]:
    """The values by name, as StatsD's protocol has them."""
    values: dict[str, str] = {}
    while True:
        try:
            text = listener.recv(65536).decode()
        except TimeoutError:
            return values
        for line in text.splitlines():
            if found := re.match(r"airflow\.(talkable\.[^:,]+)[^:]*:(.+)", line):
                values[found[1]] = found[2]


def test_the_dashboard_asks_for_every_metric_of_the_table() -> None:
    docs = Path(__file__).parents[2] / "docs"
    asked = set(re.findall(r"airflow_(talkable_\w+)", (docs / "grafana" / "talkable.json").read_text()))
    named = re.findall(r"^\| `(talkable\.[^`]+)`", (docs / "monitoring.md").read_text(), re.MULTILINE)
    outcomes = [name.replace("<outcome>", outcome) for name in named for outcome in Outcome]
    assert asked == {name.replace(".", "_") for name in outcomes}


def test_a_sync_is_counted_once_it_has_ended(airflow: Airflow, listener: socket.socket) -> None:
    airflow.is_started_anew = True
    airflow.run("example_talkable_sync")
    [summary] = airflow.xcom("sync_refunds", "summary")
    values = received(listener)
    counted = {name: value for name, value in values.items() if value.endswith("|c")}
    assert counted == {
        **{f"talkable.refunds.{name}": f"{count}|c" for name, count in summary["outcomes"].items()},
        "talkable.refunds.settled_before": "0|c",
        "talkable.refunds.late": f"{summary['rewarded']}|c",
        "talkable.requests": f"{summary['requests'] + summary['lookups']}|c",
        "talkable.requests.throttled": "0|c",
    }
    assert summary["rewarded"] == 1
    assert values["talkable.rate"].endswith("|g")
    milliseconds = float(values["talkable.duration"].removesuffix("|ms"))
    assert milliseconds == pytest.approx(1000 * summary["seconds"], abs=1)
