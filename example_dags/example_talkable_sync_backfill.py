"""Tell Talkable of the refunds of any period, on demand, without hurrying the web shop's own traffic.

Trigger it with the period as parameters. It begins as a preview, which sends nothing and lists what would
be sent; set ``preview`` to false to send. A run that is stopped or fails goes on where the ledger ends.
"""

from __future__ import annotations

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

with DAG(
    "example_talkable_sync_backfill",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    max_active_runs=1,
    params={
        "since": Param(
            "2026-01-01", type="string", format="date", description="The first day whose refunds are sent"
        ),
        "until": Param(
            "2026-02-01", type="string", format="date", description="The day after the last; it is not sent"
        ),
        "preview": Param(True, type="boolean", description="Send nothing, list what would be sent"),
        "resend": Param(
            [],
            type=["null", "array"],
            examples=["conflict", "not_counted", "not_found", "rejected"],
            description="Outcomes to try again although the ledger calls them settled",
        ),
        "resend_keys": Param(
            [], type=["null", "array"], description="Keys of refunds to send again, looked up in Talkable"
        ),
    },
    doc_md=__doc__,
    tags=["talkable"],
):
    SqlToTalkableRefundOperator(
        task_id="sync_refunds",
        sql_conn_id="shop_warehouse",
        sql="""
            SELECT refund_id AS refund_key, order_number, refunded_at, refund_subtotal, site_slug
            FROM refunds
            WHERE refunded_at >= :since AND refunded_at < :until
            ORDER BY refunded_at
        """,
        parameters={"since": "{{ params.since }}", "until": "{{ params.until }}"},
        preview="{{ params.preview }}",
        resend_keys="{{ params.resend_keys or [] }}",
        resend="{{ params.resend or [] }}",
        void_referral=True,
        max_rate=20,
        max_failure_ratio=0.05,
    )
