"""What happened to one site's refunds, how late Talkable was notified, and what is open. No I/O."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from airflow_provider_talkable.protocol.outcomes import Outcome

_MINUTE = timedelta(minutes=1)


@dataclass(slots=True)
class SiteTally:
    """What happened to one site's refunds in a sync.

    :param outcomes: How many, by outcome.
    :param late: Refunds of whole orders whose advocate had been paid already.
    :param open: Refunds that are still to reach Talkable, or may be there already.
    :param oldest_open: The earliest ``refunded_at`` of those, as far as they have one.
    :param delays: Minutes from ``refunded_at`` to Talkable's answer ``refunded``; how many refunds took each.
    :param learned_rate: Requests per second that Talkable takes of the site; ``None``: it never throttled.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    late: int = 0
    open: int = 0
    oldest_open: datetime | None = None
    delays: Counter[int] = field(default_factory=Counter)
    learned_rate: float | None = None

    def count_open(self, refunded_at: datetime | None) -> None:
        """Count a refund that is open."""
        self.open += 1
        if refunded_at:
            self.oldest_open = min(refunded_at, self.oldest_open or refunded_at)

    def count_delay(self, outcome: str, refunded_at: datetime | None, answered_at: datetime) -> None:
        """Count how long after the refund Talkable was notified; of ``already_refunded`` nobody knows."""
        if outcome == Outcome.REFUNDED and refunded_at:
            self.delays[max(timedelta(0), answered_at - refunded_at) // _MINUTE] += 1

    def delay(self, share: float) -> timedelta | None:
        """The delay within which this share of the refunds reached Talkable; ``None``: none is known."""
        left = share * self.delays.total()
        for minutes, count in sorted(self.delays.items()):
            left -= count
            if left <= 0:
                return minutes * _MINUTE
        return None

    def open_for(self, now: datetime | None = None) -> timedelta:
        """How long ago the oldest open refund was refunded; zero: none is open."""
        moment = now or datetime.now(UTC)
        return max(timedelta(0), moment - (self.oldest_open or moment))
