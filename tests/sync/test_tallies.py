"""The delay to Talkable and the age of what is open, site by site."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.sandbox import Reset
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.summary import Summary
from airflow_provider_talkable.sync.tallies import SiteTally
from tests.shop import Shop

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def row(key: str, hours: float | None, site_slug: str = "my-store") -> Row:
    return Row(site_slug, key, key, None if hours is None else NOW - timedelta(hours=hours))


def test_the_delay_within_which_a_share_reached_talkable() -> None:
    summary = Summary()
    for hours in range(1, 101):
        summary.count(row(f"r{hours}", hours), "refunded", answered_at=NOW)
    # Nobody knows when these reached it, or when they were refunded.
    summary.count(row("before", 5000), "already_refunded", answered_at=NOW)
    summary.count(row("undated", None), "refunded", answered_at=NOW)
    tally = summary.site("my-store")
    assert (tally.delay(0.5), tally.delay(0.95)) == (timedelta(hours=50), timedelta(hours=95))
    assert SiteTally().delay(0.5) is None


@pytest.mark.parametrize(("outcome", "is_open"), [
    ("failed", True), ("throttled", True), ("aborted", True), ("unconfirmed", True),
    ("refunded", False), ("not_found", False), ("rejected", False), ("invalid", False), ("to_send", False),
])  # fmt: skip
def test_what_is_open_and_since_when(outcome: str, is_open: bool) -> None:
    summary = Summary()
    summary.count(row("old", 50, "a"), outcome)
    summary.count(row("young", 2, "a"), outcome)
    summary.count(row("undated", None, "b"), outcome)
    assert (summary.open, summary.site("b").open) == ((3, 1) if is_open else (0, 0))
    assert summary.site("a").open_for(NOW) == timedelta(hours=50 if is_open else 0)
    assert summary.site("b").open_for(NOW) == timedelta(0)
    oldest = summary.as_dict()["oldest_open"]
    assert oldest == ("2026-11-18T10:00:00+00:00" if is_open else None)


def test_what_an_earlier_run_left_in_doubt_is_open(shop: Shop) -> None:
    shop.order("A", "B")
    shop.refund(("a1", "A", "2026-01-02T03:04:05Z", "5"), ("b1", "B", "2026-01-01T00:00:00Z"))
    shop.sandbox.dials.next(Reset(acted=True), None)
    for sent in (2, 0):
        summary = shop.sync(pace=Pace(max_in_flight=1, initial_rate=None))
        assert (summary.sent, summary.open) == (sent, 1)
        assert summary.oldest_open == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert shop.states() == {"a1": "unconfirmed", "b1": "refunded"}
