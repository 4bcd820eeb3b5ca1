"""How fast to send to a site whose limit nobody publishes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_INITIAL_RATE = 5.0

# Chosen by simulation against token buckets of 5, 50 and 300/s: 99 % of the limit, at most 1.7 % of
# answers 429.
_CUT = 0.85  # of the rate, at a 429
_DEEP_CUT = 0.6  # at the first one, and at one soon after another
_SOON = 2.0  # seconds
_RECOVERY = 0.05  # of the ceiling, per second, until near it
_KNEE = 0.95  # of the ceiling: near it
_PROBE = 0.003  # of the ceiling, per second, from there on
_BEYOND = 1.06  # of the ceiling: it no longer holds
_GROWTH_BEYOND = 1.1  # times per second
_PAUSE = 0.5  # seconds, doubled by each 429 in a row
_LONGEST_PAUSE = 60.0
_SUCCESSES_TO_FORGET = 3
_CATCH_UP = 0.02  # seconds that a late timer may make good
SLOWEST = 0.1
"""Requests per second below which no 429 takes the rate."""


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

    def __post_init__(self) -> None:
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight={self.max_in_flight}: give 1 or more")
        for name in ("initial_rate", "max_rate"):
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise ValueError(f"{name}={rate}: give requests per second, more than 0, or None")


class Pacer:
    """Learns from 429s how many requests a second a site takes; one for each site and process.

    A site's limit covers its web shop's own traffic too, so it begins gently: at ``initial_rate``,
    doubled each second until the first 429. The rate at which a 429 comes is the ceiling: all
    sending pauses, goes on below it, and probes slowly beyond it.

    It keeps no lock: it belongs to one event loop.

    :param initial_rate: Requests per second to begin with; ``None``: unpaced until the first 429.
    :param max_rate: Requests per second never to exceed.
    :param clock: Seconds from any beginning.
    """

    def __init__(
        self,
        *,
        initial_rate: float | None = DEFAULT_INITIAL_RATE,
        max_rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._max_rate = max_rate or math.inf
        self._initial_rate = min(initial_rate or math.inf, self._max_rate)
        self._rate = self._initial_rate
        self._ceiling: float | None = None
        now = clock()
        self._grown_at = self._cut_at = self._paused_until = self._next_at = now
        self._pauses = 0
        self._successes = 0
        self._accepted = _RecentCount(now)

    @property
    def rate(self) -> float:
        """Requests per second it allows now."""
        return self._rate

    @property
    def learned_rate(self) -> float | None:
        """Requests per second the site was found to take; ``None`` while it never answered 429."""
        return self._ceiling

    @property
    def pause(self) -> float:
        """Seconds for which all sending still pauses after a 429."""
        return max(0.0, self._paused_until - self.clock())

    def seconds_to_wait(self) -> float:
        """Take the next place if it is free (0), or say when to ask again."""
        now = self.clock()
        self._grow(now)
        wait = max(self._paused_until, self._next_at) - now
        if wait > 0:
            return wait
        self._next_at = max(self._next_at, now - _CATCH_UP) + 1 / self._rate
        return 0.0

    def accepted(self, sent_at: float) -> None:
        """An answer other than 429 came.

        :param sent_at: When its request was sent, by the pacer's clock.
        """
        self._accepted.add(self.clock())
        if sent_at > self._cut_at:
            self._successes += 1
            if self._successes >= _SUCCESSES_TO_FORGET:
                self._pauses = 0

    def throttled(self, sent_at: float, retry_after: float | None = None) -> None:
        """A 429 came. Those of requests sent before the last pause tell nothing new.

        :param sent_at: When its request was sent, by the pacer's clock.
        :param retry_after: The seconds it asked to wait, where it said so.
        """
        now = self.clock()
        if self._ceiling is not None and sent_at <= self._cut_at:
            return
        self._grow(now)
        again = self._ceiling is None or now - self._cut_at < _SOON
        if self._ceiling is None:
            # What got through tells more than what was tried: the rate had doubled past the limit.
            self._rate = min(self._rate, max(self._accepted.per_second(now), 1.0))
        self._ceiling = self._rate
        self._rate = max(SLOWEST, self._rate * (_DEEP_CUT if again else _CUT))
        pause = min(_LONGEST_PAUSE, _PAUSE * 2.0 ** min(self._pauses, 10)) * random.uniform(0.5, 1)
        self._pauses += 1
        self._successes = 0
        self._cut_at = now
        self._paused_until = self._next_at = now + max(pause, retry_after or 0)

    def _grow(self, now: float) -> None:
        seconds, self._grown_at = now - self._grown_at, now
        if now < self._paused_until or self._rate == self._max_rate:
            return
        if self._ceiling is None:
            # No faster than twice what is being answered: a rate that is not used proves nothing.
            bound = max(self._initial_rate, 2 * self._accepted.per_second(now))
            rate = min(self._rate * 2**seconds, bound)
        elif self._rate < _KNEE * self._ceiling:
            rate = min(self._rate + _RECOVERY * self._ceiling * seconds, _KNEE * self._ceiling)
        elif self._rate < _BEYOND * self._ceiling:
            rate = self._rate + _PROBE * self._ceiling * seconds
        else:
            rate = min(
                self._rate * _GROWTH_BEYOND**seconds, max(self._rate, 2 * self._accepted.per_second(now))
            )
        self._rate = min(rate, self._max_rate)


class _RecentCount:
    """About how many there were in the last second, in constant space."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._before = self._here = 0

    def add(self, now: float) -> None:
        self._roll(now)
        self._here += 1

    def per_second(self, now: float) -> float:
        self._roll(now)
        return self._before * (1 - (now - self._began)) + self._here

    def _roll(self, now: float) -> None:
        if now - self._began >= 1:
            seconds = math.floor(now - self._began)
            self._before, self._here = (self._here if seconds == 1 else 0), 0
            self._began += seconds
