"""Reading answers: of three generations, and of everything that is not Talkable's."""

from __future__ import annotations

import json
import re

import pytest

from airflow_provider_talkable import (
    Outcome,
    TalkableAccessDenied,
    TalkableAlreadyRefunded,
    TalkableAuthError,
    TalkableError,
    TalkableOriginNotFound,
    TalkablePersonNotFound,
    TalkableProtocolError,
    TalkableRejected,
    TalkableServerError,
    TalkableThrottled,
)
from airflow_provider_talkable.protocol.answers import (
    RefundAnswer,
    Response,
    read_campaigns,
    read_refund,
    seconds_to_wait,
)

REFERRAL = {"id": 233, "status": "approved", "ad_rewarded": True, "advocate_person": {"id": 39198}}
ORIGIN = {"id": 622, "type": "Purchase", "order_number": "B00K2EOONI", "refunded_at": "2020-04-27"}


def response(payload: object, status: int = 200) -> Response:
    return Response(status, json.dumps(payload).encode())


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        pytest.param({"referral": REFERRAL}, RefundAnswer(REFERRAL, None, True), id="2021"),
        pytest.param(ORIGIN, RefundAnswer(origin=ORIGIN), id="later in 2021: the origin, flat"),
        pytest.param({"origin": ORIGIN}, RefundAnswer(origin=ORIGIN), id="today: the origin"),
        pytest.param(
            {"origin": ORIGIN, "referral": REFERRAL}, RefundAnswer(REFERRAL, ORIGIN, True), id="both"
        ),
        pytest.param({"referral": None}, RefundAnswer(tells_referral=True), id="an origin of no referral"),
        pytest.param({}, RefundAnswer(), id="nothing"),
        pytest.param(None, RefundAnswer(), id="null"),
        pytest.param([1], RefundAnswer(), id="no object"),
        pytest.param({"referral": "233", "origin": 622}, RefundAnswer(), id="of other types"),
    ],
)
def test_every_generations_answer_is_understood(result: object, answer: RefundAnswer) -> None:
    assert read_refund(response({"ok": True, "result": result})) == answer


def test_the_result_may_be_missing() -> None:
    assert read_refund(response({"ok": True})) == RefundAnswer()


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (400, "Origin has already been refunded", TalkableAlreadyRefunded),
        (400, "ORIGIN WAS REFUNDED ALREADY", TalkableAlreadyRefunded),
        (422, "It is already fully refunded.", TalkableAlreadyRefunded),
        (400, "Origin can't be refunded, its referral is already approved", TalkableRejected),
        (400, "Origin is already partially refunded", TalkableRejected),
        (400, "No origin found by `origin_slug`.", TalkableOriginNotFound),
        (422, "Origin not found", TalkableOriginNotFound),
        (400, "The origin doesn't exist", TalkableOriginNotFound),
        (400, "No site found by `site_slug`.", TalkableRejected),
        (400, "refunded_at is invalid, try again", TalkableRejected),
        (422, "Validation failed", TalkableRejected),
        (409, "Conflict", TalkableRejected),
        (414, None, TalkableRejected),
        (404, "whatever", TalkableOriginNotFound),
        (404, None, TalkableOriginNotFound),
        (401, "Unauthorized", TalkableAuthError),
        (403, None, TalkableAccessDenied),
        (200, "Access denied", TalkableAccessDenied),
        (404, "No person found by `person_slug`.", TalkablePersonNotFound),
        (408, None, TalkableServerError),
        (429, None, TalkableThrottled),
        (500, "boom", TalkableServerError),
        (503, None, TalkableServerError),
        (520, None, TalkableServerError),
        (200, "Origin has already been refunded", TalkableAlreadyRefunded),
        (200, "No origin found by `origin_slug`.", TalkableOriginNotFound),
        (200, "Invalid API key", TalkableAuthError),
        (200, "Too many requests", TalkableThrottled),
        (200, "Internal error, please try again", TalkableServerError),
        (200, "Something else", TalkableRejected),
        (200, None, TalkableRejected),
    ],
)
def test_a_failure_is_named_by_status_and_by_meaning_bearing_words(
    status: int, message: str | None, error: type[TalkableError]
) -> None:
    payload = {"ok": False} | ({"error_message": message} if message else {})
    with pytest.raises(TalkableError) as caught:
        read_refund(response(payload, status))
    assert type(caught.value) is error
    assert caught.value.http_status == status
    assert (message or "") in str(caught.value) or error is TalkableThrottled


@pytest.mark.parametrize(
    ("status", "message", "advice"),
    [
        (401, None, "Talkable refused the API key (no reason given); check it"),
        (401, "Unauthorized", "Talkable refused the API key (Unauthorized); check it"),
        (403, None, "Talkable denied access (no reason given); check that the API key belongs"),
        (200, "Invalid API key", "Talkable refused the API key (Invalid API key); check it"),
    ],
)
def test_a_refused_key_comes_with_advice(status: int, message: str | None, advice: str) -> None:
    payload = {"ok": False} | ({"error_message": message} if message else {})
    with pytest.raises(TalkableAuthError, match=f"^{re.escape(advice)}"):
        read_refund(response(payload, status))


HTML = b"<!DOCTYPE html><title>Maintenance</title>"


@pytest.mark.parametrize(
    "body",
    [
        b"", HTML, b"\xff\xfe", b"[]", b'"ok"', b"null", b"5", b'{"ok": tr', b'{"ok": NaN}', b"{}",
        b'{"ok": "true"}', b'{"ok": 1}', b'{"result": {}}',
        b'{"ok": true, "result": {"id": NaN}}', b"[" * 100_000, b'{"ok":' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:16]),
)  # fmt: skip
def test_a_200_that_is_none_of_talkables_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(TalkableProtocolError) as caught:
        read_refund(Response(200, body, "text/html"))
    assert caught.value.retryable
    assert caught.value.may_have_acted
    assert "<" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, TalkableProtocolError), (401, TalkableProtocolError), (403, TalkableProtocolError),
     (404, TalkableProtocolError), (422, TalkableProtocolError), (429, TalkableThrottled),
     (502, TalkableServerError)],
)  # fmt: skip
def test_a_page_says_nothing_of_an_order(status: int, error: type[TalkableError]) -> None:
    with pytest.raises(error) as caught:
        read_refund(Response(status, HTML, "text/html"))
    assert "<" not in str(caught.value)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert read_refund(Response(200, b'\xef\xbb\xbf{"ok": true}')) == RefundAnswer()


def test_a_redirect_names_its_target_and_is_not_worth_a_repeat() -> None:
    with pytest.raises(TalkableProtocolError, match=r"redirect to https://other\.example") as caught:
        read_refund(Response(301, b"", location="https://other.example/"))
    assert not caught.value.retryable


def test_a_long_message_is_cut() -> None:
    with pytest.raises(TalkableRejected) as caught:
        read_refund(response({"ok": False, "error_message": "x" * 100_000}, 422))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("result", [{}, {"campaigns": {}}, None])
def test_an_answer_without_campaigns_does_not_pass_for_talkable(result: object) -> None:
    with pytest.raises(TalkableProtocolError, match="lists no campaigns"):
        read_campaigns(response({"ok": True, "result": result}))


@pytest.mark.parametrize(
    ("retry_after", "date", "seconds"),
    [
        ("7", None, 7.0),
        (" 0 ", None, 0.0),
        ("Mon, 27 Apr 2020 07:01:00 GMT", "Mon, 27 Apr 2020 07:00:00 GMT", 60.0),
        ("Mon, 27 Apr 2020 07:00:00 GMT", "Mon, 27 Apr 2020 07:01:00 GMT", 0.0),
        ("Mon, 27 Apr 2020 07:01:00 GMT", None, None),
        ("soon", "Mon, 27 Apr 2020 07:00:00 GMT", None),
        ("-1", None, None),
        ("1.5", None, None),
        (None, None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_beside_the_answers_own(
    retry_after: str | None, date: str | None, seconds: float | None
) -> None:
    assert seconds_to_wait(retry_after, date) == seconds


def test_every_outcome_but_two_is_a_loss() -> None:
    assert {o for o in Outcome if o.is_success} == {"refunded", "already_refunded"}


@pytest.mark.parametrize(
    "message",
    [
        "Amount must be at most 20.0, 80.0 already refunded",
        "Refund exceeds the rest (80.0 has already been refunded)",
        "No origin of order 1001 has a currency; 2 rates found",
        "Coupon for order already-refunded is not valid",
        "Order number already refunded is malformed",
        "Refund of origin 5: e-mail of its person is found in no list",
        "Order throttle-1 has a bad rate",
        "Event api key 7 is malformed",
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_an_amount_or_an_order_number_settles_nothing(message: str, status: int) -> None:
    with pytest.raises(TalkableRejected) as caught:
        read_refund(response({"ok": False, "error_message": message}, status))
    assert type(caught.value) is TalkableRejected


@pytest.mark.parametrize(
    ("status", "body", "headers", "words"),
    [
        (
            404,
            b"<html>404 Not Found</html>",
            {"Content-Type": "text/html", "Server": "nginx/1.26"},
            "https://shop.example/api/v2 answered HTTP 404 with 26 bytes of text/html from nginx/1.26, not",
        ),
        (404, b'{"message": "no Route matched"}', {}, "a JSON object that does not say whether it is ok"),
        (404, b"", {}, "HTTP 404 with an empty body"),
        (403, b"blocked", {}, "a firewall or a proxy refused the request before Talkable saw it"),
        (400, b'{"error": "x"}', {}, "a proxy or an outage page answered in Talkable's place"),
        (401, b"", {}, "check the API key (the connection's password) and its host"),
    ],
)  # fmt: skip
def test_a_foreign_refusal_names_where_it_came_from_and_leaves_nothing_in_doubt(
    status: int, body: bytes, headers: dict[str, str], words: str
) -> None:
    answer = Response.received(status, body, headers, base_url="https://shop.example/api/v2")
    with pytest.raises(TalkableProtocolError) as caught:
        read_refund(answer)
    assert words in str(caught.value)
    # Half a refusal of Talkable's may be whole the next time.
    assert caught.value.retryable is (status == 400)
    assert not caught.value.may_have_acted
    assert caught.value.outcome is Outcome.FAILED


def test_a_refusal_that_says_ok_is_believed_in_neither() -> None:
    with pytest.raises(TalkableProtocolError, match="HTTP 400 with a body that says ok") as caught:
        read_refund(response({"ok": True}, 400))
    assert caught.value.may_have_acted
