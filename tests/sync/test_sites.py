"""Unknown orders are ordinary on a site that is known, and settle nothing on one of which none ever was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import TalkableError, TalkableOriginNotFound
from airflow_provider_talkable.sync.ledger import Ledger, TaskRun
from airflow_provider_talkable.sync.overview import Period, overview_of
from airflow_provider_talkable.sync.preview import preview
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.snapshot import Snapshot
from tests.shop import SQL, Shop, connect_of

FIFTY = [f"order-{n}" for n in range(50)]


def sync(shop: Shop, **rules: object) -> TalkableError | None:
    """Run it, and return what it ended in."""
    ended: list[TalkableError | None] = []

    def remember(sync: object) -> None:
        run = sync.run  # type: ignore[attr-defined]
        sync.run = lambda: ended.append(run())  # type: ignore[attr-defined]

    shop.sync(before=remember, **rules)  # type: ignore[arg-type]
    return ended[0]


def test_fifty_unknown_orders_of_a_site_never_seen_are_not_settled(shop: Shop) -> None:
    shop.refund(*FIFTY)
    problem = sync(shop)
    assert isinstance(problem, TalkableOriginNotFound)
    assert "none of 50 orders of site my-store" in str(problem)
    assert "are these the order numbers that Talkable knows, is this the site?" in str(problem)
    assert shop.syncs[-1].summary.site_problems == {"my-store": str(problem)}
    shop.order(*FIFTY)
    assert sync(shop) is None
    assert set(shop.states().values()) == {"refunded"}


def test_fewer_are_settled(shop: Shop) -> None:
    shop.refund(*FIFTY[:49])
    assert sync(shop) is None
    assert shop.sync().skipped == 49


def test_more_of_them_in_later_runs_add_up(shop: Shop) -> None:
    shop.refund(*FIFTY[:30])
    assert sync(shop) is None
    shop.refund(*FIFTY[30:])
    assert "none of 50 orders" in str(sync(shop))
    assert len(shop.sent) == 50
    assert "none of 50 orders" in str(sync(shop))
    assert len(shop.sent) == 100


@pytest.mark.parametrize("when", ["before", "at the end", "in the run after"])
def test_once_a_refund_was_taken_unknown_orders_are_ordinary(shop: Shop, when: str) -> None:
    shop.order("A")
    if when == "before":
        shop.refund("A")
        shop.sync()
        shop.clear()
    shop.refund(*FIFTY)
    if when == "at the end":
        shop.refund("A")
    assert (sync(shop) is None) is (when != "in the run after")
    if when == "in the run after":
        shop.clear()
        shop.refund("A")
        assert sync(shop) is None
        shop.clear()
        shop.refund(*FIFTY)
        assert sync(shop) is None
    assert shop.sync().skipped >= 50


def test_the_order_numbers_may_change(shop: Shop) -> None:
    shop.refund(*[(f"r{n}", str(n)) for n in range(50)])
    assert sync(shop) is not None
    shop.clear()
    shop.order(*FIFTY)
    shop.refund(*[(f"r{n}", f"order-{n}") for n in range(50)])
    assert sync(shop) is None
    assert set(shop.states().values()) == {"refunded"}


def test_a_retry_of_the_task_tries_them_again(shop: Shop) -> None:
    shop.refund(*FIFTY)
    for attempt in (1, 2):
        run = TaskRun("shop", "manual__1", "sync", -1, attempt)
        assert sync(shop, ledger=Ledger(shop.engine, task_run=run)) is not None
    assert len(shop.sent) == 100


def test_a_preview_would_send_them(shop: Shop) -> None:
    shop.refund(*FIFTY)
    shop.sync()
    ledger = Ledger(shop.engine)
    ledger.open()
    with Snapshot() as snapshot:
        snapshot.fill(rows_of(connect_of(shop.engine), SQL, site_slug="my-store"))
        assert preview(snapshot, ledger, frozenset()).outcomes == {"to_send": 50}


def test_on_another_database(postgres: URL, engines: Callable[[URL], Engine], shop: Shop) -> None:
    other = Shop(engines(postgres), shop.sandbox)
    other.refund(*FIFTY)
    assert sync(other) is not None
    ledger = Ledger(other.engine)
    ledger.open()
    assert overview_of(ledger, Period(), limit=0).events == {"not_found": 50}
