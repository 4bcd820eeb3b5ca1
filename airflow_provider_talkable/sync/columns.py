"""The columns of the ledger, and what an entry says in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Boolean, Column, Integer, text

from airflow_provider_talkable.protocol.answers import counted_subtotal_of, order_subtotal_of
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.protocol.rewards import paid_rewards
from airflow_provider_talkable.sync.column_types import ExactText, amount_type, moment_type
from airflow_provider_talkable.sync.entries import OF_THE_ROW, SUBMITTED, Entry, History, Settlement
from airflow_provider_talkable.sync.rows import MAX_KEY, MAX_SITE, Row
from airflow_provider_talkable.sync.tables import added, escaped, storable

Values = dict[str, Any]
"""An entry to be written, by column."""
Key = tuple[str, str]
"""A site's slug, and a refund's key or an order's slug."""

TASK = ("dag_id", "run_id", "task_id", "map_index")
"""The columns that say which task wrote an entry, whichever try of it."""
OF_OUTCOMES = text(f"event <> '{SUBMITTED}'")
"""The condition that an entry says what happened to a refund; orders are looked up among these only."""
READ = tuple(name for name in Entry.__dataclass_fields__ if name != "is_of_this_task")
"""The columns that :func:`entry_of` takes."""

_FOUR_DECIMALS = Decimal("0.0001")
_MOMENTS = ("refunded_at", "sending_until")
_AMOUNTS = ("refund_subtotal", "order_subtotal", "counted_subtotal", "sent_subtotal", "reward_amount")
_OF_A_ROW = (
    "site_slug",
    "refund_key",
    "origin_slug",
    "refunded_at",
    "refund_subtotal",
    "order_subtotal",
)
_RESTATED = (
    "error_message",
    "referral_id",
    "referral_status",
    "ad_rewarded",
    "partially_refunded",
    "counted_subtotal",
    "sent_subtotal",
    "origin_id",
    "reward_paid",
    "reward_known_by",
    "reward_amount",
    "void_outcome",
)


def columns() -> list[Column[Any]]:
    """The columns of the ledger's table."""
    return [
        # One index serves the look-up of keys, and names the newest entry of each; some warehouses know
        # no other than a primary key.
        Column("site_slug", ExactText(MAX_SITE), primary_key=True),
        Column("refund_key", ExactText(MAX_KEY), primary_key=True),
        Column("entry_id", ExactText(24), primary_key=True),
        Column("logged_at", moment_type(), nullable=False),
        Column("event", ExactText(32), nullable=False),
        Column("origin_slug", ExactText(), nullable=False),
        Column("refunded_at", moment_type()),
        Column("refund_subtotal", amount_type()),
        Column("http_status", Integer),
        Column("error_message", ExactText()),
        Column("attempts", Integer),
        Column("referral_id", ExactText(64)),
        Column("referral_status", ExactText(32)),
        Column("ad_rewarded", Boolean),
        added(Column("reward_paid", Boolean)),
        added(Column("reward_known_by", ExactText(32))),
        added(Column("reward_amount", amount_type())),
        added(Column("void_outcome", ExactText(32))),
        added(Column("order_subtotal", amount_type())),
        added(Column("counted_subtotal", amount_type())),
        added(Column("partially_refunded", Boolean)),
        added(Column("sent_subtotal", amount_type())),
        added(Column("origin_id", ExactText(64))),
        added(Column("sending_until", moment_type())),
        added(Column("settles", ExactText())),
        added(Column("settled_by", ExactText())),
        added(Column("settled_note", ExactText())),
        *task_columns(),
    ]


def task_columns() -> list[Column[Any]]:
    """The columns that say which run of which task has written; named as :class:`TaskRun`'s fields."""
    return [
        Column("dag_id", ExactText(250)),
        Column("run_id", ExactText(250)),
        Column("task_id", ExactText(250)),
        Column("map_index", Integer),
        Column("try_number", Integer),
    ]


def values_of(row: Row, event: str) -> Values:
    """What every entry says of a refund."""
    return {
        "logged_at": datetime.now(UTC),
        "event": event,
        "site_slug": row.site_slug,
        "refund_key": row.refund_key,
        "origin_slug": row.origin_slug,
        "refunded_at": row.refunded_at,
        "refund_subtotal": row.refund_subtotal,
        "order_subtotal": row.order_subtotal,
    }


def row_of(entry: Values) -> Row:
    """The refund that an entry is about; of one about its row, with that."""
    problem = Outcome(entry["event"]) if entry["event"] in OF_THE_ROW else None
    message = entry["error_message"] if problem else None
    return Row(**{name: entry[name] for name in _OF_A_ROW}, problem=problem, message=message)


def simpler(entry: Values) -> Iterator[Values]:
    """An entry with less and less of what it says beside the refund and what happened to it."""
    if message := entry.get("error_message"):
        yield entry | {"error_message": escaped(message)}
    kept = ("entry_id", "logged_at", "event", *_OF_A_ROW, "http_status", "attempts")
    yield {name: entry.get(name) for name in kept}


def values_of_submitted(row: Row, longest_sending: timedelta) -> Values:
    """What an entry says of a refund that is about to be sent.

    :param longest_sending: For how long its run may be sending it.
    """
    return values_of(row, SUBMITTED) | {"sending_until": datetime.now(UTC) + longest_sending}


def values_of_settlement(row: Row, event: Settlement, history: History, by: str, note: str) -> Values:
    """What an entry says of a refund that a person has looked up in Talkable.

    :param history: What that person knew; its doubts are at an end.
    """
    return values_of(row, event.value) | {
        "attempts": 0,
        "settles": " ".join(doubt.entry_id for doubt in (*history.doubts, *history.noticed)) or None,
        "settled_by": storable(by),
        "settled_note": storable(note),
    }


def values_of_outcome(row: Row, result: RefundResult, sent_subtotal: Decimal | None) -> Values:
    """What an entry says of what happened to a refund.

    :param sent_subtotal: What was sent of the order in all, this refund included.
    """
    referral = result.referral or {}
    referral_id = referral.get("id")
    status = referral.get("status")
    origin_id = (result.origin or {}).get("id", referral.get("referred_origin_id"))
    counted, partially = counted_subtotal_of(result.origin)
    payment = result.payment
    return values_of(row, result.outcome.value) | {
        "http_status": result.http_status,
        "error_message": storable(result.error_message),
        "attempts": result.attempts,
        "referral_id": storable(referral_id, 64),
        "referral_status": storable(status, 32),
        "ad_rewarded": result.ad_rewarded,
        "order_subtotal": row.order_subtotal or order_subtotal_of(result.origin, result.referral),
        "partially_refunded": partially,
        "counted_subtotal": counted,
        "sent_subtotal": sent_subtotal,
        "origin_id": storable(origin_id, 64),
        "reward_paid": payment.paid,
        "reward_known_by": payment.known_by and payment.known_by.value,
        "reward_amount": (paid_rewards(referral).money or None) if payment.paid else None,
        "void_outcome": result.void_outcome and str(result.void_outcome),
    }


def values_of_restated(row: Row, entry: Entry) -> Values:
    """What an entry says that repeats what an earlier one has settled; no ``attempts``, as it took none."""
    return values_of(row, entry.event) | {name: getattr(entry, name) for name in _RESTATED}


def in_utc(moment: datetime) -> datetime:
    """A moment that was read: not every database keeps the offset, and what was written is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def entry_of(values: Iterable[Any]) -> Entry:
    """An entry that was read: the columns of :data:`READ`, and whether this task wrote it."""
    *read_values, is_of_this_task = values
    read = dict(zip(READ, read_values, strict=True))
    for name in _MOMENTS:
        if read[name] is not None:
            read[name] = in_utc(read[name])
    for name in _AMOUNTS:
        read[name] = exact(read[name])
    return Entry(**read, is_of_this_task=bool(is_of_this_task))


def exact(value: object) -> Decimal | None:
    """An amount that was read: some databases keep it as a float."""
    if value is None:
        return None
    amount = value if isinstance(value, Decimal) else Decimal(repr(value))
    return amount.quantize(_FOUR_DECIMALS)
