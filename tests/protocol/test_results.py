"""Results in the form that goes to XCom, and without people's data."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

import airflow_provider_talkable as package
from airflow_provider_talkable import (
    InvalidRefund,
    Outcome,
    Refund,
    RefundResult,
    TalkableAuthError,
    TalkableConnectionError,
    TalkableError,
    TalkableServerError,
    TalkableThrottled,
)
from airflow_provider_talkable.protocol.people import without_people

FULL = Refund.parse("A", site_slug="s")
PARTIAL = Refund.parse("A", site_slug="s", refund_subtotal=5)


@pytest.mark.parametrize(
    ("error", "full", "partial"),
    [
        (TalkableServerError("x"), Outcome.FAILED, Outcome.UNCONFIRMED),
        (TalkableConnectionError("x", request_sent=True), Outcome.FAILED, Outcome.UNCONFIRMED),
        (TalkableConnectionError("x", request_sent=False), Outcome.FAILED, Outcome.FAILED),
        (TalkableThrottled("x"), Outcome.THROTTLED, Outcome.THROTTLED),
    ],
)
def test_a_partial_refund_that_may_have_been_taken_is_unconfirmed(
    error: TalkableError, full: Outcome, partial: Outcome
) -> None:
    assert RefundResult.from_error(FULL, copy.copy(error), attempts=1).outcome is full
    assert RefundResult.from_error(PARTIAL, copy.copy(error), attempts=1).outcome is partial


def test_the_dictionary_is_json_and_reads_back() -> None:
    result = RefundResult("A", Outcome.REFUNDED, {"id": 1}, None, 200, None, 2)
    values = json.loads(json.dumps(result.as_dict()))
    assert list(values) == [
        "origin_slug", "outcome", "referral", "origin", "late", "http_status", "error_message", "attempts",
        "void_outcome",
    ]  # fmt: skip
    assert values["outcome"] == "refunded"
    assert RefundResult.from_dict(values) == result


def test_an_error_names_the_order_and_a_result_quotes_talkable() -> None:
    result = RefundResult.from_error(FULL, TalkableServerError("boom", http_status=500), attempts=5)
    assert result.error_message == "boom"
    with pytest.raises(TalkableServerError, match="^A: boom$") as caught:
        result.raise_for_outcome()
    assert caught.value.http_status == 500


def test_one_error_may_end_several_refunds() -> None:
    error = TalkableAuthError("key refused", http_status=401)
    for slug in ("A", "B"):
        result = RefundResult.from_error(Refund.parse(slug, site_slug="s"), error, attempts=1)
        assert result.error_message == "key refused"
    assert str(error) == "B: key refused"


@pytest.mark.parametrize("name", [n for n in package.__all__ if n[0] in "TI"])
def test_errors_survive_pickling(name: str) -> None:
    error = getattr(package, name)("message")
    error.origin_slug = "A"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"order_number": 4.0}, "4.0"),
        ({"refunded_at": "x"}, "None"),
        (None, "None"),
        ("\ud800", "\\ud800"),
        ("x" * 10_000, "x" * 200 + "…"),
    ],
)
def test_invalid_input_is_shown_as_it_was_given(row: object, shown: str) -> None:
    result = RefundResult.invalid(row, InvalidRefund.of("origin_slug", row, "no"))
    assert result.origin_slug == shown
    assert result.outcome is Outcome.INVALID
    assert json.dumps(result.as_dict(), ensure_ascii=False).encode()


def test_people_are_left_out_wherever_they_stand() -> None:
    person = {"id": 1, "email": "a@example.com", "first_name": "A", "last_name": "B", "phone_number": "1"}
    referral = {
        "id": 233,
        "status": "approved",
        "advocate_person": person,
        "friends": [person | {"ip_address": "192.0.2.1", "username": "ab", "Email": "a@example.com"}],
        "campaign_name": "Invite",
        "note": "asked by a@example.com, twice",
        "total": None,
    }
    assert without_people(referral) == {
        "id": 233,
        "status": "approved",
        "advocate_person": {"id": 1},
        "friends": [{"id": 1}],
        "campaign_name": "Invite",
        "note": "asked by [redacted], twice",
        "total": None,
    }


def test_a_redacted_result_keeps_what_matters() -> None:
    result = RefundResult("A", Outcome.REJECTED, None, None, 422, "Person a@example.com is blocked", 1)
    assert result.redacted().error_message == "Person [redacted] is blocked"
    assert result.redacted().origin_slug == "A"


def test_the_package_offers_its_names_lazily_and_no_others() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = package.Nothing


def test_redacting_leaves_all_but_people() -> None:
    result = RefundResult(
        "A",
        Outcome.REFUNDED,
        referral={"id": 1, "friend_person": {"email": "jane@example.com"}},
        origin={"id": 2, "email": "jane@example.com"},
        http_status=200,
        error_message="not for jane@example.com",
    )
    redacted = result.redacted()
    assert redacted.referral == without_people(result.referral)
    assert redacted.referral is not None
    assert redacted.referral["id"] == 1
    assert redacted.origin is not None
    assert redacted.origin["id"] == 2
    assert "jane" not in json.dumps(redacted.as_dict())


def test_what_is_invalid_shows_what_it_was_given() -> None:
    error = InvalidRefund.of("event_number", 1.5, "is not a number")
    result = RefundResult.invalid({"event_category": None, "event_number": 1.5}, error)
    assert (result.origin_slug, result.error) == ("1.5", error)
    assert RefundResult.invalid("x" * 201, error).origin_slug == "x" * 200 + "…"
    assert RefundResult.invalid("x" * 200, error).origin_slug == "x" * 200
