"""How long an answer may take: one timer for all requests under way."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import aiohttp


class Deadlines:
    """Ends requests that take too long.

    aiohttp and asyncio set and clear a timer for each request, which takes a seventh of the time that
    sending it does. Here one timer looks after all of them, and ends one up to a tenth of ``seconds``
    late. It belongs to one event loop.

    :param seconds: To wait for a connection, and again for an answer.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.under_way: set[Deadline] = set()
        self.loop = asyncio.get_running_loop()
        self._look()

    def close(self) -> None:
        """End no more requests."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self.loop.time()
        for deadline in list(self.under_way):
            if deadline.at < now:
                deadline.expire()
        self._timer = self.loop.call_later(self.seconds / 10, self._look)


class Deadline:
    """The time of the request that the current task makes inside; after it comes a ``TimeoutError``."""

    __slots__ = ("_deadlines", "_is_over", "_task", "at")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._task = asyncio.current_task(deadlines.loop)
        self._is_over = False
        self.at = deadlines.loop.time() + 2 * deadlines.seconds

    def __enter__(self) -> None:
        _of_this_task.set(self)
        self._deadlines.under_way.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadlines.under_way.discard(self)
        # If nobody else has cancelled the task too, it goes on.
        if self._is_over and self._task and not self._task.uncancel() and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def begin_anew(self) -> None:
        """There is a connection now."""
        self.at = self._deadlines.loop.time() + self._deadlines.seconds

    def expire(self) -> None:
        """Interrupt the request."""
        if self._task and not self._is_over:
            self._is_over = True
            self._task.cancel()


_of_this_task: ContextVar[Deadline] = ContextVar("deadline")


class Connector(aiohttp.TCPConnector):
    """Gives a request that has its connection its time for the answer anew."""

    async def connect(self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:
        """Take a connection from the pool, or make one."""
        connection = await super().connect(req, traces, timeout)
        _of_this_task.get().begin_anew()
        return connection
