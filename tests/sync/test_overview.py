"""How refunds stand by the ledger."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.overview import Overview, Period, overview_of

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
Write = Callable[..., None]
Read = Callable[..., Overview]


@pytest.fixture
def ledger(database: URL, engines: Callable[[URL], Engine]) -> Ledger:
    ledger = Ledger(engines(database))
    ledger.open()
    return ledger


@pytest.fixture
def write(ledger: Ledger) -> Write:
    """Write an entry: its event, key and minutes after noon."""

    def write(event: str, key: str, minutes: float = 0, site: str = "my-store", **more: Any) -> None:
        entry = {
            "entry_id": f"{minutes * 60:016.0f}{ledger.writer}",
            "logged_at": NOON + timedelta(minutes=minutes),
            "event": event,
            "site_slug": site,
            "refund_key": key,
            "origin_slug": f"order of {key}",
        }
        ledger.append([entry | more])

    return write


@pytest.fixture
def read(ledger: Ledger) -> Read:
    def read(limit: int = 10, **period: Any) -> Overview:
        return overview_of(ledger, Period(**period), limit=limit)

    return read


def test_of_an_empty_ledger_there_is_nothing_to_tell(read: Read) -> None:
    overview = read()
    assert overview == Overview({}, 0, [])
    assert (overview.refunds, overview.failed) == (0, 0)


def test_each_refund_counts_once_by_its_newest_entry(write: Write, read: Read) -> None:
    write("submitted", "a", 1)
    write("failed", "a", 2)
    write("submitted", "a", 3)
    write("refunded", "a", 4)
    write("submitted", "b", 1)
    write("already_refunded", "c", 2)
    write("refunded", "d", 2)
    write("rejected", "d", 1, site="other")
    overview = read()
    assert list(overview.events.items()) == [
        ("refunded", 2),
        ("already_refunded", 1),
        ("rejected", 1),
        ("submitted", 1),
    ]
    assert (overview.refunds, overview.failed) == (5, 2)
    assert read(site_slug="other").events == {"rejected": 1}


def test_a_failure_is_told_with_its_reason(write: Write, read: Read) -> None:
    write("rejected", "a", 1, error_message="too old")
    [failure] = read().failures
    assert failure == {
        "site_slug": "my-store",
        "refund_key": "a",
        "origin_slug": "order of a",
        "event": "rejected",
        "error_message": "too old",
        "logged_at": NOON + timedelta(minutes=1),
    }
    assert failure["logged_at"].utcoffset() == timedelta(0)


def test_the_newest_failures_come_first_and_the_limit_cuts_the_oldest(write: Write, read: Read) -> None:
    for minutes in (2, 1, 3):
        write("failed", f"r{minutes}", minutes)
    assert [failure["refund_key"] for failure in read().failures] == ["r3", "r2", "r1"]
    overview = read(limit=2)
    assert [failure["refund_key"] for failure in overview.failures] == ["r3", "r2"]
    assert overview.failed == 3
    assert read(limit=0) == Overview({"failed": 3}, 0, [])


def test_late_is_what_was_refunded_after_the_reward(write: Write, read: Read) -> None:
    write("refunded", "late", reward_paid=True, reward_known_by="rewards")
    write("refunded", "in time", reward_paid=False, reward_known_by="status", ad_rewarded=True)
    write("refunded", "unknown", ad_rewarded=None)
    write("refunded", "a part", refund_subtotal=5, reward_paid=True, reward_known_by="rewards")
    write("rejected", "not taken", reward_paid=True, reward_known_by="rewards")
    write(
        "already_refunded", "all of it", refund_subtotal=5, order_subtotal=5, reward_paid=True,
        reward_known_by="status"
    )  # fmt: skip
    # As entries were before the columns that say it.
    write("refunded", "older, late", referral_id="7", referral_status="approved", ad_rewarded=True)
    write("refunded", "older, pending", referral_id="7", referral_status="pending", ad_rewarded=True)
    assert read().rewarded == 3


def test_a_period_begins_with_its_first_moment_and_ends_before_its_last(write: Write, read: Read) -> None:
    for minutes in (0, 1, 2):
        write("failed", f"r{minutes}", minutes)

    def keys(**period: datetime) -> list[str]:
        overview = read(**period)
        keys = sorted(failure["refund_key"] for failure in overview.failures)
        assert overview.events == ({"failed": len(keys)} if keys else {})
        return keys

    one = NOON + timedelta(minutes=1)
    instant = timedelta(microseconds=1)
    assert keys(since=one) == ["r1", "r2"]
    assert keys(since=one + instant) == ["r2"]
    assert keys(until=one) == ["r0"]
    assert keys(until=one + instant) == ["r0", "r1"]
    assert keys(since=one, until=one) == []
    in_india = timezone(timedelta(hours=5, minutes=30))
    assert keys(since=one.astimezone(in_india), until=(one + instant).astimezone(in_india)) == ["r1"]


def test_what_was_settled_after_the_period_is_not_of_it(write: Write, read: Read) -> None:
    write("failed", "a", 1)
    write("refunded", "a", 10)
    assert read(until=NOON + timedelta(minutes=5)).events == {}
    assert read(since=NOON + timedelta(minutes=5)).events == {"refunded": 1}
