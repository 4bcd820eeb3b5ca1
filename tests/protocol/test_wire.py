"""What is put on the wire."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest

from airflow_provider_talkable import InvalidRefund, ReferralUpdate, Refund
from airflow_provider_talkable.protocol.wire import (
    AuthScheme,
    campaigns_request,
    referrals_as_friend_request,
    refund_request,
    update_referral_request,
)


def body_of(**fields: Any) -> Any:
    body = refund_request(Refund.parse("A", site_slug="my-store", **fields)).body
    assert body is not None
    return json.loads(body)


def test_the_documents_example() -> None:
    request = refund_request(Refund.parse("B00K2EOONI", site_slug="my-store"))
    assert (request.method, request.path) == ("POST", "/api/v2/origins/B00K2EOONI/refund")
    assert request.body == b'{"site_slug":"my-store"}'
    assert request.repeatable


def test_the_api_key_is_the_user_name_of_basic_or_the_bearer_token() -> None:
    assert AuthScheme.BASIC.authorization("i9uil7nQgDjucCiTJu") == "Basic aTl1aWw3blFnRGp1Y0NpVEp1Og=="
    assert AuthScheme.BEARER.authorization("i9uil7nQgDjucCiTJu") == "Bearer i9uil7nQgDjucCiTJu"


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({"refunded_at": "2020-04-27T00:00:00-07:00"}, {"refunded_at": "2020-04-27T07:00:00.000+00:00"}),
        ({"refund_subtotal": "35.03"}, {"refund_subtotal": 35.03}),
        ({"refund_subtotal": 0.1 + 0.2}, {"refund_subtotal": 0.3}),
        ({"refund_subtotal": 12.0}, {"refund_subtotal": 12}),
        ({"refund_subtotal": "99999999999.9999"}, {"refund_subtotal": 99999999999.9999}),
    ],
)
def test_details_go_into_data(fields: dict[str, Any], data: dict[str, Any]) -> None:
    assert body_of(**fields) == {"site_slug": "my-store", "data": data}


def test_a_partial_refund_is_not_repeatable() -> None:
    assert not refund_request(Refund.parse("A", site_slug="s", refund_subtotal=1)).repeatable


def test_a_site_slug_is_escaped_in_the_body_and_in_a_query() -> None:
    site = 'ä"&x'
    body = refund_request(Refund.parse("A", site_slug=site)).body
    assert body is not None
    assert json.loads(body) == {"site_slug": site}
    assert campaigns_request(site).path == "/api/v2/campaigns?site_slug=%C3%A4%22%26x"


HOSTILE = [
    "a/b", "../x", "a/../b", "?x=1", "#top", "100%", "%2e%2e", "%2F", "a b", "'", '"', "\\", "a\nb",
    "\r\nX-Evil: 1", "\0", "🎁", "مرحبا", "\u202eabc", "a" * 4096, "newsletter_subscription:42",
    "~.-_", "+&=;,@!$*()",
]  # fmt: skip


@pytest.mark.parametrize("slug", HOSTILE, ids=lambda s: ascii(s)[:20])
def test_a_slug_is_one_path_segment_that_decodes_to_itself(slug: str) -> None:
    path = refund_request(Refund("s", slug)).path
    assert path.isascii()
    assert path.isprintable()
    _, api, v2, origins, segment, refund = path.split("/")
    assert (api, v2, origins, refund) == ("api", "v2", "origins", "refund")
    assert not set(segment) & set("?# \\")
    assert unquote(segment, errors="strict") == slug


def test_a_referrals_status_is_put() -> None:
    update = ReferralUpdate.parse("a:1/2", status="voided", site_slug="my-store")
    request = update_referral_request(update)
    assert (request.method, request.path) == ("PUT", "/api/v2/origins/a:1%2F2/referral")
    assert request.body == b'{"site_slug":"my-store","data":{"status":"voided"}}'
    assert request.repeatable
    with pytest.raises(InvalidRefund, match=r"^origin_slug='\.\.'"):
        update_referral_request(ReferralUpdate("my-store", "..", update.status))


def test_campaigns_are_asked_for_by_site() -> None:
    request = campaigns_request("my store")
    assert (request.method, request.path) == ("GET", "/api/v2/campaigns?site_slug=my+store")


def test_a_friend_is_named_in_the_path_and_nowhere_else() -> None:
    request = referrals_as_friend_request("my store", "jane+1@example.com")
    assert request.method == "GET"
    assert request.path == "/api/v2/people/jane%2B1@example.com/referrals_as_friend?site_slug=my+store"
    assert str(request) == "GET /api/v2/people/…/referrals_as_friend"
    with pytest.raises(InvalidRefund, match="^person='': cannot be sent"):
        referrals_as_friend_request("my-store", "")
