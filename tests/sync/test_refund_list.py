"""A list of refunds through the ledger, over real HTTP and on a real database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from airflow_provider_talkable import InvalidRefund, Outcome, Refund, RefundResult, TalkableAuthError
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox import Canned, Reset
from airflow_provider_talkable.sync.ledger import Ledger, TaskRun
from airflow_provider_talkable.sync.refund_list import RefundList
from airflow_provider_talkable.sync.rows import Row, key_of
from tests.shop import Shop, once_requested

FIRST_TRY = TaskRun("shop", "manual__1", "refund", -1, 1)
RETRY = TaskRun("shop", "manual__1", "refund", -1, 2)


def row_of(given: Mapping[str, object], *, site_slug: str) -> Row:
    """What an operator makes of a mapping."""
    columns = dict(given)
    key = columns.pop("refund_key", None)
    refund = Refund.from_row(columns, site_slug=site_slug)
    return Row.of(refund, key_of(refund, key))


def part(key: str, slug: str, amount: float = 5) -> Row:
    return row_of({"refund_key": key, "origin_slug": slug, "refund_subtotal": amount}, site_slug="my-store")


def whole(slug: str) -> Row:
    return row_of({"origin_slug": slug}, site_slug="my-store")


def refund_list(
    shop: Shop, *rows: Row | RefundResult, task_run: TaskRun = FIRST_TRY, key: str | None = None, **more: Any
) -> RefundList:
    ledger = Ledger(shop.engine, task_run=task_run)
    ledger.open()
    config = ClientConfig.parse(host=shop.sandbox.url, api_key=key or shop.sandbox.api_key)
    pace = Pace(max_in_flight=4, initial_rate=None)
    return RefundList(rows, ledger, config, policy=RetryPolicy(max_attempts=1), pace=pace, **more)


def outcomes(given: RefundList) -> list[str]:
    return [str(result.outcome) for result in given.results()]


def sent(shop: Shop, *rows: Row | RefundResult, **more: Any) -> list[str]:
    given = refund_list(shop, *rows, **more)
    given.send()
    return outcomes(given)


def test_each_has_its_result_in_the_order_given(shop: Shop) -> None:
    shop.order("A", "B")
    invalid = RefundResult.invalid("", InvalidRefund("no slug"))
    rows: list[Row | RefundResult]
    rows = [part("r1", "A"), whole("unknown"), invalid, whole("B"), part("r2", "A"), part("r1", "A")]
    assert sent(shop, *rows) == ["refunded", "not_found", "invalid", "refunded", "refunded", "refunded"]
    assert shop.states() == {"r1": "refunded", "unknown": "not_found", "B": "refunded", "r2": "refunded"}
    assert shop.times_refunded("A") == 2


def test_what_any_run_has_settled_is_not_sent_again(shop: Shop) -> None:
    shop.order("A", "B", referral={"id": 7, "status": "approved", "ad_rewarded": True})
    shop.refund(("r1", "A", None, "5"), "B")
    shop.sync()
    shop.sandbox.requests.clear()
    given = refund_list(shop, part("r1", "A"), whole("B"))
    given.send()
    assert not shop.sandbox.requests
    for result, late in zip(given.results(), (False, True), strict=True):
        assert (result.outcome, result.attempts, result.late) == (Outcome.REFUNDED, 0, late)
        assert result.referral == {"id": "7", "status": "approved", "ad_rewarded": True}


@pytest.mark.parametrize("fault", [Reset(acted=True), Canned(500)], ids=["taken", "not taken"])
def test_what_is_in_doubt_stays_so(shop: Shop, fault: Any) -> None:
    shop.order("A")
    shop.sandbox.dials.next(fault)
    assert sent(shop, part("r1", "A")) == ["unconfirmed"]
    requests = len(shop.sandbox.requests)
    assert sent(shop, part("r1", "A"), task_run=RETRY) == ["unconfirmed"]
    assert len(shop.sandbox.requests) == requests


def test_a_key_that_says_something_else_now_is_a_conflict(shop: Shop) -> None:
    shop.order("A")
    assert sent(shop, part("r1", "A", 5)) == ["refunded"]
    assert sent(shop, part("r1", "A", 6)) == ["conflict"]
    assert sent(shop, part("r2", "A", 6), part("r2", "A", 7)) == ["conflict", "conflict"]
    assert shop.times_refunded("A") == 1


def test_all_are_tried_however_they_fail(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(40)]
    shop.order(*slugs)
    shop.sandbox.dials.next(*[Canned(422, b'{"ok": false, "error_message": "no"}')] * 30)
    assert sorted(sent(shop, *map(whole, slugs))) == ["refunded"] * 10 + ["rejected"] * 30


def test_a_refused_key_ends_it(shop: Shop) -> None:
    shop.order("A", "B")
    given = refund_list(shop, whole("A"), part("r1", "B"), key="wrong-api-key")
    with pytest.raises(TalkableAuthError):
        given.send()
    assert outcomes(given) == ["aborted", "aborted"]


def test_what_was_not_sent_when_it_is_stopped_is_aborted_and_sent_by_the_next_try(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(20)]
    shop.order(*slugs)
    rows = [part(slug, slug) for slug in slugs]
    shop.sandbox.dials.latency = 1
    given = refund_list(shop, *rows)
    once_requested(shop.sandbox, 4, lambda: given.stop("the task was stopped from outside"))
    with pytest.raises(Exception, match="the task was stopped from outside"):
        given.send()
    assert sorted(outcomes(given)) == ["aborted"] * 16 + ["refunded"] * 4
    shop.sandbox.dials.latency = 0
    assert sent(shop, *rows, task_run=RETRY) == ["refunded"] * 20
    assert {shop.times_refunded(slug) for slug in slugs} == {1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"origin_slug": "A", "refund_subtotal": 5},
            "^refund_key=None: is missing; a part of an",
        ),
        ({"origin_slug": "A", "refund_subtotal": 5, "refund_key": None}, "^refund_key=None: is missing"),
        ({"origin_slug": "A", "refund_key": 1.5}, r"^refund_key=1\.5"),
        ({"origin_slug": ""}, "^origin_slug=''"),
    ],
)
def test_what_makes_no_refund_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRefund, match=message):
        row_of(given, site_slug="my-store")


def test_an_amount_that_reaches_the_orders_needs_no_key() -> None:
    given = {"order_number": "A", "refund_subtotal": 100, "order_subtotal": 100}
    assert row_of(given, site_slug="my-store").refund_key == "A"
