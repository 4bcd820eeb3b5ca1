"""Many requests at once from synchronous code."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient
from airflow_provider_talkable.client.background import BackgroundLoop
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.lanes import Lane
from airflow_provider_talkable.client.operations import Operation
from airflow_provider_talkable.client.pacing import Pace, Pacer
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.errors import TalkableError, interruption

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

GRACE = 10.0
"""Seconds that requests on the wire are given to end when a task is stopped."""

_TICK = 0.05  # seconds after which results are yielded whatever their number
_AHEAD = 4  # times as many as may be under way are taken


class _Queue(Generic[T, R, S]):
    """What waits to be sent to one site, and the workers that send it."""

    def __init__(self, lane: Lane, judge: Callable[[S], TalkableError | None] | None) -> None:
        self.lane = lane
        self.judge = judge
        self.first: deque[tuple[T, R]] = deque()
        """What goes before all else that waits."""
        self.waiting: deque[tuple[T, R]] = deque()
        self.workers: list[asyncio.Future[None]] = []
        self.busy = 0
        self.more = asyncio.Event()

    def __len__(self) -> int:
        return len(self.first) + len(self.waiting)

    def pop(self) -> tuple[T, R]:
        return (self.first or self.waiting).popleft()


class Sender(Generic[T, R, S]):
    """Sends requests from a thread of its own, and keeps what happened to them until it is asked.

    Handing over and asking are done by one other thread, in which nothing else has to be
    asynchronous. It is used as a context manager; leaving it cancels what is under way.

    :param config: Where to and with which key.
    :param policy: How long a request is worth trying.
    :param pace: How many at once, and how fast.
    :param operation: What the requests are.
    :param new_judge: Makes, for a site, what is called with each of its results as it comes: an error that it
        returns closes the site's lane.
    """

    def __init__(
        self,
        config: ClientConfig,
        policy: RetryPolicy,
        pace: Pace,
        operation: Operation[R, S],
        *,
        new_judge: Callable[[str], Callable[[S], TalkableError | None]] | None = None,
    ) -> None:
        new_pacer = partial(Pacer, initial_rate=pace.initial_rate, max_rate=pace.max_rate)
        self.client = AsyncTalkableClient(
            config, policy, new_pacer=new_pacer, max_in_flight=pace.max_in_flight
        )
        self._max_in_flight = pace.max_in_flight
        self._operation = operation
        self._new_judge = new_judge
        self._queues: dict[str, _Queue[T, R, S]] = {}
        self._finished: deque[tuple[T, S]] = deque()
        self._handed_over = self._taken = 0
        self._quorum = 0
        self._news = threading.Event()
        self._broken: BaseException | None = None

    def __enter__(self) -> Sender[T, R, S]:
        self._background = BackgroundLoop()
        self._loop = self._background.loop
        self._background.run(self._start())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._background.close(self._end())

    @property
    def outstanding(self) -> int:
        """How many were handed over and not taken back."""
        return self._handed_over - self._taken

    @property
    def unfinished(self) -> int:
        """How many were handed over and have no result yet."""
        return self.outstanding - len(self._finished)

    def put(self, items: Iterable[tuple[T, R]], *, first: bool = False) -> None:
        """Hand requests over, each with whatever its result is to come back with.

        :param first: Whether they go before those that wait, unless these were to go first as well.
        """
        queues: set[_Queue[T, R, S]] = set()
        for item in items:
            self._handed_over += 1
            queue = self._queue(self._operation.site_of(item[1]))
            (queue.first if first else queue.waiting).append(item)
            queues.add(queue)
        # Waking the other thread costs as much as a good part of a request.
        for queue in queues:
            if not queue.more.is_set() or len(queue.workers) < self._max_in_flight:
                self._loop.call_soon_threadsafe(self._serve, queue)

    def take(self, *, until: int, timeout: float | None = None) -> list[tuple[T, S]]:
        """Take what has finished, once no more than ``until`` are unfinished.

        :param timeout: Seconds after which what has finished by then will do; ``None``: no limit.
        """
        self._quorum = self._handed_over - until
        self._news.clear()
        if self._taken + len(self._finished) < self._quorum:
            self._news.wait(timeout)
        if self._broken:
            raise self._broken
        taken = [self._finished.popleft() for _ in range(len(self._finished))]
        self._taken += len(taken)
        return taken

    def stop(self, error: TalkableError) -> None:
        """Send nothing more. What is on the wire goes on; the rest ends at once, mostly in ``error``."""
        self._loop.call_soon_threadsafe(self._stop, error)

    def cancel(self) -> None:
        """Give up what is under way: it ends without an answer."""
        self._loop.call_soon_threadsafe(self._cancel)

    async def _start(self) -> None:
        await self.client.__aenter__()

    def _queue(self, site_slug: str) -> _Queue[T, R, S]:
        queue = self._queues.get(site_slug)
        if queue is None:
            judge = self._new_judge(site_slug) if self._new_judge else None
            queue = self._queues[site_slug] = _Queue(self.client.lanes.of(site_slug), judge)
        return queue

    def _serve(self, queue: _Queue[T, R, S]) -> None:
        """Have enough workers for a site, and wake them."""
        wanted = min(self._max_in_flight, queue.busy + len(queue))
        while len(queue.workers) < wanted:
            worker = asyncio.ensure_future(self._work(queue))
            worker.add_done_callback(self._ended)
            queue.workers.append(worker)
        queue.more.set()

    def _ended(self, worker: asyncio.Future[None]) -> None:
        """A worker ends when it is cancelled; by anything else the caller must not wait for ever."""
        if not worker.cancelled():
            self._broken = worker.exception()
            self._news.set()

    def _cancel(self) -> None:
        error = TalkableError("it was cancelled")
        self.client.cut_short(error)
        self._stop(error)

    async def _end(self) -> None:
        workers = [worker for queue in self._queues.values() for worker in queue.workers]
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await self.client.__aexit__()

    async def _work(self, queue: _Queue[T, R, S]) -> None:
        while True:
            if not queue:
                queue.more.clear()
                # Looked at again: what is put in from here on sets the event.
                if not queue:
                    await queue.more.wait()
                continue
            token, request = queue.pop()
            queue.busy += 1
            result = await self._operation.run(self.client, request)
            queue.busy -= 1
            self._finish(token, result)
            if queue.judge and (reason := queue.judge(result)):
                queue.lane.close(reason)
            if self.client.stopped:
                self._stop(self.client.stopped)

    def _stop(self, error: TalkableError) -> None:
        self.client.stop(error)
        for queue in list(self._queues.values()):
            while queue:
                token, request = queue.pop()
                self._finish(token, self._operation.not_tried(request, self.client.stopped or error))

    def _finish(self, token: T, result: S) -> None:
        self._finished.append((token, result))
        if self._taken + len(self._finished) >= self._quorum and not self._news.is_set():
            self._news.set()


def send_many(
    config: ClientConfig,
    policy: RetryPolicy,
    pace: Pace,
    operation: Operation[R, S],
    requests: Iterable[R],
    *,
    reason_to_stop: Callable[[], str | None] | None = None,
) -> Iterator[S]:
    """Send requests, several at a time, and yield what happened to each in the same order.

    Requests are taken from ``requests`` as there is room, in the caller's thread, at most four times as
    many as may be under way; the sending runs in a thread of its own, so that whatever the caller does in
    between does not hold it up. If the caller stops early, what is under way is cancelled.

    :param reason_to_stop: Asked several times a second. Once it has a reason, no more is taken or sent, and
        what is on the wire has :data:`GRACE` seconds. So it is when the caller's thread is interrupted in
        here, as by a timeout of Airflow's.
    :raises TalkableError: with that reason, once all that was taken has its result.
    """
    source = iter(enumerate(requests))
    room = _AHEAD * pace.max_in_flight
    results: dict[int, S] = {}
    yielded = 0
    is_fed = False
    failure: BaseException | None = None
    gives_up_at = math.inf
    with Sender[int, R, S](config, policy, pace, operation) as sender:
        while not is_fed or sender.outstanding:
            try:
                if time.monotonic() > gives_up_at:
                    sender.cancel()
                elif gives_up_at == math.inf:
                    _raise(reason_to_stop and reason_to_stop())
                if not is_fed:
                    is_fed, failure = _feed(sender, source, room - sender.outstanding - len(results))
                # A thread is woken for many at once; behind a slow one that is as many as there are.
                until = 0 if is_fed else max(0, min(room // 2, sender.unfinished - 1))
                results.update(sender.take(until=until, timeout=_TICK))
            except BaseException as error:
                if gives_up_at < math.inf:
                    raise
                failure, is_fed, gives_up_at = error, True, time.monotonic() + GRACE
                sender.stop(_reason_of(error))
            while yielded in results:
                yield results.pop(yielded)
                yielded += 1
    if failure:
        raise failure


def _feed(
    sender: Sender[int, R, S], source: Iterator[tuple[int, R]], count: int
) -> tuple[bool, Exception | None]:
    """Hand over so many, and say whether there are no more, and which error ended them."""
    full = sender.outstanding + count
    try:
        for request in islice(source, count):
            sender.put([request])
    except Exception as error:  # noqa: BLE001 - it is raised once those before it have results
        return True, error
    return sender.outstanding < full, None


def _raise(reason: str | None) -> None:
    if reason:
        raise TalkableError(reason)


def _reason_of(error: BaseException) -> TalkableError:
    if isinstance(error, TalkableError):
        return error
    return TalkableError(interruption(error))
