"""What the sandbox holds and how it changes: sites, origins, referrals. No HTTP here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import count

from airflow_provider_talkable.sandbox.referrals import (
    FINAL,
    REFERRAL_STATUSES,
    REWARD_KINDS,
    Json,
    Referral,
)


class Generation(StrEnum):
    """Which documentation of Talkable's the answers follow."""

    SEED = "seed"
    """2021: a refund is answered with the referral."""

    FLAT = "flat"
    """Later in 2021: with the origin's fields."""

    CURRENT = "current"
    """Today: with ``{"origin": …}``."""


class SecondRefund(StrEnum):
    """What happens to a refund of an order that was refunded in part, which Talkable documents nowhere."""

    ADD = "add"
    """Its amount is added to the first."""

    REPLACE = "replace"
    """Its amount takes the place of the first."""

    REFUSE = "refuse"
    """The order counts as refunded already."""


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
class Origin:
    """A purchase or an event."""

    id: int
    type: str
    slug: str
    email: str | None
    subtotal: float | None
    names: Json
    order_date: str
    coupon_code: str | None = None
    customer_id: str | None = None
    ip_address: str | None = None
    refunded_at: str | None = None
    partially_refunded: bool = False
    refund_subtotal: float | None = None
    times_refunded: int = 0
    referral: Referral | None = None
    given: Json = field(default_factory=dict)

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
    :param second_refund: What happens to a refund of an order that was refunded in part.
    """

    site_slugs: Iterable[str] = ("my-store",)
    generation: Generation = Generation.CURRENT
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    reward_after: float | None = None
    second_refund: SecondRefund = SecondRefund.ADD
    sites: dict[str, dict[str, Origin]] = field(init=False)
    _friends: dict[tuple[str, str], list[Origin]] = field(init=False, default_factory=dict)
    _ids: count[int] = field(init=False, default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.sites = {site: {} for site in self.site_slugs}

    def create_purchase(self, site_slug: str, data: Json) -> Json:
        """Register a purchase.

        Equal data of an order that is there already is accepted, other data is refused.

        :param data: ``order_number``, optional ``email`` (``None``: the friend has none), ``subtotal``,
            ``coupon_code``, ``customer_id``, ``ip_address``, ``phone_number``, ``username``. The sandbox
            alone knows ``referral``: fields to set on the purchase's referral, or ``None`` for a purchase
            that belongs to none; by default it is pending, with a reward that is not paid yet.
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

        A second full refund is refused; of a refund after a partial one ``second_refund`` decides.

        :return: What the generation answers with.
        """
        origin = self._origin(site_slug, slug)
        refunded_at = _moment(data.get("refunded_at")) or self._moment()
        amount = _amount(data.get("refund_subtotal"))
        is_whole = origin.refunded_at is not None and not origin.partially_refunded
        if is_whole or (origin.refunded_at and self.second_refund is SecondRefund.REFUSE):
            raise Refusal(400, "Origin has already been refunded")
        subtotal = origin.subtotal or 0
        before = (origin.refund_subtotal or 0) if self.second_refund is SecondRefund.ADD else 0
        origin.times_refunded += 1
        origin.refunded_at = refunded_at
        # Amounts are floats on the wire, and sums of them would grow a tail.
        origin.refund_subtotal = round(subtotal if amount is None else before + amount, 4)
        origin.partially_refunded = amount is not None and origin.refund_subtotal < subtotal
        if not origin.partially_refunded and origin.referral and origin.referral.status == "pending":
            origin.referral.set_status("voided", self._moment())
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
        if referral.status in FINAL and status in FINAL and referral.status != status:
            raise Refusal(400, f"Referral is already {referral.status} and cannot be {status}")
        referral.set_status(status, self._moment())
        return {"referral": referral.as_full_json()}

    def referrals_as_friend(self, site_slug: str, person_slug: str) -> Json:
        """The referrals in which a person is the friend.

        :param person_slug: An e-mail address, a phone number, a customer id or a user name.
        """
        self._site(site_slug)
        origins = self._friends.get((site_slug, person_slug.lower()))
        if not origins:
            raise Refusal(400, "No person found by `person_slug`.")
        for origin in origins:
            self._reward_if_due(origin)
        return {"referrals": [o.referral.as_full_json() for o in origins if o.referral]}

    def campaigns(self, site_slug: str) -> Json:
        """The site's campaigns: always one."""
        self._site(site_slug)
        campaign = {"id": 196, "name": "Invite a friend", "cached_slug": 196, "status": "Live"}
        return {"campaigns": [campaign]}

    def snapshot(self) -> Json:
        """Everything the sandbox holds, by site and slug."""
        # Others may be created meanwhile, from the sandbox's thread or from the user's.
        sites = {site: origins.copy() for site, origins in self.sites.items()}
        for origins in sites.values():
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
            for site, origins in sites.items()
        }

    def _create(self, site_slug: str, kind: str, slug: str, names: Json, data: Json) -> Json:
        origins = self._site(site_slug)
        given = {name: value for name, value in data.items() if name != "referral"}
        if slug in origins:
            if origins[slug].given != given:
                raise Refusal(400, "Validation failed: duplicate entity: another origin has this number")
            return {"origin": origins[slug].as_json(Generation.CURRENT)}
        subtotal = _amount(data.get("subtotal"))
        origin = origins[slug] = Origin(
            id=next(self._ids),
            type=kind,
            slug=slug,
            email=data.get("email", f"friend{len(origins) + 1}@example.com"),
            subtotal=subtotal if subtotal is not None else (100.0 if kind == "Purchase" else None),
            names=names,
            order_date=self._moment(),
            coupon_code=data.get("coupon_code"),
            customer_id=data.get("customer_id"),
            ip_address=data.get("ip_address"),
            given=given,
        )
        fields = data.get("referral", {})
        if fields is not None:
            origin.referral = self._referral(origin, data.get("phone_number"), fields)
        persons = (origin.email, data.get("phone_number"), origin.customer_id, data.get("username"))
        for person in {str(person).lower() for person in persons if person is not None}:
            self._friends.setdefault((site_slug, person), []).append(origin)
        return {"origin": origin.as_json(Generation.CURRENT)}

    def _referral(self, origin: Origin, phone: str | None, fields: Json) -> Referral:
        values: Json = {
            "id": next(self._ids),
            "status": "pending",
            # A reward exists, which is not to say that it is paid.
            "ad_rewarded": True,
            "advocate_person": _person(next(self._ids), "customer@example.com", None),
            "friend_person": _person(next(self._ids), origin.email, phone),
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
            referral = Referral(**(values | fields))
        except TypeError:
            raise Refusal(400, f"referral has fields other than {', '.join(Referral.__slots__)}") from None
        if referral.reward_kind not in REWARD_KINDS:
            raise Refusal(400, f"reward_kind is not one of: {', '.join(REWARD_KINDS)}")
        return referral

    def _moment(self) -> str:
        return self.now().isoformat(timespec="milliseconds")

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
            referral.set_status("approved", self._moment())


def _person(number: int, email: str | None, phone: str | None) -> Json:
    return {"id": number, "email": email, "first_name": None, "last_name": None, "phone_number": phone}


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
