"""Many refunds at once from synchronous code."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import DEFAULT_INITIAL_RATE, Pacer
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult


@dataclass(frozen=True, slots=True)
class Pace:
    """How many at once, and how fast.

    :param max_in_flight: Requests under way at a time.
    :param initial_rate: Requests per second to begin with, for each site, doubled each second until
        Talkable first answers 429; ``None``: unpaced until then.
    :param max_rate: Requests per second never to exceed, for each site.
    """

    max_in_flight: int = 16
    initial_rate: float | None = DEFAULT_INITIAL_RATE
    max_rate: float | None = None


def refund_many(
    config: ClientConfig, policy: RetryPolicy, pace: Pace, refunds: Iterable[Refund]
) -> Iterator[RefundResult]:
    """Send refunds, several at a time, and yield what became of each in the same order.

    A refund is taken from ``refunds`` when there is room for it, in the caller's thread; the sending
    runs in a thread of its own, so that whatever the caller does in between does not hold it up. If
    the caller stops early, what is under way is cancelled.
    """
    new_pacer = partial(Pacer, initial_rate=pace.initial_rate, max_rate=pace.max_rate)
    under_way: deque[Future[RefundResult]] = deque()
    client = AsyncTalkableClient(config, policy, new_pacer=new_pacer)
    with _event_loop() as loop, _entered(client, loop):
        try:
            try:
                for refund in refunds:
                    under_way.append(asyncio.run_coroutine_threadsafe(client.refund(refund), loop))
                    if len(under_way) >= pace.max_in_flight:
                        yield under_way.popleft().result()
            except Exception:
                # Where the refunds come from has failed: those under way still get their results.
                while under_way:
                    yield under_way.popleft().result()
                raise
            while under_way:
                yield under_way.popleft().result()
        finally:
            asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="talkable-client", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def _entered(client: AsyncTalkableClient, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    asyncio.run_coroutine_threadsafe(client.__aenter__(), loop).result()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(client.__aexit__(), loop).result()
