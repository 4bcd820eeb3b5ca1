"""Changing a referral's status and asking for a friend's referrals, with both clients, over real HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_talkable import (
    ReferralUpdate,
    TalkableAccessDenied,
    TalkableOriginNotFound,
    TalkablePersonNotFound,
    TalkableProtocolError,
    TalkableReferralFinal,
    TalkableRejected,
)
from airflow_provider_talkable.sandbox import Canned, Sandbox
from tests.conftest import Clients

SLUG = "B00K2EOONI"


def update(status: str, slug: str = SLUG) -> ReferralUpdate:
    return ReferralUpdate.parse(slug, status=status, site_slug="my-store")


def refusal(message: str, status: int = 400) -> Canned:
    return Canned(status, json.dumps({"ok": False, "error_message": message}).encode())


def held(sandbox: Sandbox, slug: str = SLUG) -> Any:
    return sandbox.talkable.snapshot()["my-store"][slug]["referral"]


@pytest.mark.parametrize("status", ["approved", "voided", "flagged"])
def test_a_status_is_set(sandbox: Sandbox, clients: Clients, status: str) -> None:
    referral = clients(sandbox).update_referral(update(status))
    assert referral
    assert referral["id"] == held(sandbox)["id"]
    assert [reward["status"] for reward in referral["advocate_rewards"]] == {
        "approved": ["Paid"], "voided": [], "flagged": ["Unpaid"]
    }[status]  # fmt: skip
    assert referral["status"] == status
    [request] = sandbox.requests
    assert (request["method"], request["path"]) == ("PUT", f"/api/v2/origins/{SLUG}/referral")
    assert request["body"] == f'{{"site_slug":"my-store","data":{{"status":"{status}"}}}}'


@pytest.mark.parametrize("status", ["approved", "voided"])
def test_the_status_it_has_already_is_a_success(sandbox: Sandbox, clients: Clients, status: str) -> None:
    client = clients(sandbox)
    client.update_referral(update(status))
    again = client.update_referral(update(status))
    assert again
    assert again["status"] == status


@pytest.mark.parametrize(
    "message",
    [
        "Referral is already voided",
        "Referral has already been voided.",
        "Validation failed: Status cannot be changed from voided to voided",
    ],
)
def test_a_refusal_because_it_has_that_status_is_a_success(
    sandbox: Sandbox, clients: Clients, message: str
) -> None:
    sandbox.dials.next(refusal(message))
    assert clients(sandbox).update_referral(update("voided")) == {"status": "voided"}


@pytest.mark.parametrize(("has", "asked"), [("approved", "voided"), ("voided", "approved")])
def test_the_opposite_final_status_is_an_error_that_names_both(
    sandbox: Sandbox, clients: Clients, has: str, asked: str
) -> None:
    client = clients(sandbox)
    client.update_referral(update(has))
    with pytest.raises(TalkableReferralFinal, match=f"The referral is {has}, .*become {asked}") as caught:
        client.update_referral(update(asked))
    assert (caught.value.status, caught.value.asked, caught.value.http_status) == (has, asked, 400)
    assert held(sandbox)["status"] == has


def test_an_answer_that_shows_the_opposite_is_the_same_error(sandbox: Sandbox, clients: Clients) -> None:
    sandbox.dials.next(Canned(200, b'{"ok": true, "result": {"referral": {"status": "approved"}}}'))
    with pytest.raises(TalkableReferralFinal, match="The referral is approved"):
        clients(sandbox).update_referral(update("voided"))


@pytest.mark.parametrize(
    "answer",
    [
        refusal("No referral found for this origin"),
        refusal("Referral not found", 422),
        Canned(200, b'{"ok": true, "result": {"referral": null}}'),
        Canned(200, b'{"ok": true}'),
    ],
    ids=lambda answer: answer.body.decode(),
)
def test_an_order_of_no_referral_has_nothing_to_change(
    sandbox: Sandbox, clients: Clients, answer: Canned
) -> None:
    sandbox.dials.next(answer)
    assert clients(sandbox).update_referral(update("voided")) is None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal("No origin found by `origin_slug`."), TalkableOriginNotFound),
        (refusal("Status is not included in the list", 422), TalkableRejected),
        (refusal("Access denied", 403), TalkableAccessDenied),
        (refusal("Not found", 404), TalkableOriginNotFound),
        (Canned(404), TalkableProtocolError),
    ],
)
def test_what_else_can_be_wrong(
    sandbox: Sandbox, clients: Clients, answer: Canned, error: type[Exception]
) -> None:
    sandbox.dials.next(answer)
    with pytest.raises(error) as caught:
        clients(sandbox).update_referral(update("voided"))
    assert type(caught.value) is error


def test_it_is_repeated_after_doubt(sandbox: Sandbox, clients: Clients) -> None:
    sandbox.dials.next(Canned(502), Canned(429))
    referral = clients(sandbox).update_referral(update("voided"))
    assert referral
    assert referral["status"] == "voided"
    assert len(sandbox.requests) == 3


def test_a_friends_referrals(sandbox: Sandbox, clients: Clients) -> None:
    order = {"order_number": "ä", "email": "Jané+1/2@example.com"}
    origin = sandbox.talkable.create_purchase("my-store", order)["origin"]
    [referral] = clients(sandbox).referrals_as_friend("my-store", "jané+1/2@example.com")
    assert referral["referred_origin_id"] == origin["id"]
    assert referral["advocate_rewards"][0]["amount"] == 10
    path = "/api/v2/people/jan%C3%A9%2B1%2F2@example.com/referrals_as_friend?site_slug=my-store"
    assert (sandbox.requests[0]["method"], sandbox.requests[0]["path"]) == ("GET", path)


def test_an_unknown_friend_is_an_error_of_its_own(sandbox: Sandbox, clients: Clients) -> None:
    with pytest.raises(TalkablePersonNotFound, match="No person found"):
        clients(sandbox).referrals_as_friend("my-store", "nobody@example.com")


def test_an_answer_without_referrals_is_none_of_talkables(sandbox: Sandbox, clients: Clients) -> None:
    sandbox.dials.next(Canned(200, b'{"ok": true, "result": {}}'))
    with pytest.raises(TalkableProtocolError, match="lists no referrals"):
        clients(sandbox).referrals_as_friend("my-store", "jane@example.com")
