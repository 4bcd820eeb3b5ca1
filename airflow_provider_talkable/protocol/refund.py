"""A refund, validated once: whatever passes here can be sent as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from airflow_provider_talkable.protocol import values
from airflow_provider_talkable.protocol.errors import InvalidRefund

COLUMNS = (
    "origin_slug",
    "order_number",
    "event_category",
    "event_number",
    "refunded_at",
    "refund_subtotal",
    "order_subtotal",
    "site_slug",
)


@dataclass(frozen=True, slots=True)
class Refund:
    """One refund of one origin. Build it with :meth:`parse` or :meth:`from_row`, which validate.

    :param site_slug: The Talkable site id, e.g. ``my-store``.
    :param origin_slug: A purchase's order number, e.g. ``B00K2EOONI``, or an event's
        ``event_category:event_number``, e.g. ``newsletter_subscription:42``.
    :param refunded_at: When it was refunded, in UTC, to the millisecond.
    :param refund_subtotal: The refunded part in the shop's currency, to four decimals. ``None``
        refunds the whole order.
    :param order_subtotal: The order's whole subtotal; ``None``: unknown. A ``refund_subtotal`` that reaches
        it refunds the whole order.
    """

    site_slug: str
    origin_slug: str
    refunded_at: datetime | None = None
    refund_subtotal: Decimal | None = None
    order_subtotal: Decimal | None = None

    @classmethod
    def parse(
        cls,
        origin_slug: object,
        *,
        site_slug: object,
        refunded_at: object = None,
        refund_subtotal: object = None,
        order_subtotal: object = None,
        require_subtotal: bool = False,
    ) -> Refund:
        """Validate loose values, as they come from a template, XCom or a database row.

        :param origin_slug: Text, an integer (its digits are the slug) or a UUID. Text is sent as it is; what
            reads as nothing (``None``, ``nan``, ``null``, blank …), has white space or quotes around it or
            control characters in it is refused, and so are floats and bytes.
        :param site_slug: Text, likewise.
        :param refunded_at: A date of ISO 8601, as text or a ``date``; with a time, as text or a
            ``datetime``; with an offset. Without a time it is midnight, without an offset UTC.
        :param refund_subtotal: A number, or text that is one with a decimal point, in the shop's currency,
            more than 0.
        :param order_subtotal: The order's whole subtotal, likewise, or 0: then a ``refund_subtotal`` of 0
            refunds the whole order.
        :param require_subtotal: Refuse a refund without ``refund_subtotal``.
        :raises InvalidRefund: naming the field, its value and the remedy.
        """
        refund = cls(
            site_slug=values.site_slug(site_slug),
            origin_slug=values.origin_slug("origin_slug", origin_slug),
            refunded_at=values.moment(refunded_at),
            refund_subtotal=values.amount("refund_subtotal", refund_subtotal),
            order_subtotal=values.amount("order_subtotal", order_subtotal),
        )
        if refund.refund_subtotal == 0 and refund.is_partial:
            raise InvalidRefund.of(
                "refund_subtotal",
                refund_subtotal,
                "refunds nothing of the order; leave the row out, e.g. with WHERE refund_subtotal > 0",
            )
        if require_subtotal and refund.refund_subtotal is None:
            raise InvalidRefund.of(
                "refund_subtotal",
                None,
                "holds no amount, and require_subtotal is set; give the amount, for a whole order too",
            )
        return refund

    @classmethod
    def from_row(
        cls, row: Mapping[str, object], *, site_slug: object = None, require_subtotal: bool = False
    ) -> Refund:
        """Read a row by its column names, whatever their case.

        :param row: ``origin_slug``, or ``order_number``, or ``event_category`` with
            ``event_number``; optional ``refunded_at``, ``refund_subtotal``, ``order_subtotal``,
            ``site_slug``. A column that is ``None`` counts as absent.
        :param site_slug: The site of rows that name none.
        :param require_subtotal: Refuse a row without ``refund_subtotal``.
        :raises InvalidRefund: also for a column of another name, since a misspelt
            ``refund_subtotal`` would turn a partial refund into a full one.
        """
        columns: dict[str, object] = {}
        for name, value in row.items():
            column = name.lower() if isinstance(name, str) else str(name)
            if column not in COLUMNS:
                raise InvalidRefund.of(
                    str(name), value, f"not a column of a refund; these are: {', '.join(COLUMNS)}"
                )
            if column in columns:
                raise InvalidRefund.of(str(name), value, "is there twice; give it once")
            columns[column] = value
        return cls.from_columns(columns, site_slug=site_slug, require_subtotal=require_subtotal)

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, object], *, site_slug: object = None, require_subtotal: bool = False
    ) -> Refund:
        """The same for names that are known to be those of columns, in lower case.

        :raises InvalidRefund: naming the field, its value and the remedy.
        """
        given = {name: value for name, value in columns.items() if value is not None}
        return cls.parse(
            slug_of_columns(given),
            site_slug=given.get("site_slug", site_slug),
            refunded_at=given.get("refunded_at"),
            refund_subtotal=given.get("refund_subtotal"),
            order_subtotal=given.get("order_subtotal"),
            require_subtotal=require_subtotal,
        )

    @property
    def is_partial(self) -> bool:
        """Whether it refunds a part only, so that Talkable might count a repeat again."""
        return not is_whole(self.refund_subtotal, self.order_subtotal)


def is_whole(refund_subtotal: Decimal | None, order_subtotal: Decimal | None) -> bool:
    """Whether a refund is one of the whole order: it has no amount, or one that reaches the order's.

    :param refund_subtotal: The refunded amount; ``None``: all of it.
    :param order_subtotal: The order's subtotal; ``None``: unknown.
    """
    return refund_subtotal is None or (order_subtotal is not None and refund_subtotal >= order_subtotal)


def slug_of_columns(given: Mapping[str, object]) -> str:
    """The slug that a row names its origin by.

    :param given: Its columns, in lower case, those without a value left out.
    :raises InvalidRefund: if it names none, or more than one.
    """
    event = [name for name in ("event_category", "event_number") if name in given]
    ways = [name for name in ("origin_slug", "order_number") if name in given] + event[:1]
    if not ways:
        raise InvalidRefund.of(
            "origin_slug",
            None,
            "a refund needs origin_slug, or order_number, or event_category with event_number",
        )
    if len(ways) > 1:
        raise InvalidRefund.of(
            ways[0], given[ways[0]], f"{' and '.join(ways)} are both set; give only one of them"
        )
    if not event:
        name = ways[0]
        return values.origin_slug(name, given[name])
    if len(event) == 1:
        raise InvalidRefund.of(event[0], given[event[0]], "event_category and event_number go together")
    return ":".join(values.origin_slug(name, given[name]) for name in event)
