"""What the sandbox holds and how it changes: sites, origins, referrals. No HTTP here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import count
from typing import Any

Json = dict[str, Any]

REFERRAL_STATUSES = ("pending", "flagged", "approved", "voided", "blocked")
_FINAL = frozenset({"approved", "voided"})


class Generation(StrEnum):
    """Which documentation of Talkable's the answers follow."""

    SEED = "seed"
    """2021: a refund is answered with the referral."""

    FLAT = "flat"
    """Later in 2021: with the origin's fields."""

    CURRENT = "current"
    """Today: with ``{"origin": …}``."""


class Refusal(Exception):
    """An answer that is not ``ok``.

    :param status: The HTTP status.
    :param message: Talkable's ``error_message``.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(slots=True)
class Referral:
    """A referral: an advocate brought a friend, who placed the referred origin."""

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
    reward_amount: float = 10.0

    def as_json(self) -> Json:
        """As a refund of the seed's generation is answered."""
        names = (name for name in self.__slots__ if name != "reward_amount")
        return {name: getattr(self, name) for name in names}

    def as_friends_json(self) -> Json:
        """As ``referrals_as_friend`` lists it, with what the advocate got."""
        reward = {
            "id": self.id,
            "amount": self.reward_amount,
            "status": "Paid" if self.ad_rewarded else "Unpaid",
            "incentive_type": "coupon",
        }
        return self.as_json() | {"advocate_rewards": [reward]}


@dataclass(slots=True)
class Origin:
    """A purchase or an event."""

    id: int
    type: str
    slug: str
    email: str
    subtotal: float | None
    names: Json
    order_date: str
    coupon_code: str | None = None
    customer_id: str | None = None
    ip_address: str | None = None
    refunded_at: str | None = None
    partially_refunded: bool = False
    refund_subtotal: float = 0.0
    times_refunded: int = 0
    referral: Referral | None = None

    def as_json(self, generation: Generation) -> Json:
        """As Talkable shows an origin; the flat generation knew no partial refunds."""
        shown = {
            "id": self.id,
            "type": self.type,
            "email": self.email,
            **self.names,
            "subtotal": self.subtotal,
            "order_date": self.order_date,
            "refunded_at": self.refunded_at,
            "coupon_code": self.coupon_code,
            "customer_id": self.customer_id,
            "ip_address": self.ip_address,
        }
        if generation is Generation.CURRENT:
            shown |= {
                "partially_refunded": self.partially_refunded,
                "refund_subtotal": self.refund_subtotal,
                **dict.fromkeys(
                    ("segment1", "segment2", "segment3", "utm_source", "utm_medium", "utm_campaign")
                ),
            }
        return shown


@dataclass(slots=True)
class Talkable:
    """The state behind the sandbox's API.

    :param site_slugs: The sites the API key is good for.
    :param generation: Which generation's answers to give.
    :param now: The clock; returns an aware datetime.
    :param reward_after: Seconds after which a referral that is still pending is approved and its advocate
        rewarded; ``None``: never.
    """

    site_slugs: Iterable[str] = ("my-store",)
    generation: Generation = Generation.CURRENT
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    reward_after: float | None = None
    sites: dict[str, dict[str, Origin]] = field(init=False)
    _friends: dict[tuple[str, str], list[Origin]] = field(init=False, default_factory=dict)
    _ids: count[int] = field(init=False, default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.sites = {site: {} for site in self.site_slugs}

    def create_purchase(self, site_slug: str, data: Json) -> Json:
        """Register a purchase.

        :param data: ``order_number``, optional ``email``, ``subtotal``, ``coupon_code``,
            ``customer_id``, ``ip_address``. The sandbox alone knows ``referral``: fields to set on
            the purchase's referral, or ``None`` for a purchase that belongs to none; by default
            it is pending and its advocate not rewarded.
        :return: The origin.
        """
        number = _required(data, "order_number")
        return self._create(site_slug, "Purchase", number, {"order_number": number}, data)

    def create_event(self, site_slug: str, data: Json) -> Json:
        """Register an event: like a purchase, with ``event_category`` and ``event_number``."""
        names = {name: _required(data, name) for name in ("event_category", "event_number")}
        return self._create(site_slug, "Event", ":".join(names.values()), names, data)

    def refund(self, site_slug: str, slug: str, data: Json) -> Json:
        """Refund an origin; in full it voids a referral that is pending, in part it does not.

        A second full refund is refused. A second partial one is counted again: whether the real
        Talkable does so is not documented.

        :return: What the generation answers with.
        """
        origin = self._origin(site_slug, slug)
        refunded_at = _moment(data.get("refunded_at")) or self.now().isoformat(timespec="milliseconds")
        amount = _amount(data.get("refund_subtotal"))
        if origin.refunded_at and not origin.partially_refunded:
            raise Refusal(400, "Origin has already been refunded")
        origin.times_refunded += 1
        origin.refunded_at = refunded_at
        origin.refund_subtotal += (
            (origin.subtotal or 0) - origin.refund_subtotal if amount is None else amount
        )
        origin.partially_refunded = amount is not None and origin.refund_subtotal < (origin.subtotal or 0)
        if not origin.partially_refunded and origin.referral and origin.referral.status == "pending":
            self._set_status(origin.referral, "voided")
        if self.generation is Generation.SEED:
            return {"referral": origin.referral.as_json() if origin.referral else None}
        shown = origin.as_json(self.generation)
        return shown if self.generation is Generation.FLAT else {"origin": shown}

    def update_referral(self, site_slug: str, slug: str, data: Json) -> Json:
        """Set the status of an origin's referral; approved and voided are final."""
        referral = self._origin(site_slug, slug).referral
        status = data.get("status")
        if status not in REFERRAL_STATUSES:
            raise Refusal(400, f"Status is not one of: {', '.join(REFERRAL_STATUSES)}")
        if referral is None:
            raise Refusal(400, "No referral found for this origin")
        if referral.status in _FINAL and status in _FINAL and referral.status != status:
            raise Refusal(400, f"Referral is already {referral.status} and cannot be {status}")
        self._set_status(referral, status)
        return {"referral": referral.as_json()}

    def referrals_as_friend(self, site_slug: str, email: str) -> Json:
        """The referrals in which a person is the friend."""
        self._site(site_slug)
        origins = self._friends.get((site_slug, email.lower()))
        if not origins:
            raise Refusal(400, "No person found by `person_slug`.")
        for origin in origins:
            self._reward_if_due(origin)
        return {"referrals": [o.referral.as_friends_json() for o in origins if o.referral]}

    def campaigns(self, site_slug: str) -> Json:
        """The site's campaigns: always one."""
        self._site(site_slug)
        campaign = {"id": 196, "name": "Invite a friend", "cached_slug": 196, "status": "Live"}
        return {"campaigns": [campaign]}

    def snapshot(self) -> Json:
        """Everything the sandbox holds, by site and slug."""
        for origins in self.sites.values():
            for origin in origins.values():
                self._reward_if_due(origin)
        return {
            site: {
                slug: {
                    "type": origin.type,
                    "subtotal": origin.subtotal,
                    "refunded_at": origin.refunded_at,
                    "partially_refunded": origin.partially_refunded,
                    "refund_subtotal": origin.refund_subtotal,
                    "times_refunded": origin.times_refunded,
                    "referral": origin.referral.as_json() if origin.referral else None,
                }
                for slug, origin in origins.items()
            }
            for site, origins in self.sites.items()
        }

    def _create(self, site_slug: str, kind: str, slug: str, names: Json, data: Json) -> Json:
        origins = self._site(site_slug)
        if slug in origins:
            raise Refusal(400, "Origin has already been taken")
        subtotal = _amount(data.get("subtotal"))
        origin = origins[slug] = Origin(
            id=next(self._ids),
            type=kind,
            slug=slug,
            email=data.get("email") or f"friend{len(origins) + 1}@example.com",
            subtotal=subtotal if subtotal is not None else (100.0 if kind == "Purchase" else None),
            names=names,
            order_date=self.now().isoformat(timespec="milliseconds"),
            coupon_code=data.get("coupon_code"),
            customer_id=data.get("customer_id"),
            ip_address=data.get("ip_address"),
        )
        fields = data.get("referral", {})
        if fields is not None:
            origin.referral = self._referral(origin, fields)
        self._friends.setdefault((site_slug, origin.email.lower()), []).append(origin)
        return {"origin": origin.as_json(Generation.CURRENT)}

    def _referral(self, origin: Origin, fields: Json) -> Referral:
        values: Json = {
            "id": next(self._ids),
            "status": "pending",
            "ad_rewarded": False,
            "advocate_person": _person(next(self._ids), "customer@example.com"),
            "friend_person": _person(next(self._ids), origin.email),
            "campaign_id": 196,
            "offer_id": 867,
            "referred_origin_id": origin.id,
            "referred_subtotal": origin.subtotal,
            "qa_generated": False,
            "track_method": "coupon",
            "created_at": origin.order_date,
            "updated_at": origin.order_date,
        }
        try:
            return Referral(**(values | fields))
        except TypeError:
            raise Refusal(400, f"referral has fields other than {', '.join(Referral.__slots__)}") from None

    def _set_status(self, referral: Referral, status: str) -> None:
        referral.status = status
        referral.updated_at = self.now().isoformat(timespec="milliseconds")

    def _site(self, site_slug: str) -> dict[str, Origin]:
        try:
            return self.sites[site_slug]
        except KeyError:
            raise Refusal(403, f"Access denied to site {site_slug}") from None

    def _origin(self, site_slug: str, slug: str) -> Origin:
        try:
            origin = self._site(site_slug)[slug]
        except KeyError:
            raise Refusal(400, "No origin found by `origin_slug`.") from None
        self._reward_if_due(origin)
        return origin

    def _reward_if_due(self, origin: Origin) -> None:
        referral = origin.referral
        if self.reward_after is None or referral is None or referral.status != "pending":
            return
        waited = self.now() - datetime.fromisoformat(referral.created_at)
        if waited >= timedelta(seconds=self.reward_after):
            self._set_status(referral, "approved")
            referral.ad_rewarded = True


def _person(number: int, email: str) -> Json:
    return {"id": number, "email": email, "first_name": None, "last_name": None}


def _required(data: Json, name: str) -> str:
    value = data.get(name)
    if value is None or value == "":
        raise Refusal(400, f"{name} can't be blank")
    return str(value)


def _moment(value: object) -> str | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Refusal(400, "refunded_at is invalid: ISO 8601 with offset expected")
    return str(value)


def _amount(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise Refusal(422, "Validation failed: an amount must be a number of at least 0")
    return float(value)
