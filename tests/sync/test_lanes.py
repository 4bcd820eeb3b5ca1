"""One bad site or one bad minute stops nothing else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from tests.conftest import KEY, sized
from tests.network import Line, Peer

_TAKEN = b'{"ok":true,"result":{"origin":{"id":1,"order_number":"%s"}}}'
_CAMPAIGNS = b'{"ok":true,"result":{"campaigns":[]}}'
AT_ONCE = Pace(initial_rate=None)


def answer(status: int, body: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status} Word\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Host:
    """A Talkable that answers as a function of the site and the order says."""

    def __init__(self, status_of: Callable[[str, str], int]) -> None:
        self.status_of = status_of
        self.done_at: dict[str, float] = {}
        self.peer = Peer(self._behave)

    def _behave(self, line: Line) -> None:
        while request := line.read_request():
            head, _, body = request.partition(b"\r\n\r\n")
            site = "a" if b'"a"' in body or b"site_slug=a" in head else "b"
            path = head.split(b" ")[1].decode()
            status = self.status_of(site, path)
            if status > 500:
                # Later than all answers from before the outage: one that is read among the failures would
                # end their row, and on a busy machine that happens.
                time.sleep(0.3)
            if status != 200:
                line.send(answer(status, b"<html></html>" if status > 500 else b""))
                continue
            self.done_at[site] = time.monotonic()
            taken = _TAKEN % path.split("/")[4].encode() if "origins" in path else _CAMPAIGNS
            line.send(answer(200, taken))


@pytest.fixture
def host() -> Iterator[Callable[[Callable[[str, str], int]], Host]]:
    hosts: list[Host] = []

    def make(status_of: Callable[[str, str], int]) -> Host:
        hosts.append(Host(status_of))
        hosts[-1].peer.__enter__()
        return hosts[-1]

    yield make
    for each in hosts:
        each.peer.__exit__()


def refunds(site: str, count: int, **fields: Any) -> list[Row]:
    return [Row(site, f"{site}-{n}", f"{site}-{n}", **fields) for n in range(count)]


Sync = Callable[..., RefundSync]


@pytest.fixture
def sync(tmp_path: Path, engines: Callable[[URL], Engine]) -> Sync:
    """Syncs rows with a host at an address, and returns the sync once it is over."""

    def run(
        address: str,
        rows: list[Row],
        *,
        pace: Pace = AT_ONCE,
        database: str = "warehouse.sqlite",
        **more: Any,
    ) -> RefundSync:
        policy = more.pop("policy", RetryPolicy())
        ledger = Ledger(engines(URL.create("sqlite", database=str(tmp_path / database))))
        ledger.open()
        with Snapshot() as snapshot:
            snapshot.fill(rows)
            config = ClientConfig.parse(host=f"http://{address}", api_key=KEY)
            made = RefundSync(snapshot, ledger, config, policy=policy, pace=pace, rules=Rules(**more))
            made.run()
            return made

    return run


def mixed(*lists: list[Row]) -> list[Row]:
    return [row for rows in zip(*lists, strict=True) for row in rows]


@pytest.mark.parametrize("is_pausing", [False, True])
def test_a_site_finishes_at_its_own_pace_beside_one_that_is_throttled(
    host: Callable[..., Host], sync: Sync, is_pausing: bool
) -> None:
    pace = Pace(initial_rate=50, max_rate=50)
    both = host(lambda site, _path: 429 if site == "a" else 200)
    alone = host(lambda _site, _path: 200)
    beside = [replace(row, refund_key=f"new-{row.refund_key}") for row in refunds("b", 200)]
    started = time.monotonic()
    # At the same time, so that a busy machine is one for both.
    with ThreadPoolExecutor() as other:
        other.submit(sync, alone.peer.address, refunds("b", 200), pace=pace, database="alone.sqlite")
        over = sync(
            both.peer.address,
            refunds("a", 600) + beside,
            pace=pace,
            policy=RetryPolicy(throttle_patience=8),
            pause_when_throttled=is_pausing,
        )
    assert both.done_at["b"] - started < 1.1 * (alone.done_at["b"] - started) + 1
    if is_pausing:
        assert over.paused_site == "a"
        assert over.summary.outcomes == {"refunded": 200}
    else:
        assert over.summary.outcomes == {"refunded": 200, "throttled": 600}


def test_a_throttled_site_ends_as_its_patience_does(host: Callable[..., Host], sync: Sync) -> None:
    asked_at: list[float] = []

    def status(_site: str, _path: str) -> int:
        asked_at.append(time.monotonic())
        return 429

    throttling = host(status)
    sync(throttling.peer.address, refunds("a", 100), policy=RetryPolicy(throttle_patience=0))
    without_patience = time.monotonic() - asked_at[0]
    asked_at.clear()
    over = sync(throttling.peer.address, refunds("b", 100), policy=RetryPolicy(throttle_patience=10))
    assert time.monotonic() - asked_at[0] - without_patience == pytest.approx(10, rel=0.1)
    assert asked_at[-1] - asked_at[0] < 11
    assert over.summary.outcomes == {"throttled": 100}


@pytest.mark.takes_long
@pytest.mark.parametrize(("count", "patience"), [(300, 60), (10_000, 10)])
def test_where_the_host_is_down_the_rest_is_left_to_the_next_run(
    sync: Sync, count: int, patience: int
) -> None:
    assert RetryPolicy().outage_patience == 60
    patience = max(sized(patience), 10)
    started = time.monotonic()
    # Nothing listens there.
    over = sync("127.0.0.1:9", refunds("b", count), policy=RetryPolicy(outage_patience=patience))
    assert time.monotonic() - started < 2 * patience
    assert over.summary.stopped
    assert f"Talkable has not answered for {patience} s" in over.summary.stopped
    assert f"{count} refunds are left for the next run" in over.summary.stopped
    assert over.summary.requests < 200
    assert over.summary.outcomes.keys() <= {"failed", "aborted"}
    assert over.summary.outcomes["failed"] <= 32


@pytest.mark.takes_long
def test_an_outage_leaves_little_more_in_doubt_than_was_on_the_wire(
    host: Callable[..., Host], sync: Sync
) -> None:
    asked: list[str] = []

    def status(_site: str, path: str) -> int:
        asked.append(path)
        return 502 if len(asked) > 500 else 200

    failing = host(status)
    policy = RetryPolicy(outage_patience=10)
    over = sync(failing.peer.address, refunds("b", 3_000, refund_subtotal=Decimal(5)), policy=policy)
    assert over.summary.outcomes["unconfirmed"] <= 32
    assert over.summary.outcomes["aborted"] > 2_400


@pytest.mark.takes_long
def test_an_outage_that_ends_is_waited_for(host: Callable[..., Host], sync: Sync) -> None:
    count = sized(2_000)
    began: list[float] = []
    asked: Counter[int] = Counter()

    def status(_site: str, _path: str) -> int:
        asked[0] += 1
        if asked[0] > count // 4 and not began:
            began.append(time.monotonic())
        return 502 if began and time.monotonic() < began[0] + 10 else 200

    over = sync(host(status).peer.address, refunds("b", count, refund_subtotal=Decimal(5)))
    assert over.summary.outcomes.keys() == {"refunded", "unconfirmed"}
    assert over.summary.outcomes["unconfirmed"] <= 32
    assert time.monotonic() - began[0] < 60


def test_a_run_that_may_pause_does_so_in_an_outage(host: Callable[..., Host], sync: Sync) -> None:
    started = time.monotonic()
    over = sync(host(lambda _s, _p: 502).peer.address, refunds("b", 300), pause_when_throttled=True)
    assert over.paused_site == "b"
    assert time.monotonic() - started < 30
    assert over.summary.outcomes == {}
    again = sync(host(lambda _s, _p: 200).peer.address, refunds("b", 300))
    assert again.summary.outcomes == {"refunded": 300}
