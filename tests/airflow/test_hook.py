"""The hook: from an Airflow connection to an answer."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_talkable import (
    InvalidConnection,
    InvalidRefund,
    Outcome,
    Refund,
    TalkableAuthError,
    TalkableConnectionError,
    TalkableOriginNotFound,
    TalkableReferralFinal,
    TalkableRejected,
)
from airflow_provider_talkable.hooks.talkable import TalkableHook, config_of
from airflow_provider_talkable.protocol.wire import AuthScheme
from airflow_provider_talkable.sandbox import Canned, Sandbox
from tests.conftest import KEY, Sandboxes

Connect = Callable[..., str]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"talkable://:{KEY}@/?site_slug=my-store&auth_scheme=bearer&timeout=5", id="URI"),
        pytest.param(
            f"talkable://:{KEY}@www.talkable.com:443/https?site_slug=my-store&auth_scheme=bearer&timeout=5",
            id="URI with host, port and schema",
        ),
        pytest.param(
            f"talkable://https://:{KEY}@www.talkable.com/?site_slug=my-store&auth_scheme=bearer&timeout=5",
            id="URI with a URL as host",
        ),
        pytest.param(
            json.dumps(
                {
                    "conn_type": "talkable",
                    "password": KEY,
                    "extra": {"site_slug": "my-store", "auth_scheme": "bearer", "timeout": 5},
                }
            ),
            id="JSON",
        ),
        pytest.param(
            json.dumps(
                {
                    "conn_type": "talkable",
                    "host": "https://www.talkable.com",
                    "port": 443,
                    "password": KEY,
                    "extra": json.dumps(
                        {"site_slug": "my-store", "auth_scheme": "bearer", "timeout": 5, "proxy": None}
                    ),
                }
            ),
            id="JSON as the form saves it",
        ),
    ],
)
def test_every_form_of_a_connection_means_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_TALKABLE_DEFAULT", text)
    config = TalkableHook().get_conn().config
    assert config.base_url == "https://www.talkable.com"
    assert config.api_key == KEY
    assert (config.site_slug, config.auth_scheme, config.timeout) == ("my-store", AuthScheme.BEARER, 5)


def test_a_connection_that_cannot_work_is_named() -> None:
    with pytest.raises(InvalidConnection, match="^Connection 'shop': API key"):
        config_of(Connection(conn_id="shop", conn_type="talkable"))


@pytest.mark.filterwarnings("ignore:Encountered JSON value in `extra`")
def test_an_extra_that_is_no_object_has_no_fields() -> None:
    assert (
        config_of(Connection(conn_id="shop", conn_type="talkable", password=KEY, extra="[1]")).site_slug
        is None
    )


def test_making_a_hook_looks_nothing_up() -> None:
    hook = TalkableHook("no_such_connection")
    with pytest.raises(Exception, match="no_such_connection"):
        hook.get_conn()


def test_refund(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    hook = TalkableHook()
    result = hook.refund("B00K2EOONI", refunded_at="2020-04-27T00:00-07:00", refund_subtotal="30")
    assert result.outcome is Outcome.REFUNDED
    assert hook.refund("B00K2EOONI").outcome is Outcome.REFUNDED
    assert hook.refund("B00K2EOONI").outcome is Outcome.ALREADY_REFUNDED
    assert json.loads(sandbox.requests[0]["body"]) == {
        "site_slug": "my-store",
        "data": {"refunded_at": "2020-04-27T07:00:00.000+00:00", "refund_subtotal": 30},
    }
    assert hook.get_conn() is hook.get_conn()


def test_refund_raises_what_went_wrong(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    hook = TalkableHook(max_attempts=1, throttle_patience=0)
    with pytest.raises(TalkableOriginNotFound, match=r"^unknown: No origin found"):
        hook.refund("unknown")
    with pytest.raises(InvalidRefund):
        hook.refund("")
    sandbox.dials.next(Canned(422, b'{"ok": false}'))
    with pytest.raises(TalkableRejected):
        hook.refund("B00K2EOONI")
    with pytest.raises(TalkableAuthError, match=r"Access denied to site not-mine.*site_slug"):
        hook.refund("B00K2EOONI", site_slug="not-mine")
    assert len(sandbox.requests) == 3


def test_the_site_is_the_calls_or_the_hooks_or_the_connections(
    sandboxes: Sandboxes, connect: Connect
) -> None:
    sandbox = sandboxes(site_slugs=("of-call", "of-hook", "of-connection"))
    connect(sandbox, extra="site_slug=of-connection")
    for hook, arguments, site in (
        (TalkableHook(site_slug="of-hook"), {"site_slug": "of-call"}, "of-call"),
        (TalkableHook(site_slug="of-hook"), {}, "of-hook"),
        (TalkableHook(), {}, "of-connection"),
    ):
        sandbox.talkable.create_purchase(site, {"order_number": "A"})
        assert hook.refund("A", **arguments).outcome is Outcome.REFUNDED
    connect(sandbox, extra="")
    with pytest.raises(InvalidRefund, match="site_slug=None: set it on the Talkable connection"):
        TalkableHook().refund("A")
    with pytest.raises(InvalidConnection, match="site_slug: is empty"):
        TalkableHook().campaigns()


def test_refund_many_keeps_the_order(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    refunds = [Refund.parse(slug, site_slug="my-store") for slug in ("x", "B00K2EOONI", "y")]
    results = list(TalkableHook().refund_many(refunds))
    assert [(r.origin_slug, r.outcome) for r in results] == [
        ("x", "not_found"),
        ("B00K2EOONI", "refunded"),
        ("y", "not_found"),
    ]


def test_test_connection_asks_for_what_needs_the_key(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    works, message = TalkableHook().test_connection()
    assert works
    assert message == (
        f"{sandbox.url} accepts the API key for site my-store with auth_scheme basic; campaigns: 1"
    )
    assert sandbox.requests[-1]["path"] == "/api/v2/campaigns?site_slug=my-store"


@pytest.mark.parametrize("scheme", list(AuthScheme))
def test_test_connection_says_which_auth_scheme_works(
    sandboxes: Sandboxes, connect: Connect, scheme: AuthScheme
) -> None:
    sandbox = sandboxes(auth_schemes=(scheme.other,))
    connect(sandbox, extra=f"site_slug=my-store&auth_scheme={scheme}")
    works, message = TalkableHook().test_connection()
    assert not works
    assert message.endswith(f"set auth_scheme to {scheme.other}")
    assert len(sandbox.requests) == 2


def test_test_connection_calls_no_scheme_refused_that_got_no_answer(
    sandbox: Sandbox, connect: Connect
) -> None:
    connect(sandbox, extra="site_slug=my-store&auth_scheme=basic")
    sandbox.dials.next(Canned(401, b'{"ok": false}'), Canned(429))
    works, message = TalkableHook().test_connection()
    assert not works
    assert message.startswith("Talkable refused the API key")
    assert "nobody knows of auth_scheme bearer, try again: Talkable throttles" in message


def test_test_connection_fails_with_a_wrong_key(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox, key="wrong-key", extra="site_slug=my-store&auth_scheme=basic")
    works, message = TalkableHook().test_connection()
    assert not works
    assert message.startswith("Talkable refused the API key (Invalid API key)")
    assert message.endswith("auth_scheme bearer is refused too")
    assert "wrong-key" not in message
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize(
    ("extra", "fault", "message"),
    [
        ("", None, "site_slug: is empty"),
        ("site_slug=my-store&timeout=x", None, "timeout='x': give seconds"),
        ("site_slug=my-store", Canned(502), "HTTP 502"),
        ("site_slug=my-store", Canned(429), "throttles"),
        ("site_slug=my-store", Canned(200, b'{"ok": true}'), "lists no campaigns"),
        ("site_slug=my-store", Canned(200, b"<html>"), "a proxy or an outage page"),
    ],
)
def test_test_connection_says_at_once_what_is_wrong(
    sandbox: Sandbox, connect: Connect, extra: str, fault: Canned | None, message: str
) -> None:
    connect(sandbox, extra=extra)
    sandbox.dials.next(fault)
    works, said = TalkableHook().test_connection()
    assert not works
    assert message in said
    assert "talkable_default" not in said, "the form tests under an id of its own"
    assert len(sandbox.requests) <= 1


def test_errors_from_the_hook_can_be_pickled_without_the_key(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    sandbox.dials.next(Canned(302))
    with pytest.raises(Exception, match="redirect|302") as caught:
        TalkableHook().refund("B00K2EOONI")
    assert KEY.encode() not in pickle.dumps(caught.value)


def test_no_answer_is_a_connection_error(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_TALKABLE_DEFAULT", f"talkable://http://:{KEY}@127.0.0.1:1/?site_slug=s")
    with pytest.raises(TalkableConnectionError, match="check the connection's host and port"):
        TalkableHook(max_attempts=1).refund("A")


def test_a_referral_is_changed_and_found(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    hook = TalkableHook()
    referral = hook.update_referral("B00K2EOONI", "voided")
    assert referral
    assert referral["status"] == "voided"
    email = referral["friend_person"]["email"]
    assert [found["id"] for found in hook.referrals_as_friend(email)] == [referral["id"]]
    with pytest.raises(TalkableReferralFinal, match="The referral is voided"):
        hook.update_referral("B00K2EOONI", "approved")
    with pytest.raises(TalkableAuthError, match="Access denied to site other"):
        hook.referrals_as_friend(email, site_slug="other")


def test_bad_input_to_a_change_is_named_before_anything_is_sent(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    with pytest.raises(InvalidRefund, match="origin_slug=''"):
        TalkableHook().update_referral("", "voided")
    with pytest.raises(InvalidRefund, match="status='refunded': is no status of a referral"):
        TalkableHook().update_referral("A", "refunded")
    assert not sandbox.requests
