"""Retention: what is deleted, what is kept, beside a sync that writes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.engine import URL, Engine, make_url

from airflow_provider_talkable import InvalidRefund, LedgerError
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox import Canned
from airflow_provider_talkable.sync import compaction
from airflow_provider_talkable.sync.compaction import compact
from airflow_provider_talkable.sync.ledger import Ledger
from tests.conftest import Sandboxes
from tests.shop import Shop

DAY = timedelta(days=1)
NO_RETRIES = RetryPolicy(max_attempts=1)


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def anywhere(request: pytest.FixtureRequest, engines: Callable[[URL], Engine], sandboxes: Sandboxes) -> Shop:
    return Shop(engines(request.getfixturevalue(request.param)), sandboxes(generation="seed"))


def add(engine: Engine, *entries: tuple[str, str, float], site_slug: str = "my-store") -> Ledger:
    """Append entries: refund key, event, age in days."""
    ledger = Ledger(engine)
    ledger.open()
    now = datetime.now(UTC)
    ledger.append(
        [
            {
                "entry_id": f"{int((now - age * DAY).timestamp() * 1e9) + number:016x}0000000a",
                "logged_at": now - age * DAY,
                "event": event,
                "site_slug": site_slug,
                "refund_key": key,
                "origin_slug": key,
                "attempts": 0 if event in ("submitted", "aborted") else 1,
            }
            for number, (key, event, age) in enumerate(entries)
        ]
    )
    return ledger


def left(ledger: Ledger) -> dict[str, list[str]]:
    """The events of each refund, oldest first."""
    found: dict[str, list[str]] = {}
    query = f"SELECT refund_key, event FROM {ledger.name} ORDER BY entry_id"
    for key, event in ledger.read(lambda connection, _: connection.exec_driver_sql(query).fetchall()):
        found.setdefault(key, []).append(event)
    return found


HISTORIES = {
    "told": [("submitted", 200), ("failed", 200), ("submitted", 199), ("refunded", 199)],
    "doubt": [("submitted", 200), ("unconfirmed", 200), ("submitted", 199)],
    "young": [("submitted", 80), ("failed", 80), ("submitted", 79), ("refunded", 79)],
    "again": [("refunded", 150), ("submitted", 149), ("failed", 149), ("submitted", 9)],
    "left": [("submitted", 120), ("failed", 120), ("aborted", 110)],
}


def test_what_later_entries_supersede_is_deleted(anywhere: Shop) -> None:
    ledger = add(anywhere.engine, *((key, *entry) for key, entries in HISTORIES.items() for entry in entries))
    before = left(ledger)
    counts = Counter({"submitted": 5, "failed": 1})
    preview = compact(ledger, 90 * DAY, is_preview=True)
    assert (preview.refunds, preview.events) == (4, counts)
    assert left(ledger) == before

    done = compact(ledger, 90 * DAY)
    assert (done.refunds, done.events) == (4, counts)
    assert left(ledger) == {
        "told": ["refunded"],
        "doubt": ["unconfirmed", "submitted"],
        "young": before["young"],
        "again": ["refunded", "failed", "submitted"],
        "left": ["failed", "aborted"],
    }
    assert compact(ledger, 90 * DAY).refunds == 0


def test_all_pages_sites_and_statements(anywhere: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_REFUNDS", 7)
    monkeypatch.setattr(compaction, "_IN_A_STATEMENT", 3)
    keys = [f"{letter}-{number}" for number in range(20) for letter in ("é", "E", "e")]
    for site in ("my-store", "My-Store"):
        many = [(key, event, 9) for key in keys for event in ("submitted", "failed", "submitted", "refunded")]
        ledger = add(anywhere.engine, *many, site_slug=site)
    assert compact(ledger, DAY).events == Counter({"submitted": 240, "failed": 120})
    assert left(ledger) == dict.fromkeys(keys, ["refunded"] * 2)


def test_a_day_is_the_least(shop: Shop) -> None:
    ledger = add(shop.engine, ("r", "submitted", 0.5), ("r", "refunded", 0.5))
    with pytest.raises(InvalidRefund, match="before='23:59:59'.*give 1d or more"):
        compact(ledger, DAY - timedelta(seconds=1))
    assert compact(ledger, DAY).refunds == 0


def test_runs_may_write_at_the_same_time(
    database: URL, engines: Callable[[URL], Engine], sandboxes: Sandboxes
) -> None:
    """Their own entries too: here the clock of retention is two days ahead."""
    slugs = [f"O{number}" for number in range(300)]
    shop = Shop(engines(database), sandboxes(generation="seed"))
    shop.order(*slugs)
    shop.refund(*slugs)
    shop.sandbox.dials.next(*[Canned(500), None] * 140)
    shop.sync(policy=NO_RETRIES)
    ended, problems, deleted = threading.Event(), list[BaseException](), Counter[str]()

    def keep_compacting() -> None:
        try:
            ledger = Ledger(shop.engine)
            while not ended.is_set():
                deleted.update(compact(ledger, DAY, now=datetime.now(UTC) + 2 * DAY).events)
        except BaseException as error:
            problems.append(error)
            raise

    compacting = threading.Thread(target=keep_compacting)
    compacting.start()
    try:
        shop.sandbox.dials.next(*[Canned(500), None] * 60)
        summaries = [shop.sync(policy=NO_RETRIES) for _ in range(3)]
    finally:
        ended.set()
        compacting.join(60)
    assert not problems
    assert deleted["submitted"] > 100
    assert set(shop.states().values()) == {"refunded"}
    assert len(shop.states()) == 300
    assert summaries[-1].skipped == 300
    held = shop.sandbox.talkable.snapshot()["my-store"]
    assert {order["times_refunded"] for order in held.values()} == {1}


def test_what_may_not_be_deleted_is_said(postgres: URL, engines: Callable[[URL], Engine]) -> None:
    owner = engines(postgres)
    add(owner, ("r", "submitted", 200), ("r", "refunded", 200))
    with owner.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE keeper LOGIN")
        connection.exec_driver_sql("GRANT SELECT, INSERT ON talkable_refund_ledger TO keeper")
    ledger = Ledger(engines(make_url(postgres).set(username="keeper")))
    assert compact(ledger, DAY, is_preview=True).refunds == 1
    with pytest.raises(LedgerError, match="permission denied.*needs to be allowed to delete from it"):
        compact(ledger, DAY)
    assert left(ledger) == {"r": ["submitted", "refunded"]}
