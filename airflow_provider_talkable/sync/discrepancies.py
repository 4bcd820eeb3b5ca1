"""What is wrong with a refund, given what the ledger and Talkable know of it. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.referrals import JsonObject, ReferralStatus
from airflow_provider_talkable.sync.decisions import Entry, History, told
from airflow_provider_talkable.sync.rows import Row


class Kind(StrEnum):
    """What can be wrong with a refund."""

    MISSING = "missing"
    """The ledger does not know it, or Talkable shows that it does not have it."""

    UNSETTLED = "unsettled"
    """The ledger knows it, and not what became of it; the next sync may settle it."""

    REFUSED = "refused"
    """It cannot be sent as it is, or Talkable has refused it."""

    DIFFERENT = "different"
    """Talkable was told another amount, date or order."""

    REWARDED = "rewarded"
    """The whole order was refunded, and its advocate has been rewarded."""


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
    def reward(self) -> Decimal | None:
        """What the advocate was paid, in the shop's currency; ``None`` where Talkable was not asked."""
        if self.kind is not Kind.REWARDED or self.referral is None:
            return None
        return paid(self.referral)


def settled_entry(history: History) -> Entry | None:
    """The entry that says that Talkable has the refund, if it has, and nothing newer is in doubt."""
    standing = history.standing
    if standing is None or history.doubt or not Outcome(standing.event).is_success:
        return None
    return standing


def against_ledger(row: Row, history: History) -> list[Discrepancy]:
    """Compare a refund with what the ledger knows of its key."""
    standing, newest = history.standing, history.newest
    if row.problem:
        kind = Kind.REFUSED if row.problem is Outcome.INVALID else Kind.DIFFERENT
        return [Discrepancy(kind, row, row.message or "", newest)]
    if newest is None:
        return [Discrepancy(Kind.MISSING, row, "The ledger does not know this refund")]
    if history.doubt or standing is None or standing.event in (Outcome.FAILED, Outcome.UNCONFIRMED):
        entry = history.doubt or standing or newest
        return [Discrepancy(Kind.UNSETTLED, row, _why(entry), entry)]
    if standing.event == Outcome.REJECTED:
        return [Discrepancy(Kind.REFUSED, row, _why(standing), standing)]
    if standing.event == Outcome.NOT_FOUND:
        # Where Talkable has no order it has no referral, and nobody to reward.
        return []
    found = []
    if not standing.is_about(row):
        message = (
            f"Talkable was told {told(standing)}; the warehouse has {told(row)} under the same refund_key"
        )
        found.append(Discrepancy(Kind.DIFFERENT, row, message, standing))
    if row.refund_subtotal is None and standing.ad_rewarded:
        found.append(Discrepancy(Kind.REWARDED, row, "The advocate was rewarded before the refund", standing))
    return found


def is_to_be_asked(row: Row, entry: Entry | None) -> bool:
    """Whether Talkable may know more of a refund that the ledger has as settled: of a whole order, which
    is not known to belong to no referral.
    """
    if entry is None or row.problem or row.refund_subtotal is not None:
        return False
    return not (entry.referral_id is None and entry.ad_rewarded is False)


def against_talkable(row: Row, entry: Entry, referrals: Sequence[JsonObject]) -> Discrepancy | bool:
    """Compare a settled refund of a whole order with Talkable's referrals of who bought.

    :return: What is wrong; ``False`` if nothing is, ``True`` if the referrals do not tell.
    """
    if entry.referral_id is None:
        # The ledger does not know which is the order's. If all of them are in order, so is that one.
        return any(_complaint(referral) for referral in referrals)
    referral = next((r for r in referrals if str(r.get("id")) == entry.referral_id), None)
    if referral is None:
        return True
    complaint = _complaint(referral)
    if complaint is None:
        return False
    kind, message = complaint
    if kind is Kind.MISSING and entry.refund_subtotal is not None:
        # Talkable was told of a part, which is wrong in another way, and leaves a referral pending.
        return False
    return Discrepancy(kind, row, message, entry, referral)


def paid(referral: JsonObject) -> Decimal:
    """The sum of the advocate's rewards that are paid."""
    rewards = referral.get("advocate_rewards")
    amounts: Iterable[object] = (
        reward.get("amount")
        for reward in (rewards if isinstance(rewards, list) else [])
        if isinstance(reward, dict) and str(reward.get("status")).lower() == "paid"
    )
    return sum((_amount(amount) for amount in amounts), Decimal(0))


def _complaint(referral: JsonObject) -> tuple[Kind, str] | None:
    """What is wrong with the referral of an order that was refunded in whole."""
    if referral.get("ad_rewarded") is True:
        return Kind.REWARDED, "The order was refunded, and Talkable has rewarded the advocate"
    if referral.get("status") == ReferralStatus.PENDING:
        return Kind.MISSING, "Talkable shows its referral as pending: it does not have the refund"
    return None


def _amount(value: object) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return Decimal(0)
    return amount if amount.is_finite() else Decimal(0)


def _why(entry: Entry) -> str:
    return f"The ledger says {entry.event}" + (f": {entry.error_message}" if entry.error_message else "")
