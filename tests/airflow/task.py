"""What the operators use of a task instance."""

from __future__ import annotations

import json
from typing import Any


class TaskInstance:
    """One try of a task; ``xcom`` is what it has pushed, which has to be JSON."""

    dag_id, run_id, map_index = "shop", "manual__1", -1

    def __init__(self, task_id: str = "task", try_number: int = 1) -> None:
        self.task_id = task_id
        self.try_number = try_number
        self.xcom: dict[str, Any] = {}
        self.links: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        pushed = self.links if key.startswith("_link_") else self.xcom
        pushed[key.removeprefix("_link_")] = json.loads(json.dumps(value))
