"""What the retry policy decides; that Airflow asks it is seen under the real scheduler."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow import __version__

from airflow_provider_talkable import (
    InvalidConnection,
    InvalidRefund,
    TalkableAuthError,
    TalkableConnectionError,
    TalkableError,
    TalkableOriginNotFound,
    TalkableRejected,
    TalkableServerError,
    TalkableThrottled,
)
from tests.documents import block

AIRFLOW = tuple(map(int, __version__.split(".")[:2]))

if AIRFLOW < (3, 3):

    def test_before_airflow_3_3_it_says_that_there_is_none() -> None:
        with pytest.raises(ImportError, match=r"need Airflow 3\.3 or newer; leave retry_policy out"):
            import airflow_provider_talkable.policies.retry  # noqa: F401

else:
    from airflow.sdk import RetryAction

    from airflow_provider_talkable.policies.retry import TalkableRetryPolicy

    @pytest.mark.parametrize(
        ("error", "action", "delay"),
        [
            (TalkableAuthError("key"), RetryAction.FAIL, None),
            (InvalidRefund("slug"), RetryAction.FAIL, None),
            (InvalidConnection("host"), RetryAction.FAIL, None),
            (TalkableRejected("no"), RetryAction.FAIL, None),
            (TalkableThrottled("slow", retry_after=42.5), RetryAction.RETRY, timedelta(seconds=42.5)),
            (TalkableServerError("down", retry_after=7), RetryAction.RETRY, timedelta(seconds=7)),
            (TalkableThrottled("slow"), RetryAction.DEFAULT, None),
            (TalkableServerError("down"), RetryAction.DEFAULT, None),
            (TalkableConnectionError("gone"), RetryAction.DEFAULT, None),
            (TalkableOriginNotFound("later"), RetryAction.DEFAULT, None),
            (TalkableError("mixed"), RetryAction.DEFAULT, None),
            (RuntimeError("bug"), RetryAction.DEFAULT, None),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
    )
    def test_it_decides_by_the_error(error: Exception, action: RetryAction, delay: timedelta | None) -> None:
        decision = TalkableRetryPolicy().evaluate(error, 1, 3)
        assert (decision.action, decision.retry_delay) == (action, delay)

    def test_the_page_shows_how_it_is_used() -> None:
        made: dict[str, Any] = {}
        exec(block("docs/airflow.md", "python", "TalkableRetryPolicy"), made)
        assert isinstance(made["refund"].retry_policy, TalkableRetryPolicy)
        assert made["refund"].retries == 5
