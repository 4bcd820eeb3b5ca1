"""Who may see what: Airflow itself protects no plugin's pages."""

from __future__ import annotations

from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails, DagAccessEntity
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from fastapi import Depends, HTTPException, status

from airflow_provider_talkable.plugin.ledgers import LedgerName
from airflow_provider_talkable.sync.bounded_reads import Visible

User = Annotated[Any, Depends(get_user)]
"""Who asks; whoever is not signed in gets 401."""

MayReadTask = Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE))
"""Whoever may not read the task instances of the path's ``dag_id`` gets 403."""


def visible_to(user: Any, ledger: LedgerName | None) -> Visible:
    """Whose entries of a ledger a user may see: those of the DAGs that the user may read.

    :raises HTTPException: 403, if there are none, and none without a DAG.
    """
    manager = get_auth_manager()
    connection = ConnectionDetails(conn_id=ledger.conn_id) if ledger else None
    by_hand = connection is not None and manager.is_authorized_connection(
        method="GET", details=connection, user=user
    )
    dag_ids = frozenset(manager.get_authorized_dag_ids(user=user, method="GET"))
    if not (dag_ids or by_hand):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "Forbidden")
    return Visible(dag_ids, by_hand)
