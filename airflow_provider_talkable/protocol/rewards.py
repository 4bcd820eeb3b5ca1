"""Whether an advocate was paid, what they were paid, and whether a refund was too late for that.

Facts from Talkable's API v2 documentation, "Referrals" and "Advocate rewards".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

JsonObject = dict[str, Any]

_APPROVED = "approved"
_PAID = "paid"
_LARGEST = Decimal("99999999999.9999")


class KnownBy(StrEnum):
    """What says whether an advocate was paid."""

    REWARDS = "rewards"
    """The status of each of the advocate's rewards, where the referral lists them."""

    AD_REWARDED = "ad_rewarded"
    """``ad_rewarded`` of an approved referral whose rewards are not listed."""

    STATUS = "status"
    """The referral's status alone."""

    NO_REFERRAL = "no_referral"
    """The order belongs to no referral."""


@dataclass(frozen=True, slots=True)
class Payment:
    """Whether an advocate was paid for an order, and how that is known.

    :param paid: ``None``: nothing is known of it.
    :param known_by: ``None``: nothing is known of it.
    """

    paid: bool | None = None
    known_by: KnownBy | None = None


UNKNOWN = Payment()
NO_REFERRAL = Payment(False, KnownBy.NO_REFERRAL)


def payment_of(referral: JsonObject) -> Payment:
    """Whether the advocate of a referral was paid.

    ``ad_rewarded`` alone says that there is a reward, not that it was paid: a reward is paid once the
    referral is ``approved``. Where rewards are listed, one of them has to be ``Paid`` besides. Of an
    approved referral that shows neither the status speaks.
    """
    status = referral.get("status")
    if not isinstance(status, str):
        return UNKNOWN
    if status != _APPROVED:
        return Payment(False, KnownBy.STATUS)
    if rewards := list(_rewards(referral, "advocate_rewards")):
        return Payment(any(map(_is_paid, rewards)), KnownBy.REWARDS)
    ad_rewarded = referral.get("ad_rewarded")
    if isinstance(ad_rewarded, bool):
        return Payment(ad_rewarded, KnownBy.AD_REWARDED)
    return Payment(True, KnownBy.STATUS)


def is_late(*, is_whole: bool, paid: bool | None) -> bool | None:
    """Whether a refund is late: its whole order was refunded, and the advocate was paid for it.

    :param is_whole: Whether the whole order was refunded; a partial refund leaves the reward deserved.
    :param paid: As :class:`Payment` has it.
    :return: ``None``: it is unknown.
    """
    return paid if is_whole else False


@dataclass(slots=True)
class Rewards:
    """What was paid for an order.

    :param money: The advocate's rewards that are money: rebates, and coupons of an amount.
    :param others: How many others the advocate got, by kind: ``percentage``, or the incentive's type.
    :param revocable: How many of the advocate's coupons are unused: they may still be revoked.
    :param friend_money: The friend's rewards that are money.
    """

    money: Decimal = Decimal(0)
    others: Counter[str] = field(default_factory=Counter)
    revocable: int = 0
    friend_money: Decimal = Decimal(0)


def paid_rewards(referral: JsonObject) -> Rewards:
    """Add up what was paid for an order."""
    paid = Rewards()
    for reward in filter(_is_paid, _rewards(referral, "advocate_rewards")):
        amount = _money(reward)
        if amount is None:
            paid.others[_kind(reward)] += 1
        else:
            paid.money += amount
        paid.revocable += _coupon(reward).get("used") is False
    for reward in filter(_is_paid, _rewards(referral, "friend_rewards")):
        paid.friend_money += _money(reward) or Decimal(0)
    return paid


def decimal_of(value: object) -> Decimal | None:
    """An amount as Talkable's JSON has it, a number or its text; ``None`` if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except (InvalidOperation, ValueError):
        return None
    # No ledger keeps more, to four decimals.
    return amount if amount.is_finite() and abs(amount) <= _LARGEST else None


def _rewards(referral: JsonObject, name: str) -> Iterator[JsonObject]:
    listed = referral.get(name)
    for reward in listed if isinstance(listed, list) else ():
        if isinstance(reward, dict):
            yield reward


def _is_paid(reward: JsonObject) -> bool:
    return str(reward.get("status")).lower() == _PAID


def _coupon(reward: JsonObject) -> JsonObject:
    coupon = reward.get("coupon")
    return coupon if isinstance(coupon, dict) else {}


def _money(reward: JsonObject) -> Decimal | None:
    """The amount of a reward that is money: the ``amount`` of a percentage coupon is none."""
    if reward.get("incentive_type") == "rebate":
        return decimal_of(reward.get("amount"))
    coupon = _coupon(reward)
    return None if coupon.get("percentage_discount") else decimal_of(coupon.get("amount"))


def _kind(reward: JsonObject) -> str:
    if _coupon(reward).get("percentage_discount"):
        return "percentage"
    kind = reward.get("incentive_type")
    return kind if isinstance(kind, str) and kind else "other"
