"""Reading Talkable's answers: a result, or the typed error that says what to do.

Three generations of the API are understood, whichever one answers. See
"Refunds" in Talkable's API v2 documentation for the first.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import NoReturn

from airflow_provider_talkable.protocol.errors import (
    TalkableAccessDenied,
    TalkableAuthError,
    TalkableOriginNotFound,
    TalkablePersonNotFound,
    TalkableProtocolError,
    TalkableReferralFinal,
    TalkableRejected,
    TalkableServerError,
    TalkableThrottled,
)
from airflow_provider_talkable.protocol.meanings import final_status_in, meaning, says_no_referral
from airflow_provider_talkable.protocol.referrals import FINAL, JsonObject
from airflow_provider_talkable.protocol.rewards import decimal_of

_MAX_MESSAGE = 500
_MAX_SERVER = 60

# What somebody else's answer says of the connection.
_FOREIGN_ADVICE = {
    401: "check the API key (the connection's password) and its host",
    403: "a firewall or a proxy refused the request before Talkable saw it",
    404: "check the connection's host: it is Talkable's own address, without /api/v2",
}


@dataclass(frozen=True, slots=True)
class Response:
    """What came back over HTTP.

    :param status: The HTTP status.
    :param body: The body, decoded from any content encoding.
    :param content_type: The media type as sent, for messages only.
    :param retry_after: The seconds that a Retry-After header asked to wait.
    :param location: Where a redirect points to.
    :param base_url: Where it was asked: scheme, host, port and path prefix.
    :param server: What the Server header calls the one that answered.
    """

    status: int
    body: bytes
    content_type: str = ""
    retry_after: float | None = None
    location: str = ""
    base_url: str = ""
    server: str = ""

    @classmethod
    def received(
        cls, status: int, body: bytes, headers: Mapping[str, str], *, base_url: str = ""
    ) -> Response:
        """Keep what matters of the header fields, which are looked up whatever their case."""
        return cls(
            status=status,
            body=body,
            content_type=headers.get("Content-Type", ""),
            retry_after=seconds_to_wait(headers.get("Retry-After"), headers.get("Date")),
            location=headers.get("Location", ""),
            base_url=base_url,
            server=headers.get("Server", ""),
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

    @property
    def order_subtotal(self) -> Decimal | None:
        """The order's whole subtotal, as Talkable has it."""
        return order_subtotal_of(self.origin, self.referral)


def order_subtotal_of(origin: JsonObject | None, referral: JsonObject | None) -> Decimal | None:
    """The order's whole subtotal, which every generation tells in its own way."""
    if origin is not None:
        return decimal_of(origin.get("subtotal"))
    return None if referral is None else decimal_of(referral.get("referred_subtotal"))


def counted_subtotal_of(origin: JsonObject | None) -> tuple[Decimal | None, bool | None]:
    """How much of an order Talkable counts as refunded, and whether it counts it as a part; ``None`` where
    its API does not tell (2021).
    """
    shown = origin or {}
    partially = shown.get("partially_refunded")
    return decimal_of(shown.get("refund_subtotal")), partially if isinstance(partially, bool) else None


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
        if says_no_referral(message):
            return None
        if not (already := final_status_in(message)):
            raise
        referral = {"status": already}
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

    Talkable speaks in an envelope, a JSON object with a boolean ``ok``: a status is read together with it
    only. Without it somebody else has answered, which says nothing of the order.

    :raises TalkableError: the subclass that says what happened to the request: by the status first,
        by the words of ``error_message`` where the status leaves it open.
    """
    status = response.status
    payload = _json_object(response.body)
    message = _message(payload)
    _raise_for_busy(response, message)
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
    if payload is None or not isinstance(payload.get("ok"), bool):
        raise _foreign(response, payload)
    if not payload["ok"]:
        _raise_refusal(message, status)
    if status >= 400:
        raise TalkableProtocolError(f"HTTP {status} with a body that says ok", http_status=status)
    result = payload.get("result")
    return result if isinstance(result, dict) else {}


def _raise_for_busy(response: Response, message: str) -> None:
    """Raise where Talkable's end takes no requests, which proxies before it say as well."""
    status = response.status
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


def _raise_refusal(message: str, status: int) -> NoReturn:
    """Raise what a refusal of Talkable's own means."""
    if status == 401:
        raise TalkableAuthError(_auth_advice(message), http_status=status)
    if status == 403:
        raise TalkableAccessDenied(_access_advice(message), http_status=status)
    if status == 404:
        is_person = meaning(message) is TalkablePersonNotFound
        missing = TalkablePersonNotFound if is_person else TalkableOriginNotFound
        raise missing(message or "Not found (404)", http_status=status)
    if status >= 400:
        refused = meaning(message) or TalkableRejected
        raise refused(message or f"Talkable refused the request with HTTP {status}", http_status=status)
    kind = meaning(message, also_of_a_status=True) or TalkableRejected
    if kind is TalkableAuthError:
        message = _auth_advice(message)
    elif kind is TalkableAccessDenied:
        message = _access_advice(message)
    raise kind(message or "Talkable answered ok: false and gave no reason", http_status=status)


def _foreign(response: Response, payload: JsonObject | None) -> TalkableProtocolError:
    """The error of an answer that is none of Talkable's.

    One with a 4xx refused the request: a firewall, a gateway or another path does so again, half a refusal of
    Talkable's is worth a repeat. With a 2xx nobody knows what it did.
    """
    status = response.status
    what = _describe(response) if payload is None else "a JSON object that does not say whether it is ok"
    by = f" from {response.server[:_MAX_SERVER]}" if response.server else ""
    at = response.base_url or "The connection's host"
    advice = _FOREIGN_ADVICE.get(status, "a proxy or an outage page answered in Talkable's place")
    return TalkableProtocolError(
        f"{at} answered HTTP {status} with {what}{by}, not in Talkable's words; {advice}",
        http_status=status,
        retryable=status not in _FOREIGN_ADVICE,
        may_have_acted=status < 400,
    )


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


def _auth_advice(message: str) -> str:
    reason = message or "no reason given"
    return (
        f"Talkable refused the API key ({reason}); check it (the connection's password) and its auth_scheme"
    )


def _access_advice(message: str) -> str:
    reason = message or "no reason given"
    return f"Talkable denied access ({reason}); check that the API key belongs to this site_slug"


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
