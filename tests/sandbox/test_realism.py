"""What the sandbox shows is what Talkable's published examples show."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import requests

from airflow_provider_talkable.sandbox import Dials, Refusal, Sandbox, Talkable
from airflow_provider_talkable.sandbox.talkable import SecondRefund
from tests.conftest import KEY, Sandboxes


def call(sandbox: Sandbox, method: str, path: str, json: object = None) -> Any:
    return requests.request(method, f"{sandbox.url}/api/v2{path}", json=json, auth=(KEY, ""), timeout=5)


def order(sandbox: Sandbox, slug: str = "A", **data: object) -> Any:
    return sandbox.talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100} | data)[
        "origin"
    ]


def put(sandbox: Sandbox, status: str) -> Any:
    body = {"site_slug": "my-store", "data": {"status": status}}
    return call(sandbox, "PUT", "/origins/A/referral", body).json()["result"]["referral"]


def test_a_pending_referral_has_a_reward_that_is_not_paid(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    order(sandbox, email="jane@example.com", phone_number="+15551234567")
    [referral] = sandbox.talkable.referrals_as_friend("my-store", "jane@example.com")["referrals"]
    assert (referral["status"], referral["ad_rewarded"]) == ("pending", True)
    assert [reward["status"] for reward in referral["advocate_rewards"]] == ["Unpaid"]
    assert referral["friend_rewards"][0]["coupon"]["amount"] == 5
    assert referral["friend_person"]["phone_number"] == "+15551234567"
    assert referral["fraud_details"] == []
    approved = put(sandbox, "approved")
    assert (approved["ad_rewarded"], approved["advocate_rewards"][0]["status"]) == (True, "Paid")


def test_a_voided_referral_has_no_reward(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    order(sandbox)
    voided = put(sandbox, "voided")
    assert (voided["ad_rewarded"], voided["advocate_rewards"]) == (False, [])


@pytest.mark.parametrize(
    ("kind", "incentive_type", "percentage"),
    [
        ("coupon", "discount_coupon", False),
        ("percentage", "discount_coupon", True),
        ("rebate", "rebate", None),
        ("other", "other", None),
    ],
)
def test_rewards_of_every_kind(
    sandboxes: Sandboxes, kind: str, incentive_type: str, percentage: bool | None
) -> None:
    sandbox = sandboxes()
    order(sandbox, referral={"reward_kind": kind, "coupon_used": True})
    [reward] = put(sandbox, "flagged")["advocate_rewards"]
    assert reward["incentive_type"] == incentive_type
    if percentage is None:
        assert reward["coupon"] is None
    else:
        assert (reward["coupon"]["percentage_discount"], reward["coupon"]["used"]) == (percentage, True)
        assert reward["coupon"]["code"] == reward["coupon_code"]


def test_the_refunded_amount_is_null_before_a_refund(sandboxes: Sandboxes) -> None:
    assert order(sandboxes())["refund_subtotal"] is None


@pytest.mark.parametrize(
    ("second", "amounts", "held"),
    [
        (SecondRefund.ADD, [30, 20], (50.0, True)),
        (SecondRefund.ADD, [30, 70], (100.0, False)),
        (SecondRefund.ADD, [0.1, 0.2], (0.3, True)),
        (SecondRefund.ADD, [30, None], (100.0, False)),
        (SecondRefund.REPLACE, [30, 20], (20.0, True)),
        (SecondRefund.REPLACE, [30, None], (100.0, False)),
        (SecondRefund.REFUSE, [30, 20], (30.0, True)),
        (SecondRefund.REFUSE, [30, None], (30.0, True)),
    ],
)
def test_a_second_refund_is_added_replaces_or_is_refused(
    second: SecondRefund, amounts: list[float | None], held: tuple[float, bool]
) -> None:
    talkable = Talkable(second_refund=second)
    talkable.create_purchase("my-store", {"order_number": "A", "subtotal": 100})
    refused = 0
    for amount in amounts:
        try:
            talkable.refund("my-store", "A", {"refund_subtotal": amount})
        except Refusal:
            refused += 1
    assert refused == (second is SecondRefund.REFUSE)
    origin = talkable.snapshot()["my-store"]["A"]
    assert (origin["refund_subtotal"], origin["partially_refunded"]) == held


def test_equal_purchases_are_accepted_and_others_refused(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    first, second = order(sandbox), order(sandbox)
    assert first == second
    with pytest.raises(Refusal, match="duplicate entity"):
        order(sandbox, subtotal=99)
    assert len(sandbox.talkable.referrals_as_friend("my-store", first["email"])["referrals"]) == 1


@pytest.mark.parametrize("person", ["Jane@example.com", "+15551234567", "C-42", "jane"])
def test_a_person_goes_by_every_kind_of_slug(sandboxes: Sandboxes, person: str) -> None:
    sandbox = sandboxes()
    order(sandbox, email="jane@example.com", phone_number="+15551234567", customer_id="C-42", username="jane")
    slug = quote(person, safe="")
    answer = call(sandbox, "GET", f"/people/{slug}/referrals_as_friend?site_slug=my-store")
    assert len(answer.json()["result"]["referrals"]) == 1


def test_origins_are_made_as_talkables_ruby_client_makes_them(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    for kind, data in (
        ("Purchase", {"order_number": "A", "subtotal": 100}),
        ("Event", {"event_category": "newsletter", "event_number": "42"}),
    ):
        answer = call(sandbox, "POST", "/origins", {"site_slug": "my-store", "type": kind, "data": data})
        assert answer.status_code == 201
        assert answer.json()["result"]["origin"]["type"] == kind
    assert set(sandbox.talkable.sites["my-store"]) == {"A", "newsletter:42"}
    refused = call(sandbox, "POST", "/origins", {"site_slug": "my-store", "type": "X"})
    assert (refused.status_code, refused.json()["error_message"]) == (
        400,
        "type is not one of: Purchase, Event",
    )


def test_a_firewall_and_a_gateway_answer_in_talkables_place(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(dials=Dials(blocked=("DROP TABLE",)))
    blocked = call(sandbox, "POST", "/origins/DROP%20TABLE/refund", {"site_slug": "my-store"})
    assert (blocked.status_code, blocked.headers["Server"]) == (403, "firewall")
    assert call(sandbox, "GET", "/campaigns?site_slug=my-store").status_code == 200
    sandbox.dials = Dials(unrouted=1)
    unrouted = call(sandbox, "GET", "/campaigns?site_slug=my-store")
    assert (unrouted.status_code, unrouted.json()) == (404, {"message": "no Route matched"})


def test_a_reward_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(Refusal, match="reward_kind is not one of: coupon, percentage"):
        Talkable().create_purchase("my-store", {"order_number": "A", "referral": {"reward_kind": "cash"}})
