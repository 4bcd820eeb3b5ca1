"""After each sync of the shop's refunds, whichever DAG ran it, look for refunds that it left open.

The DAG is scheduled on the asset that the sync names among its outlets. A sync that failed does not update
the asset; neither does a preview. The task fails if a refund of the last seven days has not reached
Talkable, was changed since, or came after its advocate had been rewarded, and says which.
"""

from __future__ import annotations

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, Asset

from airflow_provider_talkable.operators.reconcile import TalkableRefundReconcileOperator

with DAG(
    "example_talkable_after_sync",
    schedule=[Asset("talkable://my-store/refunds")],
    start_date=datetime(2026, 1, 1),
    max_active_runs=1,
    doc_md=__doc__,
    tags=["talkable"],
):
    TalkableRefundReconcileOperator(
        task_id="reconcile",
        sql_conn_id="shop_warehouse",
        sql="""
            SELECT refund_id AS refund_key, order_number, refunded_at, refund_subtotal
            FROM refunds
            WHERE refunded_at >= :since AND site_slug = 'my-store'
        """,
        # In Airflow 3 a run that an asset starts has no data interval.
        parameters={
            "since": "{{ ((dag_run.data_interval_end or dag_run.run_after)"
            " - macros.timedelta(days=7)).isoformat() }}"
        },
    )
