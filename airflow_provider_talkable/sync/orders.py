"""An order's refunds together: what was sent of it in all, and what a refusal says. Pure rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from airflow_provider_talkable.protocol.answers import order_subtotal_of
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.refund import is_whole
from airflow_provider_talkable.protocol.refusals import OtherRefund, outcome_of_refusal
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.entries import HAS_IT, SUBMITTED, Entry
from airflow_provider_talkable.sync.rows import Row


@dataclass(frozen=True, slots=True)
class Taken:
    """A refund of an order that Talkable has, or may have; its fields are named as the ledger's columns.

    :param event: ``refunded``, ``already_refunded``, ``settled_refunded`` or ``unconfirmed``.
    """

    refund_key: str
    event: str
    refund_subtotal: Decimal | None = None
    order_subtotal: Decimal | None = None

    @property
    def is_certain(self) -> bool:
        """Whether Talkable, or whoever has looked there, says that it has it."""
        return self.event in HAS_IT

    @property
    def is_whole(self) -> bool:
        """Whether it refunded the whole order."""
        return is_whole(self.refund_subtotal, self.order_subtotal)

    @property
    def as_other(self) -> OtherRefund:
        """As a refusal is judged by it."""
        return OtherRefund(self.is_whole, self.is_certain)


def others_than(row: Row, taken: Iterable[Taken]) -> list[Taken]:
    """Those that have another key."""
    return [other for other in taken if other.refund_key != row.refund_key]


def judged(row: Row, result: RefundResult, own: Entry | None, others: Sequence[Taken]) -> RefundResult:
    """A result, now that it is known what else the ledger knows of the order.

    :param own: The entry of the same key that was there before it was sent.
    :param others: The order's other refunds.
    """
    if result.outcome not in (Outcome.ALREADY_REFUNDED, Outcome.NOT_COUNTED):
        return result
    is_repeat = own is not None and own.is_about(row)
    if own and is_repeat and own.event in (Outcome.REFUNDED, Outcome.ALREADY_REFUNDED):
        return result.refused_as(Outcome.ALREADY_REFUNDED)
    may_be_its_own = own is not None and is_repeat and own.event in (SUBMITTED, Outcome.UNCONFIRMED)
    outcome = outcome_of_refusal(
        is_whole=row.is_whole, may_be_its_own=may_be_its_own, others=[other.as_other for other in others]
    )
    return result.refused_as(outcome)


def sent_in_all(row: Row, result: RefundResult, others: Sequence[Taken]) -> Decimal | None:
    """What was sent of an order in all, this refund included; ``None``: it is unknown.

    A whole refund, and parts that add up to more, count as the order's subtotal.
    """
    whole = row.order_subtotal or order_subtotal_of(result.origin, result.referral)
    answered = order_subtotal_of(result.origin, result.referral)
    if row.is_whole:
        return answered if answered is not None else row.order_subtotal
    if not all(other.is_certain for other in others):
        # Whether Talkable counts it is what nobody knows.
        return None
    if any(other.is_whole for other in others):
        return whole
    total = (row.refund_subtotal or Decimal(0)) + sum(
        (other.refund_subtotal or Decimal(0) for other in others), Decimal(0)
    )
    return total if whole is None else min(total, whole)
