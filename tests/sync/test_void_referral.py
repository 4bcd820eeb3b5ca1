"""A whole refund's referral is voided, whatever state it was in; the refund stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import Refund, RefundResult
from airflow_provider_talkable.client.concurrent import Sender
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox import Canned, Dripped, Sandbox
from airflow_provider_talkable.sandbox.talkable import Generation
from tests.conftest import KEY, Sandboxes
from tests.network import wait_until
from tests.shop import Shop

ONE_BY_ONE = Pace(max_in_flight=1, initial_rate=None)


@pytest.fixture(params=list(Generation))
def shop(
    request: pytest.FixtureRequest, tmp_path: Path, engines: Callable[[URL], Engine], sandboxes: Sandboxes
) -> Shop:
    url = URL.create("sqlite", database=str(tmp_path / "shop.sqlite"))
    return Shop(engines(url), sandboxes(generation=request.param))


def asked(sandbox: Sandbox) -> list[str]:
    return [request["path"].rsplit("/", 1)[1].split("?")[0] for request in sandbox.requests]


def outcome(shop: Shop) -> tuple[Any, ...]:
    entry = shop.ledger()[-1]
    return entry["event"], entry["void_outcome"], entry["referral_status"], entry["reward_paid"]


@pytest.mark.parametrize("status", ["pending", "flagged", "blocked", "voided"])
def test_what_can_be_voided_is(shop: Shop, status: str) -> None:
    shop.order("A", referral={"status": status, "ad_rewarded": status != "voided"})
    shop.refund("A")
    summary = shop.sync(void_referral=True)
    assert outcome(shop) == ("refunded", "updated", "voided", 0)
    assert summary.voids == {"updated": 1}
    assert (summary.rewarded, summary.referral_unknown) == (0, 0)
    assert shop.sandbox.talkable.snapshot()["my-store"]["A"]["referral"]["status"] == "voided"
    assert "referrals_as_friend" not in asked(shop.sandbox)


def test_what_was_approved_is_too_late(shop: Shop) -> None:
    shop.order("A", referral={"status": "approved", "ad_rewarded": True})
    shop.refund("A")
    summary = shop.sync(void_referral=True)
    assert outcome(shop) == ("refunded", "conflict", "approved", 1)
    assert (summary.rewarded, summary.voids) == (1, {"conflict": 1})
    assert "referrals_as_friend" not in asked(shop.sandbox)


def test_an_order_of_no_referral_is_fine(shop: Shop) -> None:
    shop.order("A", referral=None)
    shop.refund("A")
    assert shop.sync(void_referral=True).voids == {"no_referral": 1}
    assert outcome(shop) == ("refunded", "no_referral", None, 0)


def test_a_part_voids_nothing(shop: Shop) -> None:
    shop.order("A")
    shop.refund(("a", "A", None, 20))
    assert shop.sync(void_referral=True).voids == {}
    assert asked(shop.sandbox) == ["refund"]


def test_what_talkable_had_already_is_voided_too(shop: Shop) -> None:
    shop.order("A", referral={"status": "flagged", "ad_rewarded": True})
    shop.sandbox.talkable.refund("my-store", "A", {})
    shop.refund("A")
    shop.sync(void_referral=True)
    assert outcome(shop)[:3] == ("already_refunded", "updated", "voided")


def test_throttling_and_failures_are_waited_out(shop: Shop) -> None:
    shop.order("A", referral={"status": "flagged", "ad_rewarded": True})
    shop.refund("A")
    shop.sandbox.dials.next(None, Canned(429, headers={"Retry-After": "0"}), Canned(502))
    summary = shop.sync(void_referral=True)
    assert outcome(shop)[:2] == ("refunded", "updated")
    assert (summary.requests, summary.lookups, summary.throttled_requests) == (1, 3, 1)


@pytest.mark.parametrize(
    ("answer", "word", "is_tried_again"),
    [
        (Canned(502), "failed", True),
        (Canned(429, headers={"Retry-After": "900"}), "throttled", True),
        (Canned(403, b'{"ok": false, "error_message": "Access denied"}'), "aborted", True),
        (Canned(401, b'{"ok": false, "error_message": "Invalid API key"}'), "aborted", True),
        (Canned(422, b'{"ok": false, "error_message": "No"}'), "rejected", False),
    ],
)
def test_what_goes_wrong_changes_nothing_about_the_refund(
    shop: Shop, answer: Canned, word: str, is_tried_again: bool
) -> None:
    shop.order("A", "B", referral={"status": "flagged", "ad_rewarded": True})
    shop.refund("A", "B")
    # A 401 is asked about by the other scheme as well.
    shop.sandbox.dials.next(None, *[answer] * (2 if answer.status == 401 else 1))
    policy = RetryPolicy(max_attempts=1, throttle_patience=1)
    summary = shop.sync(void_referral=True, pace=ONE_BY_ONE, policy=policy)
    assert summary.outcomes.total() == 2
    assert {
        e["void_outcome"] for e in shop.ledger() if (e["refund_key"], e["event"]) == ("A", "refunded")
    } == {word}
    again = shop.sync(void_referral=True)
    assert ("A" in again.as_dict()["failures"]) is False
    if is_tried_again:
        assert again.voids["updated"] >= 1
        assert shop.ledger()[-1]["referral_status"] == "voided"
    else:
        assert again.skipped == 2
    assert shop.sync(void_referral=True).skipped == 2


def test_without_it_nothing_is_voided(shop: Shop) -> None:
    shop.order("A", referral={"status": "flagged", "ad_rewarded": True})
    shop.refund("A")
    assert shop.sync().voids == {}
    assert asked(shop.sandbox) == ["refund"]


def test_what_is_stopped_while_it_voids_is_aborted(shop: Shop) -> None:
    shop.order("A", "B", referral={"status": "flagged", "ad_rewarded": True})
    shop.sandbox.dials.next(None, Dripped())
    config = ClientConfig.parse(host=shop.sandbox.url, api_key=KEY)
    refunds = [Refund("my-store", slug) for slug in "AB"]
    operation = RefundOperation(void_referral=True)
    with Sender[str, Refund, RefundResult](config, RetryPolicy(), ONE_BY_ONE, operation) as sender:
        sender.put((refund.origin_slug, refund) for refund in refunds)
        wait_until(lambda: asked(shop.sandbox) == ["refund", "referral"])
        sender.cancel()
        results = dict(sender.take(until=0))
    assert [(results[slug].outcome, results[slug].void_outcome) for slug in "AB"] == [
        ("refunded", "aborted"),
        ("aborted", None),
    ]


def test_the_ledger_keeps_what_the_advocate_of_a_late_refund_was_paid(
    shop: Shop, request: pytest.FixtureRequest
) -> None:
    for slug, kind in (("A", "rebate"), ("B", "percentage"), ("C", "rebate")):
        status = "pending" if slug == "C" else "approved"
        referral = {"status": status, "ad_rewarded": True, "reward_kind": kind, "reward_amount": 12.5}
        shop.order(slug, referral=referral, email=f"{slug}@example.com")
    shop.refund("A", "B", "C")
    summary = shop.sync(void_referral=True, fetch_referral=True)
    amounts = {entry["origin_slug"]: entry["reward_amount"] for entry in shop.ledger() if entry["attempts"]}
    tells_origin = request.node.callspec.params["shop"] is not Generation.SEED
    # A percentage is no money, and a referral that was voided in time pays nothing.
    assert amounts == {"A": 12.5 if tells_origin else None, "B": None, "C": None}
    assert (summary.rewarded, summary.voids) == (2, {"conflict": 2, "updated": 1})
    # Only what was too late is asked about.
    assert asked(shop.sandbox).count("referrals_as_friend") == (2 if tells_origin else 0)
