"""Late means paid: in the summary, the ledger and the reconciliation, over real HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.client.concurrent import Sender
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.operations import FriendOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox.talkable import Generation
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.reconcile import ReconcileSummary, Reconciliation, Report
from airflow_provider_talkable.sync.rows import REPORT_COLUMNS
from airflow_provider_talkable.sync.snapshot import Snapshot
from tests.conftest import Sandboxes
from tests.shop import Shop, connect_of

SQL = "SELECT refund_key, origin_slug, 'jane@example.com' AS email, 'EUR' AS currency FROM refunds"


@pytest.fixture(params=list(Generation))
def shop(
    request: pytest.FixtureRequest, tmp_path: Path, engines: Callable[[URL], Engine], sandboxes: Sandboxes
) -> Shop:
    url = URL.create("sqlite", database=str(tmp_path / "shop.sqlite"))
    return Shop(engines(url), sandboxes(generation=request.param))


def order(shop: Shop, *slugs: str, **referral: Any) -> None:
    shop.order(*slugs, email="jane@example.com", referral=referral)


def reconcile(shop: Shop) -> ReconcileSummary:
    ledger = Ledger(shop.engine)
    assert ledger.open(create=False)
    report = Report(shop.engine, table="discrepancies")
    report.open()
    config = ClientConfig.parse(host=shop.sandbox.url, api_key=shop.sandbox.api_key)
    with Snapshot() as snapshot:
        snapshot.fill(rows_of(connect_of(shop.engine), SQL, site_slug="my-store", more=REPORT_COLUMNS))
        asking: Any = Sender(config, RetryPolicy(), Pace(initial_rate=None), FriendOperation())
        reconciliation = Reconciliation(snapshot, ledger, report, asking)
        assert reconciliation.run() is None
    return reconciliation.summary


def kinds(summary: ReconcileSummary) -> dict[str, int]:
    return {kind.value: count for kind, count in summary.discrepancies.items()}  # type: ignore[attr-defined]


def test_a_reward_of_a_pending_referral_is_in_time(shop: Shop) -> None:
    order(shop, "A", status="pending", ad_rewarded=True)
    shop.refund("A")
    summary = shop.sync(fetch_referral=True)
    assert (summary.outcomes, summary.rewarded, summary.referral_unknown) == ({"refunded": 1}, 0, 0)
    assert shop.ledger()[-1]["reward_paid"] == 0
    assert kinds(reconcile(shop)) == {}


def test_a_referral_that_stays_flagged_or_pending_is_found_before_its_reward(shop: Shop) -> None:
    order(shop, "A", "B", status="flagged", ad_rewarded=True)
    shop.refund("A", "B")
    assert shop.sync(fetch_referral=True).rewarded == 0
    referral = shop.sandbox.talkable.sites["my-store"]["B"].referral
    assert referral is not None
    referral.status = "pending"
    summary = reconcile(shop)
    assert kinds(summary) == {"missing": 2}
    assert summary.rewards == {}


@pytest.mark.parametrize("ways", [{}, {"fetch_referral": True}, {"void_referral": True}], ids=str)
def test_twelve_late_orders_are_found_however_they_were_synced(shop: Shop, ways: dict[str, Any]) -> None:
    slugs = [f"order-{n}" for n in range(12)]
    order(shop, *slugs, status="approved", ad_rewarded=True)
    shop.refund(*slugs)
    shop.sync(**ways)
    summary = reconcile(shop)
    assert (kinds(summary), summary.unknown) == ({"rewarded": 12}, 0)
    assert summary.rewards == {"EUR": 120}


def test_what_the_ledger_cannot_tell_counts_as_unknown(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(12)]
    order(shop, *slugs, status="approved", ad_rewarded=True)
    shop.refund(*slugs)
    shop.sync()
    with shop.engine.begin() as connection:
        # As older entries are, from an API that names no referral.
        connection.exec_driver_sql(
            "UPDATE talkable_refund_ledger SET origin_id = NULL, referral_id = NULL, reward_known_by = NULL,"
            " reward_paid = NULL, ad_rewarded = NULL"
        )
    summary = reconcile(shop)
    assert (kinds(summary), summary.unknown) == ({}, 12)


def test_only_money_is_added_up(shop: Shop) -> None:
    late: dict[str, Any] = {"status": "approved", "ad_rewarded": True}
    order(shop, "coupon", **late, reward_kind="coupon", reward_amount=12.5, coupon_used=True)
    order(shop, "unused", **late, reward_kind="coupon", reward_amount=7.5, friend_reward_amount=None)
    order(shop, "percentage", **late, reward_kind="percentage", reward_amount=20)
    order(shop, "rebate", **late, reward_kind="rebate", reward_amount=3)
    order(shop, "other", **late, reward_kind="other", reward_amount=1000)
    shop.refund("coupon", "unused", "percentage", "rebate", "other")
    assert shop.sync(fetch_referral=True).rewarded == 5
    summary = reconcile(shop)
    assert summary.rewards == {"EUR": 23}
    assert summary.other_rewards == {"percentage": 1, "other": 1}
    assert summary.revocable == 2
    assert summary.friend_rewards == {"EUR": 20}
