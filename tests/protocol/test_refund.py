"""What makes a refund, and what is refused before anything is sent."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest

from airflow_provider_talkable import InvalidRefund, Refund

SITE = "my-store"


def parse(slug: object = "B00K2EOONI", **fields: Any) -> Refund:
    return Refund.parse(slug, **({"site_slug": SITE} | fields))


@pytest.mark.parametrize(
    ("given", "slug"),
    [
        pytest.param("B00K2EOONI", "B00K2EOONI", id="order number"),
        pytest.param("newsletter_subscription:42", "newsletter_subscription:42", id="event"),
        pytest.param(1042, "1042", id="integer"),
        pytest.param(10**30, "1" + "0" * 30, id="large integer"),
        pytest.param(Decimal("1042"), "1042", id="integer from a NUMERIC column"),
        pytest.param(
            UUID("12345678-1234-5678-1234-567812345678"), "12345678-1234-5678-1234-567812345678", id="UUID"
        ),
        pytest.param("[A", "[A", id="only one bracket"),
        pytest.param("...", "...", id="three dots are no step in a path"),
    ],
)
def test_a_slug_is_text_or_what_stands_for_it_without_loss(given: object, slug: str) -> None:
    assert parse(given).origin_slug == slug


@pytest.mark.parametrize(
    "value",
    [
        None, "", "  ", "\n", "None", "null", "NaN", "nan", "NaT", "<NA>", "undefined",
        12.0, float("nan"), Decimal("12.0"), Decimal("NaN"), Fraction(1, 2),
        True, False, b"A", bytearray(b"A"), ["A"], ("A",), {"origin_slug": "A"},
        pytest.param(object(), id="<object object>"),
        '["A", "B"]', "['A']", "('A',)", "{'a': 1}", "{{ ti.xcom_pull() }}",
        ".", "..", "\ud800", "x" * 10_000, "🎁" * 10_000,
    ],
    ids=lambda value: repr(value)[:30].encode("ascii", "backslashreplace").decode(),
)  # fmt: skip
def test_what_is_no_slug_is_refused_naming_field_value_and_remedy(value: object) -> None:
    with pytest.raises(InvalidRefund) as caught:
        parse(value)
    assert caught.value.field == "origin_slug"
    assert caught.value.value is value
    field, _, rest = str(caught.value).partition("=")
    assert field == "origin_slug"
    assert rest.startswith(repr(value)[:100])
    assert len(str(caught.value)) < 400


def test_numpy_and_pandas_values_are_told_apart_by_what_they_are() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed; it comes with no dependency")
    assert parse(pandas.Series([7]).iloc[0]).origin_slug == "7"
    for value in (pandas.NaT, pandas.NA, pandas.Series([7.0]).iloc[0]):
        with pytest.raises(InvalidRefund):
            parse(value)
        with pytest.raises(InvalidRefund):
            parse(refunded_at=value)
    assert parse(refund_subtotal=pandas.Series([7.5]).iloc[0]).refund_subtotal == Decimal("7.5")
    moment = parse(refunded_at=pandas.Timestamp("2020-04-27T00:00-07:00")).refunded_at
    assert type(moment) is datetime
    assert moment == datetime(2020, 4, 27, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "instant"),
    [
        pytest.param("2020-04-27T00:00:00.000-07:00", datetime(2020, 4, 27, 7, tzinfo=UTC), id="with offset"),
        pytest.param("2020-04-27T07:00:00Z", datetime(2020, 4, 27, 7, tzinfo=UTC), id="Zulu"),
        pytest.param("2020-04-27 07:00:00", datetime(2020, 4, 27, 7, tzinfo=UTC), id="naive text is UTC"),
        pytest.param("2020-04-27", datetime(2020, 4, 27, tzinfo=UTC), id="text of a date"),
        pytest.param(datetime(2020, 4, 27, 7), datetime(2020, 4, 27, 7, tzinfo=UTC), id="naive is UTC"),
        pytest.param(
            datetime(2020, 4, 27, 9, tzinfo=timezone(timedelta(hours=2))),
            datetime(2020, 4, 27, 7, tzinfo=UTC),
            id="aware",
        ),
        pytest.param(date(2020, 4, 27), datetime(2020, 4, 27, tzinfo=UTC), id="date is midnight UTC"),
        pytest.param(
            datetime(2020, 4, 27, 7, 0, 0, 123_999, UTC),
            datetime(2020, 4, 27, 7, 0, 0, 123_000, UTC),
            id="cut to milliseconds",
        ),
        pytest.param(None, None, id="absent"),
    ],
)
def test_a_moment_becomes_utc(given: object, instant: datetime | None) -> None:
    assert parse(refunded_at=given).refunded_at == instant


class NoOffset(tzinfo):
    """A time zone that knows nothing, as some drivers make."""

    def utcoffset(self, when: datetime | None) -> None:
        return None

    def dst(self, when: datetime | None) -> None:
        return None

    def tzname(self, when: datetime | None) -> str:
        return "?"


def test_a_time_zone_without_offset_is_naive() -> None:
    moment = datetime(2020, 4, 27, 7, tzinfo=NoOffset())
    assert parse(refunded_at=moment).refunded_at == datetime(2020, 4, 27, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "yesterday", "12345", "", "None", "NaT", 1587945600, 1.5, True, b"2020-04-27", [],
        "0001-01-01", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", datetime.min, datetime.max,
        "2020-02-30", "2020-04-27T25:00",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_moment_of_a_refund_is_refused(value: object) -> None:
    with pytest.raises(InvalidRefund, match=r"^refunded_at=") as caught:
        parse(refunded_at=value)
    assert caught.value.field == "refunded_at"


@pytest.mark.parametrize(
    ("given", "amount"),
    [
        (12.5, "12.5"), (0.1 + 0.2, "0.3"), (12, "12"), ("12.50", "12.5"), (" 7 ", "7"), ("1e2", "100"),
        (Decimal("35.03"), "35.03"), ("0.0001", "0.0001"), ("35.03005", "35.03"), (10**11 - 1, "99999999999"),
    ],
)  # fmt: skip
def test_an_amount_is_exact_to_four_decimals(given: object, amount: str) -> None:
    refund = parse(refund_subtotal=given)
    assert refund.refund_subtotal == Decimal(amount)
    assert refund.is_partial


@pytest.mark.parametrize(
    "value",
    [
        -0.01, "-5", float("inf"), float("-inf"), float("nan"), Decimal("NaN"), Decimal("Infinity"), "inf",
        "NaN", "", "None", "12,50", "1_000", "１２", "$5", "0x10", True, b"5", [5], 10**11, 1e300,
        Decimal("1e999999"), "1e9999",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_amount_is_refused_rather_than_refunding_the_whole_order(value: object) -> None:
    with pytest.raises(InvalidRefund, match=r"^refund_subtotal="):
        parse(refund_subtotal=value)


def test_a_refund_without_amount_is_full() -> None:
    assert not parse().is_partial


@pytest.mark.parametrize("value", [None, "", " ", "None", 5, b"my-store", ["my-store"]], ids=repr)
def test_a_refund_needs_a_site(value: object) -> None:
    with pytest.raises(InvalidRefund, match=r"^site_slug="):
        parse(site_slug=value)


@pytest.mark.parametrize(
    ("row", "slug"),
    [
        ({"origin_slug": "A"}, "A"),
        ({"order_number": 7}, "7"),
        ({"order_number": "A", "event_category": None, "event_number": None}, "A"),
        ({"event_category": "newsletter_subscription", "event_number": 42}, "newsletter_subscription:42"),
    ],
)
def test_a_row_names_its_origin_by_column(row: dict[str, object], slug: str) -> None:
    assert Refund.from_row(row, site_slug=SITE).origin_slug == slug


def test_a_row_has_its_own_site_and_details() -> None:
    row = {
        "order_number": "A",
        "refunded_at": "2020-04-27T07:00Z",
        "refund_subtotal": "5",
        "site_slug": "other",
    }
    assert Refund.from_row(row, site_slug=SITE) == Refund(
        "other", "A", datetime(2020, 4, 27, 7, tzinfo=UTC), Decimal(5)
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param({}, "origin_slug=None: a refund needs", id="nothing"),
        pytest.param({"order_number": None}, "origin_slug=None: a refund needs", id="NULL"),
        pytest.param({"origin_slug": "A", "order_number": "B"}, "are both set", id="two ways"),
        pytest.param({"origin_slug": "A", "event_category": "B"}, "are both set", id="two other ways"),
        pytest.param({"event_category": "B"}, "go together", id="half an event"),
        pytest.param({"event_category": "B", "event_number": 4.0}, r"^event_number=4\.0", id="float"),
        pytest.param({"order_number": 4.0}, r"^order_number=4\.0", id="names the column"),
        pytest.param(
            {"origin_slug": "A", "refund_subtotl": 5}, "^refund_subtotl=5: not a column", id="misspelt amount"
        ),
    ],
)
def test_a_row_that_makes_no_refund_is_refused(row: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRefund, match=message):
        Refund.from_row(row, site_slug=SITE)
