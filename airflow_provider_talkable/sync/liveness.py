"""How long a run may still be sending a refund that it has written down as ``submitted``. Pure rules."""

from __future__ import annotations

from datetime import timedelta

from airflow_provider_talkable.client.config import DEFAULT_TIMEOUT
from airflow_provider_talkable.client.pacing import SLOWEST, Pace
from airflow_provider_talkable.client.retries import LONGEST_BACKOFF, RetryPolicy
from airflow_provider_talkable.sync.tables import PATIENCE

_QUEUE = 3  # refunds submitted and not sent yet, in multiples of max_in_flight
_CLOCKS = 60.0  # seconds by which the clocks of two machines may differ


def longest_sending(
    timeout: float = DEFAULT_TIMEOUT,
    policy: RetryPolicy | None = None,
    pace: Pace | None = None,
    *,
    waiting: int = 0,
) -> timedelta:
    """The time from ``submitted`` after which the run that wrote it sends the refund no more.

    It is the sum of the longest wait for its turn at the slowest pace, of all attempts with the waits between
    them, of the patience for 429s and for a host that does not answer, of the time for which the run waits
    for a ledger that is gone before it can write the answer, and of a minute by which clocks may differ:
    1,470 seconds with all defaults.

    :param timeout: Seconds to get a connection, and again for the answer.
    :param policy: How long a request is worth trying.
    :param pace: How many at once, and how fast.
    :param waiting: How many partial refunds may wait for their turn, if more than three times as many as may
        be under way.
    """
    policy, pace = policy or RetryPolicy(), pace or Pace()
    queue = max(_QUEUE * pace.max_in_flight, waiting) / min(SLOWEST, pace.max_rate or SLOWEST)
    attempts = policy.max_attempts * (2 * timeout + LONGEST_BACKOFF)
    patience = policy.throttle_patience + policy.outage_patience
    return timedelta(seconds=queue + attempts + patience + PATIENCE + _CLOCKS)
