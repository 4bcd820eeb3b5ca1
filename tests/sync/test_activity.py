"""What pages show of the last days, and the lists of entries: on each database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from airflow_provider_talkable.sync.activity import Activity, Late, activity
from airflow_provider_talkable.sync.bounded_reads import Visible
from airflow_provider_talkable.sync.entry_lists import TaskEntries, entries_of_task, history
from airflow_provider_talkable.sync.ledger import Ledger, TaskRun

NOON = datetime(2026, 1, 14, 12, tzinfo=UTC)
ALL = Visible(frozenset({"sync"}))
PAID = {"referral_id": "7", "reward_paid": True, "reward_known_by": "rewards"}
Write = Callable[..., None]
Read = Callable[..., Activity]


@pytest.fixture
def write(engine: Engine, ledger: Ledger) -> Write:
    """Write an entry: its event, key, how many days before noon, and the DAG that wrote it."""

    def write(
        event: str,
        key: str,
        days_ago: float = 0,
        site: str = "my-store",
        dag: str | None = "sync",
        **more: Any,
    ) -> None:
        at = NOON - timedelta(days=days_ago)
        entry = {
            "entry_id": f"{int(at.timestamp() * 1e9):016x}{ledger.writer}",
            "logged_at": at,
            "event": event,
            "site_slug": site,
            "refund_key": key,
            "origin_slug": f"order of {key}",
        }
        run = TaskRun(dag, "r", "t", -1, 1) if dag else TaskRun()
        Ledger(engine, task_run=run).append([entry | more])

    return write


@pytest.fixture
def read(ledger: Ledger) -> Read:
    def read(days: int = 30, visible: Visible = ALL, **more: Any) -> Activity:
        return activity(ledger, visible, days=days, now=NOON, **more)

    return read


@pytest.mark.parametrize("days", [1, 2, 3, 7, 30, 90, 366])
def test_each_refund_counts_once_on_the_day_of_its_newest_entry(write: Write, read: Read, days: int) -> None:
    kept = [ago for ago in (0, 1, 2, 5, 29, 31, 200) if ago < days]
    for ago in (0, 1, 2, 5, 29, 31, 200):
        write("submitted", f"r{ago}", ago + 0.1)
        write("refunded", f"r{ago}", ago)
    found = read(days)
    assert found.events == {"refunded": len(kept)}
    assert [day for day, counts in found.days.items() if counts] == sorted(
        (NOON - timedelta(days=ago)).date() for ago in kept
    )
    assert len(found.days) == days


@pytest.mark.parametrize(
    ("entries", "days"), [(8, 5), (7, 4), (6, 3), (5, 2), (4, 1), (2, 1), (1, 1), (0, 1)]
)
def test_days_with_too_many_entries_are_left_out_from_the_oldest_on(
    write: Write, read: Read, entries: int, days: int
) -> None:
    for number, ago in enumerate((0, 0.1, 1, 1.1, 1.2, 2, 3, 4, 5)):
        write("refunded", f"r{number}", ago)
    found = read(5, entries=entries)
    first = NOON.date() - timedelta(days=days - 1)
    assert list(found.days) == [first + timedelta(days=number) for number in range(days)]
    assert found.events["refunded"] == {1: 2, 2: 5, 3: 6, 4: 7, 5: 8}[days]


def test_a_day_begins_at_midnight_in_utc(write: Write, read: Read) -> None:
    write("refunded", "last", 0.5 + 1 / 86400)
    write("refunded", "first", 0.5)
    days = read(2).days
    assert days == {date(2026, 1, 13): {"refunded": 1}, date(2026, 1, 14): {"refunded": 1}}


def test_money_lost_is_what_advocates_of_late_refunds_were_paid(write: Write, read: Read) -> None:
    write("refunded", "late", 8, **PAID, reward_amount=Decimal("12.50"))
    write("refunded", "coupon", 8, **PAID)
    write("refunded", "this week", 1, **PAID, reward_amount=Decimal("0.1"))
    write("refunded", "here too", 0, **PAID, reward_amount=Decimal("0.2"))
    write("refunded", "part", 0, **PAID, reward_amount=Decimal(5), refund_subtotal=5)
    write("rejected", "not taken", 0, **PAID, reward_amount=Decimal(5))
    write("refunded", "elsewhere", 0, site="other", **PAID, reward_amount=Decimal(7))
    found = read(14)
    assert found.late_by_week() == {
        date(2025, 12, 29): {},
        date(2026, 1, 5): {"my-store": Late(2, Decimal("12.5"), 1)},
        date(2026, 1, 12): {"my-store": Late(2, Decimal("0.3")), "other": Late(1, Decimal(7))},
    }
    assert found.late_by_site() == {"my-store": Late(4, Decimal("12.8"), 1), "other": Late(1, Decimal(7))}
    assert found.late == 5


def test_a_ledger_of_an_earlier_version_knows_no_amount(
    write: Write, read: Read, ledger: Ledger, engine: Engine
) -> None:
    write("refunded", "late", 0, **PAID, reward_amount=Decimal(5))
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE talkable_refund_ledger DROP COLUMN reward_amount")
    ledger.open(create=False)
    assert read().late_by_site() == {"my-store": Late(1, Decimal(0), 1)}
    assert history(ledger, ALL, "late", now=NOON)[0]["reward_amount"] is None


def test_one_site_is_counted_and_all_are_offered(write: Write, read: Read) -> None:
    write("refunded", "a", 1)
    write("failed", "b", 2, site="other")
    write("failed", "c", 2, site="hidden", dag="secret")
    found = read(site_slug="other")
    assert (found.events, found.sites) == ({"failed": 1}, ["my-store", "other"])
    assert found.open_since == {"failed": NOON - timedelta(days=2)}
    assert (found.still_open, found.refused) == (1, 0)


def test_entries_of_other_dags_and_by_hand_are_hidden(write: Write, read: Read) -> None:
    write("refunded", "a")
    write("refunded", "b", dag="secret")
    write("refunded", "c", dag=None)
    assert read().events.total() == 1
    assert read(visible=Visible(frozenset({"secret"}), by_hand=True)).events.total() == 2
    assert read(visible=Visible(frozenset())).events.total() == 0


@pytest.mark.parametrize("by_hand", [True, False])
def test_there_may_be_more_dags_than_a_statement_takes_parameters(
    write: Write, read: Read, *, by_hand: bool
) -> None:
    others = {f"it's no. {number}" for number in range(1200)}
    for dag in ("it's no. 0", "it's no. 1199", "secret", None):
        write("refunded", f"of {dag}", dag=dag)
    assert read(visible=Visible(frozenset(others), by_hand=by_hand)).events.total() == 2 + by_hand


def test_the_delay_is_from_the_refund_to_the_answer(write: Write, read: Read) -> None:
    for hours in range(1, 101):
        at = NOON - timedelta(hours=hours)
        write("refunded", f"r{hours}", 0.01 * hours, refunded_at=at - timedelta(days=0.01 * hours))
    found = read()
    assert found.delay(0.5) == timedelta(hours=51)
    assert found.delay(0.95) == timedelta(hours=96)
    assert Activity().delay(0.5) is None


def test_an_order_shows_all_its_parts_whichever_is_asked_for(write: Write, ledger: Ledger) -> None:
    write("submitted", "p1", 3, origin_slug="A", refund_subtotal=5)
    write("unconfirmed", "p1", 2, origin_slug="A", refund_subtotal=5)
    write("refunded", "p2", 1, origin_slug="A", refund_subtotal=5)
    write("refunded", "p3", 1, origin_slug="A", site="other")
    for asked, keys in (("A", ["p1", "p1", "p2", "p3"]), ("p2", ["p1", "p1", "p2"]), ("p3", ["p3"])):
        found = history(ledger, ALL, asked, now=NOON)
        assert sorted(entry["refund_key"] for entry in found) == keys
    assert history(ledger, ALL, "B", now=NOON) == []


@pytest.mark.parametrize(("days_ago", "is_found"), [(29, True), (31, False)])
def test_what_was_only_submitted_is_found_by_its_order_for_a_month(
    write: Write, ledger: Ledger, days_ago: int, is_found: bool
) -> None:
    write("submitted", "key", days_ago, origin_slug="A")
    assert bool(history(ledger, ALL, "A", now=NOON)) is is_found
    assert history(ledger, ALL, "key", now=NOON)


def test_a_tasks_list_ends_when_the_task_has(write: Write, ledger: Ledger) -> None:
    write("failed", "a", 5)
    write("refunded", "b", 5)
    write("failed", "c", 1)
    for until, keys in ((None, ["a", "c"]), (NOON - timedelta(days=5), ["a"])):
        task = TaskEntries("sync", "r", "t", -1, since=NOON - timedelta(days=5), until=until)
        found = entries_of_task(ledger, task, events=None, is_late=False, offset=0, limit=9)
        assert [entry["refund_key"] for entry in found] == keys
