"""What databases, templates and XCom make of values: read right, or refused with a remedy."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_talkable import InvalidRefund, Refund

SITE = "my-store"


def parse(slug: object = "1001", **fields: Any) -> Refund:
    return Refund.parse(slug, **({"site_slug": SITE} | fields))


def refused(field: str, value: object) -> str:
    """Why a value of a field is refused."""
    with pytest.raises(InvalidRefund) as caught:
        parse(value) if field == "origin_slug" else parse(**{field: value})
    assert caught.value.field == field
    assert caught.value.value is value
    return str(caught.value)


class Text(str, enum.Enum):  # noqa: UP042 - what StrEnum was before there was one
    ORDER = "1001"
    SITE = "my-store"


class Number(int, enum.Enum):
    ORDER = 1001


@pytest.mark.parametrize(
    ("given", "slug"),
    [
        pytest.param(Text.ORDER, "1001", id="an enum of text"),
        pytest.param(Number.ORDER, "1001", id="an enum of integers"),
        pytest.param("A B", "A B", id="a space within"),
        pytest.param("A\xa0B", "A\xa0B", id="a non-breaking space within"),
        pytest.param("№ 7", "№ 7", id="no ASCII"),
        pytest.param("'A", "'A", id="one quote"),
        pytest.param('"', '"', id="a quote alone"),
        pytest.param("O'1001'", "O'1001'", id="quotes within"),
        pytest.param("1001#2", "1001#2", id="number sign"),
        pytest.param("0x10", "0x10", id="hexadecimal"),
        pytest.param("100_200", "100_200", id="underscore"),
        pytest.param("+1001", "+1001", id="plus"),
        pytest.param("007", "007", id="leading zeros"),
        pytest.param("1e3", "1e3", id="exponent"),
        pytest.param("none-such", "none-such", id="none within a word"),
    ],
)
def test_text_is_the_order_that_it_names(given: object, slug: str) -> None:
    read = parse(given).origin_slug
    assert read == slug
    assert type(read) is str


NOTHING = [
    "None", " none ", "NULL", "nan", "-nan", "NaT", "<NA>",
    "undefined", "nil", "(null)", "<null>", "[null]", r"\N",
    "N/A", "#N/A", "", " ", "\n", "\xa0",
]  # fmt: skip


@pytest.mark.parametrize("value", NOTHING)
def test_what_reads_as_nothing_is_no_slug_no_part_of_an_event_and_no_site(value: str) -> None:
    assert "holds nothing" in refused("origin_slug", value)
    refused("site_slug", value)
    for event in (f"sign_up:{value}", f"{value}:42"):
        if value == value.strip():
            assert "holds half an event" in refused("origin_slug", event)
        refused("origin_slug", event)
    with pytest.raises(InvalidRefund, match="^event_number="):
        Refund.from_row({"event_category": "sign_up", "event_number": value}, site_slug=SITE)


@pytest.mark.parametrize("field", ["origin_slug", "site_slug"])
@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        pytest.param("1001        ", "TRIM it in the query", id="CHAR padding"),
        pytest.param(" 1001", "TRIM it", id="a space before"),
        pytest.param("1001\n", "TRIM it", id="line break"),
        pytest.param("1001\xa0", "TRIM it", id="non-breaking space"),
        pytest.param("\ufeff1001", "TRIM it", id="byte order mark"),
        pytest.param("1001\u200b", "TRIM it", id="zero-width space"),
        pytest.param("10\x0001", "control character", id="NUL"),
        pytest.param("10\t01", "control character", id="tab"),
        pytest.param("10\x8501", "control character", id="C1"),
        pytest.param('"1001"', "has quotes around it", id="JSON text"),
        pytest.param("'1001'", "has quotes around it", id="Python's or SQL's text"),
    ],
)
def test_what_a_conversion_left_around_an_id_is_refused(field: str, value: str, remedy: str) -> None:
    message = refused(field, value)
    assert remedy in message
    assert message.startswith(f"{field}={value!r}")


@pytest.mark.parametrize(
    "value", [b"1001", bytearray(b"1001"), memoryview(b"1001")], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize(
    "field", ["origin_slug", "site_slug", "refunded_at", "refund_subtotal", "order_subtotal"]
)
def test_bytes_are_shown_as_what_they_hold_with_a_remedy(field: str, value: object) -> None:
    message = refused(field, value)
    assert "b'1001'" in message
    assert "is bytes, not text; cast the column to text in the query" in message


def test_a_number_that_went_through_a_float_names_no_order() -> None:
    for value in (1001.0, 1e3, Decimal("1001.0"), Decimal("1E+3"), Decimal("-0"), -0.0):
        assert "cast the column to text" in refused("origin_slug", value)


def test_numpy_scalars_are_what_they_hold() -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed; it comes with pandas")
    assert parse(numpy.int64(1001)).origin_slug == "1001"
    assert type(parse(numpy.str_("1001")).origin_slug) is str
    assert parse(refund_subtotal=numpy.float32(12.5)).refund_subtotal == Decimal("12.5")
    assert parse(refund_subtotal=numpy.int16(12)).refund_subtotal == 12
    refused("refund_subtotal", numpy.bool_(True))
    refused("refund_subtotal", numpy.float64("nan"))
    refused("origin_slug", numpy.float64(1001))
    refused("refunded_at", numpy.datetime64("2026-01-01"))


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-01+02:00", datetime(2025, 12, 31, 22, tzinfo=UTC)),
        ("2026-01-01-07:00", datetime(2026, 1, 1, 7, tzinfo=UTC)),
        ("2026-01-01 +0200", datetime(2025, 12, 31, 22, tzinfo=UTC)),
        ("2026-01-01Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("20260101", datetime(2026, 1, 1, tzinfo=UTC)),
        ("20260101T101500Z", datetime(2026, 1, 1, 10, 15, tzinfo=UTC)),
        ("2026-01-01 10:15:00+00", datetime(2026, 1, 1, 10, 15, tzinfo=UTC)),
        ("2026-01-01 10:15:00.5 +0200", datetime(2026, 1, 1, 8, 15, 0, 500000, UTC)),
        ("2026-01-01 10:15:00 UTC", datetime(2026, 1, 1, 10, 15, tzinfo=UTC)),
        ("2026-01-01t10:15:00z", datetime(2026, 1, 1, 10, 15, tzinfo=UTC)),
        ("2026-01-01T10:15:00.123456789Z", datetime(2026, 1, 1, 10, 15, 0, 123000, UTC)),
        ("2026-01-01T10:15", datetime(2026, 1, 1, 10, 15, tzinfo=UTC)),
        ("\n2026-01-01\n", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_moment_is_read_with_its_offset(text: str, instant: datetime) -> None:
    assert parse(refunded_at=text).refunded_at == instant


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-01x10:15", "2026-01-01+02:00+02:00", "2026-01-01T10:15 CET",
        "2026-01-01T10:15[Europe/Berlin]",
        "01.02.2026", "1/2/2026", "Jan 1 2026", "1767225600", "1767225600000", "2026-1-1", "٢٠٢٦-01-01",
        '"2026-01-01"',
        "2026-W01-1", "2026-001", "Infinity", time(10, 15), 1767225600, Decimal(20260101), "2026-01-01+25:00",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_moment_is_refused_and_not_guessed_at(value: object) -> None:
    assert "give ISO 8601 with offset" in refused("refunded_at", value)


@pytest.mark.parametrize(
    ("given", "amount"),
    [
        (".5", "0.5"),
        ("5.", "5"),
        ("+.5", "0.5"),
        ("1e3", "1000"),
        (".5e1", "5"),
        (" 12.50\n", "12.5"),
        ("007", "7"),
    ],
)
def test_an_amount_is_read_however_it_is_written(given: object, amount: str) -> None:
    assert parse(refund_subtotal=given).refund_subtotal == Decimal(amount)


@pytest.mark.parametrize(
    "value",
    [
        "1.234,50", "1,234.50", "12,50", "1 234", "1\xa0234", "1'234", "12.50 EUR", "€5", ".", "-", "e3",
        "1e", "Infinity",
        "-inf", "sNaN", Decimal("sNaN"), "0x10", "1_000", "½", "٥", '"12.50"', True, False, time(1),
        datetime(2026, 1, 1),
    ],
    ids=repr,
)  # fmt: skip
def test_an_amount_in_another_notation_is_refused_and_not_guessed_at(value: object) -> None:
    assert "give a number such as 12.50" in refused("refund_subtotal", value)


@pytest.mark.parametrize(
    "zero", [0, 0.0, -0.0, "0", "-0.00", ".0", "0.00004", Decimal("0E+5"), Decimal("-0")], ids=repr
)
def test_a_refund_of_nothing_is_refused_unless_the_order_was_free(zero: object) -> None:
    message = refused("refund_subtotal", zero)
    assert "leave the row out" in message
    with pytest.raises(InvalidRefund, match="leave the row out"):
        parse(refund_subtotal=zero, order_subtotal=10)
    free = parse(refund_subtotal=zero, order_subtotal="-0.0")
    assert not free.is_partial
    assert str(free.order_subtotal) == "0.0000"


def test_columns_are_known_whatever_their_case() -> None:
    row = {"ORDER_NUMBER": "1001", "Refund_Subtotal": 5, "REFUNDED_AT": "2026-01-01", "SITE_SLUG": "other"}
    assert Refund.from_row(row) == Refund("other", "1001", datetime(2026, 1, 1, tzinfo=UTC), Decimal(5))
    with pytest.raises(InvalidRefund, match=r"^order_number='1002': is there twice"):
        Refund.from_row({"ORDER_NUMBER": "1001", "order_number": "1002"}, site_slug=SITE)
    with pytest.raises(InvalidRefund, match=r"^ORDER_NUMBR='1002': not a column"):
        Refund.from_row({"ORDER_NUMBR": "1002"}, site_slug=SITE)
    with pytest.raises(InvalidRefund, match=r"^7='1002': not a column"):
        Refund.from_row({7: "1002"}, site_slug=SITE)  # type: ignore[dict-item]


def test_an_amount_can_be_required() -> None:
    assert parse(refund_subtotal=5, require_subtotal=True).refund_subtotal == 5
    assert not parse(refund_subtotal=10, order_subtotal=10, require_subtotal=True).is_partial
    with pytest.raises(
        InvalidRefund, match=r"^refund_subtotal=None: holds no amount, and require_subtotal is set"
    ):
        parse(require_subtotal=True)
    with pytest.raises(InvalidRefund, match=r"^refund_subtotal=None: holds no amount"):
        Refund.from_row({"order_number": "1001", "order_subtotal": 5}, site_slug=SITE, require_subtotal=True)
