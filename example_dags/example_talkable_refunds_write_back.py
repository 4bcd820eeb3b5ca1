"""Refund what was refunded during the last day, and write what happened to it back to the warehouse.

The results are written whether or not the refunds succeeded: they say which orders to look into, and
for which of them the advocate had been rewarded before the refund arrived.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, BaseHook, XComArg, task

from airflow_provider_talkable.operators.refund import TalkableRefundOperator

with DAG(
    "example_talkable_refunds_write_back",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
    tags=["talkable"],
):

    @task
    def refunds_of_the_last_day(**context: Any) -> list[dict[str, Any]]:
        """Rows by column name; an amount makes a refund partial, which needs its own id as its key."""
        dag_run = context["dag_run"]
        # A run that is started by hand, by the REST API or by an asset has no data interval in Airflow 3.
        until = dag_run.data_interval_end or dag_run.run_after
        since = until - timedelta(days=1)
        columns = ("refund_key", "order_number", "refunded_at", "refund_subtotal")
        rows = BaseHook.get_hook("shop_warehouse").get_records(
            "SELECT refund_id, order_number, refunded_at, refund_subtotal FROM refunds"
            " WHERE site_slug = 'my-store' AND refunded_at >= :since AND refunded_at < :until"
            " ORDER BY refunded_at",
            parameters={"since": since.isoformat(), "until": until.isoformat()},
        )
        return [dict(zip(columns, row, strict=True)) for row in rows]

    refund = TalkableRefundOperator(
        task_id="refund",
        refunds=refunds_of_the_last_day(),
        # Where parts of orders are sent, the ledger remembers which were.
        ledger_conn_id="shop_warehouse",
        void_referral=True,
        redact_people=True,
    )

    @task(trigger_rule="all_done")
    def write_back(results: Any) -> None:
        """One row for each refund."""
        warehouse = BaseHook.get_hook("shop_warehouse")
        warehouse.run(
            "CREATE TABLE IF NOT EXISTS talkable_refunds (order_number TEXT, outcome TEXT,"
            " referral_status TEXT, came_too_late INTEGER, error_message TEXT)"
        )
        rows = [
            (
                result["origin_slug"],
                result["outcome"],
                referral.get("status"),
                # As a number: not every driver knows booleans.
                None if result["late"] is None else int(result["late"]),
                result["error_message"],
            )
            for result in results
            for referral in [result["referral"] or {}]
        ]
        warehouse.insert_rows("talkable_refunds", rows)

    # Not the return value: a task that fails has none.
    write_back(XComArg(refund, key="results"))
