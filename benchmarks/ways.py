"""Ways to send refunds of orders with consecutive numbers, each to the last one and all successful."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import aiohttp
from sqlalchemy import create_engine

from airflow_provider_talkable.client.concurrent import send_many
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.summary import Summary
from benchmarks.servers import KEY

IN_FLIGHT = 32
BODY = {"site_slug": "my-store"}
BASIC = "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()
SQL = "SELECT 'order-' || n AS order_number FROM generate_series({first}, {last}) n ORDER BY n"

Way = Callable[[str, int, int], None]
"""Sends to a URL, from an order number on, so many refunds."""


def streams(url: str, first: int, count: int) -> None:
    """What Python can do at most: HTTP written by hand on asyncio's streams."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(BODY).encode()
    numbers = iter(range(first, first + count))

    async def work() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for number in numbers:
            writer.write(
                b"POST /api/v2/origins/order-%d/refund HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (number, host.encode(), BASIC.encode(), len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200")
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            assert json.loads(await reader.readexactly(length))["ok"]
        writer.close()

    async def all_work() -> None:
        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))

    asyncio.run(all_work())


async def _aiohttp(url: str, first: int, count: int) -> None:
    numbers = iter(range(first, first + count))

    async def work(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            async with session.post(f"{url}/api/v2/origins/order-{number}/refund", json=BODY) as answer:
                assert (await answer.json())["ok"]

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers={"Authorization": BASIC}, connector=connector) as session:
        await asyncio.gather(*(work(session) for _ in range(IN_FLIGHT)))


def bare_aiohttp(url: str, first: int, count: int) -> None:
    """What one would write for the day: a loop over aiohttp, no retries, no pace, nothing kept."""
    asyncio.run(_aiohttp(url, first, count))


def refund_many(url: str, first: int, count: int) -> None:
    """The package's client without Airflow or a ledger, as ``TalkableHook.refund_many`` uses it."""
    refunds = (Refund.parse(f"order-{n}", site_slug="my-store") for n in range(first, first + count))
    results = send_many(_config(url), RetryPolicy(), unpaced(), RefundOperation(), refunds)
    assert sum(result.outcome == "refunded" for result in results) == count


def sync_to(warehouse: str, ledger: str) -> Way:
    """The whole sync: query, snapshot, ledger, requests."""

    def way(url: str, first: int, count: int) -> None:
        assert sync(url, warehouse, ledger, first, count).outcomes == {"refunded": count}

    return way


def sync(url: str, warehouse: str, ledger: str, first: int, count: int, pace: Pace | None = None) -> Summary:
    """Sync from PostgreSQL."""
    engine, ledgers = create_engine(warehouse), create_engine(ledger)
    with Snapshot() as snapshot:
        kept = Ledger(ledgers)
        kept.open()
        arguments, options = engine.dialect.create_connect_args(engine.url)
        connect = partial(engine.dialect.connect, *arguments, **options)
        query = SQL.format(first=first, last=first + count - 1)
        snapshot.fill(rows_of(connect, query, site_slug="my-store"))
        running = RefundSync(
            snapshot, kept, _config(url), policy=RetryPolicy(), pace=pace or unpaced(), rules=Rules()
        )
        running.run()
    engine.dispose()
    ledgers.dispose()
    return running.summary


def hook_loop(url: str, first: int, count: int) -> None:
    """``TalkableHook.refund`` in a loop."""
    from airflow_provider_talkable.hooks.talkable import TalkableHook

    host = url.removeprefix("http://")
    os.environ["AIRFLOW_CONN_TALKABLE_BENCH"] = f"talkable://http://:{KEY}@{host}/?site_slug=my-store"
    hook = TalkableHook("talkable_bench")
    for number in range(first, first + count):
        assert hook.refund(f"order-{number}").outcome == "refunded"


def http_hook_loop(url: str, first: int, count: int) -> None:
    """``HttpHook.run`` in a loop."""
    from airflow.providers.http.hooks.http import HttpHook

    os.environ["AIRFLOW_CONN_HTTP_BENCH"] = f"http://{KEY}:@{url.removeprefix('http://')}"
    hook = HttpHook("POST", "http_bench")
    for number in range(first, first + count):
        assert hook.run(f"api/v2/origins/order-{number}/refund", json=BODY).json()["ok"]


def drt(url: str, first: int, count: int) -> None:
    """drt-core's ``rest_api`` destination. It cannot put the order into the path, so that it is sent in the
    body: what it measures is the sending.
    """
    from drt.config.models import RestApiDestinationConfig, SyncOptions
    from drt.destinations.rest_api import RestApiDestination

    config = RestApiDestinationConfig.model_validate(
        {
            "type": "rest_api",
            "url": f"{url}/api/v2/origins/order/refund",
            "headers": {"Authorization": BASIC, "Content-Type": "application/json"},
            "body_template": '{"site_slug": "my-store", "order": "{{ row.order_number }}"}',
        }
    )
    options = SyncOptions.model_validate({"rate_limit": {"requests_per_second": 1_000_000}})
    records = [{"order_number": f"order-{n}"} for n in range(first, first + count)]
    assert RestApiDestination().load(records, config, options).success == count


@dataclass(frozen=True, slots=True)
class Named:
    """A way, what a table calls it, and whether it sends one at a time."""

    name: str
    way: Way
    is_sequential: bool = False


def all_ways(database: str, folder: str) -> list[Named]:
    """All of them, the bare aiohttp loop second: the others are compared with it."""
    return [
        Named("asyncio streams, HTTP by hand: the floor", streams),
        Named("bare aiohttp loop", bare_aiohttp),
        Named("`refund_many`", refund_many),
        Named("whole sync, PostgreSQL", sync_to(database, database)),
        Named("whole sync, ledger on SQLite", sync_to(database, f"sqlite:///{folder}/ledger.sqlite")),
        Named("`TalkableHook.refund` in a loop", hook_loop, is_sequential=True),
        Named("`HttpHook.run` in a loop", http_hook_loop, is_sequential=True),
        Named("drt-core, `rest_api` destination", drt, is_sequential=True),
    ]


def unpaced() -> Pace:
    """As fast as it goes."""
    return Pace(max_in_flight=IN_FLIGHT, initial_rate=None)


def _config(url: str) -> ClientConfig:
    return ClientConfig.parse(host=url, api_key=KEY)
