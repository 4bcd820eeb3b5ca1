"""Many refunds at once, against a sandbox over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from airflow_provider_talkable import Outcome, Refund, RefundResult, TalkableAuthError
from airflow_provider_talkable.client.concurrent import Pace, refund_many
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox import Canned, Dials, Sandbox
from tests.conftest import KEY, Sandboxes

AT_ONCE = Pace(initial_rate=None)


def orders(count: int, *, site: str = "my-store") -> list[Refund]:
    return [Refund.parse(f"order-{n}", site_slug=site) for n in range(count)]


def register(sandbox: Sandbox, refunds: list[Refund]) -> None:
    for refund in refunds:
        sandbox.talkable.create_purchase(refund.site_slug, {"order_number": refund.origin_slug})


def send(
    sandbox: Sandbox, refunds: Iterator[Refund] | list[Refund], pace: Pace = AT_ONCE, *, key: str = KEY
) -> Iterator[RefundResult]:
    config = ClientConfig.parse(host=sandbox.url, api_key=key)
    return refund_many(config, RetryPolicy(), pace, refunds)


def test_results_come_in_the_order_of_the_refunds(sandbox: Sandbox) -> None:
    refunds = orders(200)
    register(sandbox, refunds[::2])
    sandbox.dials.errors = sandbox.dials.resets_after = 0.02
    results = list(send(sandbox, refunds))
    assert [r.origin_slug for r in results] == [r.origin_slug for r in refunds]
    assert {r.outcome.is_success for r in results[::2]} == {True}
    assert {r.outcome for r in results[1::2]} == {Outcome.NOT_FOUND}
    held = sandbox.talkable.snapshot()["my-store"]
    assert {held[r.origin_slug]["times_refunded"] for r in refunds[::2]} == {1}


def test_nothing_to_send_needs_no_connection(sandbox: Sandbox) -> None:
    assert list(send(sandbox, [])) == []
    assert not sandbox.requests


def test_as_many_are_under_way_as_was_asked_for(sandbox: Sandbox) -> None:
    sandbox.dials.latency = 0.2
    started = time.monotonic()
    list(send(sandbox, orders(8), Pace(max_in_flight=4, initial_rate=None)))
    assert 0.4 <= time.monotonic() - started < 1.4


def test_refunds_are_taken_only_as_there_is_room(sandbox: Sandbox) -> None:
    taken = []

    def endless() -> Iterator[Refund]:
        for refund in orders(10_000):
            taken.append(refund)
            yield refund

    results = send(sandbox, endless(), Pace(max_in_flight=4, initial_rate=None))
    for _ in range(3):
        next(results)
    assert len(taken) == 6
    results.close()  # type: ignore[attr-defined]


def test_what_is_under_way_is_cancelled_when_the_caller_stops(sandbox: Sandbox) -> None:
    sandbox.dials.next(None, *[Canned(429, headers={"Retry-After": "250"})] * 3)
    results = send(sandbox, orders(4))
    next(results)
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5


def test_it_begins_gently(sandbox: Sandbox) -> None:
    started = time.monotonic()
    list(send(sandbox, orders(4), Pace(initial_rate=10)))
    # The fourth may go a little before 0.3 s have passed, since the rate is growing.
    assert time.monotonic() - started > 0.2


def test_a_429_pauses_all_and_loses_nothing(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(dials=Dials(rate_limit=40, burst=10))
    refunds = orders(60)
    register(sandbox, refunds)
    results = list(send(sandbox, refunds))
    assert {r.outcome for r in results} == {Outcome.REFUNDED}
    assert {r.attempts for r in results} == {1}
    # Each request that waited for itself alone would meet some thirty.
    assert 0 < len(sandbox.requests) - 60 <= 15


def test_each_site_has_a_pace_of_its_own(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(site_slugs=("a", "b"))
    refunds = [
        refund for pair in zip(orders(3, site="a"), orders(3, site="b"), strict=True) for refund in pair
    ]
    register(sandbox, refunds)
    started = time.monotonic()
    results = list(send(sandbox, refunds, Pace(initial_rate=5, max_rate=5)))
    assert {r.outcome for r in results} == {Outcome.REFUNDED}
    assert 0.4 <= time.monotonic() - started < 0.9


def test_once_the_key_is_refused_nothing_more_is_sent(sandbox: Sandbox) -> None:
    results = list(send(sandbox, orders(50), Pace(initial_rate=20), key="wrong"))
    assert {r.outcome for r in results} == {Outcome.ABORTED}
    assert {type(r.error) for r in results} == {TalkableAuthError}
    assert [r.attempts for r in results] == [1] + [0] * 49
    assert results[-1].error_message
    assert results[-1].error_message.startswith("Not tried: Talkable refused the API key")
    assert len(sandbox.requests) == 1


def test_an_error_in_what_gives_the_refunds_ends_it_after_those_under_way(sandbox: Sandbox) -> None:
    def failing() -> Iterator[Refund]:
        yield from orders(3)
        raise LookupError("the store is gone")

    seen: list[RefundResult] = []
    with pytest.raises(LookupError, match="the store is gone"):
        seen.extend(send(sandbox, failing()))
    assert len(seen) == len(sandbox.requests) == 3
