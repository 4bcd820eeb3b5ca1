"""The first sync: preview the refunds of the last three days, then send them.

The README shows it. ``python -m airflow_provider_talkable sandbox --demo`` writes it into a folder, with
refunds to sync.
"""

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

WINDOW = "{{ ((dag_run.data_interval_end or dag_run.run_after) - macros.timedelta(days=3)).isoformat() }}"

with DAG(
    "example_talkable_first_sync",
    schedule="@hourly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
):
    SqlToTalkableRefundOperator(
        task_id="sync_refunds",
        sql_conn_id="shop_warehouse",
        sql="""
            SELECT refund_id AS refund_key, order_number, refunded_at, refund_subtotal
            FROM refunds
            WHERE refunded_at >= :since
            ORDER BY refunded_at
        """,
        parameters={"since": WINDOW},
        ignore=("not_found",),  # orders that Talkable never saw
        void_referral=True,
        preview=True,  # sends nothing, writes nothing; remove it to send
    )
