"""From what a task was given to refund to refunds, or to the reasons why it makes none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_talkable.operators._rendered import as_list_or_one
from airflow_provider_talkable.operators._task_state import KeyedRefund
from airflow_provider_talkable.protocol.errors import InvalidRefund
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.protocol.values import identifier

if TYPE_CHECKING:
    from airflow_provider_talkable.sync.rows import Row

# Of one slug only; those of several refunds are in each row.
_OF_ONE = ("refund_subtotal", "order_subtotal", "refund_key")


def rows_given(origin_slug: object, refunds: object, details: Mapping[str, object]) -> Any:
    """The one row or the list of rows, checked to be one of the two.

    :param details: What goes with ``origin_slug``: the other fields of a refund; ``None``: not given.
    :raises InvalidRefund: if there is nothing, or if fields contradict each other.
    """
    if refunds is None and origin_slug is None:
        raise InvalidRefund.of(
            "origin_slug", None, "neither it nor refunds holds anything; a template or an XCom gave nothing"
        )
    if refunds is not None and origin_slug is not None:
        raise InvalidRefund.of("refunds", refunds, "origin_slug is set too; give one of them")
    rows = as_list_or_one(*(("origin_slug", origin_slug) if refunds is None else ("refunds", refunds)))
    for field, value in details.items():
        if value is None:
            continue
        if refunds is not None:
            raise InvalidRefund.of(field, value, "goes with origin_slug; in refunds, each row has its own")
        if isinstance(rows, list) and field in _OF_ONE:
            raise InvalidRefund.of(
                field, value, "goes with one origin_slug; for several, give each its own in refunds"
            )
    return rows


def keyed_refund(
    row: object, details: Mapping[str, object] | None, site_slug: str | None, require_subtotal: bool
) -> KeyedRefund:
    """Validate a row of a task without a ledger.

    :param row: A slug or, without details, a mapping, which has everything.
    :param details: What goes with the slug; ``None``: the row is one of ``refunds``.
    :raises InvalidRefund: if it makes no refund.
    """
    given: dict[str, Any] = dict(details or {})
    if details is None and isinstance(row, Mapping):
        given = dict(row)
        names = [name for name in given if isinstance(name, str) and name.lower() == "refund_key"]
        if len(names) > 1:
            raise InvalidRefund.of(names[1], given[names[1]], "is there twice; give it once")
        key = given.pop(names[0]) if names else None
        refund = Refund.from_row(given, site_slug=site_slug, require_subtotal=require_subtotal)
    else:
        key = given.pop("refund_key", None)
        refund = Refund.parse(row, site_slug=site_slug, require_subtotal=require_subtotal, **given)
    return KeyedRefund(refund, None if key is None else identifier("refund_key", key))


def ledger_row(
    row: object, details: Mapping[str, object] | None, site_slug: str | None, require_subtotal: bool
) -> Row:
    """Validate a row of a task with a ledger; as :func:`keyed_refund`."""
    from airflow_provider_talkable.sync.rows import Row, key_of

    one = keyed_refund(row, details, site_slug, require_subtotal)
    return Row.of(one.refund, key_of(one.refund, one.refund_key))


def without_ambiguous(given: Sequence[KeyedRefund | RefundResult]) -> list[KeyedRefund | RefundResult]:
    """What was given, less equal parts of an order: nobody can say whether they are one refund or two."""
    counts = Counter(given)
    return [
        _ambiguous(one)
        if isinstance(one, KeyedRefund)
        and one.refund_key is None
        and one.refund.is_partial
        and counts[one] > 1
        else one
        for one in given
    ]


def _ambiguous(one: KeyedRefund) -> RefundResult:
    error = InvalidRefund.of(
        "refund_subtotal",
        str(one.refund.refund_subtotal),
        f"is given more than once for order {one.refund.origin_slug}; give each part the refund's own id as "
        "refund_key, the same id where it is the same refund",
    )
    return RefundResult.invalid(one.refund.origin_slug, error)
