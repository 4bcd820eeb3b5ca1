"""Which answers are about the refund that was sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_talkable import Refund, TalkableProtocolError
from airflow_provider_talkable.protocol.answers import Response
from airflow_provider_talkable.protocol.origins import read_refund_of


def reads(slug: str, origin: dict[str, Any], *, flat: bool = False) -> bool:
    """Whether an answer with this origin is taken for the answer to a refund of the slug."""
    shown = {"id": 1} | origin
    body = json.dumps({"ok": True, "result": shown if flat else {"origin": shown}}).encode()
    try:
        answer = read_refund_of(Refund("my-store", slug), Response(200, body))
    except TalkableProtocolError:
        return False
    assert answer.origin == shown
    return True


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "current"])
@pytest.mark.parametrize(
    ("slug", "origin"),
    [
        ("B00K2EOONI", {"order_number": "B00K2EOONI"}),
        ("B00K2EOONI", {"order_number": "b00k2eooni"}),
        ("#1001", {"order_number": "1001"}),
        ("1001", {"order_number": 1001}),
        ("1001", {"order_number": " #10-01 "}),
        ("ord er/1", {"order_number": "ORDER_1"}),
        ("straße", {"order_number": "STRASSE"}),
        ("１００１", {"order_number": "1001"}),
        ("newsletter:42", {"event_category": "newsletter", "event_number": 42}),
        ("newsletter:42", {"event_category": "Newsletter", "event_number": "42"}),
        ("newsletter:42", {"event_number": "42"}),
        ("1001", {"order_number": None, "event_number": None}),
        ("1001", {}),
        ("1001", {"refunded_at": "2026-01-01T00:00:00Z"}),
        ("...", {"order_number": "…"}),
        ("🎁", {"order_number": "🎁"}),
    ],
)
def test_the_answer_to_this_refund(slug: str, origin: dict[str, Any], flat: bool) -> None:
    assert reads(slug, origin, flat=flat)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "current"])
@pytest.mark.parametrize(
    ("slug", "origin"),
    [
        ("1001", {"order_number": "1002"}),
        ("1001", {"order_number": "01001"}),
        ("1001", {"order_number": "1001a"}),
        ("1001", {"order_number": ""}),
        ("1001", {"event_category": "newsletter", "event_number": 42}),
        ("newsletter:42", {"event_category": "newsletter", "event_number": 43}),
        ("newsletter:42", {"event_category": "signup", "event_number": 42}),
        ("newsletter:42", {"order_number": "42"}),
        ("🎁", {"order_number": "🎀"}),
        ("1001", {"order_number": "1001", "refunded_at": None}),
        ("1001", {"refunded_at": None}),
    ],
)
def test_the_answer_to_something_else(slug: str, origin: dict[str, Any], flat: bool) -> None:
    assert not reads(slug, origin, flat=flat)


def test_it_may_be_asked_again_and_may_have_been_done() -> None:
    response = Response(200, b'{"ok": true, "result": {"origin": {"order_number": "1002"}}}')
    with pytest.raises(TalkableProtocolError, match="another origin, 1002") as caught:
        read_refund_of(Refund("my-store", "1001"), response)
    assert (caught.value.retryable, caught.value.may_have_acted) == (True, True)


def test_a_referral_alone_names_no_origin() -> None:
    body = b'{"ok": true, "result": {"referral": {"id": 1, "referred_origin_id": 2}}}'
    assert read_refund_of(Refund("my-store", "1001"), Response(200, body)).referral is not None


@given(st.text(min_size=1).filter(str.strip))
def test_any_slug_is_the_same_as_itself(slug: str) -> None:
    assert reads(slug, {"order_number": slug})


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_two_numbers_are_not_the_same(one: int, other: int) -> None:
    assert reads(str(one), {"order_number": other}) == (one == other)
