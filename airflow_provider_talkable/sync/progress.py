"""How far a sync is, and how fast it goes."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from airflow_provider_talkable.sync.summary import Summary

log = logging.getLogger(__name__)

_EVERY = 10.0  # seconds


class Progress:
    """Tells the log every ten seconds how far a sync is.

    :param total: How many refunds there are.
    :param clock: Seconds from any beginning.
    """

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = 0.0
        """Refunds per second that came to something of late, those settled before included."""
        self.sending_rate = 0.0
        """Refunds per second sent of late."""
        self._total = total
        self._clock = clock
        now = clock()
        self._told_at = now
        self._marks = deque([(now, 0, 0)])

    def tell(self, summary: Summary) -> None:
        """Take note of how far it is, and tell it if it is time."""
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

    def _time_left(self, done: int) -> str:
        if not self.rate:
            return "unknown time"
        minutes, seconds = divmod(round((self._total - done) / self.rate), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
