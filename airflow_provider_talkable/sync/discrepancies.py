"""What is wrong with a refund, given what the ledger and Talkable know of it. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.referrals import JsonObject, ReferralStatus, referral_of_origin
from airflow_provider_talkable.protocol.rewards import KnownBy, Rewards, paid_rewards, payment_of
from airflow_provider_talkable.protocol.values import in_digits
from airflow_provider_talkable.sync.decisions import in_words
from airflow_provider_talkable.sync.entries import HAS_IT, Entry, History, Settlement
from airflow_provider_talkable.sync.rows import Row

_OPEN = (Outcome.FAILED, Outcome.UNCONFIRMED, Settlement.NOT_REFUNDED)
_UNDECIDED = (ReferralStatus.PENDING, ReferralStatus.FLAGGED)


class Kind(StrEnum):
    """What can be wrong with a refund."""

    MISSING = "missing"
    """The ledger does not know it, or Talkable shows or says that it does not have it."""

    UNSETTLED = "unsettled"
    """The ledger knows it, and not what happened to it; the next sync may settle it."""

    REFUSED = "refused"
    """It cannot be sent as it is, or Talkable has refused it."""

    DIFFERENT = "different"
    """Talkable received another amount, date or order, or counts another amount than was sent."""

    REWARDED = "rewarded"
    """The whole order was refunded, and its advocate has been paid."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Something that is wrong with a refund.

    :param kind: What.
    :param row: The refund, as the warehouse has it.
    :param message: The same in words.
    :param entry: What the ledger says of it.
    :param referral: What Talkable says of its referral, where it was asked.
    """

    kind: Kind
    row: Row
    message: str
    entry: Entry | None = None
    referral: JsonObject | None = None

    @property
    def rewards(self) -> Rewards | None:
        """What was paid for the order, in the shop's currency; ``None`` where Talkable was not asked."""
        if self.kind is not Kind.REWARDED or self.referral is None:
            return None
        return paid_rewards(self.referral)


def settled_entry(history: History) -> Entry | None:
    """The entry by which Talkable has the refund, if it has, and nothing newer is in doubt."""
    decisive = history.decisive
    if decisive is None or history.doubt or decisive.event not in HAS_IT:
        return None
    return decisive


def against_ledger(row: Row, history: History, *, is_doubtful_site: bool = False) -> list[Discrepancy]:
    """Compare a refund with what the ledger knows of its key.

    :param is_doubtful_site: Whether Talkable knows no order of the site.
    """
    decisive, newest = history.decisive, history.newest
    if row.problem:
        kind = Kind.REFUSED if row.problem is Outcome.INVALID else Kind.DIFFERENT
        return [Discrepancy(kind, row, row.message or "", newest)]
    if newest is None:
        return [Discrepancy(Kind.MISSING, row, "The ledger does not know this refund")]
    if history.doubt or decisive is None or decisive.event in _OPEN:
        entry = history.doubt or decisive or newest
        return [Discrepancy(Kind.UNSETTLED, row, _why(entry), entry)]
    if decisive.event in (Outcome.REJECTED, Outcome.NOT_COUNTED):
        return [Discrepancy(Kind.REFUSED, row, _why(decisive), decisive)]
    if decisive.event == Outcome.NOT_FOUND and is_doubtful_site:
        message = "Talkable knows no order of the site: are these its order numbers, is this the site?"
        return [Discrepancy(Kind.UNSETTLED, row, message, decisive)]
    if decisive.event == Outcome.NOT_FOUND:
        # Where Talkable has no order it has no referral, and nobody to reward.
        return []
    found = []
    if not decisive.is_about(row):
        message = (
            f"Talkable received {in_words(decisive)}; the warehouse has {in_words(row)} under the same "
            "refund_key"
        )
        found.append(Discrepancy(Kind.DIFFERENT, row, message, decisive))
    elif decisive.is_counted_otherwise:
        found.append(Discrepancy(Kind.DIFFERENT, row, _counted(decisive), decisive))
    if row.is_whole and decisive.payment.paid:
        found.append(Discrepancy(Kind.REWARDED, row, "The advocate was paid before the refund", decisive))
    return found


def is_to_be_asked(row: Row, entry: Entry | None) -> bool:
    """Whether Talkable may know more of a refund that the ledger has as settled: of a whole order, which
    is not known to belong to no referral.
    """
    if entry is None or row.problem or not row.is_whole:
        return False
    return entry.payment.known_by is not KnownBy.NO_REFERRAL


def against_talkable(row: Row, entry: Entry, referrals: Sequence[JsonObject]) -> Discrepancy | bool:
    """Compare a settled refund of a whole order with Talkable's referrals of who bought.

    :return: What is wrong; ``False`` if nothing is, ``True`` if the referrals do not tell.
    """
    if entry.referral_id is None and entry.origin_id is None:
        # The ledger does not know which is the order's. If all of them are in order, so is that one.
        return any(_complaint(referral) for referral in referrals)
    if entry.referral_id is None:
        referral = referral_of_origin(referrals, entry.origin_id)
        if referral is None:
            # The order belongs to no referral.
            return False
    else:
        referral = next((r for r in referrals if str(r.get("id")) == entry.referral_id), None)
    if referral is None:
        return True
    complaint = _complaint(referral)
    if complaint is None:
        return payment_of(referral).paid is None
    kind, message = complaint
    if kind is Kind.MISSING and not entry.is_whole:
        # Talkable was told of a part, which is wrong in another way, and leaves a referral pending.
        return False
    return Discrepancy(kind, row, message, entry, referral)


def _complaint(referral: JsonObject) -> tuple[Kind, str] | None:
    """What is wrong with the referral of an order that was refunded in whole."""
    status = referral.get("status")
    if status in _UNDECIDED:
        return Kind.MISSING, f"Talkable shows its referral as {status}: it does not have the refund"
    if payment_of(referral).paid:
        return Kind.REWARDED, "The order was refunded, and Talkable has paid the advocate"
    return None


def _counted(entry: Entry) -> str:
    counted, sent_subtotal = entry.counted_subtotal, entry.sent_subtotal
    return (
        f"Talkable counts {shown_amount(counted)} of the order as refunded, "
        f"of {shown_amount(sent_subtotal)} that were sent"
    )


def shown_amount(amount: Decimal | None) -> str:
    """An amount in words."""
    return "nothing" if amount is None else in_digits(amount)


def _why(entry: Entry) -> str:
    return f"The ledger says {entry.event}" + (f": {entry.error_message}" if entry.error_message else "")
