"""What "Origin has already been refunded" says of the refund that was refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from airflow_provider_talkable.protocol.outcomes import Outcome

NOT_COUNTED = (
    "Talkable has another refund of this order and refuses this one: look the order up in Talkable, and "
    "correct its refunded amount there"
)


@dataclass(frozen=True, slots=True)
class OtherRefund:
    """Another refund of the same order.

    :param is_whole: Whether it refunds the whole order.
    :param is_certain: Whether Talkable has it for certain.
    """

    is_whole: bool
    is_certain: bool = True


def outcome_of_refusal(
    *, is_whole: bool, may_be_its_own: bool = False, others: Iterable[OtherRefund] = ()
) -> Outcome:
    """Whether an order that "has already been refunded" was refunded by the refund that was refused.

    :param is_whole: Whether the refused refund is one of the whole order.
    :param may_be_its_own: Whether Talkable may have taken the very same refund before, from a request whose
        answer was lost.
    :param others: What is known of other refunds of the order.
    :return: ``already_refunded`` or ``not_counted``.
    """
    known = list(others)
    if any(other.is_whole and other.is_certain for other in known):
        # There is nothing left of the order that could be refunded besides.
        return Outcome.ALREADY_REFUNDED
    if known:
        # The refusal may be due to one of those parts.
        return Outcome.NOT_COUNTED
    return Outcome.ALREADY_REFUNDED if is_whole or may_be_its_own else Outcome.NOT_COUNTED
