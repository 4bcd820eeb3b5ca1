"""Whether the host answers at all: after failures in a row nothing is sent until it does again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator

from airflow_provider_talkable.protocol.errors import (
    TalkableConnectionError,
    TalkableError,
    TalkableProtocolError,
    TalkableServerError,
)

log = logging.getLogger(__name__)

_MOST = 20
_FEWEST = 5
_LONGEST_PAUSE = 15.0


def is_no_answer(error: TalkableError) -> bool:
    """Whether it leaves open that Talkable is there: no connection, a 5xx, or somebody else's answer."""
    if isinstance(error, TalkableProtocolError):
        # What is refused for good by somebody else is the request's own trouble.
        return error.retryable and error.may_have_acted
    return isinstance(error, (TalkableConnectionError, TalkableServerError))


class Outage:
    """Counts failures in a row, and holds requests back while the host does not answer.

    While it lasts a probe asks the host at growing intervals. Once that is answered, one request goes first,
    and all others follow if Talkable answers that one too. It belongs to one event loop.

    :param max_in_flight: Requests on the wire at a time: as many failures in a row, at most twenty, are an
        outage.
    :param patience: Seconds after which an outage stops all sending.
    """

    def __init__(self, max_in_flight: int, patience: float) -> None:
        self.since: float | None = None
        """When it began, by :func:`time.monotonic`; ``None``: the host answers."""
        self._most = min(_MOST, max(_FEWEST, max_in_flight))
        self._patience = patience
        self._failures = 0
        self._last: TalkableError | None = None
        self._may_try_one = False
        self._tried: asyncio.Future[bool] | None = None
        self._changed = asyncio.Event()

    @property
    def seconds(self) -> float | None:
        """For how long the host has not answered, if so."""
        return None if self.since is None else time.monotonic() - self.since

    @property
    def error(self) -> TalkableError:
        """What it ends in once its patience is used up."""
        last = self._last.args[0] if self._last else ""
        return TalkableConnectionError(
            f"Talkable has not answered for {self._patience:.0f} s: run it again once it does ({last})",
            request_sent=False,
        )

    def answered(self) -> None:
        """Talkable gave an answer, of whatever kind."""
        self._failures = 0
        if self.since is not None:
            log.info("Talkable answers again, after %.0f s", time.monotonic() - self.since)
            self.since = None
            self._end_trial(has_worked=True)
            self._change()

    def failed(self, error: TalkableError) -> bool:
        """A request failed.

        :return: Whether an outage has begun by it: somebody has to :meth:`probe`.
        """
        if not is_no_answer(error):
            self.answered()
            return False
        self._last = error
        self._failures += 1
        if self.since is not None:
            self._end_trial(has_worked=False)
            return False
        if self._failures < self._most:
            return False
        self.since = time.monotonic()
        log.warning(
            "Talkable does not answer, %d times in a row (%s): nothing is sent until it does, for up to %g s",
            self._failures,
            error,
            self._patience,
        )
        return True

    async def wait(self, go_on: Callable[[], None]) -> bool:
        """Wait for its end.

        :param go_on: Raises what ends the waiting, if something does.
        :return: Whether the caller is the one that goes first.
        """
        while self.since is not None:
            go_on()
            if self._may_try_one:
                self._may_try_one = False
                return True
            await self._changed.wait()
        return False

    async def probe(self, asks: Callable[[], Awaitable[None]]) -> TalkableError | None:
        """Ask the host until it answers.

        :param asks: Asks once, without changing anything; raises what comes of it.
        :return: What all ends in, if it does not answer in time.
        """
        for pause in self._pauses():
            await asyncio.sleep(pause)
            if self.since is None:
                return None
            try:
                await asks()
            except TalkableError as error:
                if is_no_answer(error):
                    self._last = error
                    continue
            self._tried = asyncio.get_running_loop().create_future()
            self._may_try_one = True
            self._change()
            if await self._tried:
                return None
        return None if self.since is None else self.error

    def release(self) -> None:
        """Wake what waits, since nothing is sent any more."""
        self._change()

    def _pauses(self) -> Iterator[float]:
        pause = 1.0
        began = time.monotonic()
        while (left := began + self._patience - time.monotonic()) > 0:
            yield min(left, random.uniform(0.75, 1) * pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)

    def _end_trial(self, *, has_worked: bool) -> None:
        if self._tried and not self._tried.done():
            self._tried.set_result(has_worked)

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
