"""Void and approve referrals, for a site whose referrals are approved by hand.

Such a site rewards nobody until it says so. Each day the referrals of orders that were refunded in whole
are voided, and those of orders whose thirty days for returning them have passed are approved. Orders
need not be filtered: one that belongs to no referral is ``no_referral``, which is a success. An order that
Talkable never saw does not fail the task either.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_provider_talkable.operators.referral import TalkableReferralOperator

# A run that is started by hand, by the REST API or by an asset has no data interval in Airflow 3.
END = "(dag_run.data_interval_end or dag_run.run_after)"

with DAG(
    "example_talkable_manual_approval",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
    tags=["talkable"],
):
    refunded = SQLExecuteQueryOperator(
        task_id="refunded",
        conn_id="shop_warehouse",
        sql="""
            SELECT order_number FROM refunds
            WHERE refunded_at >= :since AND refunded_at < :until
              AND refund_subtotal IS NULL AND site_slug = 'my-store'
            ORDER BY refunded_at
        """,
        parameters={
            "since": f"{{{{ ({END} - macros.timedelta(days=1)).isoformat() }}}}",
            "until": f"{{{{ {END}.isoformat() }}}}",
        },
        show_return_value_in_logs=False,
    )
    void = TalkableReferralOperator(
        task_id="void", origin_slug=refunded.output, status="voided", redact_people=True
    )

    kept = SQLExecuteQueryOperator(
        task_id="kept",
        conn_id="shop_warehouse",
        sql="""
            SELECT order_number FROM orders o
            WHERE ordered_at >= :since AND ordered_at < :until
              AND NOT EXISTS (SELECT 1 FROM refunds r WHERE r.order_number = o.order_number)
            ORDER BY ordered_at
        """,
        parameters={
            "since": f"{{{{ ({END} - macros.timedelta(days=31)).isoformat() }}}}",
            "until": f"{{{{ ({END} - macros.timedelta(days=30)).isoformat() }}}}",
        },
        show_return_value_in_logs=False,
    )
    approve = TalkableReferralOperator(
        task_id="approve", origin_slug=kept.output, status="approved", redact_people=True
    )
