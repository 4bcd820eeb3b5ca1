"""An event loop for code that has none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_LONGEST_END = 5.0  # seconds
_TURNS_TO_END = 10


class BackgroundLoop:
    """An event loop in a thread of its own, until it is closed."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="talkable-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it; who is interrupted meanwhile, by a signal, cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Coroutine[Any, Any, object]) -> None:
        """Stop it, once it has run a last coroutine."""
        self.loop.call_soon_threadsafe(self._end, last)
        # The thread cannot wait for itself, as when garbage is collected in it.
        if threading.current_thread() is not self._thread:
            self._thread.join(_LONGEST_END)

    def _end(self, last: Coroutine[Any, Any, object]) -> None:
        self.loop.create_task(last).add_done_callback(lambda _: self.loop.stop())

    def _run(self) -> None:
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(_end_connections())
            self.loop.close()


async def _end_connections() -> None:
    """Give connections that were closed, or begun, last the turns of the loop that they take to end."""
    for _ in range(_TURNS_TO_END):
        await asyncio.sleep(0)
