"""Sync the refunds of several Talkable sites, each in a task instance of its own.

A limit of Talkable's holds for one site, so sites do not slow each other down. The pool caps how many of
them run at a time: ``airflow pools set talkable 2 "Syncs to Talkable"``.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

SITES = ["my-store", "my-store-ca", "my-store-de", "my-store-uk"]

with DAG(
    "example_talkable_sync_sites",
    schedule="@hourly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
    tags=["talkable"],
):
    SqlToTalkableRefundOperator.partial(
        task_id="sync_refunds",
        sql_conn_id="shop_warehouse",
        sql="""
            SELECT refund_id AS refund_key, order_number, refunded_at, refund_subtotal
            FROM refunds
            WHERE site_slug = :site
            ORDER BY refunded_at
        """,
        parameters={"site": "{{ task.site_slug }}"},
        void_referral=True,
        pool="talkable",
    ).expand(site_slug=SITES)
