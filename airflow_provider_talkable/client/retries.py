"""When a request is sent again, and how long to wait before: one rule for every client."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import Any

from tenacity import RetryCallState

from airflow_provider_talkable.protocol.errors import TalkableError, TalkableThrottled
from airflow_provider_talkable.protocol.wire import Request

log = logging.getLogger(__name__)

LONGEST_BACKOFF = 30.0
"""Seconds to wait at most before a request that failed is sent again."""
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a request is worth trying.

    :param max_attempts: How many times a request is sent before its failure stands. Being
        throttled does not count: Talkable has not looked at the request then.
    :param throttle_patience: Seconds to wait in all while Talkable answers 429. It publishes no
        limit and advises growing waits, "in the realm of seconds and up to minutes".
    :param outage_patience: Seconds for which many requests wait while the host does not answer at all.
    """

    max_attempts: int = 5
    throttle_patience: float = 300.0
    outage_patience: float = 60.0


class Attempts:
    """The attempts at one request: whether to go on, and after how many seconds.

    After a failure the wait is random, up to 1 s, 2 s, 4 s … 30 s; while throttled it is a random
    part, half at least, of 1 s, 2 s, 4 s … 60 s. A longer ``Retry-After`` is obeyed, unless it
    asks for more than the patience.

    :param policy: When to give up.
    :param request: What is sent; one that is not repeatable is not sent again once Talkable may
        have acted on it.
    :param log_level: How loudly to tell of a wait. Among thousands of requests a few always fail at
        first, and their lines would bury those that matter.
    """

    def __init__(self, policy: RetryPolicy, request: Request, *, log_level: int = logging.WARNING) -> None:
        self.count = 0
        """The requests sent so far, less the throttled ones."""
        self._policy = policy
        self._request = request
        self._log_level = log_level
        self._throttled = 0
        self._last_error: BaseException | None = None
        self._has_ended = False
        self._waited_throttled = 0.0

    def go_on_unless(self, ending: TalkableError | None) -> None:
        """Check before each attempt whether there is to be one.

        :param ending: What ends all requests, if something does.
        :raises TalkableError: the request's own last failure, which says more of what happened to it, or
            ``ending`` if it was never sent.
        """
        if ending is not None:
            self._has_ended = True
            raise self._last_error or ending

    def may_repeat(self, error: TalkableError) -> bool:
        """Whether a request that failed like this may be sent again, if there are attempts left."""
        if isinstance(error, TalkableThrottled):
            return True
        return error.retryable and (self._request.repeatable or not error.may_have_acted)

    @property
    def for_tenacity(self) -> dict[str, Any]:
        """The arguments for tenacity's ``Retrying`` or ``AsyncRetrying``."""
        return {
            "retry": self._is_worth_repeating,
            "wait": self._seconds_to_wait,
            "stop": self._is_enough,
            "before_sleep": self._tell,
            "reraise": True,
        }

    def _is_worth_repeating(self, state: RetryCallState) -> bool:
        error = self._last_error = _error(state)
        return isinstance(error, TalkableError) and not self._has_ended and self.may_repeat(error)

    def _seconds_to_wait(self, state: RetryCallState) -> float:
        error = _error(state)
        if isinstance(error, TalkableThrottled):
            self.count -= 1
            pause = min(_LONGEST_PAUSE, 2.0 ** min(self._throttled, 10))
            self._throttled += 1
            seconds = max(random.uniform(pause / 2, pause), _retry_after(error))
            self._waited_throttled += seconds
            return seconds
        backoff = random.uniform(0, min(LONGEST_BACKOFF, 2.0 ** (self.count - 1)))
        return max(backoff, _retry_after(error))

    def _is_enough(self, state: RetryCallState) -> bool:
        error = _error(state)
        patience = self._policy.throttle_patience
        if isinstance(error, TalkableThrottled):
            return self._waited_throttled > patience
        return self.count >= self._policy.max_attempts or _retry_after(error) > patience

    def _tell(self, state: RetryCallState) -> None:
        log.log(
            self._log_level,
            "%s: %s; trying again in %.1f s",
            self._request,
            _error(state),
            state.upcoming_sleep,
        )


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _retry_after(error: BaseException | None) -> float:
    return (error.retry_after or 0) if isinstance(error, TalkableError) else 0
