"""What Airflow's own database knows of a task instance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider_talkable.plugin.ledgers import LedgerName
from airflow_provider_talkable.sync.entry_lists import TaskEntries


@dataclass(frozen=True, slots=True)
class SyncTask:
    """A task instance that has sent refunds, or is sending them.

    :param state: The state that Airflow says it is in.
    :param summary: Its summary, as far as it is; ``None``: it has not pushed one.
    :param ledger: The ledger that it used; ``None``: none, or Airflow does not know any more.
    """

    entries: TaskEntries
    state: str | None
    summary: dict[str, Any] | None
    ledger: LedgerName | None


def find(dag_id: str, run_id: str, task_id: str, map_index: int) -> SyncTask | None:
    """Look a task instance up; ``None``: there is none."""
    ids: dict[str, Any] = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
    with create_session() as session:
        ti = session.scalar(select(TaskInstance).filter_by(**ids))
        if ti is None:
            return None
        run = session.scalar(select(DagRun).filter_by(dag_id=dag_id, run_id=run_id))
        value = session.scalar(select(XComModel.value).filter_by(**ids, key="summary"))
        fields = RenderedTaskInstanceFields.get_templated_fields(ti, session=session)
        times = [run.run_after, run.start_date, ti.start_date] if run else []
        since = min((time for time in times if time), default=datetime.now(UTC))
        summary = XComModel.deserialize_value(_Value(value)) if value is not None else None
        return SyncTask(
            TaskEntries(**ids, since=since, until=ti.end_date),
            ti.state,
            summary if isinstance(summary, dict) and "outcomes" in summary else None,
            LedgerName.of_task(fields or {}),
        )


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any
