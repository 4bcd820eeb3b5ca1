"""The sync from warehouse to Talkable, over real HTTP, with the ledger in a real database."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from airflow_provider_talkable import LedgerLost
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sandbox import Canned, Reset
from airflow_provider_talkable.sync import run, tables
from airflow_provider_talkable.sync.ledger import Ledger, TaskRun
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.run import RefundSync
from airflow_provider_talkable.sync.summary import Summary
from tests.shop import Shop, once_requested

LATE = {"status": "approved", "ad_rewarded": True}
ONE_BY_ONE = Pace(max_in_flight=1, initial_rate=None)


def test_every_row_ends_in_the_ledger_with_an_outcome(shop: Shop) -> None:
    shop.order("A", "B", "C")
    shop.order("D", referral=LATE)
    shop.sandbox.talkable.refund("my-store", "C", {})
    shop.refund(
        ("a1", "A", "2026-01-02T03:04:05.678+02:00"),
        ("b1", "B", None, "12.3456"),
        ("c1", "C"),
        ("d1", "D"),
        ("x1", "X"),
        ("y1", "Y", "yesterday"),
    )
    summary = shop.sync()
    assert shop.states() == {
        "a1": "refunded",
        "b1": "refunded",
        "c1": "already_refunded",
        "d1": "refunded",
        "x1": "not_found",
        "y1": "invalid",
    }
    assert shop.events("a1") == ["submitted", "refunded"]
    assert shop.events("y1") == ["invalid"]
    assert summary.ledger_seconds > 0
    assert summary.as_dict() | {"seconds": 0, "rate": 0, "ledger_seconds": 0} == {
        "rows": 6,
        "duplicates": 0,
        "skipped": 0,
        "outcomes": {"refunded": 3, "invalid": 1, "already_refunded": 1, "not_found": 1},
        "sent": 5,
        "requests": 5,
        "lookups": 0,
        "throttled_requests": 0,
        "seconds": 0,
        "rate": 0,
        "referred": 3,
        "rewarded": 1,
        "referral_unknown": 0,
        "late": summary.late,
        "failures": summary.failures,
        "not_tried": {},
        "counted_otherwise": 0,
        "voids": {},
        "site_problems": {},
        "unmatched_keys": [],
        "stopped": None,
        "ledger_created": True,
        "ledger_seconds": 0,
        "open": 0,
        "oldest_open": None,
        "alerts": [],
    }
    assert {(f["refund_key"], f["outcome"]) for f in summary.failures} == {
        ("x1", "not_found"),
        ("y1", "invalid"),
    }
    held = shop.sandbox.talkable.snapshot()["my-store"]
    assert held["B"]["refund_subtotal"] == 12.3456
    assert held["A"]["refunded_at"] == "2026-01-02T01:04:05.678+00:00"


def test_a_second_run_sends_nothing_and_writes_nothing(shop: Shop) -> None:
    shop.order("A", "B")
    shop.refund("A", ("b", "B", None, "5"), "X", ("y", "Y", "yesterday"), ("k", "A"), ("k", "B"))
    shop.sync()
    before, asked = shop.ledger(), len(shop.sent)
    summary = shop.sync()
    assert shop.ledger() == before
    assert len(shop.sent) == asked
    assert (summary.skipped, summary.duplicates, summary.rows, summary.sent) == (6, 0, 6, 0)
    assert summary.outcomes == {}


def test_the_ledger_keeps_what_was_sent_and_what_came_back(shop: Shop) -> None:
    shop.order("A", referral=LATE)
    shop.refund(("a1", "A", "2026-01-02T03:04:05Z", "7.5"))
    task_run = TaskRun("shop", "manual__1", "sync", 3, 2)
    shop.sync(ledger=Ledger(shop.engine, task_run=task_run))
    submitted, refunded = shop.ledger()
    referral = shop.sandbox.talkable.snapshot()["my-store"]["A"]["referral"]
    common = {
        "site_slug": "my-store",
        "refund_key": "a1",
        "origin_slug": "A",
        "refund_subtotal": 7.5,
        "dag_id": "shop",
        "run_id": "manual__1",
        "task_id": "sync",
        "map_index": 3,
        "try_number": 2,
    }
    assert common.items() <= submitted.items()
    assert common.items() <= refunded.items()
    assert refunded["event"] == "refunded"
    assert refunded["http_status"] == 200
    assert refunded["attempts"] == 1
    assert refunded["referral_id"] == str(referral["id"])
    assert refunded["referral_status"] == "approved"
    assert refunded["ad_rewarded"] == 1
    assert str(refunded["refunded_at"]).startswith("2026-01-02 03:04:05")
    assert submitted["http_status"] is None


def test_submitted_is_written_before_the_request(shop: Shop) -> None:
    seen: list[list[str]] = []
    shop.order("A")
    shop.refund("A")
    shop.sandbox.dials.latency = 0.5
    once_requested(shop.sandbox, 1, lambda: seen.extend([shop.sent, shop.events("A")]))
    shop.sync()
    assert seen == [["A"], ["submitted"]]


def test_rows_are_sent_in_the_order_of_the_query(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(40)]
    shop.order(*slugs)
    shop.refund(*reversed(slugs))
    shop.sync(pace=ONE_BY_ONE)
    assert shop.sent == slugs[::-1]


# What a crash leaves behind


def crashed(shop: Shop, *rows: tuple[object, ...]) -> None:
    """Leave ``submitted`` entries, as a run does that is killed after writing them."""

    def die(sync: RefundSync) -> None:
        def put(items: object, *, first: bool = False) -> None:
            raise KeyboardInterrupt

        sync._sender.put = put  # type: ignore[method-assign]
        sync._end_early = lambda reason: None  # type: ignore[method-assign]

    if rows:
        shop.refund(*rows)
    with pytest.raises(KeyboardInterrupt):
        shop.sync(before=die)
    assert not shop.sent


def test_after_a_crash_a_full_refund_is_sent_again_and_a_partial_one_is_held(shop: Shop) -> None:
    shop.order("A", "B")
    crashed(shop, ("a", "A"), ("b", "B", None, "5"))
    summary = shop.sync()
    assert shop.events("a") == ["submitted", "submitted", "refunded"]
    assert shop.events("b") == ["submitted", "unconfirmed"]
    assert shop.sent == ["A"]
    [failure] = summary.failures
    assert "settle this refund_key with 'airflow talkable ledger settle'" in failure["error_message"]
    assert shop.sync().outcomes == {}
    shop.wait_until_no_run_may_be_sending()
    shop.sync(resend_keys=frozenset({"b"}))
    assert shop.sent == ["A", "B"]
    assert shop.states() == {"a": "refunded", "b": "refunded"}


def test_an_answer_that_never_came_leaves_a_partial_refund_unconfirmed(shop: Shop) -> None:
    shop.order("A", "B")
    shop.refund(("a", "A", None, "5"), ("b", "B"))
    shop.sandbox.dials.next(Reset(acted=True), Reset(acted=True))
    shop.sync(pace=ONE_BY_ONE)
    assert shop.states() == {"a": "unconfirmed", "b": "already_refunded"}
    assert [shop.times_refunded(slug) for slug in "AB"] == [1, 1]
    shop.sync()
    assert shop.sent == ["A", "B", "B"]


# Two runs at once


def overtaken(shop: Shop, by: Callable[[], object], **rules: Any) -> Summary:
    """Run a sync that another one overtakes after it has looked into the ledger, before it writes there."""

    def be_overtaken(sync: RefundSync) -> None:
        append = sync._ledger.append

        def appending(entries: Any) -> None:
            sync._ledger.append = append  # type: ignore[method-assign]
            by()
            append(entries)

        sync._ledger.append = appending  # type: ignore[method-assign]

    return shop.sync(before=be_overtaken, **rules)


def test_what_another_run_has_sent_meanwhile_is_not_sent_again(shop: Shop) -> None:
    shop.order("B", referral=LATE)
    shop.refund(("b", "B", None, "5"), ("x", "X", None, "5"))
    summary = overtaken(shop, shop.sync)
    assert shop.sent == ["B", "X"]
    assert (summary.sent, summary.skipped, summary.outcomes) == (0, 2, {})
    assert shop.states() == {"b": "refunded", "x": "not_found"}
    [first, last] = [entry for entry in shop.ledger() if entry["event"] == "refunded"]
    for column in ("origin_slug", "refund_subtotal", "referral_id", "ad_rewarded"):
        assert first[column] == last[column] is not None
    # The one that took no request sorts right after its run's submitted, which is older here.
    assert (first["attempts"], last["attempts"]) == (None, 1)
    assert shop.sync().skipped == 2
    assert shop.sync(resend=frozenset({Outcome.NOT_FOUND})).sent == 1


def test_what_another_run_may_be_sending_is_left_to_it(shop: Shop) -> None:
    shop.order("A", "B")
    shop.refund(("a", "A"), ("b", "B", None, "5"))
    summary = overtaken(shop, lambda: crashed(shop))
    assert shop.sent == ["A"]
    assert summary.outcomes == {"refunded": 1, "aborted": 1}
    [reason] = summary.not_tried
    assert "another run" in reason
    assert shop.events("b") == ["submitted", "aborted", "submitted"]
    # The other one is gone, and nobody knows whether it had sent it.
    assert shop.sync().outcomes == {"unconfirmed": 1}
    assert shop.sent == ["A"]


def test_what_a_run_says_late_counts_more_than_the_doubt_of_another_one(shop: Shop) -> None:
    shop.order("B")
    crashed(shop, ("b", "B", None, "5"))
    alive = shop.syncs[-1]._ledger
    row = Row("my-store", "b", "B", refund_subtotal=Decimal(5))
    refunded = alive.outcome(row, RefundResult("B", Outcome.REFUNDED))
    assert shop.sync().outcomes == {"unconfirmed": 1}
    assert shop.states() == {"b": "unconfirmed"}
    alive.append([refunded])
    assert shop.states() == {"b": "refunded"}
    assert shop.events("b") == ["submitted", "unconfirmed", "refunded"]
    assert shop.sync(resend_keys=frozenset({"b"})).skipped == 1
    assert not shop.sent


def test_what_is_settled_is_told_again_where_a_run_that_gave_way_hides_it(shop: Shop) -> None:
    shop.order("B")
    shop.refund(("b", "B", None, "5"))
    shop.sync()
    gave_way = shop.syncs[-1]._ledger
    row = Row("my-store", "b", "B", refund_subtotal=Decimal(5))
    gave_way.append([gave_way.submitted(row), gave_way.outcome(row, RefundResult("B", Outcome.ABORTED))])
    task_run = TaskRun("shop", "manual__1", "sync", -1, 1)
    assert shop.sync(ledger=Ledger(shop.engine, task_run=task_run)).skipped == 1
    assert shop.events("b") == ["submitted", "refunded", "submitted", "aborted", "refunded"]
    before = shop.ledger()
    # What a task has only told again does not count as its own when it is tried again.
    again = shop.sync(ledger=Ledger(shop.engine, task_run=task_run))
    assert (again.skipped, again.outcomes) == (1, {})
    assert shop.ledger() == before


def test_what_a_run_may_be_sending_is_not_sent_by_one_that_resends(shop: Shop) -> None:
    shop.order("B")
    crashed(shop, ("b", "B", None, "5"))
    named = frozenset({"b"})
    for _ in range(2):
        summary = shop.sync(resend_keys=named)
        assert summary.outcomes == {"unconfirmed": 1}
        assert "may be sending this partial refund until" in summary.failures[0]["error_message"]
    assert not shop.sent
    shop.wait_until_no_run_may_be_sending()
    assert shop.sync(resend_keys=named).outcomes == {"refunded": 1}
    assert shop.sent == ["B"]


def test_of_two_runs_that_resend_at_most_one_sends(shop: Shop) -> None:
    shop.order("B")
    crashed(shop, ("b", "B", None, "5"))
    shop.sync()
    shop.wait_until_no_run_may_be_sending()
    named = frozenset({"b"})
    overtaken(shop, lambda: shop.sync(resend_keys=named), resend_keys=named)
    assert shop.sent == ["B"]
    assert shop.sync(resend_keys=named).skipped == 1
    assert shop.states() == {"b": "refunded"}


@pytest.mark.parametrize("event", ["conflict", "invalid"])
def test_what_is_settled_is_told_again_once_the_row_is_mended(shop: Shop, event: str) -> None:
    shop.order("A")
    shop.refund(("a", "A", None, "5"))
    shop.sync()
    shop.clear()
    shop.refund(("a", "A", *((None, "6") if event == "conflict" else ("never", "5"))))
    assert shop.sync().outcomes == {event: 1}
    shop.clear()
    shop.refund(("a", "A", None, "5"))
    assert shop.sync().skipped == 1
    assert shop.events("a") == ["submitted", "refunded", event, "refunded"]


def test_another_amount_that_another_run_has_sent_meanwhile_is_a_conflict(shop: Shop) -> None:
    def refund_more() -> None:
        shop.clear()
        shop.refund(("b", "B", None, "6"))
        shop.sync()

    shop.order("B")
    shop.refund(("b", "B", None, "5"))
    assert overtaken(shop, refund_more).outcomes == {"aborted": 1}
    assert len(shop.sent) == 1
    shop.clear()
    shop.refund(("b", "B", None, "5"))
    assert shop.sync().outcomes == {"conflict": 1}


# Conflicts


def test_another_amount_for_the_same_key_is_reported_once_and_not_sent(shop: Shop) -> None:
    shop.order("A")
    shop.refund(("a", "A", None, "5"))
    shop.sync()
    shop.clear()
    shop.refund(("a", "A", None, "6"))
    summary = shop.sync()
    assert summary.outcomes == {"conflict": 1}
    assert "sent before with 5," in summary.failures[0]["error_message"]
    assert shop.sync().skipped == 1
    assert shop.sent == ["A"]
    shop.clear()
    shop.refund(("a", "A", None, "5"))
    assert shop.sync().skipped == 1
    assert shop.sent == ["A"]


def test_rows_that_differ_under_one_key_are_all_held(shop: Shop) -> None:
    shop.order("A")
    shop.refund(("a", "A", None, "5"), ("a", "A", None, "6"), ("b", "A", None, "7"), ("b", "A", None, "7"))
    summary = shop.sync()
    assert summary.outcomes == {"conflict": 2, "refunded": 1}
    assert (summary.rows, summary.duplicates) == (4, 1)
    assert shop.sent == ["A"]
    shop.clear()
    shop.refund(("a", "A", None, "5"))
    assert shop.sync().outcomes == {"refunded": 1}


# What stops a run


def test_a_refused_key_stops_the_run_and_the_rest_is_aborted(shop: Shop) -> None:
    shop.order(*(f"order-{n}" for n in range(700)))
    shop.refund(*(f"order-{n}" for n in range(700)))
    summary = shop.sync(key="wrong-api-key", pace=ONE_BY_ONE)
    assert set(shop.states().values()) == {"aborted"}
    assert len(shop.states()) == 700
    # By either scheme.
    assert shop.sent == ["order-0", "order-0"]
    assert summary.outcomes == {"aborted": 700}
    assert summary.stopped
    assert summary.stopped.startswith("Talkable refused the API key")
    assert shop.sync().outcomes == {"refunded": 700}


def test_an_aborted_run_leaves_settled_refunds_alone(shop: Shop) -> None:
    shop.order("A", "B")
    shop.refund("A")
    shop.sync()
    shop.refund("B")
    shop.sync(key="wrong-api-key")
    assert shop.states() == {"A": "refunded", "B": "aborted"}


def test_identical_rejections_in_a_row_end_the_site(shop: Shop) -> None:
    shop.order(*(f"order-{n}" for n in range(60)))
    shop.refund(*(f"order-{n}" for n in range(60)))
    refused = Canned(422, b'{"ok": false, "error_message": "Validation failed: no jane@example.com"}')
    shop.sandbox.dials.next(None, *[refused] * 3, None, *[refused] * 50)
    summary = shop.sync(pace=ONE_BY_ONE, abort_after=5)
    assert summary.outcomes == {"refunded": 2, "rejected": 8, "aborted": 50}
    assert summary.stopped is None
    assert summary.site_problems == {
        "my-store": "site my-store: 5 refunds in a row were rejected with the same words "
        "(Validation failed: no [redacted]); fix that, then run it again with resend={'rejected'}"
    }


def test_rejections_that_differ_do_not_stop_the_run(shop: Shop) -> None:
    shop.order(*(f"order-{n}" for n in range(30)))
    shop.refund(*(f"order-{n}" for n in range(30)))
    shop.sandbox.dials.next(
        *[Canned(422, b'{"ok": false, "error_message": "no %d"}' % (n % 2)) for n in range(30)]
    )
    assert shop.sync(pace=ONE_BY_ONE, abort_after=5).outcomes == {"rejected": 30}


def test_stopped_from_outside_what_is_on_the_wire_is_recorded(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(50)]
    shop.order(*slugs)
    shop.refund(*((slug, slug, None, "5") for slug in slugs))
    shop.sandbox.dials.latency = 2

    def stop_soon(sync: RefundSync) -> None:
        once_requested(shop.sandbox, 4, lambda: sync.stop("the task was stopped from outside"))

    summary = shop.sync(pace=Pace(max_in_flight=4, initial_rate=None), before=stop_soon)
    assert summary.outcomes == {"refunded": 4, "aborted": 46}
    assert Counter(shop.states().values()) == {"refunded": 4, "aborted": 46}


def test_a_reason_to_stop_is_asked_for_while_answers_are_waited_for(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(50)]
    shop.order(*slugs)
    shop.refund(*((slug, slug, None, "5") for slug in slugs))
    shop.sandbox.dials.latency = 2
    summary = shop.sync(
        pace=Pace(max_in_flight=4, initial_rate=None),
        reason_to_stop=lambda: "nobody waits for it" if len(shop.sandbox.requests) == 4 else None,
    )
    assert summary.stopped == "nobody waits for it"
    assert Counter(shop.states().values()) == {"refunded": 4, "aborted": 46}
    assert len(shop.sandbox.requests) == 4


def test_what_does_not_end_in_time_after_a_stop_is_in_doubt(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.order("A", "B", "C")
    shop.refund(("a", "A", None, "5"), "B", "C")
    shop.sandbox.dials.latency = 30
    monkeypatch.setattr(run, "GRACE", 0.5)
    started = time.monotonic()
    summary = shop.sync(
        pace=Pace(max_in_flight=2, initial_rate=None),
        before=lambda sync: once_requested(shop.sandbox, 2, lambda: sync.stop("enough")),
    )
    assert time.monotonic() - started < 15
    assert shop.states() == {"a": "unconfirmed", "B": "failed", "C": "aborted"}
    assert summary.stopped == "enough"


def test_a_timeout_of_airflows_leaves_every_row_with_an_outcome(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(600)]
    shop.order(*slugs)
    shop.refund(*slugs)

    def time_out_soon(sync: RefundSync) -> None:
        take = sync._sender.take

        def taking(**arguments: object) -> object:
            if sync.summary.sent > 20 and not sync._ending:
                raise TimeoutError("Timeout, PID: 1")
            return take(**arguments)  # type: ignore[arg-type]

        sync._sender.take = taking  # type: ignore[assignment, method-assign]

    with pytest.raises(TimeoutError):
        shop.sync(before=time_out_soon)
    assert "submitted" not in shop.states().values()
    assert len(shop.states()) == 600
    assert shop.syncs[-1].summary.stopped == "the task was stopped (TimeoutError: Timeout, PID: 1)"


def test_a_timeout_after_submitted_was_written_is_no_doubt_if_nothing_was_sent(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(600)]
    shop.order(*slugs)
    shop.refund(*((slug, slug, None, "5") for slug in slugs))

    def time_out(sync: RefundSync) -> None:
        append = sync._ledger.append

        def appending(entries: Any) -> None:
            append(entries)
            if sync.summary.sent > 50 and not sync._ending:
                raise TimeoutError("Timeout, PID: 1")

        sync._ledger.append = appending  # type: ignore[method-assign]

    with pytest.raises(TimeoutError):
        shop.sync(before=time_out)
    states = Counter(shop.states().values())
    assert set(states) == {"refunded", "aborted"}
    assert states["refunded"] == len(shop.sent)
    assert states.total() == 600


def test_a_timeout_while_rows_are_looked_up_leaves_every_row_with_an_outcome(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(1200)]
    shop.order(*slugs)
    shop.refund(*slugs)

    def time_out(sync: RefundSync) -> None:
        look_up = sync._ledger.histories
        calls: list[int] = []

        def failing(rows: Any, **beside: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise TimeoutError("Timeout, PID: 1")
            return look_up(rows, **beside)

        sync._ledger.histories = failing  # type: ignore[method-assign]

    with pytest.raises(TimeoutError):
        shop.sync(before=time_out)
    assert len(shop.states()) == 1200
    assert "submitted" not in shop.states().values()


def test_a_ledger_that_is_gone_for_a_while_is_waited_for(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    slugs = [f"order-{n}" for n in range(300)]
    shop.order(*slugs)
    shop.refund(*slugs)
    path = str(shop.engine.url.database)

    def lock_it(sync: RefundSync) -> None:
        """Another process writes to the file for longer than SQLite waits by itself."""

        def hold() -> None:
            import sqlite3

            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(7)
            other.close()

        threading.Timer(0.05, hold).start()

    shop.sandbox.dials.latency = 0.05
    assert shop.sync(before=lock_it).outcomes == {"refunded": 300}
    assert "cannot be reached (database is locked); trying again" in caplog.text
    assert set(shop.states().values()) == {"refunded"}


def test_a_ledger_that_is_lost_stops_the_run_and_the_log_says_what_it_lacks(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slugs = [f"order-{n}" for n in range(300)]
    shop.order(*slugs)
    shop.refund(*slugs)
    monkeypatch.setattr(tables, "PATIENCE", 0.5)

    def lose_it(sync: RefundSync) -> None:
        append = sync._ledger._append

        def failing(entries: list[dict[str, object]]) -> None:
            if sync.summary.sent > 50:
                raise OperationalError("INSERT", {}, Exception("server closed the connection"))
            append(entries)

        sync._ledger._append = failing  # type: ignore[assignment, method-assign]

    shop.sandbox.dials.latency = 0.02
    summary = shop.sync(before=lose_it)
    sync = shop.syncs[-1]
    assert isinstance(sync._ending, LedgerLost)
    assert summary.stopped
    assert "run this again: it goes on where the ledger ends" in summary.stopped
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Not in the ledger")]
    answered = {entry["refund_key"] for entry in shop.ledger() if entry["event"] == "refunded"}
    # What Talkable took is either in the ledger or in the log.
    missing = set(shop.sent) - answered
    assert missing
    assert all(any(f"origin {slug}: refunded" in line for line in told) for slug in missing)
    assert all(
        re.match(r"Not in the ledger: site my-store, refund_key (order-\d+), origin \1: ", line)
        for line in told
    )
    assert len(shop.sent) < 300
    assert shop.sync().as_dict()["outcomes"].keys() <= {"refunded", "already_refunded"}
    assert {shop.times_refunded(slug) for slug in slugs} == {1}


# Throttling


def test_a_throttled_site_ends_and_the_rest_of_it_is_not_sent(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(400)]
    shop.order(*slugs)
    shop.refund(*slugs)
    shop.sandbox.dials.next(*[None] * 4, *[Canned(429, headers={"Retry-After": "60"})] * 40)
    summary = shop.sync(
        pace=Pace(max_in_flight=4, initial_rate=None), policy=RetryPolicy(throttle_patience=1)
    )
    assert summary.outcomes == {"refunded": 4, "throttled": 396}
    assert summary.stopped is None
    assert sum(entry["event"] == "submitted" for entry in shop.ledger()) < 100
    shop.sandbox.dials._next.clear()
    assert shop.sync().outcomes == {"refunded": 396}


def test_a_pause_for_throttling_is_resumed_with_the_same_summary(shop: Shop) -> None:
    shop.order(*(f"order-{n}" for n in range(40)))
    shop.order("late", referral=LATE)
    shop.refund("late", "unknown", ("bad", "B", "never"), *(f"order-{n}" for n in range(40)))
    shop.sandbox.dials.next(*[None] * 10, *[Canned(429, headers={"Retry-After": "60"})] * 40)
    task = {"task_run": TaskRun("shop", "manual__1", "sync", -1, 1)}
    ledger = Ledger(shop.engine, **task)  # type: ignore[arg-type]
    rules: dict[str, Any] = {"pause_when_throttled": True, "policy": RetryPolicy(throttle_patience=1)}
    first = shop.sync(ledger=ledger, pace=Pace(max_in_flight=4, initial_rate=None), **rules)
    assert shop.syncs[-1].paused_site == "my-store"
    assert first.sent == 10
    assert Outcome.THROTTLED not in first.outcomes
    shop.sandbox.dials._next.clear()

    carried = Summary(sent=first.sent, requests=first.requests, throttled_requests=first.throttled_requests)
    resumed = Ledger(shop.engine, writer=ledger.writer, **task)  # type: ignore[arg-type]
    summary = shop.sync(ledger=resumed, summary=carried, **rules)
    assert shop.syncs[-1].paused_site is None
    assert summary.outcomes == {"refunded": 41, "not_found": 1, "invalid": 1}
    assert (summary.rows, summary.sent, summary.skipped) == (43, 42, 0)
    assert (summary.referred, summary.rewarded) == (41, 1)
    assert summary.requests == len(shop.sent)
    assert {f["refund_key"] for f in summary.failures} == {"unknown", "bad"}


def test_rows_are_left_to_a_pause_that_is_due_while_the_ledger_is_asked(shop: Shop) -> None:
    shop.order(*(f"order-{n}" for n in range(600)))
    shop.refund(*(f"order-{n}" for n in range(600)))
    looked_up = threading.Event()

    def throttle(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT") and shop.sent and not looked_up.is_set():
            looked_up.set()
            shop.sandbox.dials.next(*[Canned(429, headers={"Retry-After": "60"})] * 600)
            while len(shop.sandbox.dials._next) == 600:
                time.sleep(0.01)
            time.sleep(0.5)

    event.listen(shop.engine, "before_cursor_execute", throttle)
    rules: dict[str, Any] = {"pause_when_throttled": True, "policy": RetryPolicy(throttle_patience=1)}
    summary = shop.sync(pace=Pace(max_in_flight=4, initial_rate=None), **rules)
    assert looked_up.is_set()
    assert shop.syncs[-1].paused_site == "my-store"
    assert summary.outcomes.keys() == {"refunded"}


def test_a_lone_refund_that_is_throttled_pauses_the_run(shop: Shop) -> None:
    shop.order("A")
    shop.refund("A")
    shop.sandbox.dials.next(*[Canned(429)] * 40)
    rules: dict[str, Any] = {"pause_when_throttled": True, "policy": RetryPolicy(throttle_patience=2)}
    assert shop.sync(**rules).outcomes == {}
    assert shop.syncs[-1].paused_site == "my-store"
    assert shop.states() == {"A": "throttled"}
    shop.sandbox.dials._next.clear()
    ledger = Ledger(shop.engine, writer=shop.syncs[-1]._ledger.writer)
    assert shop.sync(ledger=ledger, **rules).outcomes == {"refunded": 1}


def test_a_pause_that_is_stopped_counts_every_refund(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(40)]
    shop.order(*slugs)
    shop.refund(*slugs)
    shop.sandbox.dials.next(*[Canned(429, headers={"Retry-After": "60"})] * 40)

    def stop_when_paused(sync: RefundSync) -> None:
        pause = sync._pause

        def pausing(site: str) -> None:
            pause(site)
            sync.stop("the task was stopped from outside")

        sync._pause = pausing  # type: ignore[method-assign]

    summary = shop.sync(
        before=stop_when_paused,
        pause_when_throttled=True,
        pace=Pace(max_in_flight=4, initial_rate=None),
        policy=RetryPolicy(throttle_patience=1),
    )
    assert shop.syncs[-1].paused_site is None
    assert summary.stopped == "the task was stopped from outside"
    assert summary.outcomes.keys() == {"throttled", "aborted"}
    assert summary.outcomes.total() == summary.rows == 40
    assert Counter(shop.states().values()) == summary.outcomes


def test_a_retry_of_the_task_still_counts_what_failed_before(shop: Shop) -> None:
    shop.order("A")
    shop.refund("A", "X")
    shop.sync(ledger=Ledger(shop.engine, task_run=TaskRun("shop", "manual__1", "sync", -1, 1)))
    again = shop.sync(ledger=Ledger(shop.engine, task_run=TaskRun("shop", "manual__1", "sync", -1, 2)))
    assert again.outcomes == {"refunded": 1, "not_found": 1}
    assert (again.sent, again.skipped) == (0, 0)
    other = shop.sync(ledger=Ledger(shop.engine, task_run=TaskRun("shop", "manual__2", "sync", -1, 1)))
    assert (other.outcomes, other.skipped) == ({}, 2)


def test_the_learned_rate_and_the_progress_are_logged(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    shop.sandbox.dials.rate_limit, shop.sandbox.dials.burst = 20, 5
    slugs = [f"order-{n}" for n in range(30)]
    shop.order(*slugs)
    shop.refund(*slugs)
    summary = shop.sync()
    assert "Site my-store takes about" in caplog.text
    assert summary.throttled_requests > 0
    assert summary.requests == summary.throttled_requests + 30
    assert summary.rate == pytest.approx(30 / summary.seconds)
