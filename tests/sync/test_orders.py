"""Whole refunds, parts, and second refunds of one order, over real HTTP, in whatever way Talkable counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.sandbox import Canned, Reset
from airflow_provider_talkable.sandbox.talkable import Generation, SecondRefund
from tests.conftest import Sandboxes, sized
from tests.shop import Shop

WITH_SUBTOTAL = (
    "SELECT refund_key, origin_slug, refund_subtotal, 100 AS order_subtotal FROM refunds ORDER BY number"
)
ONE_BY_ONE = Pace(max_in_flight=1, initial_rate=None)
LATE = {"status": "approved", "ad_rewarded": True}


@pytest.fixture
def shops(tmp_path: Path, engines: Callable[[URL], Engine], sandboxes: Sandboxes) -> Callable[..., Shop]:
    def make(**sandbox: Any) -> Shop:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite"
        return Shop(engines(URL.create("sqlite", database=str(path))), sandboxes(**sandbox))

    return make


def counted(shop: Shop) -> dict[str, tuple[Any, Any]]:
    """What Talkable counts of each refund's order, and what was sent of it."""
    return {
        entry["refund_key"]: (entry["counted_subtotal"], entry["sent_subtotal"])
        for entry in shop.ledger()
        if entry["event"] != "submitted"
    }


class TestAnAmountThatReachesTheOrders:
    def test_is_sent_again_after_doubt(self, shops: Callable[..., Shop]) -> None:
        shop = shops()
        shop.order("A", "B")
        shop.refund(("a", "A", None, 99.99), ("b", "B", None, 100))
        shop.sandbox.dials.next(Reset(acted=True), Reset(acted=True))
        summary = shop.sync(sql=WITH_SUBTOTAL, pace=ONE_BY_ONE)
        assert shop.states() == {"a": "unconfirmed", "b": "already_refunded"}
        assert summary.outcomes == {"already_refunded": 1, "unconfirmed": 1}
        bodies = [request["body"] for request in shop.sandbox.requests]
        assert [("refund_subtotal" in body) for body in bodies] == [True, False, False]

    @pytest.mark.parametrize("generation", list(Generation))
    def test_comes_too_late_like_any_whole_refund(self, shops: Callable[..., Shop], generation: str) -> None:
        shop = shops(generation=generation)
        shop.order("A", "B", "C", referral=LATE)
        shop.refund(("a", "A", None, 100), ("b", "B", None, 99), ("c", "C", None, 120))
        assert shop.sync(sql=WITH_SUBTOTAL, fetch_referral=True).rewarded == 2

    @pytest.mark.parametrize("generation", list(Generation))
    def test_is_known_from_the_answer_too(self, shops: Callable[..., Shop], generation: str) -> None:
        shop = shops(generation=generation)
        shop.order("A", "B", referral=LATE)
        shop.refund(("a", "A", None, 100), ("b", "B", None, 99))
        assert shop.sync(fetch_referral=True).rewarded == 1

    def test_is_the_same_refund_as_before_the_column_was_there(self, shops: Callable[..., Shop]) -> None:
        shop = shops()
        shop.order("A")
        shop.refund(("a", "A", None, 100))
        shop.sync()
        assert shop.sync(sql=WITH_SUBTOTAL).skipped == 1
        shop.clear()
        shop.refund(("a", "A"))
        assert shop.sync(sql=WITH_SUBTOTAL).skipped == 1


class TestASecondRefund:
    @pytest.mark.parametrize(
        ("second", "state", "amounts", "counted_otherwise"),
        [
            (SecondRefund.ADD, "refunded", {"a1": (30, 30), "a2": (50, 50)}, 0),
            (SecondRefund.REPLACE, "refunded", {"a1": (30, 30), "a2": (20, 50)}, 1),
            (SecondRefund.REFUSE, "not_counted", {"a1": (30, 30), "a2": (None, None)}, 0),
        ],
    )
    @pytest.mark.parametrize("at_once", [True, False])
    def test_shows_in_the_ledger_how_talkable_counts(
        self,
        shops: Callable[..., Shop],
        second: SecondRefund,
        state: str,
        amounts: dict[str, Any],
        counted_otherwise: int,
        at_once: bool,
    ) -> None:
        shop = shops(second_refund=second)
        shop.order("A")
        shop.refund(("a1", "A", None, 30))
        otherwise = 0 if at_once else shop.sync().counted_otherwise
        shop.refund(("a2", "A", None, 20))
        otherwise += shop.sync().counted_otherwise
        assert shop.states() == {"a1": "refunded", "a2": state}
        assert counted(shop) == amounts
        assert otherwise == counted_otherwise

    def test_of_the_whole_order_after_a_part_is_not_counted_where_it_is_refused(
        self, shops: Callable[..., Shop]
    ) -> None:
        shop = shops(second_refund=SecondRefund.REFUSE)
        shop.order("A")
        shop.refund(("a1", "A", None, 30), ("a2", "A"))
        summary = shop.sync()
        assert shop.states() == {"a1": "refunded", "a2": "not_counted"}
        [failure] = summary.failures
        assert failure["error_message"].startswith(
            "Origin has already been refunded; Talkable has another refund"
        )
        assert shop.sync().skipped == 2
        assert shop.sync(resend=frozenset({"not_counted"})).outcomes == {"not_counted": 1}

    def test_of_a_part_after_the_whole_order_adds_nothing(self, shops: Callable[..., Shop]) -> None:
        shop = shops()
        shop.order("A")
        shop.refund(("a1", "A"), ("a2", "A", None, 30))
        assert shop.sync().outcomes == {"refunded": 1, "already_refunded": 1}

    def test_of_a_part_whose_order_somebody_else_refunded_is_not_counted(
        self, shops: Callable[..., Shop]
    ) -> None:
        shop = shops()
        shop.order("A")
        shop.sandbox.talkable.refund("my-store", "A", {})
        shop.refund(("a1", "A", None, 30))
        assert shop.sync().outcomes == {"not_counted": 1}

    def test_that_repeats_one_in_doubt_is_settled(self, shops: Callable[..., Shop]) -> None:
        shop = shops(second_refund=SecondRefund.REFUSE)
        shop.order("A")
        shop.refund(("a1", "A", None, 30))
        shop.sandbox.dials.next(Reset(acted=True))
        assert shop.sync().outcomes == {"unconfirmed": 1}
        assert shop.sync(resend_keys=frozenset({"a1"})).outcomes == {"already_refunded": 1}

    def test_is_looked_up_with_one_query_a_batch(self, shops: Callable[..., Shop]) -> None:
        shop = shops(second_refund=SecondRefund.REFUSE)
        slugs = [f"order-{n}" for n in range(200)]
        shop.order(*slugs)
        shop.refund(*[(f"{slug}-{n}", slug, None, 10) for n in (1, 2) for slug in slugs])
        calls: list[int] = []

        def counting(sync: Any) -> None:
            ask = sync._ledger.orders

            def orders(rows: Any) -> Any:
                calls.append(len(rows))
                return ask(rows)

            sync._ledger.orders = orders

        summary = shop.sync(before=counting)
        assert summary.outcomes == {"refunded": 200, "not_counted": 200}
        assert sum(calls) == 400
        assert len(calls) < 200


@pytest.mark.parametrize("second", list(SecondRefund))
def test_every_generation_says_the_same_of_the_same_facts(
    shops: Callable[..., Shop], second: SecondRefund
) -> None:
    orders, again = sized(300), sized(190)
    ledgers = []
    for generation in Generation:
        shop = shops(generation=generation, second_refund=second)
        for number in range(orders):
            referral: Any = LATE if number % 7 == 0 else None if number % 11 == 0 else {}
            shop.order(f"order-{number}", referral=referral)
        # Parts, parts of parts, wholes by amount, wholes after parts, and orders nobody knows.
        shop.refund(
            *[
                (f"r{n}", f"order-{n}", None, {0: None, 1: 30, 2: 100, 3: 40}[n % 4])
                for n in range(orders + 10)
            ],
            *[(f"s{n}", f"order-{n}", None, None if n % 8 == 1 else 25) for n in range(again)],
        )
        shop.sync(sql=WITH_SUBTOTAL, void_referral=True)
        ledgers.append(
            {
                entry["refund_key"]: (entry["event"], entry["reward_paid"], entry["referral_status"])
                for entry in shop.ledger()
                if entry["event"] != "submitted"
            }
        )
    first, *others = ledgers
    assert len(first) == orders + 10 + again
    events = Counter(event for event, *_ in first.values())
    assert events["not_found"] == 10
    assert (events["not_counted"] > 0) is (second is SecondRefund.REFUSE)
    for other in others:
        # Of partial refunds the first generation alone tells the referral.
        differing = {key for key in first if first[key] != other[key]}
        assert {key: first[key][0] for key in differing} == {key: other[key][0] for key in differing}
        assert all(other[key][1:] == (None, None) for key in differing)


def test_an_answer_that_counts_a_whole_refund_as_less_is_counted(shops: Callable[..., Shop]) -> None:
    shop = shops()
    shop.order("A")
    shop.refund("A")
    origin = b'{"id": 1, "subtotal": 100, "partially_refunded": true, "refund_subtotal": 25.11}'
    shop.sandbox.dials.next(Canned(200, b'{"ok": true, "result": {"origin": %b}}' % origin))
    assert shop.sync().counted_otherwise == 1
    assert shop.ledger()[-1]["partially_refunded"] == 1
