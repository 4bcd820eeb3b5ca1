"""The ledger does not grow with failure, and a look-up takes no longer with what has been."""

from __future__ import annotations

from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox.faults import Canned
from tests.shop import Shop

SLUGS = [f"A{n}" for n in range(200)]


def test_a_wrong_key_by_the_hour_does_not_make_the_ledger_grow(shop: Shop) -> None:
    shop.order(*SLUGS)
    shop.refund(*SLUGS)
    pace = Pace(initial_rate=None, max_in_flight=4)
    before = 0
    for number in range(6):
        summary = shop.sync(key="no-such-key-of-talkable", pace=pace)
        # Whatever is written, this run has not refunded them.
        assert summary.outcomes == {"aborted": 200}
        written = len(shop.ledger())
        if number:
            # What was handed over has a submitted and an outcome.
            assert written - before <= 4 * pace.max_in_flight
        before = written
    assert set(shop.states().values()) == {"aborted"}
    assert shop.sync().outcomes == {"refunded": 200}


def test_a_site_that_is_throttled_for_good_does_not_make_the_ledger_grow(shop: Shop) -> None:
    shop.order(*SLUGS)
    shop.refund(*SLUGS)
    shop.sandbox.dials.next(*[Canned(429)] * 10_000)
    pace = Pace(initial_rate=None, max_in_flight=4)
    before = 0
    for number in range(4):
        summary = shop.sync(policy=RetryPolicy(throttle_patience=0.2), pace=pace)
        assert summary.outcomes == {"throttled": 200}
        written = len(shop.ledger())
        if number:
            assert written - before < 100
        before = written
    assert set(shop.states().values()) == {"throttled"}


def test_what_was_submitted_is_always_written(shop: Shop) -> None:
    shop.order("B")
    shop.refund(("b", "B", None, "5"))
    for _ in range(3):
        shop.sync(key="no-such-key-of-talkable")
    assert shop.events("b") == ["submitted", "aborted"] * 3


def test_another_word_is_written(shop: Shop) -> None:
    shop.order(*SLUGS)
    shop.refund(*SLUGS)
    pace = Pace(initial_rate=None, max_in_flight=4)
    shop.sync(key="no-such-key-of-talkable", pace=pace)
    shop.sandbox.dials.next(*[Canned(429)] * 10_000)
    assert shop.sync(policy=RetryPolicy(throttle_patience=0.2), pace=pace).outcomes == {"throttled": 200}
    assert set(shop.states().values()) == {"throttled"}
