"""Whether an advocate was paid, and what: one rule for all who ask."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_talkable.protocol.rewards import KnownBy, Payment, is_late, paid_rewards, payment_of

UNPAID, PAID = {"status": "Unpaid"}, {"status": "Paid"}


@pytest.mark.parametrize(
    ("referral", "payment"),
    [
        ({"status": "pending", "ad_rewarded": True, "advocate_rewards": [UNPAID]}, (False, KnownBy.STATUS)),
        ({"status": "pending", "ad_rewarded": True}, (False, KnownBy.STATUS)),
        ({"status": "flagged", "ad_rewarded": True}, (False, KnownBy.STATUS)),
        ({"status": "voided", "ad_rewarded": True}, (False, KnownBy.STATUS)),
        ({"status": "approved", "advocate_rewards": [UNPAID]}, (False, KnownBy.REWARDS)),
        ({"status": "approved", "ad_rewarded": True, "advocate_rewards": [UNPAID]}, (False, KnownBy.REWARDS)),
        ({"status": "approved", "ad_rewarded": False, "advocate_rewards": [PAID]}, (True, KnownBy.REWARDS)),
        ({"status": "approved", "advocate_rewards": [UNPAID, PAID]}, (True, KnownBy.REWARDS)),
        ({"status": "approved", "ad_rewarded": True, "advocate_rewards": []}, (True, KnownBy.AD_REWARDED)),
        ({"status": "approved", "ad_rewarded": True}, (True, KnownBy.AD_REWARDED)),
        ({"status": "approved", "ad_rewarded": False}, (False, KnownBy.AD_REWARDED)),
        ({"status": "approved"}, (True, KnownBy.STATUS)),
        ({"ad_rewarded": True}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_whether_the_advocate_was_paid_and_how_that_is_known(referral: Any, payment: Any) -> None:
    assert payment_of(referral) == Payment(*payment)


@pytest.mark.parametrize("paid", [True, False, None])
def test_only_a_whole_refund_is_late(paid: bool | None) -> None:
    assert is_late(is_whole=True, paid=paid) is paid
    assert is_late(is_whole=False, paid=paid) is False


def coupon(amount: object, *, percentage: object = False, used: object = True, status: str = "Paid") -> Any:
    held = {"amount": amount, "percentage_discount": percentage, "used": used}
    return {"incentive_type": "discount_coupon", "amount": amount, "coupon": held, "status": status}


@pytest.mark.parametrize(
    ("rewards", "money", "others", "revocable"),
    [
        ([coupon(10), coupon("2.50"), coupon(0.1), coupon(100, status="Unpaid")], "12.6", {}, 0),
        ([coupon(20, percentage=True)], "0", {"percentage": 1}, 0),
        ([coupon(20, percentage=True, used=False)], "0", {"percentage": 1}, 1),
        ([coupon(5, used=False), coupon(5, used=None)], "10", {}, 1),
        ([{"incentive_type": "rebate", "amount": 3, "status": "paid"}], "3", {}, 0),
        ([{"incentive_type": "other", "amount": 900, "status": "Paid"}], "0", {"other": 1}, 0),
        (
            [{"incentive_type": "discount_coupon", "amount": 9, "status": "Paid"}],
            "0",
            {"discount_coupon": 1},
            0,
        ),
        ([coupon(None), coupon("ten"), coupon("NaN"), coupon(True), "x", {}], "0", {"discount_coupon": 4}, 0),
        (None, "0", {}, 0),
    ],
)
def test_what_was_paid(rewards: Any, money: str, others: dict[str, int], revocable: int) -> None:
    paid = paid_rewards({"advocate_rewards": rewards, "friend_rewards": [coupon(7), coupon(9, percentage=1)]})
    assert (paid.money, paid.others, paid.revocable) == (Decimal(money), others, revocable)
    assert paid.friend_money == 7
