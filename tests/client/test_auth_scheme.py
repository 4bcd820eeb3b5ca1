"""The key is sent as the host takes it: a single wrong scheme fails nothing."""

from __future__ import annotations

import asyncio
import logging

import pytest

from airflow_provider_talkable import Refund
from airflow_provider_talkable.client.concurrent import send_many
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.hooks.talkable import TalkableAsyncHook, TalkableHook
from airflow_provider_talkable.protocol.wire import AuthScheme
from airflow_provider_talkable.sandbox import Canned, Sandbox
from tests.airflow.test_refund_operator import Connect
from tests.conftest import KEY, Clients, Sandboxes


def schemes(sandbox: Sandbox) -> list[str]:
    return [request["headers"]["Authorization"].split()[0] for request in sandbox.requests]


def shop(sandboxes: Sandboxes, *accepted: AuthScheme) -> Sandbox:
    sandbox = sandboxes(auth_schemes=accepted)
    for number in range(40):
        sandbox.talkable.create_purchase("my-store", {"order_number": f"order-{number}"})
    return sandbox


def a_refund(number: int, amount: float | None = None) -> Refund:
    return Refund.parse(f"order-{number}", site_slug="my-store", refund_subtotal=amount)


def test_basic_comes_first_and_stays_where_it_is_taken(sandboxes: Sandboxes, clients: Clients) -> None:
    sandbox = shop(sandboxes, *AuthScheme)
    client = clients(sandbox)
    assert [client.refund(a_refund(n)).outcome for n in range(2)] == ["refunded"] * 2
    assert schemes(sandbox) == ["Basic", "Basic"]


def test_bearer_is_tried_once_and_kept_where_it_is_taken(
    sandboxes: Sandboxes, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sandbox = shop(sandboxes, AuthScheme.BEARER)
    client = clients(sandbox)
    results = [client.refund(a_refund(n, 5)) for n in range(3)]
    assert [(result.outcome, result.attempts) for result in results] == [("refunded", 1)] * 3
    assert schemes(sandbox) == ["Basic", "Bearer", "Bearer", "Bearer"]
    assert caplog.text.count(f"{sandbox.url} takes the API key by auth_scheme bearer") == 1
    assert KEY not in caplog.text


def test_a_wrong_key_is_refused_by_both(sandboxes: Sandboxes, clients: Clients) -> None:
    sandbox = shop(sandboxes, *AuthScheme)
    result = clients(sandbox, api_key="wrong-key-0").refund(a_refund(0))
    assert result.outcome == "aborted"
    assert schemes(sandbox) == ["Basic", "Bearer"]


@pytest.mark.parametrize("scheme", list(AuthScheme))
def test_a_scheme_that_is_named_is_the_only_one(
    sandboxes: Sandboxes, clients: Clients, scheme: AuthScheme
) -> None:
    sandbox = shop(sandboxes, scheme.other)
    assert clients(sandbox, auth_scheme=scheme.value).refund(a_refund(0)).outcome == "aborted"
    assert schemes(sandbox) == [scheme.value.capitalize()]


def test_an_answer_that_says_nothing_of_the_key_teaches_nothing(
    sandboxes: Sandboxes, clients: Clients
) -> None:
    sandbox = shop(sandboxes, AuthScheme.BEARER)
    sandbox.dials.next(None, Canned(502))
    client = clients(sandbox)
    assert client.refund(a_refund(0)).outcome == "refunded"
    assert client.refund(a_refund(1)).outcome == "refunded"
    assert schemes(sandbox) == ["Basic", "Bearer", "Basic", "Bearer", "Bearer"]


def test_no_refund_of_many_fails_by_the_first_scheme(sandboxes: Sandboxes) -> None:
    sandbox = shop(sandboxes, AuthScheme.BEARER)
    config = ClientConfig.parse(host=sandbox.url, api_key=KEY)
    refunds = [a_refund(n, 5) for n in range(40)]
    pace = Pace(max_in_flight=8, initial_rate=None)
    results = list(send_many(config, RetryPolicy(), pace, RefundOperation(), refunds))
    assert {result.outcome for result in results} == {"refunded"}
    # Those that were under way before the first was answered.
    assert schemes(sandbox).count("Basic") <= 8
    assert list(send_many(config, RetryPolicy(), pace, RefundOperation(), [a_refund(0, 5)]))
    assert schemes(sandbox)[-1] == "Bearer"


def test_the_hooks_remember_it(sandboxes: Sandboxes, connect: Connect) -> None:
    sandbox = shop(sandboxes, AuthScheme.BEARER)
    connect(sandbox)
    hook = TalkableHook()
    hook.campaigns()
    assert next(iter(hook.refund_many([a_refund(0)]))).outcome == "refunded"
    assert schemes(sandbox) == ["Basic", "Bearer", "Bearer"]
    sandbox.requests.clear()
    waiting = TalkableAsyncHook()

    async def ask() -> None:
        await waiting.campaigns()
        await waiting.campaigns()

    asyncio.run(ask())
    assert schemes(sandbox) == ["Basic", "Bearer", "Bearer"]


def test_the_test_button_says_what_worked(sandboxes: Sandboxes, connect: Connect) -> None:
    sandbox = shop(sandboxes, AuthScheme.BEARER)
    connect(sandbox)
    works, message = TalkableHook().test_connection()
    assert works
    assert "with auth_scheme bearer" in message
    connect(sandbox, key="wrong-key-0")
    works, message = TalkableHook().test_connection()
    assert not works
    assert message.endswith("basic and bearer are both refused")
