"""Each day, tell Talkable of all refunds that the warehouse has learned of lately.

The window reaches back three days from the end of the data interval, so that a refund which was loaded
late, or a day on which nothing ran, is covered by the next run: what the ledger says is settled is not
sent again. A refund that Talkable has no order for does not fail the task.

``void_referral`` voids the referral of each order that was refunded in whole, as Talkable advises, and tells
which advocates had been paid already.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG, Asset

from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

END = "dag_run.data_interval_end or dag_run.run_after"

with DAG(
    "example_talkable_sync",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    # Two runs at once would look into the ledger at the same time.
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
    tags=["talkable"],
):
    SqlToTalkableRefundOperator(
        task_id="sync_refunds",
        sql_conn_id="shop_warehouse",
        sql="""
            SELECT refund_id AS refund_key, order_number, refunded_at, refund_subtotal
            FROM refunds
            WHERE refunded_at >= :since AND refunded_at < :until AND site_slug = 'my-store'
            ORDER BY refunded_at
        """,
        parameters={
            "since": "{{ ((" + END + ") - macros.timedelta(days=3)).isoformat() }}",
            "until": "{{ (" + END + ").isoformat() }}",
        },
        void_referral=True,
        deferrable=True,
        outlets=[Asset("talkable://my-store/refunds")],
    )
