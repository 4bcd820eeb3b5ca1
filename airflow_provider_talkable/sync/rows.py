"""From a warehouse's row to a refund with a key, or to the reason why it makes none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from airflow_provider_talkable.protocol.errors import InvalidRefund, shown
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.refund import COLUMNS, Refund, is_whole, slug_of_columns
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.protocol.values import identifier, is_nothing, site_slug, text_of_id

ROW_COLUMNS = ("refund_key", *COLUMNS)
REPORT_COLUMNS = ("email", "currency")
"""What a reconciliation reads besides."""

# Together with an entry's id they are the ledger's primary key, which databases limit to some 2,700
# bytes; a character takes up to four.
MAX_KEY = 512
MAX_SITE = 128
UNKNOWN_SITE = "?"
"""The site of an invalid row that names none."""
# PostgreSQL keeps no NUL, and a lone surrogate has no encoding.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the query, read.

    :param site_slug: The Talkable site id, or ``?`` where an invalid row names none.
    :param refund_key: The refund's own id. An invalid row without one is known by its content.
    :param origin_slug: The slug as it is sent, or as it was given in an invalid row.
    :param refunded_at: When it was refunded, in UTC.
    :param refund_subtotal: The refunded part; ``None`` refunds the whole order.
    :param order_subtotal: The order's whole subtotal, if the row has it.
    :param problem: Why it cannot be sent: ``invalid`` or ``conflict``; ``None``: it can.
    :param message: The problem in words.
    :param email: The e-mail address of who bought, Talkable's friend; for a reconciliation only.
    :param currency: The shop's currency, as given; for a reconciliation only.
    """

    site_slug: str
    refund_key: str
    origin_slug: str
    refunded_at: datetime | None = None
    refund_subtotal: Decimal | None = None
    order_subtotal: Decimal | None = None
    problem: Outcome | None = None
    message: str | None = None
    email: str | None = None
    currency: str | None = None

    @classmethod
    def of(
        cls, refund: Refund, refund_key: str, *, email: str | None = None, currency: str | None = None
    ) -> Row:
        """The row of a refund.

        :param refund_key: As :func:`key_of` has it.
        """
        return cls(
            refund.site_slug,
            refund_key,
            refund.origin_slug,
            refund.refunded_at,
            refund.refund_subtotal,
            refund.order_subtotal,
            email=email,
            currency=currency,
        )

    @property
    def refund(self) -> Refund:
        """What is sent for it."""
        return Refund(
            self.site_slug, self.origin_slug, self.refunded_at, self.refund_subtotal, self.order_subtotal
        )

    @property
    def is_whole(self) -> bool:
        """Whether it refunds the whole order."""
        return is_whole(self.refund_subtotal, self.order_subtotal)


class RowReader:
    """Reads rows of one query by its column names, whatever their case.

    :param columns: The query's column names: ``origin_slug``, or ``order_number``, or
        ``event_category`` with ``event_number``; optional ``refund_key``, ``refunded_at``,
        ``refund_subtotal`` (with ``refund_key``), ``order_subtotal``, ``site_slug``.
    :param site_slug: The site of rows that name none.
    :param more: Other columns that may be there, of :data:`REPORT_COLUMNS`.
    :param needs: Those of them that have to be.
    :param require_subtotal: Whether a row without ``refund_subtotal`` is invalid.
    :raises InvalidRefund: if a column has another name, or two have the same: a misspelt
        ``refund_subtotal`` would turn partial refunds into full ones. Also if there are amounts without keys.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        site_slug: str | None = None,
        more: Sequence[str] = (),
        needs: Sequence[str] = (),
        require_subtotal: bool = False,
    ) -> None:
        self._columns = [column.lower() for column in columns]
        self._site_slug = site_slug
        self._more = [name for name in more if name in self._columns]
        self._require_subtotal = require_subtotal
        known = (*ROW_COLUMNS, *more)
        for column in columns:
            if column.lower() not in known:
                raise InvalidRefund.of(
                    "column",
                    column,
                    f"rename it or leave it out of the query; a refund has: {', '.join(known)}",
                )
            if self._columns.count(column.lower()) > 1:
                raise InvalidRefund.of("column", column, "is there twice; leave one out of the query")
        self._check_that_there_is_enough(columns, needs)

    def _check_that_there_is_enough(self, columns: Sequence[str], needs: Sequence[str]) -> None:
        if not {"origin_slug", "order_number", "event_number"} & set(self._columns):
            raise InvalidRefund.of(
                "columns",
                list(columns),
                "one has to be origin_slug, or order_number, or event_category with event_number",
            )
        for name in (*needs, *(["refund_subtotal"] if self._require_subtotal else [])):
            if name not in self._columns:
                raise InvalidRefund.of("columns", list(columns), f"one has to be {name}")
        if "refund_subtotal" in self._columns and "refund_key" not in self._columns:
            raise InvalidRefund.of(
                "columns",
                list(columns),
                "refund_subtotal needs refund_key beside it, since two equal parts of one order could not be "
                "distinguished from one part that is there twice; give each refund its own id as refund_key",
            )

    def read(self, values: Sequence[object]) -> Row:
        """Read one row; what makes no refund becomes a row with a problem."""
        given = dict(zip(self._columns, values, strict=True))
        key = given.pop("refund_key", None)
        more = {name: given.pop(name) for name in self._more}
        try:
            refund = Refund.from_columns(
                given, site_slug=self._site_slug, require_subtotal=self._require_subtotal
            )
            refund_key = key_of(refund, key)
            email, currency = (_text_or_none(name, more.get(name)) for name in REPORT_COLUMNS)
        except InvalidRefund as error:
            return self._invalid(key, given, error)
        return Row.of(refund, refund_key, email=email, currency=currency)

    def _invalid(self, key: object, given: Mapping[str, object], error: InvalidRefund) -> Row:
        shown = RefundResult.invalid(given, error)
        slug = "" if shown.origin_slug == "None" else shown.origin_slug
        return Row(
            _valid_site(given.get("site_slug") or self._site_slug) or UNKNOWN_SITE,
            _valid_key(key, given) or digest({"refund_key": key, **given}),
            slug.replace("\0", "\\x00"),
            problem=Outcome.INVALID,
            message=shown.error_message,
        )


def key_of(refund: Refund, key: object) -> str:
    """The key by which the ledger knows a refund: its own, or the slug if it refunds the whole order.

    :param key: The refund's own id; ``None``: it has none.
    :raises InvalidRefund: if the key is none, a part has none, or the ledger cannot keep the refund.
    """
    if key is None and refund.is_partial:
        raise InvalidRefund.of(
            "refund_key",
            None,
            "is missing; a part of an order needs the refund's own id, since two equal parts could not be "
            "distinguished otherwise",
        )
    refund_key = refund.origin_slug if key is None else identifier("refund_key", key)
    _check("refund_key", refund_key, MAX_KEY)
    _check("site_slug", refund.site_slug, MAX_SITE)
    _check("origin_slug", refund.origin_slug)
    return refund_key


def _valid_key(key: object, given: Mapping[str, object]) -> str | None:
    """The key of an invalid row, if what it would have as a valid one is no part of the problem."""
    try:
        if key is None:
            # An amount, readable or not, does not share its order's key.
            if given.get("refund_subtotal") is not None:
                return None
            text = slug_of_columns({name: value for name, value in given.items() if value is not None})
        else:
            text = identifier("refund_key", key)
        _check("refund_key", text, MAX_KEY)
    except InvalidRefund:
        return None
    return text


def _valid_site(site: object) -> str | None:
    try:
        text = site_slug(site)
        _check("site_slug", text, MAX_SITE)
    except InvalidRefund:
        return None
    return text


def _text_or_none(field: str, value: object) -> str | None:
    text = None if value is None else text_of_id(field, value).strip()
    return None if text is None or is_nothing(text) else text


def _check(field: str, text: str, longest: int | None = None) -> None:
    """Refuse what a database cannot keep."""
    if not text or (longest and len(text) > longest):
        raise InvalidRefund.of(field, text, f"has {len(text)} characters; give 1 to {longest}")
    if not _is_text(text):
        raise InvalidRefund.of(field, text, "holds characters that no database keeps; check its source")


def _is_text(text: str) -> bool:
    return _NO_TEXT.search(text) is None


def digest(given: Mapping[str, object]) -> str:
    """The same row has the same key in the next run."""
    content = repr(sorted((name, shown(value)) for name, value in given.items()))
    return "row:" + hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:32]
