"""Many refunds at once, against a sandbox over real HTTP."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_talkable import Outcome, Refund, RefundResult, TalkableAuthError, TalkableError
from airflow_provider_talkable.client import concurrent
from airflow_provider_talkable.client.concurrent import Sender, send_many
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox import Canned, Dials, Sandbox
from tests.conftest import KEY, Sandboxes
from tests.shop import wait_for_requests

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
    return send_many(config, RetryPolicy(), pace, RefundOperation(), refunds)


def sender(
    sandbox: Sandbox, pace: Pace = AT_ONCE, *, throttle_patience: float = 300, **more: Any
) -> Sender[str, Refund, RefundResult]:
    config = ClientConfig.parse(host=sandbox.url, api_key=KEY)
    policy = RetryPolicy(throttle_patience=throttle_patience)
    return Sender(config, policy, pace, RefundOperation(), **more)


def test_a_reason_to_stop_lets_what_is_on_the_wire_end(sandbox: Sandbox) -> None:
    refunds = orders(100)
    register(sandbox, refunds)
    sandbox.dials.latency = 1
    config = ClientConfig.parse(host=sandbox.url, api_key=KEY)
    pace = Pace(max_in_flight=4, initial_rate=None)

    def reason() -> str | None:
        return "enough" if len(sandbox.requests) == 4 else None

    sending = send_many(config, RetryPolicy(), pace, RefundOperation(), refunds, reason_to_stop=reason)
    # Sixteen are taken at a time.
    found = Counter(next(sending).outcome for _ in range(16))
    assert found == {Outcome.REFUNDED: 4, Outcome.ABORTED: 12}
    with pytest.raises(TalkableError, match=r"^enough$"):
        next(sending)
    assert len(sandbox.requests) == 4


def test_what_does_not_end_in_time_after_a_reason_to_stop_is_given_up(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    refunds = orders(3)
    register(sandbox, refunds)
    sandbox.dials.latency = 30
    monkeypatch.setattr(concurrent, "GRACE", 0.3)
    config = ClientConfig.parse(host=sandbox.url, api_key=KEY)
    pace = Pace(max_in_flight=2, initial_rate=None)
    sending = send_many(
        config,
        RetryPolicy(),
        pace,
        RefundOperation(),
        refunds,
        reason_to_stop=lambda: "enough" if len(sandbox.requests) == 2 else None,
    )
    started = time.monotonic()
    assert [next(sending).outcome for _ in range(3)] == ["failed", "failed", "aborted"]
    with pytest.raises(TalkableError, match=r"^enough$"):
        next(sending)
    assert time.monotonic() - started < 15


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
    sandbox.dials.latency = 0.25

    def seconds(max_in_flight: int) -> float:
        started = time.monotonic()
        list(send(sandbox, orders(8), Pace(max_in_flight=max_in_flight, initial_rate=None)))
        return time.monotonic() - started

    assert 0.5 <= seconds(4) < 0.6 * seconds(1)


def test_refunds_are_taken_only_as_there_is_room(sandbox: Sandbox) -> None:
    taken = []

    def endless() -> Iterator[Refund]:
        for refund in orders(10_000):
            taken.append(refund)
            yield refund

    results = send(sandbox, endless(), Pace(max_in_flight=4, initial_rate=None))
    for _ in range(3):
        next(results)
    # Four times as many as may be under way, beyond those that were yielded.
    assert len(taken) <= 16 + 3
    results.close()  # type: ignore[attr-defined]


def test_what_is_under_way_is_cancelled_when_the_caller_stops(sandbox: Sandbox) -> None:
    sandbox.dials.next(None, *[Canned(429, headers={"Retry-After": "250"})] * 3)
    results = send(sandbox, orders(4))
    next(results)
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 30


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
    # Those that were under way when the first came; each that waited for itself alone would meet more.
    assert 0 < len(sandbox.requests) - 60 <= Pace().max_in_flight


def test_each_site_has_a_pace_of_its_own(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(site_slugs=("a", "b"))
    of_both = [
        refund for pair in zip(orders(3, site="a"), orders(3, site="b"), strict=True) for refund in pair
    ]
    of_one = orders(9, site="a")[3:]

    def seconds(refunds: list[Refund]) -> float:
        register(sandbox, refunds)
        started = time.monotonic()
        results = list(send(sandbox, refunds, Pace(initial_rate=2, max_rate=2)))
        assert {r.outcome for r in results} == {Outcome.REFUNDED}
        return time.monotonic() - started

    # With one pace for both it would take as long as for one site, two and a half seconds.
    assert 1 <= seconds(of_both) < 0.8 * seconds(of_one)


def test_once_the_key_is_refused_nothing_more_is_sent(sandbox: Sandbox) -> None:
    results = list(send(sandbox, orders(50), Pace(initial_rate=1), key="wrong-api-key"))
    assert {r.outcome for r in results} == {Outcome.ABORTED}
    assert {type(r.error) for r in results} == {TalkableAuthError}
    assert [r.attempts for r in results] == [1] + [0] * 49
    assert results[-1].error_message
    assert results[-1].error_message.startswith("Not tried: Talkable refused the API key")
    # By either scheme.
    assert len(sandbox.requests) == 2


def test_an_error_in_what_gives_the_refunds_ends_it_after_those_under_way(sandbox: Sandbox) -> None:
    def failing() -> Iterator[Refund]:
        yield from orders(3)
        raise LookupError("the store is gone")

    seen: list[RefundResult] = []
    with pytest.raises(LookupError, match="the store is gone"):
        seen.extend(send(sandbox, failing()))
    assert len(seen) == len(sandbox.requests) == 3


def test_when_stopped_what_is_on_the_wire_ends_and_the_rest_is_not_sent(sandbox: Sandbox) -> None:
    sandbox.dials.latency = 0.5
    refunds = orders(50)
    register(sandbox, refunds)
    with sender(sandbox, Pace(max_in_flight=3, initial_rate=None)) as sending:
        sending.put((r.origin_slug, r) for r in refunds)
        wait_for_requests(sandbox, 3)
        sending.stop(TalkableError("the ship sinks"))
        # Those that were not sent are known at once, before the answers of the others come.
        first = sending.take(until=3)
        assert {r.outcome for _, r in first} == {Outcome.ABORTED}
        assert {r.error_message for _, r in first} == {"Not tried: the ship sinks"}
        rest = sending.take(until=0)
    assert sorted(slug for slug, _ in first + rest) == sorted(r.origin_slug for r in refunds)
    assert Counter(r.outcome for _, r in rest) == {Outcome.REFUNDED: 3}
    assert len(sandbox.requests) == 3


@pytest.mark.parametrize(("status", "outcome"), [(429, Outcome.THROTTLED), (503, Outcome.FAILED)])
def test_what_waits_for_another_attempt_ends_when_stopped_as_its_last_failure(
    sandbox: Sandbox, status: int, outcome: Outcome
) -> None:
    sandbox.dials.next(Canned(status, headers={"Retry-After": "200"}))
    with sender(sandbox) as sending:
        sending.put([("a", orders(1)[0])])
        wait_for_requests(sandbox, 1)
        assert sending.take(until=0, timeout=0.2) == []
        sending.stop(TalkableError("the ship sinks"))
        [(_, result)] = sending.take(until=0, timeout=2)
    assert result.outcome is outcome
    assert len(sandbox.requests) == 1


def test_what_goes_first_passes_what_waits_in_its_own_order(sandbox: Sandbox) -> None:
    refunds = orders(6)
    register(sandbox, refunds)
    sandbox.dials.latency = 0.5
    with sender(sandbox, Pace(max_in_flight=1, initial_rate=None)) as sending:
        sending.put((refund.origin_slug, refund) for refund in refunds[:3])
        wait_for_requests(sandbox, 1)
        for ahead in (refunds[3:5], refunds[5:]):
            sending.put(((refund.origin_slug, refund) for refund in ahead), first=True)
        sandbox.dials.latency = 0
        finished = [slug for slug, _ in sending.take(until=0)]
    assert finished == [f"order-{n}" for n in (0, 3, 4, 5, 1, 2)]


def test_what_is_cancelled_on_the_wire_is_in_doubt(sandbox: Sandbox) -> None:
    sandbox.dials.latency = 30
    full, partial = Refund("my-store", "A"), Refund("my-store", "B", refund_subtotal=Decimal(5))
    with sender(sandbox, Pace(max_in_flight=2, initial_rate=None)) as sending:
        sending.put([("A", full), ("B", partial), ("C", Refund("my-store", "C"))])
        wait_for_requests(sandbox, 2)
        sending.cancel()
        results = dict(sending.take(until=0, timeout=2))
    assert {slug: r.outcome for slug, r in results.items()} == {
        "A": Outcome.FAILED,
        "B": Outcome.UNCONFIRMED,
        "C": Outcome.ABORTED,
    }
    assert len(sandbox.requests) == 2


def test_a_result_may_end_a_site(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(site_slugs=("a", "b"))

    def judge(result: RefundResult) -> TalkableError | None:
        return TalkableError(f"{result.origin_slug} is too much") if result.origin_slug == "order-4" else None

    pace = Pace(max_in_flight=1, initial_rate=None)
    with sender(sandbox, pace, new_judge=lambda site: judge if site == "a" else lambda _: None) as sending:
        sending.put((f"{site}-{r.origin_slug}", r) for site in "ab" for r in orders(20, site=site))
        results = dict(sending.take(until=0))
    assert len(sandbox.requests) == 5 + 20
    assert results["a-order-5"].error_message == "Not tried: order-4 is too much"
    assert results["b-order-19"].outcome is Outcome.NOT_FOUND


def test_a_site_that_is_throttled_for_too_long_ends_and_others_go_on(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(site_slugs=("a", "b"))
    refunds = orders(3, site="b")
    register(sandbox, refunds)
    sandbox.dials.next(Canned(429, headers={"Retry-After": "2"}))
    with sender(sandbox, throttle_patience=1) as sending:
        sending.put([("a", orders(1, site="a")[0])])
        [(_, throttled)] = sending.take(until=0)
        assert sending.client.exhausted_sites.keys() == {"a"}
        sending.put([("late", orders(1, site="a")[0]), *((r.origin_slug, r) for r in refunds)])
        results = dict(sending.take(until=0))
    assert throttled.outcome is results.pop("late").outcome is Outcome.THROTTLED
    assert {r.outcome for r in results.values()} == {Outcome.REFUNDED}
    assert len(sandbox.requests) == 4
    assert (sending.client.requests["POST"], sending.client.throttled) == (4, 1)


def test_patience_counts_from_the_last_answer_that_was_let_through(sandbox: Sandbox) -> None:
    throttled = Canned(429)
    sandbox.dials.next(throttled, None, throttled, None, throttled, None)
    refunds = orders(3)
    register(sandbox, refunds)
    with sender(sandbox, Pace(max_in_flight=1, initial_rate=None), throttle_patience=2) as sending:
        sending.put((r.origin_slug, r) for r in refunds)
        results = dict(sending.take(until=0))
    assert {r.outcome for r in results.values()} == {Outcome.REFUNDED}


def test_the_learned_rate_is_known_once_a_429_came(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(dials=Dials(rate_limit=20, burst=5))
    with sender(sandbox) as sending:
        assert sending.client.learned_rates == {}
        sending.put((r.origin_slug, r) for r in orders(30))
        sending.take(until=0)
        assert 2 < sending.client.learned_rates["my-store"] < 100


def test_an_error_that_is_nobodys_outcome_reaches_the_caller(sandbox: Sandbox) -> None:
    with sender(sandbox) as sending:
        sending.put([("a", SimpleNamespace(site_slug="my-store"))])  # type: ignore[list-item]
        with pytest.raises(AttributeError):
            sending.take(until=0, timeout=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_in_flight", 0), ("initial_rate", 0), ("max_rate", -1), ("max_rate", float("nan"))],
)
def test_a_pace_that_makes_no_sense_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}: give"):
        Pace(**{field: value})  # type: ignore[arg-type]


def test_what_comes_slowly_is_sent_as_it_comes(sandbox: Sandbox) -> None:
    sent: list[int] = []

    def slow() -> Iterator[Refund]:
        for refund in orders(3):
            sent.append(len(sandbox.requests))
            yield refund
            wait_for_requests(sandbox, len(sent))

    list(send(sandbox, slow()))
    assert sent == [0, 1, 2]


def test_what_was_taken_and_not_sent_when_there_is_a_reason_to_stop_is_aborted(sandbox: Sandbox) -> None:
    sandbox.dials.latency = 0.5
    refunds = [Refund("my-store", f"order-{n}", refund_subtotal=Decimal(5)) for n in range(9)]
    register(sandbox, refunds)
    config = ClientConfig.parse(host=sandbox.url, api_key=KEY)
    sending = send_many(
        config,
        RetryPolicy(),
        Pace(max_in_flight=3, initial_rate=None),
        RefundOperation(),
        refunds,
        reason_to_stop=lambda: "the ship sinks" if len(sandbox.requests) >= 3 else None,
    )
    results: list[RefundResult] = []
    with pytest.raises(TalkableError, match="^the ship sinks$"):
        results.extend(sending)
    assert [r.outcome for r in results] == [Outcome.REFUNDED] * 3 + [Outcome.ABORTED] * 6
    assert len(sandbox.requests) == 3


def test_what_is_cancelled_before_there_is_a_connection_is_aborted() -> None:
    refund = Refund("my-store", "A", refund_subtotal=Decimal(5))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It never answers the TLS handshake.
        config = ClientConfig.parse(host=f"https://127.0.0.1:{silent.getsockname()[1]}", api_key=KEY)
        with Sender[str, Refund, RefundResult](config, RetryPolicy(), AT_ONCE, RefundOperation()) as sending:
            sending.put([("A", refund)])
            accepted, _ = silent.accept()
            assert sending.take(until=0, timeout=0.2) == []
            sending.cancel()
            [(_, result)] = sending.take(until=0, timeout=10)
        accepted.close()
    assert (result.outcome, result.attempts, result.error_message) == (
        Outcome.ABORTED,
        0,
        "Not tried: it was cancelled",
    )
