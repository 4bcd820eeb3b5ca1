"""Whatever a query gives, each refund reaches Talkable as the one it is, or is invalid and says why."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import InvalidRefund, Outcome
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.rows import Row, RowReader
from tests.conftest import Sandboxes, examples
from tests.shop import Shop, connect_of

NOTHING = ["None", "nan", "null", "NaT", "<NA>", "undefined", "(null)", r"\N", "", "  ", "\xa0"]


def test_parts_without_keys_are_an_error_before_anything_is_sent(shop: Shop) -> None:
    shop.order("A")
    shop.refund(("r1", "A", None, 30), ("r2", "A", None, 30))
    with pytest.raises(InvalidRefund, match="refund_subtotal needs refund_key beside it") as caught:
        shop.sync(sql="SELECT origin_slug, refund_subtotal FROM refunds")
    assert "two equal parts of one order" in str(caught.value)
    assert "give each refund its own id as refund_key" in str(caught.value)
    assert not shop.sandbox.requests


def test_equal_parts_with_keys_are_both_sent(shop: Shop) -> None:
    shop.order("A")
    shop.refund(("r1", "A", None, 30), ("r2", "A", None, 30))
    assert shop.sync().outcomes == {"refunded": 2}
    assert shop.times_refunded("A") == 2


def test_a_part_whose_key_is_null_is_invalid_and_a_whole_refund_is_not(shop: Shop) -> None:
    shop.order("A", "B")
    shop.refund((None, "A", None, 30), (None, "A", None, 40), (None, "B"))
    summary = shop.sync()
    assert summary.outcomes == {"invalid": 2, "refunded": 1}
    assert summary.duplicates == 0
    assert {f["origin_slug"] for f in summary.failures} == {"A"}
    assert "refund_key=None: is missing" in summary.failures[0]["error_message"]
    assert shop.sent == ["B"]


@pytest.mark.parametrize("key", NOTHING)
def test_rows_whose_key_reads_as_nothing_are_each_invalid_and_named(shop: Shop, key: str) -> None:
    slugs = [f"O{n}" for n in range(10)]
    shop.order(*slugs)
    shop.refund(*((key, slug) for slug in slugs))
    summary = shop.sync()
    assert (summary.outcomes, summary.duplicates) == ({"invalid": 10}, 0)
    assert [f["origin_slug"] for f in summary.failures] == slugs
    assert len({f["refund_key"] for f in summary.failures}) == 10
    assert {f["error_message"].split(":")[0] for f in summary.failures} == {f"refund_key={key!r}"}
    assert not shop.sandbox.requests
    again = shop.sync()
    assert (again.skipped, again.outcomes) == (10, {})


def test_rows_that_differ_under_one_key_are_each_counted_and_named(shop: Shop) -> None:
    slugs = [f"O{n}" for n in range(10)]
    shop.order(*slugs)
    shop.refund(*(("0", slug) for slug in slugs), ("0", "O3"), ("r1", "O1"))
    summary = shop.sync()
    assert summary.outcomes == {"conflict": 10, "refunded": 1}
    assert (summary.rows, summary.duplicates) == (12, 1)
    assert [f["origin_slug"] for f in summary.failures] == slugs
    [message] = {failure["error_message"] for failure in summary.failures}
    assert message.startswith("11 rows of the query have this refund_key and differ, so none was sent")
    assert [e["origin_slug"] for e in shop.ledger() if e["event"] == "conflict"] == slugs
    again = shop.sync()
    assert (again.skipped, again.duplicates, again.outcomes) == (11, 1, {})
    assert shop.sent == ["O1"]


def test_bytes_of_a_database_are_invalid_under_the_same_key_each_run(postgres_shop: Shop) -> None:
    shop = postgres_shop
    shop.order("A")
    sql = "SELECT 'A'::bytea AS order_number"
    summaries = [shop.sync(sql=sql) for _ in range(2)]
    assert [(s.outcomes, s.skipped) for s in summaries] == [({"invalid": 1}, 0), ({}, 1)]
    assert summaries[0].failures[0]["error_message"] == (
        "order_number=b'A': is bytes, not text; cast the column to text in the query"
    )
    assert summaries[0].failures[0]["origin_slug"] == "b'A'"
    assert not shop.sandbox.requests


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        pytest.param("'A'::char(8) AS order_number", "order_number='A       ': begins or ends", id="CHAR"),
        pytest.param(
            "'A' AS order_number, 'r1'::char(8) AS refund_key", "refund_key='r1      ': begins", id="CHAR key"
        ),
        pytest.param(
            "'A' AS order_number, 'my-store'::char(9) AS site_slug", "site_slug='my-store '", id="CHAR site"
        ),
        pytest.param(
            """('{"o": "A"}'::json -> 'o')::text AS order_number""", "has quotes around it", id="JSON text"
        ),
        pytest.param(
            "'A' AS order_number, 'r1'::bytea AS refund_key", "refund_key=b'r1': is bytes", id="bytes key"
        ),
        pytest.param(
            "'A' AS order_number, '5'::bytea AS refund_subtotal, 1 AS refund_key",
            "is bytes",
            id="bytes amount",
        ),
        pytest.param(
            "1001.0::float8 AS order_number", "order_number=1001.0: is not a whole number", id="float"
        ),
        pytest.param(
            "1001.0 AS order_number", "order_number=Decimal('1001.0'): is not a whole", id="numeric"
        ),
        pytest.param(
            "'NaN'::numeric AS refund_subtotal, 'A' AS order_number, 1 AS refund_key",
            "is not an amount",
            id="NaN",
        ),
        pytest.param(
            "true AS refund_subtotal, 'A' AS order_number, 1 AS refund_key", "is not an amount", id="boolean"
        ),
        pytest.param(
            "0 AS refund_subtotal, 'A' AS order_number, 1 AS refund_key", "refunds nothing", id="zero"
        ),
        pytest.param(
            "'1.234,50' AS refund_subtotal, 'A' AS order_number, 1 AS refund_key",
            "is not an amount",
            id="comma",
        ),
        pytest.param(
            "'10:15'::time AS refunded_at, 'A' AS order_number", "is not a date and time", id="time"
        ),
    ],
)
def test_what_postgres_gives_is_refused_with_a_remedy(
    postgres_shop: Shop, columns: str, message: str
) -> None:
    postgres_shop.order("A")
    for expected in ({"invalid": 1}, {}):
        summary = postgres_shop.sync(sql=f"SELECT {columns}")
        assert summary.outcomes == expected
    [entry] = postgres_shop.ledger()
    assert message in entry["error_message"]
    assert not postgres_shop.sandbox.requests


@pytest.mark.parametrize(
    ("columns", "data"),
    [
        pytest.param("'.5' AS refund_subtotal, 1 AS refund_key", {"refund_subtotal": 0.5}, id=".5"),
        pytest.param("'1e1'::text AS refund_subtotal, 1 AS refund_key", {"refund_subtotal": 10}, id="1e1"),
        pytest.param("0 AS refund_subtotal, 0 AS order_subtotal, 1 AS refund_key", None, id="a free order"),
        pytest.param(
            "'2026-01-01+02:00' AS refunded_at",
            {"refunded_at": "2025-12-31T22:00:00.000+00:00"},
            id="date with offset",
        ),
        pytest.param(
            "'2026-01-01 10:15:00+02'::timestamptz::text AS refunded_at",
            {"refunded_at": "2026-01-01T08:15:00.000+00:00"},
            id="timestamptz as text",
        ),
        pytest.param("""('{"o": "A"}'::json ->> 'o') AS more""", None, id="JSON's value"),
    ],
)
def test_what_postgres_gives_reaches_talkable_as_it_is_meant(
    postgres_shop: Shop, columns: str, data: dict[str, object] | None
) -> None:
    postgres_shop.order("A")
    sql = (
        f"SELECT {columns}, 'A' AS order_number"
        if " AS more" not in columns
        else f"SELECT {columns[:-4]}order_number"
    )
    assert postgres_shop.sync(sql=sql).outcomes == {"refunded": 1}
    body = json.loads(postgres_shop.sandbox.requests[0]["body"])
    assert body.get("data") == data


def test_an_amount_can_be_required_of_each_row(shop: Shop) -> None:
    shop.order("A", "B")
    shop.refund(("r1", "A"), ("r2", "B", None, 30))
    sql = "SELECT refund_key, origin_slug, refund_subtotal FROM refunds"
    without, with_amount = rows_of(connect_of(shop.engine), sql, site_slug="my-store", require_subtotal=True)
    assert without.problem is Outcome.INVALID
    assert "require_subtotal" in (without.message or "")
    assert (with_amount.problem, with_amount.refund_subtotal) == (None, Decimal(30))
    with pytest.raises(InvalidRefund, match="one has to be refund_subtotal"):
        RowReader(["origin_slug"], require_subtotal=True)


@pytest.mark.parametrize("parameters", ["DE", b"DE", {"DE"}, 5], ids=repr)
def test_parameters_are_a_mapping_or_a_sequence(shop: Shop, parameters: object) -> None:
    with pytest.raises(InvalidRefund, match="^parameters=.*: give a mapping or a sequence"):
        list(rows_of(connect_of(shop.engine), "SELECT ? AS order_number, ? AS site_slug", parameters))  # type: ignore[arg-type]


def test_who_bought_is_not_made_up(shop: Shop) -> None:
    reader = RowReader(["order_number", "email"], site_slug="my-store", more=["email"])
    assert reader.read(["A", " a@example.com "]).email == "a@example.com"
    assert reader.read(["A", 42]).email == "42"
    for nothing in (None, "None", "nan", " "):
        assert reader.read(["A", nothing]).email is None
    for value in (memoryview(b"a@example.com"), 42.0):
        row = reader.read(["A", value])
        assert (row.problem, row.email) == (Outcome.INVALID, None)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["1001#2", "0x10", "100_200", "+1001", "1001.0", "1e3", "00", "-0", "True", "1001 ", "\xa01001", '"1001"']
)


def row_key(row: Row) -> tuple[str, str]:
    return row.site_slug, row.refund_key


values = st.one_of(
    st.none(),
    st.text(max_size=6),
    st.sampled_from(
        [*NOTHING, "A", "B", "A ", '"A"', "r1", 0, 1, 1.0, True, b"A", memoryview(b"A"), Decimal("1.0")]
    ),
)


@given(st.lists(st.tuples(values, values, values), max_size=8))
@examples(300)
def test_two_different_rows_are_never_one_refund_and_none_is_another_order(
    rows: list[tuple[object, ...]],
) -> None:
    reader = RowReader(["refund_key", "order_number", "refund_subtotal"], site_slug="my-store")
    for key, slug, subtotal in rows:
        row = reader.read([key, slug, subtotal])
        if row.problem is None:
            assert row.origin_slug == str(slug)
            assert row.refund_key == (row.origin_slug if key is None else str(key))
            assert key is not None or row.refund_subtotal is None
        else:
            assert row.message
        assert row_key(row) == row_key(reader.read([key, slug, subtotal]))
    invalid = [(reader.read(list(row)), row) for row in rows]
    keys: dict[tuple[str, str], set[str]] = {}
    for row, given_row in invalid:
        if row.problem and row.refund_key.startswith("row:"):
            shown = [bytes(v) if isinstance(v, memoryview) else v for v in given_row]
            keys.setdefault(row_key(row), set()).add(str(shown))
    assert all(len(contents) == 1 for contents in keys.values())


NUMBERS = itertools.count()


def test_no_text_is_sent_as_another_order_than_it_names(
    sandboxes: Sandboxes, engines: Callable[[URL], Engine]
) -> None:
    sandbox = sandboxes()

    @given(st.lists(texts, min_size=1, max_size=10))
    @examples(25)
    def check(slugs: list[str]) -> None:
        shop = Shop(engines(URL.create("sqlite")), sandbox)
        before = len(sandbox.requests)
        shop.refund(*((f"r{n}", slug) for n, slug in enumerate(slugs)))
        summary = shop.sync(abort_after=1000)
        sent = Counter(unquote(r["path"].split("/")[4]) for r in list(sandbox.requests)[before:])
        assert not sent - Counter(slugs)
        assert summary.outcomes.total() == len(slugs)
        assert sent.total() + summary.outcomes["invalid"] == len(slugs)

    check()
