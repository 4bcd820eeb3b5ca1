"""What a message says of a sync."""

from __future__ import annotations

from airflow_provider_talkable.sync.alerts import alert_text
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
