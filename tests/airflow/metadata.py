"""What Airflow keeps of runs, read through its own models: its tables differ from version to version."""

from __future__ import annotations

import json
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

try:
    from airflow.models.xcom import XComModel
except ImportError:  # Airflow 2
    from airflow.models.xcom import BaseXCom as XComModel  # type: ignore[no-redef,unused-ignore]


def task_instances(metadata: Engine, *columns: str, **filters: Any) -> list[tuple[Any, ...]]:
    """Columns of the newest try of each task instance.

    :param filters: The values that columns have, such as ``dag_id``.
    """
    query = select(*(getattr(TaskInstance, column) for column in columns)).filter_by(**filters)
    with Session(metadata) as session:
        return [tuple(row) for row in session.execute(query.order_by(TaskInstance.map_index))]


def dag_runs(metadata: Engine, *columns: str, **filters: Any) -> list[tuple[Any, ...]]:
    """Columns of DAG runs.

    :param filters: The values that columns have, such as ``dag_id``.
    """
    query = select(*(getattr(DagRun, column) for column in columns)).filter_by(**filters)
    with Session(metadata) as session:
        return [tuple(row) for row in session.execute(query.order_by(DagRun.id))]


def xcom(metadata: Engine, key: str, **filters: Any) -> list[Any]:
    """The values of a key, in the order of mapped task instances.

    :param filters: The values that columns have, such as ``dag_id`` and ``task_id``.
    """
    query = select(XComModel.value).filter_by(key=key, **filters).order_by(XComModel.map_index)
    with Session(metadata) as session:
        return [_plain(value) for value in session.scalars(query)]


def questions(metadata: Engine) -> list[tuple[Any, ...]]:
    """The map index, subject and body of what people are asked, from Airflow 3.1 on."""
    from airflow.models.hitl import HITLDetail

    query = select(TaskInstance.map_index, HITLDetail.subject, HITLDetail.body)
    query = query.join(HITLDetail, HITLDetail.ti_id == TaskInstance.id)
    with Session(metadata) as session:
        found = session.execute(query.where(TaskInstance.state.in_(("deferred", "awaiting_input"))))
        return [tuple(row) for row in found]


def _plain(value: Any) -> Any:
    """An XCom's value, which Airflow 2 keeps as bytes and Airflow 3 as JSON, at times as JSON in JSON."""
    if isinstance(value, bytes | memoryview):
        return _plain(json.loads(bytes(value)))
    if isinstance(value, str):
        try:
            return _plain(json.loads(value))
        except ValueError:
            return value
    return value
