"""When Airflow, 3.3 or newer, runs a failed task again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_talkable.protocol.errors import (
    InvalidConnection,
    InvalidRefund,
    TalkableAuthError,
    TalkableError,
    TalkableNotCounted,
    TalkableRejected,
)

try:
    from airflow.providers.common.compat.sdk import RetryDecision, RetryPolicy
except ImportError as error:
    raise ImportError("Retry policies need Airflow 3.3 or newer; leave retry_policy out") from error

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_HOPELESS = (InvalidConnection, InvalidRefund, TalkableAuthError, TalkableNotCounted, TalkableRejected)


class TalkableRetryPolicy(RetryPolicy):
    """Spares the retries that cannot help, and lets a throttled task come back when it is worth it.

    - A refused key, a connection that cannot be used, input that makes no refund, and what Talkable
      rejected fail the task at once: somebody has to fix something first.
    - A task that Talkable throttled, or answered with a time to retry after, is tried again after the
      pause that its pacer had reached, instead of after ``retry_delay``.
    - Everything else follows the task's ``retries`` and ``retry_delay``. They bound the second kind too.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002
        max_tries: int,  # noqa: ARG002
        context: Context | None = None,  # noqa: ARG002
    ) -> RetryDecision:
        """Decide by the error that ended the task."""
        if isinstance(exception, _HOPELESS):
            return RetryDecision.fail(f"{type(exception).__name__}: a retry would end the same way")
        if isinstance(exception, TalkableError) and exception.retry_after:
            delay = timedelta(seconds=exception.retry_after)
            return RetryDecision.retry(delay, f"Talkable throttles; asking again in {delay}")
        return RetryDecision.default()
