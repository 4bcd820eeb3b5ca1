"""Referrals as the sandbox holds them, with what advocate and friend got."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

Json = dict[str, Any]

REFERRAL_STATUSES = ("pending", "flagged", "approved", "voided", "blocked")
FINAL = frozenset({"approved", "voided"})
REWARD_KINDS = ("coupon", "percentage", "rebate", "other")


@dataclass(slots=True)
class Referral:
    """A referral: an advocate brought a friend, who placed the referred origin.

    :param ad_rewarded: Whether the advocate has a reward, which is paid once the referral is approved.
    :param reward_kind: ``coupon`` of an amount, ``percentage`` coupon, ``rebate`` or ``other``.
    :param reward_amount: Of the advocate's reward.
    :param coupon_used: Whether the advocate has used the coupon.
    :param friend_reward_amount: Of the friend's coupon; ``None``: the friend got none.
    """

    id: int
    status: str
    ad_rewarded: bool
    advocate_person: Json
    friend_person: Json
    campaign_id: int
    offer_id: int
    referred_origin_id: int
    referred_subtotal: float | None
    qa_generated: bool
    track_method: str
    created_at: str
    updated_at: str
    reward_kind: str = "coupon"
    reward_amount: float = 10.0
    coupon_used: bool = False
    friend_reward_amount: float | None = 5.0

    _NOT_SHOWN: ClassVar[frozenset[str]] = frozenset(
        {"reward_kind", "reward_amount", "coupon_used", "friend_reward_amount"}
    )

    def set_status(self, status: str, at: str) -> None:
        """Change its status: approved rewards the advocate, voided takes the reward back."""
        self.status, self.updated_at = status, at
        if status in FINAL:
            self.ad_rewarded = status == "approved"

    def as_json(self) -> Json:
        """As a refund of the seed's generation is answered."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name not in self._NOT_SHOWN}
        for role in ("advocate_person", "friend_person"):
            shown[role] = {name: value for name, value in shown[role].items() if name != "phone_number"}
        return shown

    def as_full_json(self) -> Json:
        """As a change of its status and ``referrals_as_friend`` show it, with rewards and fraud checks."""
        friend = self.friend_reward_amount
        return self.as_json() | {
            "advocate_person": self.advocate_person,
            "friend_person": self.friend_person,
            "advocate_rewards": [self._reward("Referral", 1)] if self.ad_rewarded else [],
            "friend_rewards": []
            if friend is None
            else [_coupon(self._shown_reward("Claimed", 2, friend), False)],
            "fraud_details": [],
            "fraud_policies_status": "approved" if self.status != "flagged" else "flagged",
        }

    def _reward(self, reason: str, number: int) -> Json:
        reward = self._shown_reward(reason, number, self.reward_amount)
        if self.reward_kind in ("rebate", "other"):
            return reward | {"incentive_type": self.reward_kind, "incentive_description": self.reward_kind}
        return _coupon(reward, self.reward_kind == "percentage", used=self.coupon_used)

    def _shown_reward(self, reason: str, number: int, amount: float) -> Json:
        return {
            "id": self.id * 10 + number,
            "reason": reason,
            "amount": amount,
            "status": "Paid" if self.status == "approved" else "Unpaid",
            "coupon": None,
            "coupon_code": None,
            "incentive_type": "discount_coupon",
            "incentive_description": "",
        }


def _coupon(reward: Json, percentage: bool, *, used: bool = False) -> Json:
    code = f"COUPON-{reward['id']}"
    what = f"{reward['amount']:g}% off" if percentage else f"{reward['amount']:.2f} off"
    coupon = {
        "amount": reward["amount"],
        "code": code,
        "percentage_discount": percentage,
        "used": used,
        "expires_at": None,
    }
    return reward | {"coupon": coupon, "coupon_code": code, "incentive_description": what}
