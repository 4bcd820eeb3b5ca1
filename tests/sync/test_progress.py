"""What a sync tells while it runs, and the figures it goes by."""

from __future__ import annotations

import json
import logging
from collections import Counter
from decimal import Decimal

import pytest

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.progress import Progress
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.summary import Summary

ROW = Row("my-store", "r1", "A")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def test_it_tells_every_ten_seconds(log: pytest.LogCaptureFixture) -> None:
    clock, summary = Clock(), Summary()
    progress = Progress(3700, clock=clock)
    for second in range(35):
        clock.now = 100.0 + second
        progress.tell(summary)
        summary.skipped += 1
        for _ in range(9):
            summary.count(ROW, Outcome.REFUNDED)
    assert len(log.messages) == 3
    assert log.messages[0] == (
        "100 of 3700 refunds (3 %), 10.0/s, 0:06:00 left: 90 refunded; 10 settled before"
    )
    assert log.messages[2].startswith("300 of 3700 refunds (8 %), 10.0/s")


def test_the_rate_is_that_of_late(log: pytest.LogCaptureFixture) -> None:
    clock, summary = Clock(), Summary()
    progress = Progress(1000, clock=clock)
    for second in range(40):
        clock.now = 100.0 + second
        summary.sent += 50 if second < 20 else 2
        progress.tell(summary)
    assert 2 <= progress.sending_rate < 3
    assert progress.rate == 0
    assert "unknown time left" in log.messages[-1]


def test_a_summary_adds_up_and_can_be_pushed() -> None:
    summary = Summary(rows=30, duplicates=2, skipped=3)
    for number in range(25):
        summary.count(Row("my-store", f"r{number}", f"o{number}"), Outcome.NOT_FOUND, "No origin found")
    assert summary.done == 28
    assert summary.rows == summary.duplicates + summary.skipped + summary.outcomes.total()
    pushed = json.loads(json.dumps(summary.as_dict()))
    assert pushed["outcomes"] == {"not_found": 25}
    assert [failure["refund_key"] for failure in pushed["failures"]] == [f"r{n}" for n in range(20)]
    assert list(summary.warnings())[-2:] == [
        "o19 (the whole order, site my-store): not_found: No origin found",
        "… and 5 more; the ledger has each",
    ]


def test_what_the_log_ends_with() -> None:
    summary = Summary(rows=7, duplicates=1, skipped=2, sent=3, requests=4, seconds=2.0, rate=1.5)
    assert list(summary.lines()) == [
        "Refunds: nothing new; 2 settled before, 1 duplicates; 7 rows in all",
        "Sent 3 in 2.0 s (1.5/s), 4 requests, 0 of them throttled (429)",
    ]
    summary.lookups = 5
    summary.throttled_requests = 1
    for outcome in (Outcome.ALREADY_REFUNDED, Outcome.ALREADY_REFUNDED, Outcome.NOT_FOUND):
        summary.count(Row("my-store", "r1", ""), outcome, "No origin found")
    assert list(summary.lines()) == [
        "Refunds: 2 already_refunded, 1 not_found; 2 settled before, 1 duplicates; 7 rows in all",
        "Sent 3 in 2.0 s (1.5/s), 4 requests and 5 for referrals, 1 of them throttled (429)",
    ]
    assert list(summary.warnings()) == ["r1 (the whole order, site my-store): not_found: No origin found"]


def test_figures_are_pushed_rounded() -> None:
    pushed = Summary(seconds=1.23456, rate=98.7654).as_dict()
    assert (pushed["seconds"], pushed["rate"]) == (1.235, 98.8)


def test_only_what_was_refunded_counts_as_in_time_or_late() -> None:
    summary = Summary()
    summary.count(ROW, Outcome.REFUNDED, is_referred=True, late=True)
    summary.count(ROW, Outcome.REFUNDED, is_referred=True, late=False)
    summary.count(ROW, Outcome.REFUNDED, late=None)
    summary.count(ROW, Outcome.ALREADY_REFUNDED, late=None)
    summary.count(ROW, Outcome.NOT_FOUND)
    assert (summary.referred, summary.rewarded, summary.referral_unknown) == (2, 1, 1)
    lines = list(summary.lines())
    assert "Too late, the advocate had been paid: 1 of 2 referred orders" in lines
    assert "Of 1 refunds Talkable did not say whether they were in time" in lines
    assert not any("late" in line or "in time" in line for line in Summary().lines())


def test_line_breaks_in_a_slug_do_not_break_the_log() -> None:
    summary = Summary()
    summary.count(Row("my-store", "r1", "A\nB"), Outcome.NOT_FOUND, "No origin found")
    assert list(summary.warnings()) == [
        r"'A\nB' (the whole order, site my-store): not_found: No origin found"
    ]


def test_hours_are_told(log: pytest.LogCaptureFixture) -> None:
    clock, summary = Clock(), Summary()
    progress = Progress(36_110 + 100, clock=clock)
    clock.now = 110.0
    summary.skipped = 100
    progress.tell(summary)
    # 36,110 are left, at ten a second: 3,611 s.
    assert "10.0/s, 1:00:11 left" in log.messages[0]


def test_what_was_not_tried_is_one_line_for_each_reason() -> None:
    summary = Summary()
    for number in range(300):
        summary.count(Row("my-store", f"r{number}", f"o{number}"), Outcome.ABORTED, "Not tried: the key")
    summary.count(ROW, Outcome.THROTTLED, "Not sent")
    assert list(summary.warnings()) == [
        "Left for the next run: 300 refunds: Not tried: the key",
        "Left for the next run: 1 refunds: Not sent",
    ]
    assert summary.failures == []


def test_late_refunds_are_named_with_their_amounts() -> None:
    summary = Summary()
    for number in range(22):
        row = Row("my-store", f"r{number}", f"o{number}", refund_subtotal=Decimal("7.5000"))
        summary.count(row, Outcome.REFUNDED, is_referred=True, late=True)
    *lines, last = summary.warnings()
    assert lines[0] == "o0 (7.5 of it, site my-store): too late, the advocate had been paid"
    assert (len(lines), last) == (20, "… and 2 more that were too late")
    assert summary.as_dict()["late"][19] == {
        "site_slug": "my-store",
        "refund_key": "r19",
        "origin_slug": "o19",
        "refund_subtotal": "7.5",
    }


def test_a_preview_has_no_failures() -> None:
    assert list(Summary(outcomes=Counter(to_send=3)).warnings()) == []


def test_the_summary_so_far_is_reported_every_half_a_minute(log: pytest.LogCaptureFixture) -> None:
    clock, summary, reported = Clock(), Summary(), list[int]()
    progress = Progress(1000, report=lambda so_far: reported.append(so_far.skipped), clock=clock)
    for second in range(65):
        clock.now = 100.0 + second
        summary.skipped = second
        progress.tell(summary)
    assert reported == [30, 60]


def test_what_a_sync_waits_for_is_told_with_its_progress(log: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = Progress(300, clock=clock)
    clock.now = 110.0
    progress.tell(Summary(), waits=["Talkable throttles site my-store"])
    assert log.messages[-1] == "Talkable throttles site my-store"
    assert log.records[-1].levelname == "WARNING"
