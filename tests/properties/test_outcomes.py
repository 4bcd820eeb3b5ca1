"""Whatever happens to the requests, each refund has one outcome, and it is not said to be what it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_talkable import Outcome, Refund, RefundResult
from airflow_provider_talkable.client import pacing, retries
from airflow_provider_talkable.client.concurrent import send_many
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.lanes import Lane
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace, Pacer
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox import Canned, Dials, Fault, Reset, Sandbox, Truncated
from airflow_provider_talkable.sandbox.faults import HTML
from tests.conftest import examples

REFUSED = b'{"ok": false, "error_message": "Refund is not allowed"}'
NO_ORIGIN = b'{"ok": false, "error_message": "No origin found by `origin_slug`."}'
KEY_REFUSED = b'{"ok": false, "error_message": "Invalid API key"}'
BROKEN = b'{"ok": false, "error_message": "Internal server error, try again"}'
_HTML_TYPE = {"Content-Type": "text/html"}

# After these nobody can tell whether Talkable acted.
unclear = st.builds(
    Canned,
    st.sampled_from([408, 500, 502, 503, 200]),
    st.sampled_from([HTML, b"", b"{}", b'{"ok": tru', BROKEN]),
    st.sampled_from([_HTML_TYPE, {"Retry-After": "0"}, {"Retry-After": "2"}]),
    acted=st.booleans(),
)
# These say that it did not.
refusals = st.sampled_from(
    [
        Canned(400, REFUSED),
        Canned(422, REFUSED),
        Canned(200, REFUSED),
        Canned(400, NO_ORIGIN),
        Canned(404, NO_ORIGIN),
        Canned(404, HTML, _HTML_TYPE),
        Canned(403, HTML, _HTML_TYPE),
        Canned(401, b""),
        Canned(400, b""),
    ]
)
throttling = st.sampled_from(
    [Canned(429, b"", {"Retry-After": "0"}), Canned(429), Canned(429, HTML, {"Retry-After": "7"})]
)
breaks: st.SearchStrategy[Fault] = st.builds(Reset, st.booleans()) | st.just(Truncated())
faults = st.lists(
    st.one_of(st.none(), unclear, breaks, throttling, refusals)
    # What ends all the rest, now and then.
    | st.integers(0, 9).map(
        lambda n: {0: Canned(401, KEY_REFUSED), 1: Canned(429, b"", {"Retry-After": "900"})}.get(n)
    ),
    max_size=14,
)
# The refunded part, and whether Talkable knows the order.
kinds = st.lists(
    st.tuples(
        st.none() | st.sampled_from([Decimal("5.0000"), Decimal("100.0000")]),
        st.sampled_from([True, True, True, False]),
    ),
    max_size=6,
)
numbers = count()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A sandbox whose clients wait in no time."""
    skipped = 0.0

    def clock() -> float:
        return time.monotonic() + skipped

    async def wait(self: Lane, seconds: float) -> None:
        nonlocal skipped
        skipped += seconds
        await asyncio.sleep(0)

    no_chance = SimpleNamespace(uniform=lambda low, high: 0.0)
    with pytest.MonkeyPatch.context() as patches, Sandbox() as sandbox:
        patches.setattr(retries, "random", no_chance)
        patches.setattr(pacing, "random", no_chance)
        patches.setattr("airflow_provider_talkable.client.concurrent.Pacer", partial(Pacer, clock=clock))
        patches.setattr(Lane, "wait", wait)
        yield sandbox


def send(sandbox: Sandbox, refunds: list[Refund], at_once: int) -> list[RefundResult]:
    config = ClientConfig.parse(host=sandbox.url, api_key=sandbox.api_key)
    pace = Pace(max_in_flight=at_once, initial_rate=None)
    return list(send_many(config, RetryPolicy(max_attempts=3), pace, RefundOperation(), refunds))


def times_refunded(sandbox: Sandbox, refund: Refund) -> int:
    origin = sandbox.talkable.sites["my-store"].get(refund.origin_slug)
    return origin.times_refunded if origin else 0


@given(kinds, faults, st.integers(1, 4))
@examples(100)
def test_any_sequence_of_answers_leads_to_one_outcome_of_each_refund_that_holds(
    sandbox: Sandbox, kinds: list[tuple[Decimal | None, bool]], faults: list[Fault | None], at_once: int
) -> None:
    sandbox.dials = Dials()
    refunds = []
    for amount, is_known in kinds:
        slug = f"order-{next(numbers)}"
        refunds.append(Refund.parse(slug, site_slug="my-store", refund_subtotal=amount))
        if is_known:
            sandbox.talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100})
    sandbox.dials.next(*faults)
    results = send(sandbox, refunds, at_once)

    assert [result.origin_slug for result in results] == [refund.origin_slug for refund in refunds]
    for refund, result in zip(refunds, results, strict=True):
        times = times_refunded(sandbox, refund)
        assert times <= 1
        assert (result.error is None) == (result.outcome is Outcome.REFUNDED)
        assert result.attempts <= 3
        if result.outcome.is_success:
            assert times == 1
        elif refund.is_partial:
            # It is unconfirmed where it may have been taken, and only there.
            assert times == 0 or result.outcome is Outcome.UNCONFIRMED
            assert result.outcome is not Outcome.FAILED or (result.error and not result.error.may_have_acted)
        else:
            assert result.outcome is not Outcome.UNCONFIRMED
        if result.attempts == 0:
            assert times == 0
            assert result.outcome in (Outcome.ABORTED, Outcome.THROTTLED)
    assert not any(result.outcome in (Outcome.INVALID, Outcome.CONFLICT) for result in results)


@given(kinds, faults)
@examples(30)
def test_a_second_run_without_faults_settles_what_is_safe_to_send_again(
    sandbox: Sandbox, kinds: list[tuple[Decimal | None, bool]], faults: list[Fault | None]
) -> None:
    sandbox.dials = Dials()
    refunds = [
        Refund.parse(f"order-{next(numbers)}", site_slug="my-store", refund_subtotal=amount)
        for amount, _ in kinds
    ]
    for refund in refunds:
        sandbox.talkable.create_purchase("my-store", {"order_number": refund.origin_slug, "subtotal": 100})
    sandbox.dials.next(*faults)
    again = {Outcome.FAILED, Outcome.THROTTLED, Outcome.ABORTED}
    left = [
        refund
        for refund, result in zip(refunds, send(sandbox, refunds, 4), strict=True)
        if result.outcome in again
    ]
    sandbox.dials = Dials()
    assert all(result.outcome.is_success for result in send(sandbox, left, 4))
    assert [times_refunded(sandbox, refund) for refund in left] == [1] * len(left)
