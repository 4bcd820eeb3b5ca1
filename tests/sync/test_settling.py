"""A refund in doubt is settled by somebody who has looked it up, and never sent twice for that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import InvalidRefund, TalkableError
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox.faults import Reset
from airflow_provider_talkable.sync.discrepancies import Kind, against_ledger, settled_entry
from airflow_provider_talkable.sync.entries import Settlement
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.liveness import longest_sending
from airflow_provider_talkable.sync.overview import Period, overview_of
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.settling import entries_of, settle, unconfirmed
from tests.conftest import Sandboxes
from tests.shop import Shop

ONE_BY_ONE = Pace(max_in_flight=1, initial_rate=None)
REFUNDED, NOT_REFUNDED = Settlement.REFUNDED, Settlement.NOT_REFUNDED


@pytest.fixture
def shop(database: URL, engines: Callable[[URL], Engine], sandboxes: Sandboxes) -> Shop:
    """Three parts of as many orders are unconfirmed, of which Talkable has taken the first two."""
    shop = Shop(engines(database), sandboxes())
    shop.order("A", "B", "C")
    shop.refund(("a", "A", None, "5"), ("b", "B", None, "5"), ("c", "C", None, "5"))
    shop.sandbox.dials.next(Reset(acted=True), Reset(acted=True), Reset(acted=False))
    assert shop.sync(pace=ONE_BY_ONE).outcomes == {"unconfirmed": 3}
    return shop


def opened(shop: Shop) -> Ledger:
    ledger = Ledger(shop.engine)
    ledger.open()
    return ledger


def say(shop: Shop, key: str, settlement: Settlement, ledger: Ledger | None = None, **more: Any) -> None:
    settle(ledger or opened(shop), key, settlement, by="jane", note=" seen in the dashboard ", **more)


def taken(shop: Shop) -> list[int]:
    return [shop.times_refunded(slug) for slug in "ABC"]


def test_what_was_taken_is_settled_and_what_was_not_is_sent(shop: Shop) -> None:
    assert taken(shop) == [1, 1, 0]
    for key, settlement in (("a", REFUNDED), ("b", REFUNDED), ("c", NOT_REFUNDED)):
        say(shop, key, settlement)
    summary = shop.sync()
    assert (summary.skipped, summary.outcomes) == (2, {"refunded": 1})
    assert taken(shop) == [1, 1, 1]
    assert shop.events("a") == ["submitted", "unconfirmed", "settled_refunded"]
    assert shop.events("c") == ["submitted", "unconfirmed", "settled_not_refunded", "submitted", "refunded"]
    assert shop.sync().skipped == 3
    assert taken(shop) == [1, 1, 1]


def test_it_says_who_and_why_and_never_that_talkable_said_it(shop: Shop) -> None:
    say(shop, "a", REFUNDED)
    [entry] = [entry for entry in shop.ledger() if entry["event"] == "settled_refunded"]
    assert (entry["settled_by"], entry["settled_note"]) == ("jane", "seen in the dashboard")
    assert (entry["origin_slug"], entry["refund_subtotal"]) == ("A", 5)
    assert entry["http_status"] is entry["reward_paid"] is entry["sending_until"] is None
    assert not opened(shop).has_taken("my-store")


@pytest.mark.parametrize("settlement", list(Settlement))
def test_while_a_run_may_be_sending_it_nothing_is_settled(shop: Shop, settlement: Settlement) -> None:
    row = Row("my-store", "c", "C", refund_subtotal=Decimal(5))
    running = opened(shop)
    running.append([running.submitted(row)])
    before = shop.ledger()
    now = datetime.now(UTC)
    with pytest.raises(
        TalkableError, match="c, a refund of C at my-store: a run may be sending it until"
    ) as e:
        say(shop, "c", settlement)
    assert e.value.retry_after == pytest.approx(longest_sending().total_seconds(), abs=60)
    assert shop.ledger() == before
    assert [refund["refund_key"] for refund in unconfirmed(opened(shop))] == ["a", "b"]
    # What another run makes of it is no word of the one that may be sending it.
    shop.sync()
    assert shop.states()["c"] == "unconfirmed"
    with pytest.raises(TalkableError, match="a run may be sending it until"):
        say(shop, "c", settlement)
    say(shop, "c", settlement, now=now + timedelta(hours=1))


@pytest.mark.parametrize("clock", [0, -(10**9)], ids=["after it", "with a clock behind"])
@pytest.mark.parametrize("settlement", list(Settlement))
def test_a_run_that_begins_while_it_is_settled_stays_in_doubt(
    shop: Shop, settlement: Settlement, clock: int
) -> None:
    """It has looked before the settlement is there, and submits after the settling one has looked."""
    row = Row("my-store", "c", "C", refund_subtotal=Decimal(5))
    running = opened(shop)
    if clock < 0:
        # It follows the newest entry as closely as the settlement does, and sorts before that.
        newest = max(entry["entry_id"] for entry in shop.ledger() if entry["refund_key"] == "c")
        running._next_id = lambda: running._id(int(newest[:16], 16) + 1)  # type: ignore[method-assign]
        running.writer = "00000000"
    ledger = opened(shop)
    append = ledger.append

    def appending(entries: Any) -> None:
        running.append([running.submitted(row)])
        append(entries)

    ledger.append = appending  # type: ignore[method-assign]
    with pytest.raises(TalkableError, match="a run began to send it while it was settled"):
        say(shop, "c", settlement, ledger)
    # Killed while it was sending: the person's word is older than that.
    shop.wait_until_no_run_may_be_sending()
    assert shop.sync().outcomes == {"unconfirmed": 1}
    assert shop.sync().outcomes == {}
    assert shop.times_refunded("C") == 0
    assert [refund["refund_key"] for refund in unconfirmed(opened(shop))] == ["a", "b", "c"]


def test_a_run_that_submits_after_it_was_settled_as_refunded_gives_way(shop: Shop) -> None:
    shop.wait_until_no_run_may_be_sending()
    ledger = opened(shop)

    def be_overtaken(sync: Any) -> None:
        append = sync._ledger.append

        def appending(entries: Any) -> None:
            sync._ledger.append = append
            say(shop, "c", REFUNDED, ledger)
            append(entries)

        sync._ledger.append = appending

    summary = shop.sync(before=be_overtaken, resend_keys=frozenset({"c"}))
    assert (summary.sent, shop.times_refunded("C")) == (0, 0)
    assert shop.states()["c"] == "settled_refunded"


def test_what_makes_no_sense_is_refused(shop: Shop) -> None:
    before = shop.ledger()
    with pytest.raises(InvalidRefund, match="refund_key='x': the ledger talkable_refund_ledger has no such"):
        say(shop, "x", REFUNDED)
    with pytest.raises(InvalidRefund, match="has no such refund of site other"):
        say(shop, "a", REFUNDED, site_slug="other")
    for note, by in ((" ", "jane"), ("seen", "")):
        with pytest.raises(InvalidRefund, match="is empty; say what you saw"):
            settle(opened(shop), "a", REFUNDED, note=note, by=by)
    assert shop.ledger() == before
    ledger = opened(shop)
    ledger.append([ledger.submitted(Row("other", "a", "A", refund_subtotal=Decimal(5)))])
    with pytest.raises(InvalidRefund, match="is a refund of each of the sites my-store, other; give --site"):
        say(shop, "a", REFUNDED)
    say(shop, "a", REFUNDED, site_slug="my-store")
    assert shop.sync().skipped == 3


def test_what_talkable_itself_has_answered_is_not_settled_otherwise(shop: Shop) -> None:
    say(shop, "c", NOT_REFUNDED)
    assert shop.sync().outcomes == {"refunded": 1}
    with pytest.raises(
        TalkableError, match=r"Talkable itself has answered that it has this refund \(refunded\)"
    ):
        say(shop, "c", NOT_REFUNDED)
    # A person may have been wrong.
    say(shop, "a", NOT_REFUNDED)
    say(shop, "a", REFUNDED)
    assert shop.sync().skipped == 3


def test_what_is_known_of_those_in_doubt(shop: Shop) -> None:
    [first, *others] = unconfirmed(opened(shop), site_slug="my-store")
    assert datetime.now(UTC) - datetime.fromisoformat(first.pop("logged_at")) < timedelta(minutes=5)
    assert "look the order up in Talkable" in first.pop("error_message")
    assert first == {
        "site_slug": "my-store",
        "refund_key": "a",
        "origin_slug": "A",
        "refund_subtotal": "5",
        "refunded_at": None,
    }
    assert [refund["refund_key"] for refund in others] == ["b", "c"]
    assert unconfirmed(opened(shop), site_slug="other") == []
    # A whole one is sent again by itself.
    ledger = opened(shop)
    ledger.append([ledger.submitted(Row("my-store", "w", "W"))])
    assert len(unconfirmed(ledger, now=datetime.now(UTC) + timedelta(days=1))) == 3


def test_a_refunds_history_has_every_part_of_its_order(shop: Shop) -> None:
    shop.refund(("a2", "A", None, "7"))
    shop.sync()
    say(shop, "a", REFUNDED)
    by_key, by_order = entries_of(opened(shop), "a2"), entries_of(opened(shop), "A")
    assert by_key == by_order
    assert [entry["entry_id"] for entry in by_key] == sorted(entry["entry_id"] for entry in by_key)
    for key, events in (
        ("a", ["submitted", "unconfirmed", "settled_refunded"]),
        ("a2", ["submitted", "refunded"]),
    ):
        assert [entry["event"] for entry in by_key if entry["refund_key"] == key] == events
    assert entries_of(opened(shop), "A", site_slug="other") == []


def test_the_order_is_judged_by_it(shop: Shop) -> None:
    """What was sent of an order is known again once each part of it is."""
    shop.refund(("a2", "A", None, "7"), ("b2", "B", None, "7"), ("c2", "C", None, "7"))
    say(shop, "a", REFUNDED)
    say(shop, "c", NOT_REFUNDED)
    shop.sync()
    sent = {entry["refund_key"]: entry["sent_subtotal"] for entry in shop.ledger() if entry["sent_subtotal"]}
    assert sent == {"a2": 12, "c": 5, "c2": 12}
    assert [entry["counted_subtotal"] for entry in shop.ledger() if entry["refund_key"] == "a2"][-1] == 12


def test_it_is_counted_and_reconciled_as_what_it_is(shop: Shop) -> None:
    say(shop, "a", REFUNDED)
    say(shop, "b", NOT_REFUNDED)
    overview = overview_of(opened(shop), Period(), limit=10)
    assert overview.events == {"settled_not_refunded": 1, "settled_refunded": 1, "unconfirmed": 1}
    assert overview.failed == 2
    assert {failure["event"] for failure in overview.failures} == {"settled_not_refunded", "unconfirmed"}
    rows = [Row("my-store", key, key.upper(), refund_subtotal=Decimal("5.0000")) for key in "abc"]
    histories = opened(shop).histories(rows)
    kinds = [
        [found.kind for found in against_ledger(row, histories["my-store", row.refund_key])] for row in rows
    ]
    assert kinds == [[], [Kind.UNSETTLED], [Kind.UNSETTLED]]
    # Talkable is asked whether it is so, where it can be asked.
    has_entry = [bool(settled_entry(histories["my-store", row.refund_key])) for row in rows]
    assert has_entry == [True, False, False]


def test_the_longest_that_a_run_may_be_sending_grows_with_what_it_is_given(shop: Shop) -> None:
    patient = longest_sending(90, RetryPolicy(10, 3600), Pace(32, max_rate=0.05))
    assert patient.total_seconds() == 3 * 32 / 0.05 + 10 * (180 + 30) + 3600 + 60 + 120 + 60
    # Where the ledger is slow, more partial refunds may wait for their turn.
    assert longest_sending(waiting=96) - longest_sending(waiting=48) == timedelta(seconds=48 / 0.1)
    assert longest_sending(waiting=48) == longest_sending()
    row = ("d", "D", None, "5")
    shop.refund(row)
    shop.sync(policy=RetryPolicy(throttle_patience=7200))
    [until] = [
        entry["sending_until"]
        for entry in shop.ledger()
        if entry["sending_until"] and entry["refund_key"] == "d"
    ]
    moment = until if isinstance(until, datetime) else datetime.fromisoformat(until)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    assert timedelta(hours=2) < moment - datetime.now(UTC) < timedelta(hours=3)
