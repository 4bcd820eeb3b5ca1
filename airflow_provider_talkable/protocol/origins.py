"""Whether an answer is about the refund that was sent.

A connection can deliver an answer twice, and what stands between may mix answers up. Talkable's own names
the origin from the API of late 2021 on.
"""

from __future__ import annotations

import string
import unicodedata

from airflow_provider_talkable.protocol.answers import RefundAnswer, Response, read_refund
from airflow_provider_talkable.protocol.errors import TalkableProtocolError, printable
from airflow_provider_talkable.protocol.referrals import JsonObject
from airflow_provider_talkable.protocol.refund import Refund

_PUNCTUATION = frozenset(string.punctuation)


def read_refund_of(refund: Refund, response: Response) -> RefundAnswer:
    """Read the answer to this refund; one that names no origin is taken for it.

    :raises TalkableProtocolError: if it names another origin, or one that is not refunded.
    :raises TalkableError: the one that fits, see :func:`read_refund`.
    """
    answer = read_refund(response)
    origin = answer.origin or {}
    if (named := _slug_named(origin, refund.origin_slug)) is not None and not _is_same(
        named, refund.origin_slug
    ):
        raise TalkableProtocolError(
            f"The answer is about another origin, {printable(named)}", http_status=response.status
        )
    if origin.get("refunded_at", "") is None:
        raise TalkableProtocolError(
            "The answer shows the origin without a refund", http_status=response.status
        )
    return answer


def names_origin(answer: object) -> bool:
    """Whether an answer shows which origin it is about; of those to refunds only some do."""
    return isinstance(answer, RefundAnswer) and _slug_named(answer.origin or {}, "") is not None


def _slug_named(origin: JsonObject, slug: str) -> str | None:
    """The slug of the origin that an answer shows, as far as it names one."""
    if (order_number := origin.get("order_number")) is not None:
        return str(order_number)
    category, number = origin.get("event_category"), origin.get("event_number")
    if number is None:
        return None
    return f"{slug.partition(':')[0] if category is None else category}:{number}"


def _is_same(one: str, other: str) -> bool:
    """Whether two slugs differ in case, spaces and punctuation at most: Talkable may write them its way."""
    return one == other or _bare(one) == _bare(other)


def _bare(slug: str) -> str:
    folded = unicodedata.normalize("NFKC", slug).casefold()
    return "".join(
        letter
        for letter in folded
        # Separators, punctuation and control characters.
        if unicodedata.category(letter)[0] not in "ZPC" and letter not in _PUNCTUATION
    )
