"""What the operators use of a task instance."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from airflow import __version__

from airflow_provider_talkable import Outcome

HAS_STORE = tuple(map(int, __version__.split(".")[:2])) >= (3, 3)

LOSSES = tuple(outcome for outcome in Outcome if not outcome.is_success)
"""What ``ignore`` can name: then no outcome fails a task."""

needs_store = pytest.mark.skipif(
    not HAS_STORE, reason="Airflow before 3.3 has no task state store; the tests run on 3.3 as well"
)


class Store(dict[str, Any]):
    """A task state store: it outlives a try, and takes what JSON can hold."""

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        from airflow.sdk import NEVER_EXPIRE  # type: ignore[attr-defined]  # not in Airflow's stub

        # As Airflow compares it.
        assert retention is NEVER_EXPIRE, f"{key} would be gone after 30 days"
        self[key] = json.loads(json.dumps(value))

    def delete(self, key: str) -> None:
        self.pop(key, None)


class TaskInstance:
    """One try of a task; ``xcom`` is what it has pushed, which has to be JSON."""

    dag_id, run_id = "shop", "manual__1"

    def __init__(self, task_id: str = "task", try_number: int = 1, map_index: int = -1) -> None:
        self.task_id = task_id
        self.try_number = try_number
        self.map_index = map_index
        self.xcom: dict[str, Any] = {}
        self.links: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        pushed = self.links if key.startswith("_link_") else self.xcom
        pushed[key.removeprefix("_link_")] = json.loads(json.dumps(value))
