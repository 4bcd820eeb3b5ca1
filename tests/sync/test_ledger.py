"""The ledger in real databases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import inspect
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import OperationalError

from airflow_provider_talkable import LedgerError, LedgerLost
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync import tables
from airflow_provider_talkable.sync.entries import SUBMITTED, Entry
from airflow_provider_talkable.sync.ledger import Ledger, TaskRun
from airflow_provider_talkable.sync.rows import MAX_KEY, MAX_SITE, Row

Engines = Callable[[URL], Engine]
COLUMNS = (
    "entry_id, logged_at, event, site_slug, refund_key, origin_slug, refunded_at, refund_subtotal, "
    "http_status, error_message, attempts, referral_id, referral_status, ad_rewarded, "
    "order_subtotal, partially_refunded, counted_subtotal, sent_subtotal, origin_id, reward_paid, "
    "reward_known_by, reward_amount, void_outcome, sending_until, settles, settled_by, settled_note, "
    "dag_id, run_id, task_id, map_index, try_number"
)
WHEN = datetime(2026, 4, 27, 7, 0, 0, 123000, tzinfo=UTC)


def row(key: str = "r1", *, site: str = "my-store", slug: str = "A") -> Row:
    return Row(site, key, slug, WHEN, Decimal("12.3400"))


def newest(ledger: Ledger, row: Row) -> Entry | None:
    found = ledger.histories([row]).get((row.site_slug, row.refund_key))
    return found.newest if found else None


def events(engine: Engine, table: str = "talkable_refund_ledger") -> list[str]:
    with engine.connect() as connection:
        return [
            event for (event,) in connection.exec_driver_sql(f"SELECT event FROM {table} ORDER BY entry_id")
        ]


def test_it_is_made_on_first_use_with_the_promised_columns(engine: Engine, ledger: Ledger) -> None:
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT * FROM talkable_refund_ledger").keys()
    assert set(found) == set(COLUMNS.split(", "))
    columns = {column["name"]: column for column in inspect(engine).get_columns("talkable_refund_ledger")}
    required = {"site_slug", "refund_key", "entry_id", "logged_at", "event", "origin_slug"}
    assert {name for name, column in columns.items() if not column["nullable"]} == required
    lengths = {name: getattr(column["type"], "length", None) for name, column in columns.items()}
    assert {name: length for name, length in lengths.items() if length} == {
        "site_slug": 128, "refund_key": 512, "entry_id": 24, "event": 32, "referral_id": 64,
        "referral_status": 32, "origin_id": 64, "reward_known_by": 32, "void_outcome": 32,
        "dag_id": 250, "run_id": 250, "task_id": 250,
    }  # fmt: skip
    key = inspect(engine).get_pk_constraint("talkable_refund_ledger")["constrained_columns"]
    assert key == ["site_slug", "refund_key", "entry_id"]
    Ledger(engine).open()


def test_what_was_written_is_read_to_the_millisecond_and_the_cent(ledger: Ledger) -> None:
    ledger.append([ledger.submitted(row())])
    entry = newest(ledger, row())
    assert entry
    assert entry.is_about(row())
    assert (entry.event, entry.refunded_at, entry.refund_subtotal) == (SUBMITTED, WHEN, Decimal("12.3400"))
    assert entry.refunded_at
    assert entry.refunded_at.tzinfo is UTC


@pytest.mark.parametrize("amount", ["0.0000", "0.0001", "99999999999.9999", "19.9900"])
def test_amounts_come_back_as_they_were(ledger: Ledger, amount: str) -> None:
    refund = Row("my-store", "r", "A", None, Decimal(amount))
    ledger.append([ledger.submitted(refund)])
    entry = newest(ledger, refund)
    assert entry
    assert entry.is_about(refund)


def test_sites_and_keys_are_told_apart_to_the_letter(ledger: Ledger) -> None:
    known = [row("k"), row("K"), row("k", site="other"), row("k ")]
    for one in known:
        ledger.append([ledger.outcome(one, RefundResult("A", Outcome.REFUNDED))])
    found = ledger.histories([*known, row("unknown")])
    assert set(found) == {(one.site_slug, one.refund_key) for one in known}


def test_the_longest_keys_of_the_widest_characters_fit(ledger: Ledger) -> None:
    longest = row("\U0001f6d2" * MAX_KEY, site="\U0001f6d2" * MAX_SITE, slug="x" * 4096)
    ledger.append([ledger.submitted(longest)])
    assert newest(ledger, longest)


def test_texts_that_a_database_cannot_keep_are_escaped(ledger: Ledger, engine: Engine) -> None:
    said = "no\0thing \ud800"
    ledger.append(
        [ledger.outcome(row(), RefundResult("A", Outcome.REJECTED, {"id": 1, "status": 7}, None, 422, said))]
    )
    entry = newest(ledger, row())
    assert entry
    assert (entry.error_message, entry.referral_id) == ("no\\x00thing \\ud800", "1")


def test_names_are_quoted(engine: Engine) -> None:
    schema = "main"
    if engine.dialect.name == "postgresql":
        schema = 'Re"funds; of'
        with engine.begin() as connection:
            connection.exec_driver_sql('CREATE SCHEMA "Re""funds; of"')
    ledger = Ledger(engine, table='My "Ledger"; DROP', schema=schema)
    ledger.open()
    ledger.append([ledger.submitted(row())])
    assert newest(ledger, row())
    ledger.open()
    quoted = '"Re""funds; of"' if schema != "main" else "main"
    assert events(engine, f'{quoted}."My ""Ledger""; DROP"') == [SUBMITTED]


def test_another_table_of_that_name_is_an_error(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE talkable_refund_ledger (entry_id TEXT, event TEXT)")
    with pytest.raises(
        LedgerError, match=r"talkable_refund_ledger is no ledger of refunds: it has no column site_slug"
    ):
        Ledger(engine).open()


def test_a_column_of_the_users_own_does_no_harm(engine: Engine, ledger: Ledger) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE talkable_refund_ledger ADD COLUMN note TEXT")
    ledger.open()
    ledger.append([ledger.submitted(row())])
    assert newest(ledger, row())


def test_a_schema_that_is_missing_is_an_error(engine: Engine) -> None:
    with pytest.raises(LedgerError, match=r"nowhere\.talkable_refund_ledger cannot be .*nowhere"):
        Ledger(engine, schema="nowhere").open()


def test_without_the_privilege_to_write_it_is_an_error_at_once(postgres: URL, engines: Engines) -> None:
    owner = engines(postgres)
    Ledger(owner).open()
    with owner.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE ledger_reader LOGIN")
        connection.exec_driver_sql("GRANT SELECT ON talkable_refund_ledger TO ledger_reader")
    ledger = Ledger(engines(postgres.set(username="ledger_reader")))
    ledger.open()
    with pytest.raises(LedgerError, match="permission denied for table talkable_refund_ledger") as caught:
        ledger.append([ledger.submitted(row())])
    assert not isinstance(caught.value, LedgerLost)


def test_four_tasks_that_make_it_at_once_all_get_it(postgres: URL, engines: Engines) -> None:
    together = threading.Barrier(4)

    def make(ledger: Ledger) -> None:
        together.wait()
        ledger.open()

    with ThreadPoolExecutor(4) as pool:
        for attempt in range(5):
            ledgers = [Ledger(engines(postgres), table=f"ledger_{attempt}") for _ in range(4)]
            list(pool.map(make, ledgers))


def test_a_missing_one_that_is_not_to_be_made_reads_as_empty(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.open(create=False)
    assert ledger.histories([row()]) == {}
    with engine.connect() as connection, pytest.raises(Exception, match="talkable_refund_ledger"):
        connection.exec_driver_sql("SELECT * FROM talkable_refund_ledger")


def test_entry_ids_sort_in_the_order_of_writing(engine: Engine, ledger: Ledger) -> None:
    for number in range(50):
        ledger.append(
            [
                ledger.submitted(row(f"k{number}")),
                ledger.outcome(row(f"k{number}"), RefundResult("A", Outcome.FAILED)),
            ]
        )
    assert events(engine) == [SUBMITTED, "failed"] * 50


def test_the_newest_entry_sorts_last_even_if_the_clock_is_set_back(
    engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.append([ledger.submitted(row())])
    an_hour_ago = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    other = Ledger(engine)
    other.histories([row()])
    other.append([other.outcome(row(), RefundResult("A", Outcome.REFUNDED))])
    assert events(engine) == [SUBMITTED, "refunded"]


def test_all_of_a_call_is_written_or_nothing(engine: Engine, ledger: Ledger) -> None:
    entry = ledger.submitted(row("first"))
    broken = ledger.submitted(row("second")) | {"event": None}
    with pytest.raises(LedgerError):
        ledger.append([entry, broken])
    assert events(engine) == []


@pytest.mark.parametrize("was_committed", [True, False])
def test_a_write_of_which_it_is_unknown_whether_it_came_through_may_be_repeated(
    engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, was_committed: bool
) -> None:
    """The connection breaks at COMMIT: before the database has done it, or after."""
    monkeypatch.setattr(tables, "PATIENCE", 5)
    broken: list[bool] = []

    def do_commit(connection: Any) -> None:
        if not broken:
            broken.append(True)
            if was_committed:
                commit(connection)
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))
        commit(connection)

    commit = engine.dialect.do_commit
    monkeypatch.setattr(engine.dialect, "do_commit", do_commit)
    entries = [ledger.submitted(row("a")), ledger.submitted(row("b"))]
    ledger.append(entries)
    assert broken
    assert events(engine) == [SUBMITTED, SUBMITTED]
    ledger.append([ledger.submitted(row("c"))])
    assert events(engine) == [SUBMITTED] * 3


def test_a_call_that_came_through_may_be_repeated_with_more(engine: Engine, ledger: Ledger) -> None:
    entries = [ledger.submitted(row(f"k{number}")) for number in range(700)]
    ledger.append(entries[:600])
    with pytest.raises(LedgerError):
        ledger.append([*entries, ledger.submitted(row("z")) | {"event": None}])
    for _ in range(3):
        ledger.append(entries)
    assert len(events(engine)) == 700
    ledger.append([])
    ledger.append(entries[650:])
    assert len(events(engine)) == 700


def test_a_database_that_stays_away_is_lost(
    postgres_server: Callable[[], URL], engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PATIENCE", 1)
    url = postgres_server()
    engine = engines(url)
    ledger = Ledger(engine)
    ledger.open()
    engine.dispose()
    with engines(url.set(database="postgres")).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
            f"DROP DATABASE {url.database}"
        )
    with pytest.raises(
        LedgerLost, match=r"database .* does not exist.*once its database is back, run this again"
    ):
        ledger.append([ledger.submitted(row())])


def test_connections_that_the_database_closed_are_made_anew(postgres: URL, engines: Engines) -> None:
    ledger = Ledger(engines(postgres))
    ledger.open()
    ledger.histories([row()])
    with engines(postgres.set(database="postgres")).connect() as connection:
        connection.exec_driver_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{postgres.database}'"
        )
    ledger.append([ledger.submitted(row())])
    assert newest(ledger, row())


def test_entries_of_the_same_task_in_the_same_dag_run_are_known(engine: Engine) -> None:
    Ledger(engine).open()
    first = Ledger(engine, task_run=TaskRun("dag", "run", "task", -1, 1))
    first.append([first.outcome(row(), RefundResult("A", Outcome.NOT_FOUND))])
    is_of_this_task = {
        task_run: bool((entry := newest(Ledger(engine, task_run=task_run), row())) and entry.is_of_this_task)
        for task_run in (
            TaskRun("dag", "run", "task", -1, 2),
            TaskRun("dag", "run", "task", 0, 1),
            TaskRun("dag", "other", "task", -1, 1),
            TaskRun(),
        )
    }
    assert list(is_of_this_task.values()) == [True, False, False, False]
