"""Referrals: whether a friend's order still earns its advocate a reward, and changing that.

Facts from Talkable's API v2 documentation, "Referrals" and "People".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from airflow_provider_talkable.protocol.errors import (
    InvalidRefund,
    TalkableError,
    TalkableReferralFinal,
    shown,
)
from airflow_provider_talkable.protocol.people import without_people
from airflow_provider_talkable.protocol.refund import Refund

JsonObject = dict[str, Any]

_SHOWN = 200


class ReferralStatus(StrEnum):
    """What a referral can be."""

    PENDING = "pending"
    """Waiting for its approval."""

    FLAGGED = "flagged"
    """Waiting for somebody to look at it."""

    APPROVED = "approved"
    """Final: the advocate is rewarded."""

    VOIDED = "voided"
    """Final: the advocate is not rewarded."""

    BLOCKED = "blocked"
    """Held back as fraud."""


FINAL = (ReferralStatus.APPROVED, ReferralStatus.VOIDED)
"""Neither of them can be changed into the other."""


class ReferralOutcome(StrEnum):
    """What can happen to a change of a referral's status; like :class:`Outcome` where both have it."""

    UPDATED = "updated"
    """It has the status now, or had it before."""

    NO_REFERRAL = "no_referral"
    """The order belongs to no referral: there is nothing to change."""

    NOT_FOUND = "not_found"
    """Talkable never saw that order."""

    CONFLICT = "conflict"
    """It has the opposite final status."""

    REJECTED = "rejected"
    """Talkable refused it; ``error_message`` has its reason."""

    INVALID = "invalid"
    """The input names no order; nothing was sent."""

    THROTTLED = "throttled"
    """Talkable still answered 429 when the patience for it ended; it did not act."""

    FAILED = "failed"
    """The attempts were used up without an answer that settles it; safe to send again."""

    ABORTED = "aborted"
    """Not tried: the run stopped first."""

    @property
    def is_success(self) -> bool:
        """Whether there is nothing left to do."""
        return self in (ReferralOutcome.UPDATED, ReferralOutcome.NO_REFERRAL)


@dataclass(frozen=True, slots=True)
class ReferralUpdate:
    """A change of the status of an order's referral. Build it with :meth:`parse`, which validates."""

    site_slug: str
    origin_slug: str
    status: ReferralStatus

    @classmethod
    def parse(cls, origin_slug: object, *, status: object, site_slug: object) -> ReferralUpdate:
        """Validate loose values, as they come from a template or XCom.

        :param origin_slug: As for a refund.
        :param status: ``pending``, ``flagged``, ``approved``, ``voided`` or ``blocked``.
        :param site_slug: Text.
        :raises InvalidRefund: naming the field, its value and the remedy.
        """
        origin = Refund.parse(origin_slug, site_slug=site_slug)
        return cls(origin.site_slug, origin.origin_slug, status_of(status))


def referral_of_origin(referrals: Iterable[JsonObject], origin_id: object) -> JsonObject | None:
    """The one of a friend's referrals that an origin belongs to.

    :param referrals: As :func:`read_referrals` returns them.
    :param origin_id: The origin's ``id``, a number or its digits.
    """
    wanted = str(origin_id)
    return next((r for r in referrals if str(r.get("referred_origin_id")) == wanted), None)


def awaited_referral(
    referrals: Sequence[JsonObject], *, origin_id: str | None, statuses: Collection[str]
) -> JsonObject | None:
    """The referral that is waited for, once it has one of some statuses.

    :param referrals: All of a friend's.
    :param origin_id: Which of them; ``None``: the only one.
    :return: ``None`` while it has another status, or is not there.
    :raises InvalidRefund: if there are several and nothing says which.
    :raises TalkableReferralFinal: if it will never have one of the statuses.
    """
    if origin_id is None and len(referrals) > 1:
        ids = ", ".join(str(referral.get("referred_origin_id")) for referral in referrals)
        raise InvalidRefund.of("origin_id", None, f"the friend has several referrals; give one of {ids}")
    if origin_id is None:
        referral = referrals[0] if referrals else None
    else:
        referral = referral_of_origin(referrals, origin_id)
    if referral is None or (status := referral.get("status")) in statuses:
        return referral
    if status in FINAL:
        raise TalkableReferralFinal.of(status, " or ".join(statuses))
    return None


def shown_slug(value: object) -> str:
    """What was given for a slug and is none, as text to show."""
    text = shown(value, str).encode(errors="backslashreplace").decode()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def status_of(value: object) -> ReferralStatus:
    """Validate a status.

    :raises InvalidRefund: if it is none.
    """
    try:
        return ReferralStatus(str(value).strip().lower())
    except ValueError:
        raise InvalidRefund.of(
            "status", value, f"is no status of a referral; these are: {', '.join(ReferralStatus)}"
        ) from None


@dataclass(frozen=True, slots=True)
class ReferralResult:
    """What happened to a change of a referral's status.

    :param origin_slug: The slug as it was sent, or as it was given where nothing was sent.
    :param outcome: What happened to it.
    :param referral: Talkable's referral, where the answer had one.
    :param error_message: Why it is not ``updated``.
    :param error: The error behind it; not part of :meth:`as_dict`.
    """

    origin_slug: str
    outcome: ReferralOutcome
    referral: JsonObject | None = None
    error_message: str | None = None
    error: TalkableError | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_answer(cls, update: ReferralUpdate, referral: JsonObject | None) -> ReferralResult:
        """The result of a change that Talkable took, or had nothing to change for."""
        outcome = ReferralOutcome.NO_REFERRAL if referral is None else ReferralOutcome.UPDATED
        return cls(update.origin_slug, outcome, referral)

    @classmethod
    def from_error(cls, origin_slug: str, error: TalkableError) -> ReferralResult:
        """The result of a change that ended in an error."""
        error.origin_slug = origin_slug
        return cls(origin_slug, ReferralOutcome(error.outcome), error_message=str(error.args[0]), error=error)

    @classmethod
    def invalid(cls, value: object, error: InvalidRefund) -> ReferralResult:
        """The result of input that names no order."""
        return cls(shown_slug(value), ReferralOutcome.INVALID, error_message=str(error), error=error)

    @classmethod
    def not_tried(cls, update: ReferralUpdate, error: TalkableError) -> ReferralResult:
        """The result of a change that was not sent because an error stopped the run before it."""
        message = f"Not tried: {error.args[0]}"
        return cls(update.origin_slug, ReferralOutcome.ABORTED, error_message=message, error=error)

    def raise_for_outcome(self) -> None:
        """Raise unless there is nothing left to do.

        :raises TalkableError: the one that ended it.
        """
        if not self.outcome.is_success and self.error:
            raise self.error.with_traceback(None)

    def redacted(self) -> ReferralResult:
        """Without people's names, e-mail addresses, phone numbers and IP addresses."""
        return replace(
            self,
            referral=without_people(self.referral),
            error_message=without_people(self.error_message),
        )

    def as_dict(self) -> JsonObject:
        """The JSON-safe form."""
        return {
            "origin_slug": self.origin_slug,
            "outcome": self.outcome.value,
            "referral": self.referral,
            "error_message": self.error_message,
        }
