"""Reading Talkable's answers: a result, or the typed error that says what to do.

Three generations of the API are understood without being told which one answers. See
"Refunds" in Talkable's API v2 documentation for the first.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import NoReturn

from airflow_provider_talkable.protocol.errors import (
    TalkableAlreadyRefunded,
    TalkableAuthError,
    TalkableError,
    TalkableOriginNotFound,
    TalkablePersonNotFound,
    TalkableProtocolError,
    TalkableReferralFinal,
    TalkableRejected,
    TalkableServerError,
    TalkableThrottled,
)
from airflow_provider_talkable.protocol.referrals import FINAL, JsonObject

_MAX_MESSAGE = 500

_Meanings = tuple[tuple[re.Pattern[str], type[TalkableError]], ...]


def _meanings(*pairs: tuple[str, type[TalkableError]]) -> _Meanings:
    return tuple((re.compile(words, re.IGNORECASE | re.DOTALL), error) for words, error in pairs)


# By meaning-bearing words: the sentences around them have changed before. The first match decides.
_OF_AN_ORIGIN = _meanings(
    (r"\balready\s+(been\s+)?(fully\s+)?refunded\b", TalkableAlreadyRefunded),
    (r"\b(was|been|is)\s+refunded\s+already\b", TalkableAlreadyRefunded),
    (r"\bno\s+origin\b.*\bfound\b", TalkableOriginNotFound),
    (r"\borigin\b.*(\bnot\s+found\b|\bnot\s+exist\b|n't\s+exist\b)", TalkableOriginNotFound),
    (r"\bno\s+person\b.*\bfound\b", TalkablePersonNotFound),
    (r"\bperson\b.*(\bnot\s+found\b|\bnot\s+exist\b|n't\s+exist\b)", TalkablePersonNotFound),
)
_NO_REFERRAL = re.compile(
    r"\bno\s+referral\b|\breferral\b.*(\bnot\s+found\b|\bnot\s+exist\b|n't\s+exist\b)",
    re.IGNORECASE | re.DOTALL,
)
_FINAL_ALREADY = re.compile(rf"\b(?:already|from)\s+(?:been\s+)?({'|'.join(FINAL)})\b", re.IGNORECASE)
# A 200 that says ok: false carries in words what its status should have said.
_OF_A_STATUS = _meanings(
    (r"\bapi[ _]key\b|\bunauthori[sz]ed\b|\bnot authori[sz]ed\b|\baccess denied\b", TalkableAuthError),
    (r"\btoo many requests\b|\brate limit|\bthrottl", TalkableThrottled),
    (r"\btry again\b|\btemporarily\b|\binternal (server )?error\b", TalkableServerError),
)


@dataclass(frozen=True, slots=True)
class Response:
    """What came back over HTTP.

    :param status: The HTTP status.
    :param body: The body, decoded from any content encoding.
    :param content_type: The media type as sent, for messages only.
    :param retry_after: The seconds that a Retry-After header asked to wait.
    :param location: Where a redirect points to.
    """

    status: int
    body: bytes
    content_type: str = ""
    retry_after: float | None = None
    location: str = ""

    @classmethod
    def received(cls, status: int, body: bytes, headers: Mapping[str, str]) -> Response:
        """Keep what matters of the header fields, which are looked up whatever their case."""
        return cls(
            status=status,
            body=body,
            content_type=headers.get("Content-Type", ""),
            retry_after=seconds_to_wait(headers.get("Retry-After"), headers.get("Date")),
            location=headers.get("Location", ""),
        )


@dataclass(frozen=True, slots=True)
class RefundAnswer:
    """What Talkable says of an origin it has refunded; either part can be missing.

    :param referral: The referral the origin belongs to (the API of 2021).
    :param origin: The origin itself (later generations).
    :param tells_referral: Whether it says which referral that is, or that it is none.
    """

    referral: JsonObject | None = None
    origin: JsonObject | None = None
    tells_referral: bool = False


def read_refund(response: Response) -> RefundAnswer:
    """Read the answer to a refund.

    :raises TalkableError: the one that fits, see :func:`read_result`.
    """
    result = read_result(response)
    referral, origin = result.get("referral"), result.get("origin")
    if "referral" not in result and "origin" not in result and "id" in result:
        origin = result
    return RefundAnswer(
        referral=referral if isinstance(referral, dict) else None,
        origin=origin if isinstance(origin, dict) else None,
        tells_referral=isinstance(referral, dict) or (referral is None and "referral" in result),
    )


def read_referrals(response: Response) -> list[JsonObject]:
    """Read the answer to a request for a person's referrals.

    :raises TalkableError: the one that fits, see :func:`read_result`.
    """
    return _list_of("referrals", response)


def read_referral_update(response: Response, *, asked: str) -> JsonObject | None:
    """Read the answer to a change of a referral's status.

    :param asked: The status that was asked for.
    :return: The referral, of which only the status is known where it was refused because it has that
        status already; ``None`` where the origin belongs to no referral.
    :raises TalkableReferralFinal: if it has the opposite final status.
    :raises TalkableError: the one that fits, see :func:`read_result`.
    """
    try:
        referral = read_result(response).get("referral")
    except TalkableRejected as error:
        message = str(error.args[0])
        if _NO_REFERRAL.search(message):
            return None
        if not (found := _FINAL_ALREADY.search(message)):
            raise
        referral = {"status": found[1].lower()}
    if not isinstance(referral, dict):
        return None
    status = referral.get("status")
    if status in FINAL and status != asked:
        raise TalkableReferralFinal.of(status, asked, http_status=response.status)
    return referral


def read_campaigns(response: Response) -> list[JsonObject]:
    """Read the answer to a request for campaigns.

    :raises TalkableError: the one that fits, see :func:`read_result`.
    """
    return _list_of("campaigns", response)


def read_result(response: Response) -> JsonObject:
    """Return the ``result`` of an answer that says ``ok``, empty where it has none.

    :raises TalkableError: the subclass that says what became of the request: by the status first,
        by the words of ``error_message`` where the status leaves it open.
    """
    status = response.status
    payload = _json_object(response.body)
    message = _message(payload)
    if status in (401, 403):
        raise TalkableAuthError(_auth_advice(message, status), http_status=status)
    if status == 429:
        raise TalkableThrottled(
            "Talkable throttles this site (429)", http_status=status, retry_after=response.retry_after
        )
    if status >= 500 or status == 408:
        raise TalkableServerError(
            message or f"Talkable answered HTTP {status}",
            http_status=status,
            retry_after=response.retry_after,
        )
    if status == 404:
        raise TalkableOriginNotFound(message or "Not found (404)", http_status=status)
    if not 200 <= status < 300 and not 400 <= status < 500:
        raise TalkableProtocolError(
            f"Answered with HTTP {status}"
            + (f", a redirect to {response.location}, which is not followed" if response.location else "")
            + "; set the connection's host to where Talkable answers by itself",
            http_status=status,
            retryable=False,
            # Who sends a client elsewhere has done nothing (RFC 9110, 15.4).
            may_have_acted=not 300 <= status < 400,
        )
    if payload is None:
        raise TalkableProtocolError(
            f"HTTP {status} with {_describe(response)} instead of a JSON object; "
            "a proxy or an outage page answered in Talkable's place",
            http_status=status,
        )
    if status >= 400:
        _raise_by_meaning(
            _OF_AN_ORIGIN, message or f"Talkable refused the request with HTTP {status}", status
        )
    if payload.get("ok") is False:
        _raise_by_meaning(
            _OF_AN_ORIGIN + _OF_A_STATUS, message or "Talkable answered ok: false and gave no reason", status
        )
    if payload.get("ok") is not True:
        raise TalkableProtocolError(
            f"HTTP {status} with a JSON object that does not say whether it is ok",
            http_status=status,
        )
    result = payload.get("result")
    return result if isinstance(result, dict) else {}


def _list_of(name: str, response: Response) -> list[JsonObject]:
    items = read_result(response).get(name)
    if not isinstance(items, list):
        raise TalkableProtocolError(
            f"The answer lists no {name}; is the connection's host Talkable's?",
            http_status=response.status,
            retryable=False,
        )
    return [item for item in items if isinstance(item, dict)]


def seconds_to_wait(retry_after: str | None, date: str | None) -> float | None:
    """Read a Retry-After header (RFC 9110): seconds, or a date, which the answer's own Date is
    subtracted from so that the local clock does not matter.
    """
    if retry_after is None:
        return None
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", retry_after, re.ASCII):
        return float(retry_after)
    try:
        gap = parsedate_to_datetime(retry_after) - parsedate_to_datetime(date or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, gap.total_seconds())


def _raise_by_meaning(meanings: _Meanings, message: str, status: int) -> NoReturn:
    matches = (error for words, error in meanings if words.search(message))
    error = next(matches, TalkableRejected)
    if error is TalkableAuthError:
        message = _auth_advice(message, status)
    raise error(message, http_status=status)


def _auth_advice(message: str, status: int) -> str:
    reason = message or "no reason given"
    if status == 403:
        return f"Talkable denied access ({reason}); check that the API key belongs to this site_slug"
    return (
        f"Talkable refused the API key ({reason}); check it (the connection's password) and its auth_scheme"
    )


def _json_object(body: bytes) -> JsonObject | None:
    try:
        # Not by the codec utf-8-sig, which is written in Python.
        payload = _decode(body.removeprefix(BOM_UTF8).decode())
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


def _no_such_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Made once: json.loads would make one for each body.
_decode = json.JSONDecoder(parse_constant=_no_such_constant).decode


def _message(payload: JsonObject | None) -> str:
    message = (payload or {}).get("error_message")
    if not isinstance(message, str):
        return ""
    message = " ".join(message.split())
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "…"


def _describe(response: Response) -> str:
    if not response.body:
        return "an empty body"
    return f"{len(response.body)} bytes of {response.content_type or 'unnamed content'}"
