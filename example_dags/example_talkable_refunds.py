"""Refund what was refunded in the shop during the last day.

One task pulls the order numbers out of the warehouse into XCom, the next one refunds them in
Talkable and pushes what happened to each, referral included, back to XCom.

The query is written for SQLite; other databases want their own parameter style, such as
``%(since)s`` for PostgreSQL.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_provider_talkable.operators.refund import TalkableRefundOperator

# A run that is started by hand, by the REST API or by an asset has no data interval in Airflow 3.
UNTIL = "(dag_run.data_interval_end or dag_run.run_after)"

with DAG(
    "example_talkable_refunds",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
    tags=["talkable"],
):
    refunded_orders = SQLExecuteQueryOperator(
        task_id="refunded_orders",
        conn_id="shop_warehouse",
        sql="""
            SELECT order_number FROM refunded_orders
            WHERE refunded_at >= :since AND refunded_at < :until
            ORDER BY refunded_at
        """,
        parameters={
            "since": f"{{{{ ({UNTIL} - macros.timedelta(days=1)).isoformat() }}}}",
            "until": f"{{{{ {UNTIL}.isoformat() }}}}",
        },
        show_return_value_in_logs=False,
    )

    refund = TalkableRefundOperator(
        task_id="refund",
        origin_slug=refunded_orders.output,
        void_referral=True,
    )
