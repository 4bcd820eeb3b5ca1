"""A row that the ledger's database cannot keep is invalid; it costs no other row anything."""

from __future__ import annotations

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import LedgerError
from airflow_provider_talkable.protocol.rewards import decimal_of
from airflow_provider_talkable.sync.entries import Settlement
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.preview import preview
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.run import RefundSync
from airflow_provider_talkable.sync.settling import settle
from airflow_provider_talkable.sync.snapshot import Snapshot
from tests.shop import SQL, Shop, connect_of

TABLE = "talkable_refund_ledger"


@pytest.fixture(params=["latin1", "utf8"])
def latin1(
    request: pytest.FixtureRequest, postgres_in: Callable[[str], URL], engines: Callable[[URL], Engine]
) -> Engine:
    """A PostgreSQL that keeps LATIN1 only; its driver speaks that too, or UTF-8."""
    return engines(postgres_in("LATIN1").update_query_dict({"client_encoding": request.param}))


def entries(engine: Engine) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT * FROM {TABLE} ORDER BY entry_id")
        return [dict(row) for row in rows.mappings()]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        pytest.param(("r1", "B\u20ac"), "origin_slug='B\\u20ac'", id="slug"),
        pytest.param((None, "B\u20ac"), "origin_slug='B\\u20ac'", id="slug that is the key"),
        pytest.param(("r\u20ac", "B"), "refund_key='r\\u20ac'", id="key"),
        pytest.param(
            ("r\u20ac", "B\u65e5"),
            "origin_slug, refund_key, site_slug=('B\\u65e5', 'r\\u20ac', 'my-store')",
            id="both",
        ),
    ],
)
def test_a_character_that_the_ledger_cannot_keep_makes_its_row_invalid(
    shop: Shop, latin1: Engine, row: tuple[str | None, str], named: str
) -> None:
    others = [f"A{n}" for n in range(20)]
    shop.order(*others, "B", row[1])
    shop.refund(*others[:7], row, *others[7:])
    summary = shop.sync(ledger=Ledger(latin1))
    assert (summary.outcomes, summary.stopped) == ({"refunded": 20, "invalid": 1}, None)
    [failure] = summary.failures
    assert failure["origin_slug"] == row[1]
    message = failure["error_message"]
    assert named in message
    assert "ledger" in message
    assert "ledger_conn_id" in message
    assert "privilege" not in message
    assert sorted(shop.sent) == sorted(others)
    written = entries(latin1)
    [invalid] = [entry for entry in written if entry["event"] == "invalid"]
    assert invalid["error_message"] == message
    again = shop.sync(ledger=Ledger(latin1))
    assert (again.outcomes, again.skipped) == ({}, 21)
    assert entries(latin1) == written


def test_many_such_rows_are_each_found(shop: Shop, latin1: Engine) -> None:
    slugs = [f"O{n}" + ("" if n % 3 else "\u20ac") for n in range(60)]
    shop.order(*slugs)
    shop.refund(*slugs)
    assert shop.sync(ledger=Ledger(latin1)).outcomes == {"refunded": 40, "invalid": 20}
    assert sorted(shop.sent) == sorted(slug for slug in slugs if slug.isascii())
    written = [(entry["refund_key"], entry["event"]) for entry in entries(latin1)]
    assert len(written) == len(set(written)) == 100


def test_a_row_that_is_invalid_by_itself_keeps_its_reason(shop: Shop, latin1: Engine) -> None:
    shop.order("A")
    shop.refund("A", ("r1", "B\u20ac", "never"))
    summary = shop.sync(ledger=Ledger(latin1))
    assert summary.outcomes == {"refunded": 1, "invalid": 1}
    assert summary.failures[0]["error_message"].startswith("refunded_at='never': is not a date")
    assert shop.sync(ledger=Ledger(latin1)).skipped == 2
    assert [e["event"] for e in entries(latin1)].count("invalid") == 1


def test_a_preview_counts_it(shop: Shop, latin1: Engine) -> None:
    shop.refund("A", "B\u20ac")
    Ledger(latin1).open()
    with Snapshot() as snapshot:
        snapshot.fill(rows_of(connect_of(shop.engine), SQL, site_slug="my-store"))
        assert preview(snapshot, Ledger(latin1), frozenset()).outcomes == {"to_send": 1, "invalid": 1}


def test_a_narrow_column_costs_the_rows_that_do_not_fit(
    postgres_shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop = postgres_shop
    slugs = ["A", "B" * 21, "C"]
    shop.order(*slugs)
    shop.refund(*((f"r{n}", slug, None, "5") for n, slug in enumerate(slugs)))
    Ledger(shop.engine).open()
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TABLE} ALTER origin_slug TYPE varchar(20)")
    summary = shop.sync()
    assert summary.outcomes == {"refunded": 2, "invalid": 1}
    message = summary.failures[0]["error_message"]
    assert f"origin_slug='{'B' * 21}'" in message
    assert "character varying(20)" in message
    assert shop.sent == ["A", "C"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_outcome_that_does_not_fit_is_kept_without_its_details(postgres_shop: Shop) -> None:
    shop = postgres_shop
    shop.order("A", "B")
    shop.refund("A", "B", "unknown")
    Ledger(shop.engine).open()
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TABLE} ALTER error_message TYPE varchar(5)")
    summary = shop.sync()
    assert summary.outcomes == {"refunded": 2, "not_found": 1}
    assert summary.stopped is None
    assert shop.states() == {"A": "refunded", "B": "refunded", "unknown": "not_found"}
    assert sorted(shop.sent) == ["A", "B", "unknown"]


@pytest.mark.parametrize("amount", ["99999999999.99996", "99999999999.99995000001"])
def test_an_amount_that_rounds_to_more_than_the_ledger_keeps_is_invalid(
    postgres_shop: Shop, amount: str
) -> None:
    shop = postgres_shop
    shop.order("A", "B")
    shop.refund(("r1", "A", None, amount), ("r2", "B", None, "5"))
    summary = shop.sync()
    assert summary.outcomes == {"refunded": 1, "invalid": 1}
    assert (
        f"refund_subtotal='{amount}': is negative or absurdly large" in summary.failures[0]["error_message"]
    )
    assert shop.sent == ["B"]


def test_what_fails_for_no_value_keeps_its_error(postgres_shop: Shop) -> None:
    shop = postgres_shop
    shop.order("A", "B")
    shop.refund("A", "B")

    def drop(_sync: RefundSync) -> None:
        with shop.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE {TABLE}")

    summary = shop.sync(before=drop)
    assert not shop.sent
    assert summary.stopped
    assert "the connection needs to be allowed to create it" in summary.stopped
    assert not summary.outcomes


def test_where_no_entry_can_be_kept_nothing_is_sent(postgres_shop: Shop) -> None:
    shop = postgres_shop
    shop.order("A", "B")
    shop.refund("A", "B")
    Ledger(shop.engine).open()
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TABLE} ALTER event TYPE varchar(3)")
    summary = shop.sync()
    assert not shop.sent
    assert summary.stopped
    assert "character varying(3)" in summary.stopped
    assert "invalid" not in summary.outcomes


def test_whoever_settles_what_the_ledger_cannot_name_is_told(shop: Shop, latin1: Engine) -> None:
    ledger = Ledger(latin1)
    ledger.open()
    with pytest.raises(LedgerError, match="ledger"):
        settle(ledger, "r\u20ac", Settlement.REFUNDED, by="jane", note="seen")


def test_characters_outside_latin1_on_mariadb(shop: Shop, mariadb: URL) -> None:
    engine = create_engine(mariadb)
    Ledger(engine).open()
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TABLE} CONVERT TO CHARACTER SET latin1")
    try:
        shop.order("A", "B", "C\u65e5")
        shop.refund("A", "C\u65e5", "B", ("r\u65e5", "B"))
        for expected, skipped in (({"refunded": 2, "invalid": 2}, 0), ({}, 4)):
            summary = shop.sync(ledger=Ledger(engine))
            assert (summary.outcomes, summary.skipped, summary.stopped) == (expected, skipped, None)
        assert sorted(shop.sent) == ["A", "B"]
        assert [entry["event"] for entry in entries(engine)].count("invalid") == 2
    finally:
        engine.dispose()


def test_a_character_in_the_reason_of_an_invalid_row_does_not_make_the_ledger_grow(
    shop: Shop, latin1: Engine
) -> None:
    shop.refund(("r1", "A", "2026-13-01\u20ac"))
    for skipped in (0, 1, 1):
        assert shop.sync(ledger=Ledger(latin1)).skipped == skipped
    [entry] = entries(latin1)
    assert "\\u20ac" in entry["error_message"]


def test_the_largest_amount_is_kept_and_no_larger_one_is_read_in_an_answer(postgres_shop: Shop) -> None:
    shop = postgres_shop
    shop.order("A", subtotal=99999999999.9999)
    shop.refund(("r1", "A", None, "99999999999.99994"))
    assert shop.sync().outcomes == {"refunded": 1}
    assert shop.sync().skipped == 1
    assert decimal_of("99999999999.9999") == Decimal("99999999999.9999")
    assert decimal_of("99999999999.99996") is None
