"""One Airflow for all tests of the scheduler, and the DAGs in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

from tests.airflow.deployment import Deployment
from tests.airflow.four_sites import SYNC_ARGUMENTS, is_at_rest

DAGS = (
    SYNC_ARGUMENTS
    + """
from datetime import datetime, timedelta
from airflow.providers.common.compat.sdk import DAG, Asset
from airflow_provider_talkable.operators.reconcile import TalkableRefundReconcileOperator
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.sensors.referral import TalkableReferralSensor
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

with DAG("sites", schedule=None):
    SqlToTalkableRefundOperator.partial(
        **refunds, parameters={"site": "{{ task.site_slug }}"}, pool="talkable"
    ).expand(site_slug=["ca", "de", "uk", "us"])

with DAG("deferred", schedule=None):
    SqlToTalkableRefundOperator(
        **refunds,
        parameters={"site": "de"},
        site_slug="de",
        deferrable=True,
        throttle_patience=2,
        max_in_flight=2,
        outlets=[Asset("talkable://de/refunds")],
    )

with DAG("previewed", schedule=None):
    SqlToTalkableRefundOperator(
        **refunds,
        parameters={"site": "de"},
        site_slug="de",
        preview=True,
        outlets=[Asset("talkable://de/refunds")],
    )

with DAG("after", schedule=[Asset("talkable://de/refunds")], start_date=datetime(2026, 1, 1)):
    TalkableRefundReconcileOperator(
        task_id="reconcile",
        sql_conn_id="shop",
        sql="SELECT refund_key, order_number, refund_subtotal FROM refunds WHERE site = 'de'",
        site_slug="de",
        max_discrepancies=None,
    )

with DAG("parts", schedule=None):
    TalkableRefundOperator(
        task_id="refund",
        refunds=[{"order_number": "de-1", "refund_subtotal": 12.5}],
        site_slug="de",
        ignore="unconfirmed",
    )

try:
    from airflow_provider_talkable.policies.retry import TalkableRetryPolicy
except ImportError:
    pass
else:
    for conn_id in ("talkable_default", "refused"):
        with DAG(conn_id, schedule=None):
            SqlToTalkableRefundOperator(
                **refunds,
                talkable_conn_id=conn_id,
                parameters={"site": "de"},
                site_slug="de",
                throttle_patience=0,
                max_in_flight=1,
                retries=2,
                retry_delay=timedelta(hours=1),
                retry_policy=TalkableRetryPolicy(),
            )

with DAG("waiting", schedule=None):
    TalkableReferralSensor(
        task_id="wait",
        person="jane@example.com",
        statuses=["voided"],
        site_slug="de",
        poke_interval=1,
        timeout=600,
        deferrable=True,
    )
"""
)


@dataclass
class Shared:
    """One Airflow for all tests, and another one once a test has left tasks under way."""

    start: Callable[[], AbstractContextManager[Deployment]]
    stack: ExitStack = field(default_factory=ExitStack)
    deployment: Deployment | None = None

    def get(self) -> Deployment:
        if self.deployment is not None and not is_at_rest(self.deployment):
            self.close()
        if self.deployment is None:
            self.deployment = self.stack.enter_context(self.start())
        return self.deployment

    def close(self) -> None:
        self.deployment = None
        self.stack.close()
