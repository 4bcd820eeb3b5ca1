"""How far a sync is, and how fast it goes."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from airflow_provider_talkable.sync.summary import Summary

log = logging.getLogger(__name__)

_EVERY = 10.0  # seconds
_REPORTED_EVERY = 30.0


class Progress:
    """Tells the log every ten seconds how far a sync is, and others every thirty.

    :param total: How many refunds there are.
    :param report: Called with the summary so far.
    :param clock: Seconds from any beginning.
    """

    def __init__(
        self,
        total: int,
        *,
        report: Callable[[Summary], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = 0.0
        """Recent refunds per second that have an outcome, those settled before included."""
        self.sending_rate = 0.0
        """Refunds per second sent of late."""
        self._total = total
        self._report = report
        self._clock = clock
        now = clock()
        self._told_at = self._reported_at = now
        self._marks = deque([(now, 0, 0)])

    def tell(self, summary: Summary, waits: Iterable[str] = ()) -> None:
        """Take note of how far it is, and tell it if it is time.

        :param waits: What it waits for, in words.
        """
        now, done = self._clock(), summary.done
        self._marks.append((now, done, summary.sent))
        while len(self._marks) > 2 and self._marks[1][0] < now - _EVERY:
            self._marks.popleft()
        since, done_before, sent_before = self._marks[0]
        seconds = max(now - since, 0.001)
        self.rate = (done - done_before) / seconds
        self.sending_rate = (summary.sent - sent_before) / seconds
        if now - self._told_at >= _EVERY:
            self._told_at = now
            log.info(
                "%d of %d refunds (%.0f %%), %.1f/s, %s left: %s; %d settled before",
                done,
                self._total,
                100 * done / max(self._total, 1),
                self.rate,
                self._time_left(done),
                summary.tally(),
                summary.skipped,
            )
            for wait in waits:
                log.warning("%s", wait)
        if self._report and now - self._reported_at >= _REPORTED_EVERY:
            self._reported_at = now
            self._report(summary)

    def _time_left(self, done: int) -> str:
        if not self.rate:
            return "unknown time"
        minutes, seconds = divmod(round((self._total - done) / self.rate), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
