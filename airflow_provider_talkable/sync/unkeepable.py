"""Rows that the ledger's database cannot keep: which they are, and what it can keep of them. Pure rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from airflow_provider_talkable.protocol.errors import InvalidRefund, LedgerValueError
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.rows import UNKNOWN_SITE, Row, digest
from airflow_provider_talkable.sync.tables import escaped

T = TypeVar("T")

_SHORT = 16  # characters, which any column of a text takes
_TEXTS = ("origin_slug", "refund_key", "site_slug")
_FIELDS = (*_TEXTS, "refund_subtotal", "order_subtotal", "refunded_at")


def sift(items: Sequence[T], call: Callable[[Sequence[T]], object]) -> list[tuple[T, LedgerValueError]]:
    """Call with all of them or, where that fails for a value, with each half, until it is a single one.

    :param call: What either does all of its work or none.
    :return: Those for which it fails by themselves, and how.
    """
    refused: list[tuple[T, LedgerValueError]] = []
    parts = [items]
    while parts:
        part = parts.pop()
        try:
            call(part)
        except LedgerValueError as error:
            if len(part) == 1:
                refused.append((part[0], error))
            else:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
    return refused


def variants(row: Row, reason: str) -> Iterator[Row]:
    """The row as an invalid one, first without one of its values, then without any of them.

    Whichever of these can be kept shows which value cannot. What replaces a value is the same in each run.

    :param reason: The database's own words.
    """
    groups: list[tuple[str, ...]] = []
    for field in _FIELDS:
        # A slug is often the key as well.
        if field == "refund_key" and row.refund_key == row.origin_slug:
            continue
        alike = field == "origin_slug" and row.refund_key == row.origin_slug
        if getattr(row, field) is not None:
            groups.append(("origin_slug", "refund_key") if alike else (field,))
    yield from (_without(row, group, reason) for group in groups)
    yield _without(row, [field for group in groups for field in group], reason)


def _without(row: Row, fields: Sequence[str], reason: str) -> Row:
    kept: dict[str, Any] = {field: None for field in fields if field not in _TEXTS}
    if "origin_slug" in fields:
        kept["origin_slug"] = escaped(row.origin_slug)[:_SHORT]
    if "refund_key" in fields:
        kept["refund_key"] = digest({"refund_key": row.refund_key})
    if "site_slug" in fields:
        kept["site_slug"] = UNKNOWN_SITE
    return replace(
        row,
        problem=row.problem or Outcome.INVALID,
        message=escaped(row.message or _said(row, fields, reason)),
        **kept,
    )


def _said(row: Row, fields: Sequence[str], reason: str) -> str:
    values = {field: getattr(row, field) for field in fields}
    if values.get("refund_key") == row.origin_slug:
        del values["refund_key"]
    error = InvalidRefund.of(
        ", ".join(values),
        tuple(values.values()) if len(values) > 1 else next(iter(values.values())),
        f"the ledger's database cannot keep it ({reason}); change it in the query, or give ledger_conn_id a "
        "database that can, e.g. one in UTF-8",
    )
    # As the ledger keeps it.
    return escaped(str(error))
