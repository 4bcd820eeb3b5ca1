"""A ledger and a report from before some of their columns get those, on each database, and are read right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import DateTime, column, event, inspect, table
from sqlalchemy.engine import URL, Engine
from sqlalchemy.schema import CreateTable

from airflow_provider_talkable import LedgerError
from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sync import tables
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.overview import Period, overview_of
from airflow_provider_talkable.sync.reconcile import Report
from airflow_provider_talkable.sync.rows import Row
from tests.conftest import sized
from tests.shop import Shop

WHEN = datetime(2026, 1, 2, tzinfo=UTC)
# As made by the code that knew no more columns, in each database's own words.
OLD_LEDGER = """
CREATE TABLE talkable_refund_ledger (
    site_slug VARCHAR(128) NOT NULL, refund_key VARCHAR(512) NOT NULL, entry_id VARCHAR(24) NOT NULL,
    logged_at {moment} NOT NULL, event VARCHAR(32) NOT NULL, origin_slug TEXT NOT NULL, refunded_at {moment},
    refund_subtotal {amount}, http_status INTEGER, error_message TEXT, attempts INTEGER,
    referral_id VARCHAR(64), referral_status VARCHAR(32), ad_rewarded BOOLEAN, dag_id VARCHAR(250),
    run_id VARCHAR(250), task_id VARCHAR(250), map_index INTEGER, try_number INTEGER,
    PRIMARY KEY (site_slug, refund_key, entry_id)
)"""
OLD_REPORT = """
CREATE TABLE discrepancies (
    checked_at {moment} NOT NULL, kind VARCHAR(32) NOT NULL, site_slug VARCHAR(128) NOT NULL,
    refund_key VARCHAR(512) NOT NULL, origin_slug TEXT NOT NULL, refunded_at {moment},
    refund_subtotal {amount}, ledger_event VARCHAR(32),
    ledger_refunded_at {moment}, ledger_refund_subtotal {amount},
    referral_id VARCHAR(64), referral_status VARCHAR(32), reward {amount}, currency VARCHAR(32), message TEXT,
    dag_id VARCHAR(250), run_id VARCHAR(250), task_id VARCHAR(250), map_index INTEGER, try_number INTEGER
)"""
TYPES = {
    "sqlite": {"moment": "DATETIME", "amount": "FLOAT"},
    "postgresql": {"moment": "TIMESTAMP WITH TIME ZONE", "amount": "NUMERIC(15, 4)"},
    "mysql": {"moment": "DATETIME(6)", "amount": "NUMERIC(15, 4)"},
}
# (event, amount, referral id, its status, ad_rewarded), by which an entry is one of the ten kinds.
KINDS: list[tuple[str, float | None, str | None, str | None, bool | None]] = [
    ("refunded", None, "7", "approved", True),
    ("refunded", None, "7", "pending", True),
    ("refunded", None, "7", "voided", False),
    ("refunded", None, None, None, False),
    ("refunded", None, None, None, None),
    ("refunded", 12.5, "7", "approved", True),
    ("already_refunded", None, None, None, None),
    ("not_found", None, None, None, None),
    ("rejected", None, None, None, None),
    ("failed", None, None, None, None),
]
OLD_ENTRIES = table(
    "talkable_refund_ledger",
    *(column(name) for name in ("site_slug", "refund_key", "entry_id", "event", "origin_slug", "attempts")),
    *(column(name) for name in ("refund_subtotal", "referral_id", "referral_status", "ad_rewarded")),
    column("logged_at", DateTime),
)


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def engine(request: pytest.FixtureRequest, engines: Callable[[URL], Engine]) -> Engine:
    return engines(request.getfixturevalue(request.param))


def entries(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        event, amount, referral, status, rewarded = KINDS[number % len(KINDS)]
        yield {
            "site_slug": "my-store",
            "refund_key": f"r{number}",
            "entry_id": f"{number:016x}00000000",
            "logged_at": WHEN,
            "event": event,
            "origin_slug": f"order-{number}",
            "refund_subtotal": amount,
            "attempts": 1,
            "referral_id": referral,
            "referral_status": status,
            "ad_rewarded": rewarded,
        }


def make_old(engine: Engine, count: int) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(OLD_LEDGER.format(**TYPES[engine.dialect.name]))
        # Many in each statement: a statement for each takes four times as long.
        connection.execute(OLD_ENTRIES.insert(), list(entries(count)))


def columns_of(engine: Engine, table: str) -> set[str]:
    return {column["name"] for column in inspect(engine).get_columns(table)}


def test_a_ledger_of_100_000_entries_is_migrated_and_read_right(engine: Engine, sandbox: Sandbox) -> None:
    count = sized(100_000)
    make_old(engine, count)
    ledger = Ledger(engine)
    ledger.open()
    assert columns_of(engine, "talkable_refund_ledger") == {column.name for column in ledger._table.columns}
    indexes = inspect(engine).get_indexes("talkable_refund_ledger")
    assert sorted(index["column_names"] for index in indexes) == [["logged_at"], ["origin_slug"]]
    overview = overview_of(ledger, Period(), limit=0)
    assert overview.refunds == count
    assert overview.events["refunded"] == 6 * count // 10
    # Only the first of the ten kinds was paid and whole; a reward of a pending referral is not paid.
    assert overview.rewarded == count // 10
    rows = [Row("my-store", f"r{n}", f"order-{n}") for n in range(10)]
    histories = ledger.histories(rows)
    late = [histories["my-store", f"r{n}"].decisive for n in range(7)]
    assert [entry and entry.late for entry in late] == [True, False, False, False, None, False, None]
    assert {key: len(taken) for key, taken in ledger.orders(rows).items()} == {
        ("my-store", f"order-{n}"): 1 for n in range(7)
    }


def test_a_sync_goes_on_with_an_old_ledger(engine: Engine, sandbox: Sandbox) -> None:
    make_old(engine, 10)
    shop = Shop(engine, sandbox)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE refunds"
            " (refund_key VARCHAR(20), origin_slug VARCHAR(20), refund_subtotal VARCHAR(9))"
        )
        connection.exec_driver_sql("INSERT INTO refunds VALUES ('r0', 'order-0', NULL)")
        connection.exec_driver_sql("INSERT INTO refunds VALUES ('new', 'order-0', '5')")
    shop.order("order-0")
    sandbox.talkable.refund("my-store", "order-0", {})
    summary = shop.sync(sql="SELECT * FROM refunds ORDER BY refund_key")
    assert (summary.outcomes, summary.skipped) == ({"already_refunded": 1}, 1)


def test_two_that_start_at_once_both_survive_it(engine: Engine) -> None:
    make_old(engine, 10)
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def open_it() -> None:
        ledger = Ledger(engine)
        start.wait()
        try:
            ledger.open()
        except BaseException as error:  # noqa: BLE001 - it is what the test is about
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert "void_outcome" in columns_of(engine, "talkable_refund_ledger")


def test_to_read_it_nothing_is_changed(engine: Engine) -> None:
    make_old(engine, 10)
    before = columns_of(engine, "talkable_refund_ledger")
    ledger = Ledger(engine)
    assert ledger.open(create=False)
    assert overview_of(ledger, Period(), limit=0).rewarded == 1
    rows = [Row("my-store", f"r{n}", f"order-{n}") for n in range(10)]
    assert len(ledger.histories(rows)) == 10
    assert len(ledger.orders(rows)) == 7
    assert ledger.has_taken("my-store")
    assert columns_of(engine, "talkable_refund_ledger") == before


def test_the_report_gets_its_columns_too(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(OLD_REPORT.format(**TYPES[engine.dialect.name]))
    Report(engine, table="discrepancies").open()
    assert {"other_rewards", "revocable", "friend_reward"} <= columns_of(engine, "discrepancies")
    Report(engine, table="discrepancies").open()


def deny(engine: Engine) -> Engine:
    """The same database for somebody who may write but not alter."""
    name = engine.url.database
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("CREATE ROLE clerk LOGIN")
            connection.exec_driver_sql("GRANT SELECT, INSERT ON talkable_refund_ledger TO clerk")
        else:
            connection.exec_driver_sql("CREATE USER clerk")
            connection.exec_driver_sql(f"GRANT SELECT, INSERT ON {name}.* TO clerk")
    return engine


@pytest.mark.parametrize("database", ["postgres", "mariadb"])
def test_where_that_is_not_allowed_the_statements_are_printed(
    request: pytest.FixtureRequest, engines: Callable[[URL], Engine], database: str
) -> None:
    owner = engines(request.getfixturevalue(database))
    make_old(owner, 10)
    deny(owner)
    clerk = engines(owner.url.set(username="clerk", password=None))
    with pytest.raises(LedgerError, match="have its owner run: ") as caught:
        Ledger(clerk).open()
    statements = str(caught.value).split("have its owner run: ")[1].split("; ")
    assert len(statements) == 15
    with owner.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        if database == "postgres":
            connection.exec_driver_sql("GRANT SELECT, INSERT ON talkable_refund_ledger TO clerk")
    assert Ledger(clerk).open()


def test_a_new_ledger_is_made_as_a_migrated_one(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.open()
    made = str(CreateTable(ledger._table).compile(engine))
    assert tables._ADDED not in made
    assert len(inspect(engine).get_indexes("talkable_refund_ledger")) == 2


def plans(engine: Engine) -> list[str]:
    """How the database answers what is asked from now on."""
    asked: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if "refund_key" in statement:
            word = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
            cursor = connection.connection.cursor()
            cursor.execute(f"{word} {statement}", parameters)
            asked.extend(map(str, cursor.fetchall()))

    event.listen(engine, "before_cursor_execute", explain)
    return asked


def test_orders_are_looked_up_by_the_index(engine: Engine) -> None:
    make_old(engine, 10_000)
    ledger = Ledger(engine)
    ledger.open()
    asked = plans(engine)
    ledger.orders([Row("my-store", "r1", "order-1")])
    assert "talkable_refund_ledger_origin_slug" in " ".join(asked)


def test_a_period_is_looked_up_by_the_index(engine: Engine) -> None:
    make_old(engine, 10_000)
    ledger = Ledger(engine)
    ledger.open()
    ledger.append([ledger.submitted(Row("my-store", "r1", "order-1"))])
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE talkable_refund_ledger")
    asked = plans(engine)
    overview = overview_of(ledger, Period(since=datetime(2026, 6, 1, tzinfo=UTC)), limit=1)
    assert overview.events == {"submitted": 1}
    assert "talkable_refund_ledger_logged_at" in " ".join(asked)


def test_a_slug_longer_than_an_index_takes_is_kept(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.open()
    row = Row("my-store", "r1", "x" * 4000)
    ledger.append([ledger.submitted(row)])
    assert ledger.histories([row])["my-store", "r1"].newest is not None
