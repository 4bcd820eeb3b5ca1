"""Whether Airflow still waits for a running task."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_provider_talkable.protocol.errors import TalkableError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

STOPPED_FROM_OUTSIDE = "the task was stopped from outside"
"""Why nothing more is sent once Airflow has called ``on_kill``."""


class Supervision:
    """Tells a task to stop once nobody waits for it any more.

    Airflow runs a task in a process whose parent, the supervisor, reports to Airflow. Where the supervisor is
    killed, the task's process lives on, and Airflow starts the retry beside it. A DAG that is run by
    ``dag.test()`` or ``airflow tasks test`` has no supervisor, and goes on whatever happens to its parent.

    Make it before the task's first report to Airflow, which fails if the supervisor was gone already.

    :param context: The task's context.
    """

    def __init__(self, context: Context) -> None:
        self._supervisor = os.getppid() if _has_supervisor(context["ti"]) else None
        self._lost: str | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the supervisor was killed; the parent of the task's process is another one then."""
        return self._supervisor not in (None, os.getppid())

    def reason_to_stop(self) -> str | None:
        """Why nothing more is to be sent, if so. It costs less than a microsecond."""
        if self.is_gone:
            self._lose("its supervisor, the process that started it, was killed")
        return self._lost

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Keep an error of what is reported to Airflow in here as a reason to stop."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - which errors Airflow raises differs with its versions
            self._lose(f"what it reports does not reach Airflow ({type(error).__name__}: {error})")

    def raise_if_lost(self) -> None:
        """End the task where nobody waits for it.

        :raises TalkableError: with the reason.
        """
        if reason := self.reason_to_stop():
            raise TalkableError(reason)

    def _lose(self, reason: str) -> None:
        if self._lost is None:
            self._lost = f"Airflow no longer waits for this task: {reason}; a retry sends the rest"
            log.error("The task stops: %s", self._lost)


def _has_supervisor(ti: Any) -> bool:
    """Whether the parent of this process supervises the task."""
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    if runner is None:
        # Airflow 2 runs the task for a job, whose process is the parent.
        return getattr(ti, "job_id", None) is not None
    # Where the supervisor is in this process, they do not speak over a socket.
    return isinstance(getattr(runner, "SUPERVISOR_COMMS", None), runner.CommsDecoder)
