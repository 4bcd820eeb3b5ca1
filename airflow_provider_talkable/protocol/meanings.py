"""What the words of an ``error_message`` mean."""

from __future__ import annotations

import re

from airflow_provider_talkable.protocol.errors import (
    TalkableAccessDenied,
    TalkableAlreadyRefunded,
    TalkableAuthError,
    TalkableError,
    TalkableOriginNotFound,
    TalkablePersonNotFound,
    TalkableServerError,
    TalkableThrottled,
)
from airflow_provider_talkable.protocol.referrals import FINAL

_Meanings = tuple[tuple[re.Pattern[str], type[TalkableError]], ...]


def _meanings(*pairs: tuple[str, type[TalkableError]]) -> _Meanings:
    return tuple((re.compile(words, re.IGNORECASE | re.DOTALL), error) for words, error in pairs)


# By phrases with a subject: an amount, an order number or a coupon can be none of them, as in "80.0 already
# refunded". The sentences around them have changed before. The first match decides.
_ORDER = r"\b(?:origin|order|purchase|event|it)\s+"
_IS_MISSING = r"\s+(?:was\s+|is\s+|could\s+)?not\s+(?:be\s+)?(?:found|exist)\b"
_OF_AN_ORIGIN = _meanings(
    (_ORDER + r"(?:has|was|is)\s+already\s+(?:been\s+)?(?:fully\s+)?refunded\b", TalkableAlreadyRefunded),
    (_ORDER + r"(?:has\s+been|was|is)\s+refunded\s+already\b", TalkableAlreadyRefunded),
    (r"\bno\s+origin\s+(?:was\s+)?found\b", TalkableOriginNotFound),
    (r"\borigin" + _IS_MISSING, TalkableOriginNotFound),
    (r"\borigin\s+does(?:\s+not|n't)\s+exist\b", TalkableOriginNotFound),
    (r"\b(?:could\s*n['o]t|can(?:'|no)t)\s+find\s+origin\b", TalkableOriginNotFound),
    (r"\bno\s+person\s+(?:was\s+)?found\b", TalkablePersonNotFound),
    (r"\bperson" + _IS_MISSING, TalkablePersonNotFound),
    (r"\bperson\s+does(?:\s+not|n't)\s+exist\b", TalkablePersonNotFound),
    (r"\b(?:could\s*n['o]t|can(?:'|no)t)\s+find\s+person\b", TalkablePersonNotFound),
)
_NO_REFERRAL = re.compile(
    r"\bno\s+referral\s+(?:was\s+)?(?:found|exists|for)\b|\bhas\s+no\s+referral\b|\breferral"
    + _IS_MISSING
    + r"|\breferral\s+does(?:\s+not|n't)\s+exist\b",
    re.IGNORECASE,
)
_FINAL_ALREADY = re.compile(
    rf"\b(?:is|was|has|been)\s+already\s+(?:been\s+)?({'|'.join(FINAL)})\b|\bfrom\s+({'|'.join(FINAL)})\b",
    re.IGNORECASE,
)
# A 200 that says ok: false carries in words what its status should have said.
_OF_A_STATUS = _meanings(
    (r"\baccess\s+(?:is\s+|was\s+)?denied\b", TalkableAccessDenied),
    (
        r"\b(?:invalid|wrong|missing|unknown|expired|revoked)\s+api[ _]key\b|\bapi[ _]key\s+(?:is|was|has)\b",
        TalkableAuthError,
    ),
    (r"\b(?:un|not\s+)authori[sz]ed\b", TalkableAuthError),
    (
        r"\btoo\s+many\s+requests\b|\brate\s+limit\s+(?:is\s+|was\s+)?(?:exceeded|reached)\b",
        TalkableThrottled,
    ),
    (r"\b(?:is|are|been|being)\s+throttled\b", TalkableThrottled),
    (
        r"\btry\s+again\b|\btemporarily\s+unavailable\b|\binternal\s+(?:server\s+)?error\b",
        TalkableServerError,
    ),
)


def meaning(message: str, *, also_of_a_status: bool = False) -> type[TalkableError] | None:
    """The error that a message means, if it means one of those that are known.

    :param also_of_a_status: Whether the words may say what a status would otherwise.
    """
    meanings = _OF_AN_ORIGIN + _OF_A_STATUS if also_of_a_status else _OF_AN_ORIGIN
    return next((error for words, error in meanings if words.search(message)), None)


def says_no_referral(message: str) -> bool:
    """Whether an origin belongs to no referral."""
    return _NO_REFERRAL.search(message) is not None


def final_status_in(message: str) -> str | None:
    """The final status that a referral has already, if the message says so."""
    found = _FINAL_ALREADY.search(message)
    return (found[1] or found[2]).lower() if found else None
