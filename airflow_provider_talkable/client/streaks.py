"""Refusals in a row that have one cause: what is wrong with one refund is then wrong with all."""

from __future__ import annotations

from airflow_provider_talkable.protocol.errors import (
    TalkableError,
    TalkableProtocolError,
    TalkableRejected,
    printable,
)
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.people import without_people
from airflow_provider_talkable.protocol.results import RefundResult


class Streak:
    """Counts a site's identical refusals in a row: rejections, and answers that are none of Talkable's.

    :param site_slug: The site.
    :param abort_after: How many are too many.
    """

    def __init__(self, site_slug: str, *, abort_after: int) -> None:
        self._site = printable(site_slug)
        self._abort_after = abort_after
        self._refusal: str | None = None
        self._length = 0

    def judge(self, result: RefundResult) -> TalkableError | None:
        """Why nothing more is to be sent to the site, once there are too many."""
        if result.outcome.is_success:
            self._refusal, self._length = None, 0
            return None
        refusal, kind = _refusal(result)
        if refusal is not None:
            self._length = self._length + 1 if refusal == self._refusal else 1
            self._refusal = refusal
        if self._refusal is None or self._length < self._abort_after:
            return None
        words = without_people(result.error_message)
        if kind is TalkableProtocolError:
            return TalkableProtocolError(
                f"site {self._site}: {self._length} refunds in a row got the same answer from somebody else "
                f"({words}); fix that, then run it again",
                http_status=result.http_status,
                retryable=False,
            )
        return TalkableRejected(
            f"site {self._site}: {self._length} refunds in a row were rejected with the same words "
            f"({words}); fix that, then run it again with resend={{'rejected'}}"
        )


def _refusal(result: RefundResult) -> tuple[str | None, type[TalkableError] | None]:
    """What is the same of refusals that have one cause, if it is one, and what it is."""
    if result.outcome is Outcome.REJECTED:
        return result.error_message, TalkableRejected
    error = result.error
    if isinstance(error, TalkableProtocolError) and not (error.retryable and error.may_have_acted):
        # A page's size differs with what it quotes.
        return f"HTTP {result.http_status}", TalkableProtocolError
    return None, None
