"""What can happen to one refund."""

from enum import StrEnum

SUSPICIOUS = 50
"""So many orders of which Talkable knows none are no accident."""


class Outcome(StrEnum):
    """The one word that says what happened to a refund.

    Members are strings, so they read the same in XCom, in a table and in ``ignore``.
    """

    REFUNDED = "refunded"
    """Talkable took it."""

    ALREADY_REFUNDED = "already_refunded"
    """Talkable had it already, which settles it just as well."""

    NOT_FOUND = "not_found"
    """Talkable never saw that order."""

    NOT_COUNTED = "not_counted"
    """Talkable refused it because it has another refund of the order; nothing shows that it is this one."""

    REJECTED = "rejected"
    """Talkable refused it; ``error_message`` has its reason."""

    INVALID = "invalid"
    """The input makes no refund; nothing was sent."""

    CONFLICT = "conflict"
    """The same refund was sent before with another amount or date; this one was not sent."""

    THROTTLED = "throttled"
    """Talkable still answered 429 when the patience for it ended; it did not act."""

    FAILED = "failed"
    """The attempts were used up without an answer that settles it; safe to send again."""

    UNCONFIRMED = "unconfirmed"
    """A partial refund that Talkable may or may not have taken; not sent again by itself."""

    ABORTED = "aborted"
    """Not tried: the run stopped first."""

    @property
    def is_success(self) -> bool:
        """Whether Talkable has the refund."""
        return self in (Outcome.REFUNDED, Outcome.ALREADY_REFUNDED)
