"""What is put on the wire: method, path, body and the Authorization header.

Facts from Talkable's API v2 documentation, "Refunds", "Referrals", "People" and "Campaigns".
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlencode

from airflow_provider_talkable.protocol.referrals import ReferralUpdate
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.values import path_segment

# Made once: json.dumps would make one for each body.
_encode = json.JSONEncoder(separators=(",", ":")).encode


class AuthScheme(StrEnum):
    """How Talkable is given the API key."""

    BASIC = "basic"
    """HTTP Basic with the key as user name and an empty password."""

    BEARER = "bearer"
    """``Authorization: Bearer <key>``."""

    @property
    def other(self) -> AuthScheme:
        """The scheme to try when this one is refused."""
        return AuthScheme.BEARER if self is AuthScheme.BASIC else AuthScheme.BASIC

    def authorization(self, api_key: str) -> str:
        """The value of the Authorization header."""
        if self is AuthScheme.BEARER:
            return f"Bearer {api_key}"
        return "Basic " + base64.b64encode(f"{api_key}:".encode()).decode("ascii")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, without host and credentials.

    :param method: ``GET``, ``POST`` or ``PUT``.
    :param path: Path and query, percent-encoded, beginning with ``/``.
    :param body: The JSON text, or ``None``.
    :param repeatable: Whether sending it again is harmless when it is unknown what happened to it.
    :param name: What logs call it where its path names a person; default: the path.
    """

    method: str
    path: str
    body: bytes | None = None
    repeatable: bool = True
    name: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.name or self.path}"


def refund_request(refund: Refund) -> Request:
    """``POST /api/v2/origins/<origin_slug>/refund``; the slug is one path segment whatever is in it."""
    data: dict[str, object] = {}
    if refund.refunded_at is not None:
        data["refunded_at"] = refund.refunded_at.isoformat(timespec="milliseconds")
    # What Talkable is told without an amount it cannot take for a part, whatever it takes for the whole.
    if refund.is_partial and (amount := refund.refund_subtotal) is not None:
        data["refund_subtotal"] = int(amount) if amount == int(amount) else float(amount)
    body: dict[str, object] = {"site_slug": refund.site_slug}
    if data:
        body["data"] = data
    return Request(
        method="POST",
        path=f"/api/v2/origins/{path_segment('origin_slug', refund.origin_slug)}/refund",
        body=_encode(body).encode("ascii"),
        repeatable=not refund.is_partial,
    )


def update_referral_request(update: ReferralUpdate) -> Request:
    """``PUT /api/v2/origins/<origin_slug>/referral``; a repeat finds the status as it is to be."""
    return Request(
        method="PUT",
        path=f"/api/v2/origins/{path_segment('origin_slug', update.origin_slug)}/referral",
        body=_encode({"site_slug": update.site_slug, "data": {"status": update.status}}).encode("ascii"),
    )


def referrals_as_friend_request(site_slug: str, person: str) -> Request:
    """``GET /api/v2/people/<person_slug>/referrals_as_friend``, which changes nothing.

    :raises InvalidRefund: if ``person`` cannot be part of a path.
    """
    return Request(
        method="GET",
        path=f"/api/v2/people/{path_segment('person', person, safe='@')}/referrals_as_friend?"
        + urlencode({"site_slug": site_slug}),
        name="/api/v2/people/…/referrals_as_friend",
    )


def campaigns_request(site_slug: str) -> Request:
    """``GET /api/v2/campaigns``, which needs a valid key and changes nothing."""
    return Request(method="GET", path="/api/v2/campaigns?" + urlencode({"site_slug": site_slug}))
