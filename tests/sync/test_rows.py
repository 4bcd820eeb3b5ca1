"""Rows of a warehouse become refunds with keys, or say why they do not."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from airflow_provider_talkable import InvalidRefund, Refund
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.rows import MAX_KEY, MAX_SITE, Row, RowReader

UNIQUE = UUID("12345678-1234-5678-1234-567812345678")


def read(site_slug: str | None = "my-store", **columns: object) -> Row:
    return RowReader(list(columns), site_slug=site_slug).read(list(columns.values()))


def test_a_row_becomes_a_refund() -> None:
    row = read(REFUND_KEY="r1", Order_Number="A", refunded_at=date(2026, 4, 27), refund_subtotal=12.5)
    assert row == Row("my-store", "r1", "A", datetime(2026, 4, 27, tzinfo=UTC), Decimal("12.5"))
    assert row.refund == Refund.parse(
        "A", site_slug="my-store", refunded_at="2026-04-27T00:00Z", refund_subtotal=12.5
    )


@pytest.mark.parametrize(
    ("key", "expected"),
    [(None, "A"), ("r1", "r1"), (17, "17"), (Decimal(17), "17"), (UNIQUE, str(UNIQUE))],
    ids=["none", "text", "integer", "decimal", "uuid"],
)
def test_the_key_is_its_own_or_the_slug(key: object, expected: str) -> None:
    assert read(refund_key=key, origin_slug="A").refund_key == expected


def test_events_and_sites_are_read() -> None:
    row = read(event_category="sign_up", event_number=42, site_slug="other")
    assert (row.site_slug, row.origin_slug, row.refund_key) == ("other", "sign_up:42", "sign_up:42")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["order_number", "refund_subtotl"],
            "column='refund_subtotl': rename it or leave it out",
        ),
        (["order_number", "ORDER_NUMBER"], "column='order_number': is there twice"),
        (["refund_key"], "one has to be origin_slug, or order_number"),
        ([], "one has to be origin_slug"),
    ],
    ids=["unknown", "twice", "no slug", "none"],
)
def test_columns_that_are_not_those_of_a_refund_are_refused(columns: list[str], message: str) -> None:
    with pytest.raises(InvalidRefund, match=message):
        RowReader(columns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"origin_slug": None}, "a refund needs origin_slug"),
        ({"origin_slug": 12.0}, "origin_slug=12.0: is not a whole number"),
        ({"origin_slug": "A", "refund_key": 1.0}, "refund_key=1.0: is not a whole number"),
        ({"origin_slug": "A", "refund_key": ""}, "refund_key='': holds nothing"),
        ({"origin_slug": "A", "refund_key": "x" * 513}, "has 513 characters; give 1 to 512"),
        ({"origin_slug": "x" * 600}, "has 600 characters; give 1 to 512"),
        ({"origin_slug": "A", "site_slug": "s" * 129}, "has 129 characters; give 1 to 128"),
        ({"origin_slug": "A\0"}, "has a control character in it"),
        ({"origin_slug": "A", "refund_key": "\ud800"}, "holds characters that no database keeps"),
        ({"origin_slug": "A", "refunded_at": "soon"}, "refunded_at='soon': is not a date and time"),
        ({"origin_slug": "A", "refund_key": 1, "refund_subtotal": -1}, "refund_subtotal=-1: is negative"),
        ({"origin_slug": b"\xff"}, "is bytes, not text"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_what_makes_no_refund_says_why_and_can_be_kept(columns: dict[str, Any], message: str) -> None:
    row = read(**columns)
    assert row.problem is Outcome.INVALID
    assert row.message
    assert message in row.message
    assert 0 < len(row.refund_key) <= MAX_KEY
    assert 0 < len(row.site_slug) <= MAX_SITE
    for text in (row.refund_key, row.site_slug, row.origin_slug, row.message):
        assert "\0" not in text.encode().decode()


def test_an_invalid_row_keeps_its_key_from_run_to_run() -> None:
    first, again = (read(refund_key=None, origin_slug=None, refund_subtotal=5) for _ in range(2))
    other = read(refund_key=None, origin_slug=None, refund_subtotal=6)
    assert first.refund_key == again.refund_key != other.refund_key
    assert re.fullmatch("row:[0-9a-f]{32}", first.refund_key)
    assert read(origin_slug=None, refunded_at="\ud800").refund_key.startswith("row:")
    assert read(origin_slug="A", refund_key="r1", refunded_at="soon").refund_key == "r1"
    assert read(origin_slug="A", refunded_at="soon").refund_key == "A"


def test_without_any_site_a_row_is_invalid() -> None:
    row = read(site_slug=None, origin_slug="A")
    assert (row.problem, row.site_slug) == (Outcome.INVALID, "?")


def test_a_number_of_too_many_digits_is_invalid_and_shown_in_short() -> None:
    row = RowReader(["order_number", "currency"], site_slug="my-store", more=["currency"]).read(
        [10**5000, 10**5000]
    )
    assert row.problem is Outcome.INVALID
    assert row.message is not None
    assert "has more digits than any id" in row.message
    assert row.refund_key.startswith("row:")


def test_what_is_invalid_keeps_its_site_and_its_slug() -> None:
    row = read(site_slug="other", origin_slug="[1]", refund_key="r1")
    assert (row.site_slug, row.refund_key, row.origin_slug) == ("other", "r1", "[1]")
    assert read(origin_slug="[1]").site_slug == "my-store"
    assert (
        RowReader(["origin_slug", "site_slug"], site_slug="my-store").read(["[1]", "other"]).site_slug
        == "other"
    )
    assert read(site_slug=None, origin_slug="[1]").site_slug == "?"
    assert read(origin_slug="a\0b").origin_slug == "a\\x00b"


def test_the_longest_key_and_site_are_kept() -> None:
    key, site = "k" * MAX_KEY, "s" * MAX_SITE
    for slug in ("A", "[1]"):
        row = read(site_slug=site, origin_slug=slug, refund_key=key)
        assert (row.site_slug, row.refund_key) == (site, key)
    row = read(site_slug=site + "s", origin_slug="[1]", refund_key=key + "k")
    assert row.site_slug == "?"
    assert row.refund_key.startswith("row:")
