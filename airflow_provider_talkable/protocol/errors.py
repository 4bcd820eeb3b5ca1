"""Everything that can go wrong with a call to Talkable, by what the caller can do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from airflow_provider_talkable.protocol.outcomes import Outcome


def interruption(error: BaseException) -> str:
    """Why a task stopped that something from outside ended: a timeout of Airflow's, or a signal."""
    return f"the task was stopped ({type(error).__name__}: {error})"


def printable(slug: str) -> str:
    """A slug as it may stand in a log line: line breaks and other controls escaped."""
    return slug if slug.isprintable() else ascii(slug)


def shown(value: object, as_text: Callable[[object], str] = repr) -> str:
    """Any value as text; Python itself refuses to write out a number of thousands of digits.

    What a ``memoryview`` is a view of is shown, not where it lies: that differs from run to run.
    """
    if isinstance(value, memoryview):
        value = value.tobytes()
    try:
        return as_text(value)
    except ValueError:
        return f"<{type(value).__name__} with too many digits>"


class TalkableError(Exception):
    """The base of every error this package raises about Talkable.

    :param message: What happened and what to do next. Never contains the API key.
    :param http_status: The status of the answer, where there was one.
    :param retry_after: Seconds after which it is worth asking again, where that is known: what the
        answer asked for, or the pause that a throttled site's pacer had reached.
    """

    outcome: ClassVar[Outcome] = Outcome.FAILED
    """What a refund becomes that ends in this error."""

    retryable: bool = False
    """Whether the same request may succeed if it is sent again soon."""

    may_have_acted: bool = False
    """Whether Talkable may have carried the request out all the same."""

    def __init__(
        self, message: str, *, http_status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.retry_after = retry_after
        self.origin_slug: str | None = None
        """The origin it is about, where it is about one; the message then begins with it."""

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.origin_slug is None else f"{printable(self.origin_slug)}: {message}"


class InvalidConnection(TalkableError, ValueError):
    """The Airflow connection cannot be used as it is; raised before anything is sent."""

    outcome = Outcome.ABORTED


class InvalidRefund(TalkableError, ValueError):
    """The input makes no refund, or names no referral; raised before anything is sent.

    :param field: The field that is at fault, e.g. ``refund_subtotal``.
    :param value: What it held.
    """

    outcome = Outcome.INVALID

    def __init__(self, message: str, *, field: str = "", value: object = None) -> None:
        super().__init__(message)
        self.field = field
        self.value = value

    @classmethod
    def of(cls, field: str, value: object, remedy: str) -> InvalidRefund:
        """Name the field and its value, the latter cut short, before the remedy."""
        text = shown(value)
        if len(text) > 120:
            text = f"{text[:100]}… ({len(text)} characters)"
        return cls(f"{field}={text}: {remedy}", field=field, value=value)


class TalkableAuthError(TalkableError):
    """401: the key is missing or wrong. No other request can succeed."""

    outcome = Outcome.ABORTED


class TalkableAccessDenied(TalkableAuthError):
    """403: the key is not for this site. No other request for this site can succeed."""


class TalkableOriginNotFound(TalkableError):
    """Talkable has no origin of that slug on that site."""

    outcome = Outcome.NOT_FOUND


class TalkableAlreadyRefunded(TalkableError):
    """The origin has been refunded before."""

    outcome = Outcome.ALREADY_REFUNDED


class TalkableNotCounted(TalkableError):
    """The origin has been refunded before, and nothing shows that it was by this refund."""

    outcome = Outcome.NOT_COUNTED


class TalkableRejected(TalkableError):
    """Talkable understood the request and refused it."""

    outcome = Outcome.REJECTED


class TalkablePersonNotFound(TalkableRejected):
    """Talkable knows no such person on that site."""


class TalkableReferralFinal(TalkableRejected):
    """The referral is approved or voided already, which Talkable does not change into the other.

    :param status: The status it has.
    :param asked: The one that was asked for.
    """

    outcome = Outcome.CONFLICT

    def __init__(
        self, message: str, *, status: str = "", asked: str = "", http_status: int | None = None
    ) -> None:
        super().__init__(message, http_status=http_status)
        self.status = status
        self.asked = asked

    @classmethod
    def of(cls, status: str, asked: str, *, http_status: int | None = None) -> TalkableReferralFinal:
        """Name both statuses."""
        message = f"The referral is {status}, which is final: it does not become {asked} any more"
        return cls(message, status=status, asked=asked, http_status=http_status)


class TalkableThrottled(TalkableError):
    """429: too many requests for this site, whoever sent them."""

    outcome = Outcome.THROTTLED


class TalkableServerError(TalkableError):
    """A 5xx: Talkable, or a proxy before it, failed."""

    retryable = True
    may_have_acted = True


class TalkableConnectionError(TalkableError):
    """No answer came: no connection, a timeout, or a connection that broke.

    :param request_sent: Whether the request may have reached Talkable, which may then have acted.
    """

    retryable = True

    def __init__(self, message: str, *, request_sent: bool = True) -> None:
        super().__init__(message)
        self.request_sent = request_sent
        self.may_have_acted = request_sent


class TalkableProtocolError(TalkableError):
    """An answer came that is none of Talkable's to this request: a proxy's page, half a body, a redirect.

    It says nothing of the order.

    :param retryable: Whether the same request may succeed if it is sent again soon.
    :param may_have_acted: Whether Talkable may have carried the request out all the same.
    """

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        retryable: bool = True,
        may_have_acted: bool = True,
    ) -> None:
        super().__init__(message, http_status=http_status)
        self.retryable = retryable
        self.may_have_acted = may_have_acted


class LedgerError(TalkableError):
    """The ledger cannot be used as it is: another table has its name, or a privilege is missing."""


class LedgerLost(LedgerError):
    """The ledger's database went away and did not come back in time."""


class LedgerValueError(LedgerError):
    """The ledger's database refuses a value: what has none of the kind can be read and written.

    :param reason: The database's own words.
    :param refused: The ids of the entries that were not written; all others were.
    """

    def __init__(self, message: str, *, reason: str, refused: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.refused = refused or {}
