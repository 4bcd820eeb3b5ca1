"""Refund each order in a task instance of its own, in full or in part.

A mapped task shows each refund in Airflow's grid and retries it by itself. That suits tens of refunds a
run, not thousands: each costs a task instance. The ledger remembers what was sent, whichever task instance
sent it: a refund is sent once, also after clearing and where the upstream task returns other rows than
before.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, BaseHook, task

from airflow_provider_talkable.operators.refund import TalkableRefundOperator

with DAG(
    "example_talkable_refunds_mapped",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
    tags=["talkable"],
):

    @task
    def latest_refunds() -> list[dict[str, Any]]:
        """The last five refunds, as rows by column name; an amount makes a refund partial."""
        columns = ("refund_key", "order_number", "refunded_at", "refund_subtotal")
        rows = BaseHook.get_hook("shop_warehouse").get_records(
            "SELECT refund_id, order_number, refunded_at, refund_subtotal FROM refunds"
            " WHERE site_slug = 'my-store' ORDER BY refunded_at DESC LIMIT 5"
        )
        return [dict(zip(columns, row, strict=True)) for row in rows]

    TalkableRefundOperator.partial(
        task_id="refund",
        ledger_conn_id="shop_warehouse",
        void_referral=True,
        max_active_tis_per_dag=4,
    ).expand(refunds=latest_refunds())
