"""What a message says of a sync, and what is worth one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_talkable.sync.alerts import alert_text, alerts_of
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.summary import Summary


def test_a_sync_with_nothing_new_is_one_line() -> None:
    assert alert_text(Summary(skipped=3).as_dict()) == "Talkable refunds: nothing new; 3 settled before"


def test_a_sync_that_failed_names_the_first_and_counts_the_rest() -> None:
    summary = Summary(skipped=1, stopped="boss@example.com\nstopped it")
    summary.count(Row("my-store", "late", "order-0"), "refunded", late=True, is_referred=True)
    for number in range(5):
        row = Row("my-store", f"r{number}", f"order-{number}")
        summary.count(row, "rejected", "too old\nfor  jane@example.com" if number else "x" * 900)
    lines = alert_text(summary.as_dict()).splitlines()
    assert lines == [
        "Talkable refunds: 5 rejected, 1 refunded; 1 settled before",
        "Talkable does not have, or may not have, 5 refunds",
        "1 late: the advocate had been paid",
        "The sync stopped early: [redacted] stopped it",
        f"- order-0: rejected: {'x' * 199}…",
        "- order-1: rejected: too old for [redacted]",
        "- order-2: rejected: too old for [redacted]",
        "The tab 'Talkable refunds' of the task and the ledger have each",
    ]


def test_three_failures_need_no_further_line() -> None:
    summary = Summary()
    summary.count(Row("my-store", "r1", "order-1"), "not_found", "no such order")
    assert alert_text(summary.as_dict()).splitlines()[-1] == "- order-1: not_found: no such order"


NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TWO_DAYS = timedelta(days=2)
OPEN_FOR_TOO_LONG = (
    "Open refunds: 1, the oldest refunded at 2026-11-18 11:00 UTC, longer ago than "
    "warn_open_after=2 days, 0:00:00"
)


@pytest.mark.parametrize(
    ("late", "hours", "warn_late", "warn_open_after", "expected"),
    [
        pytest.param(3, 50, None, None, [], id="no thresholds"),
        pytest.param(2, 50, 2, None, [], id="as many as allowed"),
        pytest.param(3, 1, 2, TWO_DAYS, ["Late refunds: 3, more than warn_late=2"], id="late"),
        pytest.param(1, None, 0, TWO_DAYS, ["Late refunds: 1, more than warn_late=0"], id="any"),
        pytest.param(0, 48, 0, TWO_DAYS, [], id="open for as long as allowed"),
        pytest.param(
            0,
            49,
            0,
            TWO_DAYS,
            [OPEN_FOR_TOO_LONG],
            id="open for too long",
        ),
    ],
)
def test_what_thresholds_warn_of(
    late: int,
    hours: int | None,
    warn_late: int | None,
    warn_open_after: timedelta | None,
    expected: list[str],
) -> None:
    summary = Summary()
    for number in range(late):
        summary.count(Row("my-store", f"r{number}", f"o{number}"), "refunded", late=True, is_referred=True)
    if hours is not None:
        summary.count(Row("my-store", "open", "open", NOW - timedelta(hours=hours)), "failed")
    summary.alerts = list(alerts_of(summary, warn_late=warn_late, warn_open_after=warn_open_after, now=NOW))
    assert summary.alerts == expected
    assert list(summary.warnings())[: len(expected)] == expected
    assert [line for line in alert_text(summary.as_dict()).splitlines() if line in expected] == expected


def test_a_sync_that_failed_at_once_has_no_summary() -> None:
    assert alert_text(None).startswith("Talkable refunds: the sync failed before it read the refunds")
