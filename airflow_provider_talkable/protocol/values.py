"""Loose values of a template, XCom or a database, each read as what it stands for or refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_EVEN, Decimal
from numbers import Integral, Real
from urllib.parse import quote
from uuid import UUID

from airflow_provider_talkable.protocol.errors import InvalidRefund

# HTTP servers commonly stop reading a request line at 8 KiB; half of it leaves room for the rest.
MAX_SEGMENT_BYTES = 4096
# Above this, a float would no longer carry four decimals exactly.
MAX_SUBTOTAL = Decimal(10) ** 11
_FOUR_DECIMALS = Decimal("0.0001")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?", re.ASCII)
# How "no value" reads once Jinja, pandas, JSON or JavaScript have turned it into text.
_NOTHING = frozenset({"", "none", "null", "nan", "nat", "<na>", "undefined"})


def origin_slug(field: str, value: object) -> str:
    """The slug of an origin, or a part of one.

    :param field: What it is called, for the error.
    :raises InvalidRefund: if it is none.
    """
    text = text_of_id(field, value)
    if text.strip().lower() in _NOTHING:
        raise InvalidRefund.of(field, value, "holds no slug; a template, an XCom or a column gave nothing")
    if (text[0], text[-1]) in {("[", "]"), ("{", "}"), ("(", ")")}:
        raise InvalidRefund.of(
            field,
            value,
            "is the text of a list or of a template, not one slug; pass the list itself, "
            "e.g. as XComArg (task.output)",
        )
    path_segment(field, text)
    return text


def path_segment(field: str, text: str, *, safe: str = ":") -> str:
    """Percent-encode a text so that it is one segment of a path, whatever is in it.

    :param field: What it is called, for the error.
    :param safe: Characters beyond letters, digits and ``_.-~`` that stay as they are.
    :raises InvalidRefund: if it cannot be one.
    """
    if text in {"", ".", ".."}:
        raise InvalidRefund.of(field, text, "cannot be sent: HTTP clients take it for a step in the path")
    try:
        segment = quote(text, safe=safe)
    except UnicodeEncodeError:
        raise _lone_surrogate(field, text) from None
    if len(segment) > MAX_SEGMENT_BYTES:
        raise InvalidRefund.of(
            field,
            text,
            f"takes {len(segment)} bytes in the URL, more than the {MAX_SEGMENT_BYTES} that servers "
            "are sure to read; is it an order number?",
        )
    return segment


def _lone_surrogate(field: str, text: str) -> InvalidRefund:
    return InvalidRefund.of(
        field, text, "has a lone surrogate, which is no text; check its encoding at the source"
    )


def text_of_id(field: str, value: object) -> str:
    """The text of an id: text itself, the digits of a whole number, a UUID.

    :param field: What it is called, for the error.
    :raises InvalidRefund: if it is anything else; a float is what a nullable integer column turns into
        on its way through pandas.
    """
    match value:
        case str():
            return str(value)
        case bool():
            remedy = "is a boolean, not a slug"
        case bytes() | bytearray() | memoryview():
            remedy = "is bytes, not text; decode it first"
        case None:
            remedy = "holds no slug; a template, an XCom or a column gave nothing"
        case UUID() | Integral():
            remedy = "has more digits than any id"
            with suppress(ValueError):
                return str(value)
        case Decimal() if value.is_finite() and value.as_tuple().exponent == 0:
            return str(value)
        case Real() | Decimal():
            remedy = (
                "is not a whole number, which is what a nullable integer column turns into on its "
                "way through pandas; cast the column to text in the query"
            )
        case Mapping() | Sequence():
            remedy = (
                f"is a {type(value).__name__}, not a slug; "
                "rows go into refunds, as mappings from column names to values"
            )
        case _:
            remedy = f"is a {type(value).__name__}, not a slug; give text or a whole number"
    raise InvalidRefund.of(field, value, remedy)


def site_slug(value: object) -> str:
    """A Talkable site id.

    :raises InvalidRefund: if it is none.
    """
    if value is None:
        raise InvalidRefund.of("site_slug", value, "set it on the Talkable connection or pass site_slug")
    if not isinstance(value, str) or value.strip().lower() in _NOTHING:
        raise InvalidRefund.of(
            "site_slug", value, "is no site id; it is in Talkable's dashboard, e.g. 'my-store'"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _lone_surrogate("site_slug", value) from None
    return value


def moment(value: object) -> datetime | None:
    """When it was refunded, in UTC, to the millisecond.

    :raises InvalidRefund: if it is no date and time, or a placeholder.
    """
    match value:
        case None:
            return None
        case str():
            moment = _parse_iso(value)
        case datetime():
            moment = value
        case date():
            moment = datetime.combine(value, time())
        case _:
            raise _not_a_moment(value)
    # pandas' NaT passes for a datetime; its year is NaN, which is in no range.
    if not 2000 <= moment.year < 2100:
        raise InvalidRefund.of(
            "refunded_at", value, "is a placeholder, not a date; leave it out or give the real one"
        )
    if moment.utcoffset() is None:
        moment = moment.replace(tzinfo=UTC)
    moment = moment.astimezone(UTC)
    # A plain datetime, whatever subclass came (pendulum, pandas), cut to what the wire carries.
    return datetime.combine(
        moment.date(), moment.time().replace(microsecond=moment.microsecond // 1000 * 1000), UTC
    )


def _parse_iso(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise _not_a_moment(text) from None


def _not_a_moment(value: object) -> InvalidRefund:
    return InvalidRefund.of(
        "refunded_at",
        value,
        "is no date and time; give ISO 8601 with offset, e.g. 2020-04-27T00:00:00.000-07:00, or leave it out",
    )


def amount(field: str, value: object) -> Decimal | None:
    """An amount in the shop's currency, to four decimals.

    :param field: What it is called, for the error.
    :raises InvalidRefund: if it is no number, negative or absurdly large.
    """
    if value is None:
        return None
    amount = _number(value)
    if amount is None or not amount.is_finite():
        raise InvalidRefund.of(
            field,
            value,
            "is no amount; give a number such as 12.50, or leave it out"
            + (" to refund the whole order" if field == "refund_subtotal" else ""),
        )
    if not 0 <= amount < MAX_SUBTOTAL:
        raise InvalidRefund.of(
            field,
            value,
            "is negative or absurdly large; give the amount in the shop's currency",
        )
    return amount.quantize(_FOUR_DECIMALS, ROUND_HALF_EVEN)


def _number(value: object) -> Decimal | None:
    match value:
        case bool():
            return None
        case Decimal():
            return value
        case Integral():
            return Decimal(int(value))
        case Real():
            try:
                number = float(value)
            except OverflowError:
                return None
            return Decimal(repr(number)) if math.isfinite(number) else None
        case str() if _NUMBER.fullmatch(value.strip()):
            return Decimal(value.strip())
        case _:
            return None
