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
    ) -> Refund:
        """Validate loose values, as they come from a template, XCom or a database row.

        :param origin_slug: Text, an integer (its digits are the slug) or a UUID.
        :param site_slug: Text.
        :param refunded_at: ISO 8601 text, a datetime (naive is UTC) or a date (midnight UTC).
        :param refund_subtotal: A number, or text that is one, in the shop's currency, not negative.
        :param order_subtotal: The order's whole subtotal, likewise.
        :raises InvalidRefund: naming the field, its value and the remedy.
        """
        return cls(
            site_slug=values.site_slug(site_slug),
            origin_slug=values.origin_slug("origin_slug", origin_slug),
            refunded_at=values.moment(refunded_at),
            refund_subtotal=values.amount("refund_subtotal", refund_subtotal),
            order_subtotal=values.amount("order_subtotal", order_subtotal),
        )

    @classmethod
    def from_row(cls, row: Mapping[str, object], *, site_slug: object = None) -> Refund:
        """Read a row by its column names.

        :param row: ``origin_slug``, or ``order_number``, or ``event_category`` with
            ``event_number``; optional ``refunded_at``, ``refund_subtotal``, ``order_subtotal``,
            ``site_slug``. A column that is ``None`` counts as absent.
        :param site_slug: The site of rows that name none.
        :raises InvalidRefund: also for a column of another name, since a misspelt
            ``refund_subtotal`` would turn a partial refund into a full one.
        """
        for name in row:
            if name not in COLUMNS:
                raise InvalidRefund.of(
                    str(name), row[name], f"not a column of a refund; these are: {', '.join(COLUMNS)}"
                )
        given = {name: value for name, value in row.items() if value is not None}
        return cls.parse(
            _slug_of_row(given),
            site_slug=given.get("site_slug", site_slug),
            refunded_at=given.get("refunded_at"),
            refund_subtotal=given.get("refund_subtotal"),
            order_subtotal=given.get("order_subtotal"),
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


def _slug_of_row(given: Mapping[str, object]) -> object:
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
