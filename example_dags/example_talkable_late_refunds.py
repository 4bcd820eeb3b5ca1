"""Each day: which refunds were late, and what did they cost us?

First the refunds of the last days are synced, and their referrals voided. Then those of the last thirty days
are compared with the ledger and with Talkable itself: a refund that never arrived, was changed since, or
whose advocate was rewarded all the same becomes a row of ``talkable_refund_discrepancies``. The task
fails if advocates of refunded orders were paid more than 100 in any currency.

Talkable shows a referral only among those of its friend, the person who bought, and gives rewards
without a currency: the query brings both.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_talkable.operators.reconcile import TalkableRefundReconcileOperator
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

# A run that is started by hand, by the REST API or by an asset has no data interval in Airflow 3.
END = "(dag_run.data_interval_end or dag_run.run_after)"


def window(days: int) -> dict[str, str]:
    """So many days up to the end of the data interval."""
    return {
        "since": f"{{{{ ({END} - macros.timedelta(days={days})).isoformat() }}}}",
        "until": f"{{{{ {END}.isoformat() }}}}",
    }


with DAG(
    "example_talkable_late_refunds",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    # Two runs at once would look into the ledger at the same time.
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
    tags=["talkable"],
):
    sync = SqlToTalkableRefundOperator(
        task_id="sync_refunds",
        sql_conn_id="shop_warehouse",
        sql="""
            SELECT refund_id AS refund_key, order_number, refunded_at, refund_subtotal
            FROM refunds
            WHERE refunded_at >= :since AND refunded_at < :until AND site_slug = 'my-store'
            ORDER BY refunded_at
        """,
        parameters=window(days=3),
        void_referral=True,
    )

    reconcile = TalkableRefundReconcileOperator(
        task_id="reconcile",
        sql_conn_id="shop_warehouse",
        sql="""
            SELECT r.refund_id AS refund_key, r.order_number, r.refunded_at, r.refund_subtotal,
                   o.email, o.currency
            FROM refunds r LEFT JOIN orders o ON o.order_number = r.order_number
            WHERE r.refunded_at >= :since AND r.refunded_at < :until AND r.site_slug = 'my-store'
        """,
        parameters=window(days=30),
        ask_talkable=True,
        max_discrepancies=None,
        max_rewards=100,
    )

    sync >> reconcile
