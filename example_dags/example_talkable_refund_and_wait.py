"""Refund one order, and wait until its referral is settled.

Run it by hand with the order's number. ``fetch_referral`` has the refund come back with its referral,
whichever generation of Talkable's API answers; it names the friend and the order to wait for. An order of
no referral, or one that was refunded before, comes back without: then there is nothing to wait for. The
sensor releases the worker slot while it waits.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.sensors.referral import TalkableReferralSensor

REFERRAL = "ti.xcom_pull(task_ids='refund')['referral']"

with DAG(
    "example_talkable_refund_and_wait",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"order_number": Param("B00K2EOONI", type="string", description="The order to refund")},
    doc_md=__doc__,
    tags=["talkable"],
):
    refund = TalkableRefundOperator(
        task_id="refund", origin_slug="{{ params.order_number }}", fetch_referral=True
    )

    @task.short_circuit
    def has_referral(result: Any) -> bool:
        """Skip the rest if there is nothing to wait for."""
        return bool(result["referral"])

    wait = TalkableReferralSensor(
        task_id="wait",
        person=f"{{{{ {REFERRAL}['friend_person']['email'] }}}}",
        origin_id=f"{{{{ {REFERRAL}['referred_origin_id'] }}}}",
        statuses=["voided", "approved"],
        poke_interval=300,
        timeout=3 * 24 * 3600,
        deferrable=True,
    )
    has_referral(refund.output) >> wait
