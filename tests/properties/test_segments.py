"""Whatever names an order or a person is one segment of a path, or is refused."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
import requests
from hypothesis import assume, example, given
from hypothesis import strategies as st
from urllib3.util import parse_url
from yarl import URL

from airflow_provider_talkable import InvalidRefund, ReferralUpdate, Refund, TalkableError
from airflow_provider_talkable.protocol.referrals import ReferralStatus
from airflow_provider_talkable.protocol.wire import (
    Request,
    referrals_as_friend_request,
    refund_request,
    update_referral_request,
)
from tests.conftest import examples

BASE = "https://www.talkable.com"

# Plain text rarely holds what a URL takes for something else, or a surrogate.
telling = st.lists(
    st.sampled_from(
        [
            *"/\\.?#%+ :@;&=~[]a0é𝔘\0\ud800\udfff\u202e\xa0",
            "..",
            "%2F",
            "%2e",
            "%00",
            "%zz",
            "\r\n",
            "e\u0301",
        ]
    ),
    max_size=8,
).map("".join)
texts = st.text() | st.text(st.characters()) | telling


def segment_of(request: Request, before: str, after: str) -> str:
    """What lies between the fixed parts of a path."""
    path, _, _ = request.path.partition("?")
    assert path.isascii()
    assert path.startswith(before)
    assert path.endswith(after)
    return path[len(before) : -len(after)]


def is_one_segment(segment: str, text: str) -> bool:
    return (
        segment not in {"", ".", ".."}
        and not {"/", "\\", "?", "#"} & set(segment)
        and segment.isprintable()
        and unquote(segment, errors="strict") == text
    )


def stays_as_it_is(request: Request) -> bool:
    """Whether neither client's libraries make another path of it."""
    url = BASE + request.path
    prepared = requests.Request(request.method, url, data=request.body).prepare()
    ways = {
        "aiohttp": URL(url, encoded=True).raw_path_qs,
        "requests": prepared.path_url,
        "urllib3": parse_url(url).request_uri,
    }
    assert ways == dict.fromkeys(ways, request.path)
    return True


@given(texts)
@example("\ud800")
@example("..")
@example("%2e%2e")
@example("a/../b")
@example("x" * 4097)
@examples(400)
def test_any_text_is_one_segment_that_decodes_to_itself_or_is_refused(text: str) -> None:
    try:
        refund = Refund.parse(text, site_slug="my-store")
    except InvalidRefund:
        with pytest.raises(InvalidRefund):
            ReferralUpdate.parse(text, status="voided", site_slug="my-store")
        return
    request = refund_request(refund)
    assert is_one_segment(segment_of(request, "/api/v2/origins/", "/refund"), text)
    assert stays_as_it_is(request)
    request = update_referral_request(ReferralUpdate("my-store", text, ReferralStatus.VOIDED))
    assert is_one_segment(segment_of(request, "/api/v2/origins/", "/referral"), text)
    assert stays_as_it_is(request)


@given(st.text("ABCabc012-_.+#/ ", min_size=1, max_size=20).map(str.strip))
def test_what_may_be_an_order_number_is_not_refused(text: str) -> None:
    assume(text.lower() not in {"none", "null", "nil", "nan", "-nan", "nat", "undefined", "n/a", "#n/a"})
    assume(text not in {"", ".", ".."})
    assert Refund.parse(text, site_slug="my-store").origin_slug == text


@given(texts, texts)
@example("..", "..")
def test_an_event_is_one_segment_too_or_is_refused(category: str, number: str) -> None:
    try:
        refund = Refund.from_row({"event_category": category, "event_number": number}, site_slug="my-store")
    except InvalidRefund:
        return
    request = refund_request(refund)
    assert is_one_segment(segment_of(request, "/api/v2/origins/", "/refund"), f"{category}:{number}")
    assert stays_as_it_is(request)


@given(texts)
@example("friend+1@example.com")
@example("a/b?c#d@example.com")
@example("\ud800@example.com")
@example("..")
@example("")
@examples(400)
def test_any_address_is_one_segment_that_decodes_to_itself_or_is_refused(person: str) -> None:
    try:
        request = referrals_as_friend_request("my-store", person)
    except TalkableError:
        return
    segment = segment_of(request, "/api/v2/people/", "/referrals_as_friend")
    assert is_one_segment(segment, person)
    assert stays_as_it_is(request)
    assert request.path.endswith("/referrals_as_friend?site_slug=my-store")


@given(st.from_regex(r"[a-z0-9.+_'-]{1,20}@[a-z0-9-]{1,20}\.example", fullmatch=True))
def test_an_address_is_not_refused(person: str) -> None:
    assert stays_as_it_is(referrals_as_friend_request("my-store", person))
