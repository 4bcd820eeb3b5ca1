"""What happened to one refund, in the form that goes to XCom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_talkable.protocol.answers import RefundAnswer
from airflow_provider_talkable.protocol.errors import (
    InvalidRefund,
    TalkableAlreadyRefunded,
    TalkableError,
    TalkableNotCounted,
)
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.people import without_people
from airflow_provider_talkable.protocol.referrals import JsonObject, shown_slug
from airflow_provider_talkable.protocol.refund import Refund, is_whole
from airflow_provider_talkable.protocol.refusals import NOT_COUNTED, outcome_of_refusal
from airflow_provider_talkable.protocol.rewards import NO_REFERRAL, UNKNOWN, Payment, is_late, payment_of

_DOUBT = (
    "Talkable may have taken this partial refund and might count a repeat again: look the order up in "
    "Talkable; if a ledger keeps this refund, settle it there with 'airflow talkable ledger settle', else "
    "send it in a new run if Talkable does not have it"
)


@dataclass(frozen=True, slots=True)
class RefundResult:
    """What happened to one refund.

    :param origin_slug: The slug as it was sent, or as it was given where nothing was sent.
    :param outcome: What happened to it.
    :param referral: Talkable's referral, where the answer had one or it was asked for.
    :param origin: Talkable's origin, where the answer had one.
    :param http_status: The status of the last answer, where there was one.
    :param error_message: Why it is not ``refunded``.
    :param attempts: How many requests were sent; throttled ones are not counted.
    :param void_outcome: What happened to voiding its referral, a :class:`ReferralOutcome`; ``None``: it was
        not asked for.
    :param is_whole: Whether the whole order was refunded; not part of :meth:`as_dict`, which says ``late``.
    :param error: The error behind it; not part of :meth:`as_dict`.
    :param tells_referral: Whether ``referral`` is what Talkable says, ``None`` included; not part of
        :meth:`as_dict`.
    :param known_payment: Whether the advocate was paid, where more is known of it than ``referral`` shows;
        not part of :meth:`as_dict`, which says ``late``.
    """

    origin_slug: str
    outcome: Outcome
    referral: JsonObject | None = None
    origin: JsonObject | None = None
    http_status: int | None = None
    error_message: str | None = None
    attempts: int = 0
    void_outcome: str | None = None
    is_whole: bool = field(default=False, compare=False)
    error: TalkableError | None = field(default=None, compare=False, repr=False)
    tells_referral: bool = field(default=False, compare=False, repr=False)
    known_payment: Payment | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_answer(
        cls, refund: Refund, answer: RefundAnswer, *, http_status: int, attempts: int
    ) -> RefundResult:
        """The result of a refund that Talkable took."""
        return cls(
            origin_slug=refund.origin_slug,
            outcome=Outcome.REFUNDED,
            referral=answer.referral,
            origin=answer.origin,
            http_status=http_status,
            attempts=attempts,
            is_whole=is_whole(refund.refund_subtotal, refund.order_subtotal or answer.order_subtotal),
            tells_referral=answer.tells_referral,
        )

    @classmethod
    def from_error(cls, refund: Refund, error: TalkableError, *, attempts: int) -> RefundResult:
        """The result of a refund that ended in an error.

        A partial refund that Talkable may have taken all the same is ``unconfirmed``: nobody
        outside Talkable can be sure that a repeat is not counted again.
        """
        in_doubt = refund.is_partial and error.may_have_acted
        # Without the origin that its text begins with once it is about one: a refused key is about many.
        message = f"{error.args[0]}; {_DOUBT}" if in_doubt else str(error.args[0])
        error.args = (message,)
        error.origin_slug = refund.origin_slug
        result = cls(
            origin_slug=refund.origin_slug,
            outcome=Outcome.UNCONFIRMED if in_doubt else error.outcome,
            http_status=error.http_status,
            error_message=message,
            attempts=attempts,
            is_whole=not refund.is_partial,
            error=error,
        )
        if result.outcome is Outcome.ALREADY_REFUNDED:
            return result.refused_as(outcome_of_refusal(is_whole=result.is_whole))
        return result

    def refused_as(self, outcome: Outcome) -> RefundResult:
        """The same refusal, as ``already_refunded`` or ``not_counted``; what else is known decides."""
        if outcome is self.outcome:
            return self
        words = str(self.error_message).removesuffix(f"; {NOT_COUNTED}")
        kind: type[TalkableError] = TalkableAlreadyRefunded
        if outcome is Outcome.NOT_COUNTED:
            kind, words = TalkableNotCounted, f"{words}; {NOT_COUNTED}"
        error = kind(words, http_status=self.http_status)
        error.origin_slug = self.origin_slug
        return replace(self, outcome=outcome, error_message=words, error=error)

    @classmethod
    def invalid(cls, row: object, error: InvalidRefund) -> RefundResult:
        """The result of input that makes no refund.

        :param row: The slug or the mapping that was given; what it calls the origin is shown.
        """
        shown = row
        if isinstance(row, Mapping):
            names = ("origin_slug", "order_number", "event_number")
            columns = {str(name).lower(): value for name, value in row.items()}
            shown = next((columns[name] for name in names if columns.get(name) is not None), None)
        return cls(
            origin_slug=shown_slug(shown),
            outcome=Outcome.INVALID,
            error_message=str(error),
            error=error,
        )

    @classmethod
    def not_tried(cls, refund: Refund, error: TalkableError) -> RefundResult:
        """The result of a refund that was not sent because an error stopped the run before it."""
        return cls(
            origin_slug=refund.origin_slug,
            outcome=Outcome.ABORTED,
            error_message=f"Not tried: {error.args[0]}",
            error=error,
        )

    @property
    def ad_rewarded(self) -> bool | None:
        """Whether the advocate has been rewarded: ``False`` if there is none, ``None`` if unknown."""
        if self.referral is None:
            return False if self.tells_referral else None
        rewarded = self.referral.get("ad_rewarded")
        return rewarded if isinstance(rewarded, bool) else None

    @property
    def payment(self) -> Payment:
        """Whether the advocate was paid for the order, as far as the answers say."""
        if self.known_payment is not None:
            return self.known_payment
        if self.referral is None:
            return NO_REFERRAL if self.tells_referral else UNKNOWN
        return payment_of(self.referral)

    @property
    def late(self) -> bool | None:
        """Whether the refund is late; ``None`` if that is unknown."""
        return is_late(is_whole=self.is_whole, paid=self.payment.paid)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RefundResult:
        """The inverse of :meth:`as_dict`."""
        late = values["late"]
        others = {name: value for name, value in values.items() if name not in ("outcome", "late")}
        # Of a whole refund that was in time the referral says so itself.
        return cls(
            **others,
            outcome=Outcome(values["outcome"]),
            is_whole=late is not False,
            tells_referral=late is not None,
        )

    def as_dict(self) -> dict[str, Any]:
        """The JSON-safe form."""
        return {
            "origin_slug": self.origin_slug,
            "outcome": self.outcome.value,
            "referral": self.referral,
            "origin": self.origin,
            "late": self.late,
            "http_status": self.http_status,
            "error_message": self.error_message,
            "attempts": self.attempts,
            "void_outcome": self.void_outcome,
        }

    def redacted(self) -> RefundResult:
        """Without people's names, e-mail addresses, phone numbers and IP addresses."""
        return replace(
            self,
            referral=without_people(self.referral),
            origin=without_people(self.origin),
            error_message=without_people(self.error_message),
        )

    def raise_for_outcome(self) -> None:
        """Raise unless Talkable has the refund.

        :raises TalkableError: the one that ended it.
        """
        if not self.outcome.is_success:
            error = self.error or TalkableError(f"{self.origin_slug}: {self.outcome}: {self.error_message}")
            # Where it came from, frames of the HTTP and retry libraries, tells its reader nothing.
            raise error.with_traceback(None)
