"""Many sites in one sync: how long each healthy one takes beside throttled and denied ones, and alone.

    python -m benchmarks.sites PORT

is a Talkable whose sites are named after what they do: ``takes-25`` takes 25 requests a second, ``denies-1``
refuses the key, ``throttles`` answers nothing but 429, ``blocks-50`` takes 50 a second and lets a firewall's
page answer each twentieth order.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from aiohttp import web
from sqlalchemy import create_engine

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox import Dials
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from benchmarks.servers import KEY, answer_of, free_port

HEALTHY = (
    *(f"takes-{rate}" for rate in (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 95, 100)),
    "blocks-50",
)
UNHEALTHY = ("denies-1", "denies-2", "throttles")
SITES = (*HEALTHY, *UNHEALTHY)
REFUNDS = 10_000
_EACH_TWENTIETH = 20


def shares() -> dict[str, int]:
    """How many of the refunds are of each site: what it takes in the same time, or 400."""
    left = REFUNDS - 400 * len(UNHEALTHY)
    rates = {site: int(site.rpartition("-")[2]) for site in HEALTHY}
    counts = {site: left * rate // sum(rates.values()) for site, rate in rates.items()}
    counts["takes-100"] += left - sum(counts.values())
    return counts | dict.fromkeys(UNHEALTHY, 400)


def rows(counts: dict[str, int]) -> list[Row]:
    """The sites' refunds, mixed as a query gives them."""
    mixed = [((n + 0.5) / count, site, n) for site, count in counts.items() for n in range(count)]
    return [Row(site, f"{site}-{n}", f"{site}-{n}") for _, site, n in sorted(mixed)]


def seconds_of(counts: dict[str, int]) -> dict[str, float]:
    """Sync refunds with a Talkable of their own, and say when the last of each site had been answered."""
    with serving() as url, tempfile.TemporaryDirectory(prefix="talkable-bench-") as folder:
        ledger = Ledger(create_engine(f"sqlite:///{folder}/ledger.sqlite"))
        ledger.open()
        with Snapshot() as snapshot:
            snapshot.fill(rows(counts))
            config = ClientConfig.parse(host=url, api_key=KEY)
            policy = RetryPolicy(throttle_patience=30)
            RefundSync(snapshot, ledger, config, policy=policy, pace=Pace(), rules=Rules()).run()
        taken: dict[str, dict[str, float]] = requests.get(f"{url}/taken", timeout=30).json()
    missing = {site: counts[site] - taken[site]["count"] for site in counts if site in HEALTHY}
    if any(missing.values()):
        raise RuntimeError(f"not all of the healthy sites' refunds were taken: {missing}")
    return {site: of_site["seconds"] for site, of_site in taken.items() if site in HEALTHY}


def compare() -> list[tuple[str, int, float, float]]:
    """Each healthy site, its refunds, its seconds alone and beside the others."""
    counts = shares()
    beside = seconds_of(counts)
    alone = {site: seconds_of({site: counts[site]})[site] for site in HEALTHY}
    return [(site, counts[site], alone[site], beside[site]) for site in HEALTHY]


@contextmanager
def serving() -> Iterator[str]:
    """The Talkable in a process of its own; yields its URL."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "benchmarks.sites", str(port)]) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                try:
                    requests.get(f"{url}/taken", timeout=5)
                    break
                except requests.ConnectionError:
                    time.sleep(0.05)
            yield url
        finally:
            server.terminate()


def serve(port: int) -> None:
    """Serve until it is ended."""
    limits: dict[str, Dials] = {}
    first: list[float] = []
    taken: dict[str, dict[str, float]] = {}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/taken":
            return web.json_response(taken)
        site = json.loads(await request.read())["site_slug"]
        kind, _, rate = site.rpartition("-")
        if not first:
            first.append(time.monotonic())
        if site == "throttles":
            return web.Response(status=429)
        if kind == "denies":
            return web.json_response({"ok": False, "error_message": "Access denied"}, status=403)
        if limits.setdefault(site, Dials(rate_limit=float(rate))).pick(time.monotonic):
            return web.Response(status=429)
        of_site = taken.setdefault(site, {"count": 0, "seconds": 0.0})
        of_site["count"] += 1
        of_site["seconds"] = time.monotonic() - first[0]
        if kind == "blocks" and of_site["count"] % _EACH_TWENTIETH == 0:
            return web.Response(status=403, text="<html>Blocked</html>", content_type="text/html")
        return web.Response(text=answer_of(request.path), content_type="application/json")

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(
            web.Server(answer, access_log=None), "127.0.0.1", port
        )
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    serve(int(sys.argv[1]))
