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
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
# A calendar date of ISO 8601, then perhaps a time, then perhaps an offset, as databases write them too.
_MOMENT = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2}|\d{8})"
    r"([ T](?P<time>\d{2}(:?\d{2}(:?\d{2}([.,]\d+)?)?)?))?"
    r" ?(?P<offset>Z|UTC|[+-]\d{2}(:?\d{2}(:?\d{2})?)?)?",
    re.ASCII | re.IGNORECASE,
)
# How "no value" reads once Jinja, pandas, a database, JSON, JavaScript or a spreadsheet have made text of it.
_NOTHING = frozenset(
    {
        *("", "none", "null", "nil", "nan", "-nan", "nat", "undefined", "n/a", "#n/a", "\\n"),
        *("<na>", "<none>", "<null>", "(null)", "[null]"),
    }
)
# White space and what is seen as little: marks of byte order and direction, spaces of no width, soft hyphens.
_PADDING = "[\\s\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
_PADDED = re.compile(rf"\A{_PADDING}|{_PADDING}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9#_.:/-]+", re.ASCII)
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")


def is_nothing(text: str) -> bool:
    """Whether a text is what is left of no value: blank, ``None``, ``null``, ``nan`` and the like."""
    return text.strip().lower() in _NOTHING


def origin_slug(field: str, value: object) -> str:
    """The slug of an origin, or a part of one.

    :param field: What it is called, for the error.
    :raises InvalidRefund: if it is none.
    """
    text = identifier(field, value)
    if ":" in text and any(is_nothing(part) for part in text.split(":", 1)):
        raise InvalidRefund.of(
            field, value, "holds half an event; a template, an XCom or a column gave nothing for the rest"
        )
    if (text[0], text[-1]) in {("[", "]"), ("{", "}"), ("(", ")")}:
        raise InvalidRefund.of(
            field,
            value,
            "is the text of a list or of a template, not one slug; pass the list itself, "
            "e.g. as XComArg (task.output)",
        )
    path_segment(field, text)
    return text


def identifier(field: str, value: object) -> str:
    """The text of an id, refused where it shows that something on the way has changed it.

    :param field: What it is called, for the error.
    :raises InvalidRefund: if it is neither text nor a whole number, reads as nothing, or has white space or
        quotes around it, or control characters in it.
    """
    text = text_of_id(field, value)
    if is_nothing(text):
        raise InvalidRefund.of(
            field, value, "holds nothing; check the template, the XCom or the column that it is from"
        )
    if remedy := _trace_of_conversion(text):
        raise InvalidRefund.of(field, value, remedy)
    return text


def _trace_of_conversion(text: str) -> str | None:
    if _PLAIN.fullmatch(text):
        # Nearly every id; a query has millions of them.
        return None
    if _PADDED.search(text):
        return (
            "begins or ends with white space, as a CHAR column pads it, or with an invisible character; "
            "TRIM it in the query or clean it at its source"
        )
    if _CONTROL.search(text):
        return "has a control character in it; clean it at its source"
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return (
            "has quotes around it, as JSON text has; take the value out of the JSON in the query, e.g. with "
            "->> or JSON_VALUE"
        )
    return None


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
        field, text, "has a lone surrogate, which is not text; check its encoding at the source"
    )


def text_of_id(field: str, value: object) -> str:
    """The text of an id: text itself, the digits of a whole number, a UUID.

    :param field: What it is called, for the error.
    :raises InvalidRefund: if it is anything else; a float is what a nullable integer column turns into
        on its way through pandas.
    """
    match value:
        case str():
            # Of an enum's member this is its content, not its name.
            return str.__str__(value)
        case bool():
            remedy = "is a boolean, not a slug"
        case None:
            remedy = "holds nothing; check the template, the XCom or the column that it is from"
        case UUID():
            return str(value)
        case Integral():
            remedy = "has more digits than any id"
            with suppress(ValueError):
                return str(int(value))
        case Decimal() if value.is_finite() and value.as_tuple().exponent == 0 and str(value) != "-0":
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
    _refuse_bytes(field, value)
    raise InvalidRefund.of(field, value, remedy)


def _refuse_bytes(field: str, value: object) -> None:
    """Refuse what only its source knows the encoding of: BYTEA, BLOB, VARBINARY."""
    if isinstance(value, bytes | bytearray | memoryview):
        raise InvalidRefund.of(field, value, "is bytes, not text; cast the column to text in the query")


def site_slug(value: object) -> str:
    """A Talkable site id.

    :raises InvalidRefund: if it is none.
    """
    if value is None:
        raise InvalidRefund.of("site_slug", value, "set it on the Talkable connection or pass site_slug")
    if not isinstance(value, str) or is_nothing(value):
        _refuse_bytes("site_slug", value)
        raise InvalidRefund.of(
            "site_slug", value, "is no site id; it is in Talkable's dashboard, e.g. 'my-store'"
        )
    text = identifier("site_slug", value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _lone_surrogate("site_slug", text) from None
    return text


def moment(value: object) -> datetime | None:
    """When it was refunded, in UTC, to the millisecond.

    :raises InvalidRefund: if it is not a date and time, or a placeholder.
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
            _refuse_bytes("refunded_at", value)
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
    # Python takes any character for the one before the time, the sign of an offset too: a date with an
    # offset would become a time of that day.
    parts = _MOMENT.fullmatch(text.strip())
    if parts is None:
        raise _not_a_moment(text)
    offset = (parts["offset"] or "").upper().replace("UTC", "Z")
    try:
        return datetime.fromisoformat(f"{parts['date']}T{parts['time'] or '00'}{offset}")
    except ValueError:
        raise _not_a_moment(text) from None


def _not_a_moment(value: object) -> InvalidRefund:
    return InvalidRefund.of(
        "refunded_at",
        value,
        "is not a date and time; give ISO 8601 with offset, e.g. 2020-04-27T00:00:00.000-07:00, or omit it",
    )


def amount(field: str, value: object) -> Decimal | None:
    """An amount in the shop's currency, to four decimals.

    :param field: What it is called, for the error.
    :raises InvalidRefund: if it is not a number, negative or absurdly large.
    """
    if value is None:
        return None
    amount = _number(value)
    if amount is None or not amount.is_finite():
        _refuse_bytes(field, value)
        raise InvalidRefund.of(
            field,
            value,
            "is not an amount; give a number such as 12.50, or leave it out"
            + (" to refund the whole order" if field == "refund_subtotal" else ""),
        )
    # Rounded up it may be too large.
    if not (0 <= amount < MAX_SUBTOTAL and amount.quantize(_FOUR_DECIMALS) < MAX_SUBTOTAL):
        raise InvalidRefund.of(
            field,
            value,
            "is negative or absurdly large; give the amount in the shop's currency",
        )
    # Zero may have come with a sign.
    return abs(amount.quantize(_FOUR_DECIMALS, ROUND_HALF_EVEN))


def in_digits(amount: Decimal) -> str:
    """An amount as people write it: no exponent, no zeros at its end."""
    return f"{amount.normalize():f}"


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
