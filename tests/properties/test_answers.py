"""Whatever comes, from Talkable or from a warehouse, is understood or ends in a typed error."""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from email.utils import format_datetime
from fractions import Fraction
from functools import partial
from typing import Any, NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from airflow_provider_talkable import InvalidRefund, Outcome, Refund, RefundResult, TalkableError
from airflow_provider_talkable.protocol.answers import (
    Response,
    read_campaigns,
    read_referral_update,
    read_referrals,
    read_refund,
)
from airflow_provider_talkable.protocol.refund import COLUMNS
from airflow_provider_talkable.protocol.refusals import OtherRefund, outcome_of_refusal
from airflow_provider_talkable.protocol.rewards import paid_rewards, payment_of
from airflow_provider_talkable.protocol.wire import refund_request
from tests.conftest import examples

READERS: dict[str, Callable[[Response], object]] = {
    "refund": read_refund,
    "referrals": read_referrals,
    "campaigns": read_campaigns,
    "voided": partial(read_referral_update, asked="voided"),
    "approved": partial(read_referral_update, asked="approved"),
}

WORDS = [
    "Origin has already been refunded",
    "No origin found by `origin_slug`.",
    "No person found",
    "No referral found for this origin",
    "Referral is already voided and cannot be approved",
    "Referral cannot go from approved",
    "Invalid API key",
    "Too many requests",
    "Try again",
    "\ud800\0",
]
NAMES = ["ok", "result", "error_message", "referral", "referrals", "campaigns", "origin", "id", "status"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from([*WORDS, "true", "voided", "approved", "pending"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)
payloads = st.fixed_dictionaries(
    {},
    optional={
        "ok": st.just(True) | st.just(False) | values,
        "result": st.dictionaries(st.sampled_from(NAMES), values, max_size=5) | values,
        "error_message": st.sampled_from(WORDS) | values,
    },
)
documents = (payloads | values).map(lambda value: json.dumps(value).encode())


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A document with a piece of it lost, doubled, or replaced."""
    whole = draw(documents)
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, len(whole)))
    piece = draw(st.sampled_from([b"", whole[start:end] * 2]) | st.binary(max_size=6))
    return whole[:start] + piece + whole[end:]


bodies = (
    documents
    | mangled()
    | st.binary()
    | documents.map(lambda body: b"\xef\xbb\xbf" + body)
    | documents.map(lambda body: body.decode().encode("utf-16"))
    | st.sampled_from([b"[" * 50_000, b'{"ok":true,"result":{"id":' + b"9" * 5000 + b"}}", b'{"ok":NaN}'])
)
statuses = st.integers(100, 599) | st.sampled_from([200, 201, 400, 404, 422]) | st.integers(-1, 1000)


@st.composite
def dates(draw: st.DrawFn) -> str:
    """A date as a header may have it, with numbers that no date has."""
    numbers = st.integers(0, 60) | st.integers(0, 10**20)
    day, year, hour, minute, second = (draw(numbers) for _ in range(5))
    month = draw(st.sampled_from(["Jan", "Nov", "Feb", "Foo"]))
    zone = draw(st.sampled_from(["GMT", "", "-0000", "EST", "+9999"]) | numbers.map(lambda n: f"+{n}"))
    return f"Mon, {day} {month} {draw(st.just(year) | st.just(2026))} {hour}:{minute}:{second} {zone}"


headers = (
    st.none()
    | st.text()
    | dates()
    | st.datetimes().map(format_datetime)
    | st.integers().map(str)
    | st.sampled_from(["Mon, 27 Apr 2026 07:00:00 GMT", "0", "9" * 5000, "-1", "1e3", "inf"])
)


def error_of(read: Callable[[Response], object], response: Response) -> TalkableError | None:
    try:
        read(response)
    except TalkableError as error:
        return error
    return None


@given(
    st.sampled_from(sorted(READERS)), statuses, bodies, st.text(), st.text(), st.none() | st.floats(0, 1e9)
)
@examples(1000)
def test_any_answer_is_read_or_ends_in_a_typed_error(
    reader: str, status: int, body: bytes, content_type: str, location: str, retry_after: float | None
) -> None:
    response = Response(status, body, content_type, retry_after, location)
    error = error_of(READERS[reader], response)
    if error:
        assert isinstance(error.args[0], str)
        assert error.http_status == status
        assert error.outcome in Outcome


@given(statuses, bodies)
@example(200, b'{"ok": true, "result": {"referral": [1], "origin": "x"}}')
@example(200, b'{"ok": 1, "result": {"origin": {"id": 1}}}')
@examples(600)
def test_only_a_json_object_that_says_ok_with_a_2xx_is_a_refund(status: int, body: bytes) -> None:
    refund = Refund("my-store", "A", refund_subtotal=Decimal("5.0000"))
    response = Response(status, body)
    if error := error_of(read_refund, response):
        result = RefundResult.from_error(refund, error, attempts=1)
        # An answer that tells neither yes nor no leaves a partial refund in doubt.
        assert result.outcome is Outcome.UNCONFIRMED or not error.may_have_acted
        assert result.outcome is not Outcome.REFUNDED
        # Only a redirect and a refusal, whoever's, tell that nothing was done.
        assert result.outcome is not Outcome.FAILED or 300 <= status < 500
        assert result.outcome is Outcome.FAILED or not 300 <= status < 400
        return
    answer = read_refund(response)
    assert 200 <= status < 300
    assert json.loads(body.decode("utf-8-sig"))["ok"] is True
    assert answer.referral is None or isinstance(answer.referral, dict)
    assert answer.origin is None or isinstance(answer.origin, dict)


def is_envelope(body: bytes) -> bool:
    try:
        payload = json.loads(body.removeprefix(BOM_UTF8), parse_constant=no_constant)
    except (ValueError, RecursionError, pytest.fail.Exception):
        return False
    return isinstance(payload, dict) and isinstance(payload.get("ok"), bool)


@given(statuses, bodies, st.sampled_from([None, Decimal("5.0000")]))
@example(404, b"", None)
@example(404, b'{"message": "no Route matched"}', None)
@example(404, b"<html>404 Not Found</html>", Decimal("5.0000"))
@example(403, b"<html>Blocked</html>", None)
@example(400, b'{"error_message": "Origin has already been refunded"}', None)
@example(400, b'{"ok": 0, "error_message": "No origin found by `origin_slug`."}', None)
@examples(1000)
def test_any_answer_settles_a_refund_only_in_talkables_envelope(
    status: int, body: bytes, amount: Decimal | None
) -> None:
    refund = Refund("my-store", "A", refund_subtotal=amount)
    error = error_of(read_refund, Response(status, body))
    outcome = RefundResult.from_error(refund, error, attempts=1).outcome if error else Outcome.REFUNDED
    if outcome not in (Outcome.FAILED, Outcome.THROTTLED, Outcome.UNCONFIRMED):
        assert is_envelope(body)
        assert not 300 <= status < 400
        assert status < 500


@given(headers, headers)
@example("Mon, 27 Apr 2026 07:00:00 GMT", "Mon, 27 Apr 2026 07:00:07 GMT")
@example("Mon, 27 Apr 2026 07:00:07 GMT", "Mon, 27 Apr 2026 07:00:00 GMT")
@example("Mon, 27 Apr 20260000000000 07:00:00 GMT", None)
@example("Mon, 27 Apr 2026 07:00:00 +9999999999999999999", "Mon, 27 Apr 2026 07:00:00 GMT")
@example("Mon, 27 Apr 2026 07:00:00 GMT", "Mon, 27 Apr 20260000000000 07:00:00 GMT")
@examples(1000)
def test_any_header_asks_for_a_time_to_wait_or_for_none(retry_after: str | None, date: str | None) -> None:
    given_headers = {"retry-after": retry_after, "DATE": date, "location": date}
    sent = CaseInsensitiveDict({name: text for name, text in given_headers.items() if text is not None})
    response = Response.received(503, b"", sent)
    if response.retry_after is not None:
        assert math.isfinite(response.retry_after)
        assert response.retry_after >= 0


odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**4299, 10**4300, -(10**4300)]),
    st.floats(),
    st.decimals(),
    st.sampled_from(["sNaN", "-NaN", "Infinity", "1E-999999", "1E+999999", "-0", "42"]).map(Decimal),
    st.fractions(),
    st.just(Fraction(10**400)),
    st.complex_numbers(),
    st.text(),
    st.binary(),
    st.binary().map(bytearray),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.datetimes(),
    st.datetimes(timezones=st.timezones()),
    st.uuids(),
    st.builds(object),
)
anything = odd | st.lists(odd, max_size=3) | st.dictionaries(st.text(max_size=3), odd, max_size=3)
usual = {
    "origin_slug": st.from_regex(r"[A-Z0-9]{1,8}", fullmatch=True) | st.integers() | st.uuids() | anything,
    "refunded_at": st.datetimes().map(str) | st.datetimes(timezones=st.just(UTC)) | st.dates() | anything,
    "refund_subtotal": (
        st.decimals(0, 10**6, places=2) | st.floats(0, 10**12) | st.integers().map(str) | anything
    ),
    "site_slug": st.just("my-store") | st.sampled_from(["\ud800", "a\nb", "é"]) | anything,
}
rows: st.SearchStrategy[dict[Any, object]] = (
    st.fixed_dictionaries({}, optional=usual)
    # What is wrong with one column is not seen behind what is wrong with another.
    | st.sampled_from(sorted(usual)).flatmap(
        lambda name: st.fixed_dictionaries(
            {"origin_slug": st.just("A"), "site_slug": st.just("my-store"), name: usual[name]}
        )
    )
    | st.dictionaries(st.sampled_from(COLUMNS), anything, max_size=5)
    | st.dictionaries(st.sampled_from(COLUMNS) | st.text() | st.integers() | st.none(), anything, max_size=3)
)


def no_constant(name: str) -> NoReturn:
    pytest.fail(f"{name} is not JSON")


def check_that_it_can_be_sent(refund: Refund) -> None:
    body = refund_request(refund).body
    assert body is not None
    sent = json.loads(body, parse_constant=no_constant)
    assert sent["site_slug"] == refund.site_slug
    # JSON's escapes can spell what is not text.
    assert refund.site_slug.encode().decode() == refund.site_slug
    data = sent.get("data", {})
    assert ("refund_subtotal" in data) == refund.is_partial
    if refund.refund_subtotal is not None:
        assert Decimal(repr(data["refund_subtotal"])) == refund.refund_subtotal


@given(rows)
@example({"origin_slug": 10**4300, "site_slug": "my-store"})
@example({"origin_slug": "A", "refund_subtotal": 10**4300, "site_slug": "my-store"})
@example({"origin_slug": [10**4300], "site_slug": "my-store"})
@example({"origin_slug": "A", "refund_subtotal": Fraction(10**400), "site_slug": "my-store"})
@example({"origin_slug": "A", "refund_subtotal": Decimal("NaN"), "site_slug": "my-store"})
@example({"origin_slug": "A", "refund_subtotal": Decimal("sNaN"), "site_slug": "my-store"})
@example({"origin_slug": "A", "site_slug": "\ud800"})
@examples(1500)
def test_any_row_is_a_refund_that_can_be_sent_or_is_refused(row: dict[Any, object]) -> None:
    try:
        refund = Refund.from_row(row)
    except InvalidRefund as error:
        shown = RefundResult.invalid(row, error)
    else:
        check_that_it_can_be_sent(refund)
        return
    # It is shown, and kept.
    assert json.dumps(shown.as_dict()).isascii()
    assert shown.origin_slug.encode().decode() == shown.origin_slug


@given(st.decimals(Decimal("0.0001"), Decimal("99999999999.9999"), places=4))
def test_an_amount_arrives_to_the_fourth_decimal(amount: Decimal) -> None:
    refund = Refund.from_row({"origin_slug": "A", "site_slug": "my-store", "refund_subtotal": amount})
    body = refund_request(refund).body
    assert body is not None
    assert Decimal(repr(json.loads(body)["data"]["refund_subtotal"])) == amount


REBATE = {"status": "Paid", "incentive_type": "rebate", "amount": "9" * 999}


@given(
    values | st.dictionaries(st.sampled_from([*NAMES, "ad_rewarded", "advocate_rewards"]), values, max_size=6)
)
@example({"status": "approved", "advocate_rewards": [{"status": "Paid", "coupon": []}, None]})
@example({"status": "approved", "advocate_rewards": [REBATE]})
@examples(600)
def test_only_an_approved_referral_was_paid_whatever_it_says(referral: Any) -> None:
    referral = referral if isinstance(referral, dict) else {"status": referral}
    payment = payment_of(referral)
    assert (payment.known_by is None) == (payment.paid is None)
    if payment.paid:
        assert referral["status"] == "approved"
    paid = paid_rewards(referral)
    assert paid.money.is_finite()
    assert paid.revocable >= 0


@given(
    st.booleans(),
    st.booleans(),
    st.lists(st.builds(OtherRefund, st.booleans(), st.booleans()), max_size=4),
)
def test_a_refusal_is_a_success_only_where_nothing_else_explains_it(
    is_whole: bool, may_be_its_own: bool, others: list[OtherRefund]
) -> None:
    outcome = outcome_of_refusal(is_whole=is_whole, may_be_its_own=may_be_its_own, others=others)
    is_all_refunded = any(other.is_whole and other.is_certain for other in others)
    if outcome is Outcome.ALREADY_REFUNDED:
        assert is_all_refunded or (not others and (is_whole or may_be_its_own))
    else:
        assert outcome is Outcome.NOT_COUNTED
        assert not is_all_refunded
