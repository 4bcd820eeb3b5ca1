"""What to do with a row, given what the ledger knows of its key. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.referrals import ReferralOutcome
from airflow_provider_talkable.protocol.refund import is_whole
from airflow_provider_talkable.protocol.rewards import (
    NO_REFERRAL,
    UNKNOWN,
    KnownBy,
    Payment,
    is_late,
    payment_of,
)
from airflow_provider_talkable.sync.rows import Row

_CENT = Decimal("0.01")

TICKS = 16
"""How many digits of an entry's id say when it was written; the rest says by which run."""

SUBMITTED = "submitted"
"""The event that is written before a refund is sent."""

RESENDABLE = frozenset(
    {Outcome.NOT_FOUND, Outcome.NOT_COUNTED, Outcome.REJECTED, Outcome.UNCONFIRMED, Outcome.CONFLICT}
)
"""The outcomes that hold a refund back until ``resend`` names them."""

# They say that Talkable did not act: whatever was known before still holds.
_NOTHING_HAPPENED = frozenset({Outcome.ABORTED, Outcome.THROTTLED})
# They say that Talkable looked at it and does not have it.
_NOT_TAKEN = frozenset({Outcome.NOT_FOUND, Outcome.NOT_COUNTED, Outcome.REJECTED})
# They say that its referral is still to be voided.
_NOT_VOIDED = frozenset({ReferralOutcome.THROTTLED, ReferralOutcome.FAILED, ReferralOutcome.ABORTED})
# They say something of a row, and nothing of what Talkable has.
_OF_THE_ROW = frozenset({Outcome.INVALID, Outcome.CONFLICT})


@dataclass(frozen=True, slots=True)
class Entry:
    """What a decision needs of an entry of the ledger; its fields are named as the ledger's columns.

    :param attempts: How many requests it took; ``None``: it repeats what an earlier entry has settled.
    :param is_of_this_task: Whether this try or an earlier one of the same task in the same DAG run
        wrote it.
    """

    entry_id: str
    event: str
    origin_slug: str
    refunded_at: datetime | None = None
    refund_subtotal: Decimal | None = None
    error_message: str | None = None
    attempts: int | None = 0
    referral_id: str | None = None
    referral_status: str | None = None
    ad_rewarded: bool | None = None
    order_subtotal: Decimal | None = None
    partially_refunded: bool | None = None
    counted_subtotal: Decimal | None = None
    sent_subtotal: Decimal | None = None
    origin_id: str | None = None
    reward_paid: bool | None = None
    reward_known_by: str | None = None
    void_outcome: str | None = None
    is_of_this_task: bool = False

    @property
    def writer(self) -> str:
        """Which run wrote it."""
        return self.entry_id[TICKS:]

    @property
    def ticks(self) -> int:
        """When it was written; an entry about another one sorts right after it, one tick later."""
        return int(self.entry_id[:TICKS], 16)

    @property
    def is_notice(self) -> bool:
        """Whether a run says of another one's ``submitted`` that it is in doubt; it sent nothing itself."""
        return self.event == Outcome.UNCONFIRMED and self.attempts == 0

    @property
    def is_whole(self) -> bool:
        """Whether it refunded the whole order."""
        return is_whole(self.refund_subtotal, self.order_subtotal)

    @property
    def payment(self) -> Payment:
        """Whether the advocate was paid for the order, as far as it was known then."""
        return payment_of_entry(
            self.reward_paid, self.reward_known_by, self.referral_id, self.referral_status, self.ad_rewarded
        )

    @property
    def late(self) -> bool | None:
        """Whether the refund came too late; ``None`` if that could not be told."""
        return is_late(is_whole=self.is_whole, paid=self.payment.paid)

    @property
    def is_counted_otherwise(self) -> bool:
        """Whether Talkable counts another amount as refunded than was sent in all."""
        is_contradicted = self.is_whole and bool(self.partially_refunded)
        return is_contradicted or counts_otherwise(self.counted_subtotal, self.sent_subtotal)

    def is_about(self, row: Row) -> bool:
        """Whether the row is the same refund, to the amount and the date."""
        is_same_amount = self.refund_subtotal == row.refund_subtotal or (self.is_whole and row.is_whole)
        return is_same_amount and (self.origin_slug, self.refunded_at) == (row.origin_slug, row.refunded_at)


def payment_of_entry(
    paid: bool | None,
    known_by: str | None,
    referral_id: str | None,
    referral_status: str | None,
    ad_rewarded: bool | None,
) -> Payment:
    """Whether the advocate was paid, by the columns of an entry; some are older than the first two."""
    if known_by is not None:
        return Payment(None if paid is None else bool(paid), KnownBy(known_by))
    if referral_id is None:
        return NO_REFERRAL if ad_rewarded is not None and not ad_rewarded else UNKNOWN
    rewarded = None if ad_rewarded is None else bool(ad_rewarded)
    return payment_of({"status": referral_status, "ad_rewarded": rewarded})


def counts_otherwise(counted: Decimal | None, told: Decimal | None) -> bool:
    """Whether an amount that Talkable shows differs from another one, by more than its rounding."""
    return counted is not None and told is not None and abs(counted - told) >= _CENT


@dataclass(frozen=True, slots=True)
class History:
    """What the entries of one key come to.

    :param standing: The newest that says what Talkable made of it.
    :param doubt: The first ``submitted`` after it, if nothing says what became of that.
    :param newest: The newest entry of all.
    """

    standing: Entry | None = None
    doubt: Entry | None = None
    newest: Entry | None = None

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        """Read the entries of one key, oldest first."""
        standing = newest = None
        doubts: dict[str, Entry] = {}
        # A notice stands until the run that is in doubt says itself that it sent nothing, before it or after.
        notices: dict[str, Entry] = {}
        unsent: set[int] = set()
        for newest in entries:
            if newest.event == SUBMITTED:
                doubts[newest.writer] = newest
            elif newest.event in _NOTHING_HAPPENED or newest.attempts is None:
                # Of what another run may be sending at this time it says nothing.
                notices.pop(newest.writer, None)
                if doubt := doubts.pop(newest.writer, None):
                    unsent.add(doubt.ticks)
            elif newest.is_notice and newest.ticks - 1 in unsent:
                continue
            elif newest.is_notice and doubts:
                notices.update(dict.fromkeys(doubts, newest))
                doubts.clear()
            elif newest.event not in _OF_THE_ROW:
                standing = newest
                doubts.clear()
                notices.clear()
        standing = next(iter(notices.values()), standing)
        return cls(standing, next(iter(doubts.values()), None), newest)


@dataclass(frozen=True, slots=True)
class Send:
    """Send it."""


@dataclass(frozen=True, slots=True)
class Skip:
    """It is settled: nothing is sent.

    :param entry: What settled it. Of an entry of the same task in the same DAG run the outcome
        counts as this run's: a retry must not turn a failure into a success.
    :param hidden_by: The newest entry, if it says less, as that of a run that gave way, or of a row that was
        mended since: the ledger is told again what settled it.
    """

    entry: Entry
    hidden_by: Entry | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Nothing is sent, and the ledger is told why.

    :param doubt: The ``submitted`` that it is about. If its run still lives, what that writes counts.
    """

    outcome: Outcome
    message: str
    doubt: Entry | None = None


Decision = Send | Skip | Note

_IN_DOUBT = (
    "Another run was stopped before it knew whether Talkable took this partial refund, or still waits for "
    "the answer, and a repeat might be counted again: look the order up in Talkable and, if it is not "
    "refunded there, name 'unconfirmed' in resend of a new DAG run"
)


def decide(
    row: Row,
    history: History,
    *,
    resend: AbstractSet[Outcome] = frozenset(),
    writer: str = "",
    is_doubtful_site: bool = False,
    void_referral: bool = False,
) -> Decision:
    """Decide what to do with a row.

    :param row: The row.
    :param history: What the ledger knows of its key.
    :param resend: Outcomes to try again although they are settled or held.
    :param writer: This run, where it is resumed: what it has settled before is not tried again, even
        if it failed.
    :param is_doubtful_site: Whether Talkable knows no order of the site, so that none is settled by that.
    :param void_referral: Whether referrals are voided: a whole refund whose referral is still to be voided
        is sent again, which Talkable answers with "already refunded".
    """
    standing, doubt, newest = history.standing, history.doubt, history.newest
    if row.problem:
        return _note_once(Note(row.problem, row.message or ""), newest)
    if doubt:
        if not doubt.is_about(row):
            return _conflict(row, doubt, newest, resend)
        if row.is_whole:
            return Send()
        return Note(Outcome.UNCONFIRMED, _IN_DOUBT, doubt)
    if standing is None:
        return Send()
    if standing.writer == writer:
        return Skip(standing)
    if is_doubtful_site and standing.event == Outcome.NOT_FOUND:
        return Send()
    # Whoever names it has looked the order up before this DAG run, not between two tries of its task.
    is_looked_up = standing.event != Outcome.UNCONFIRMED or not standing.is_of_this_task
    again = standing.event in resend and is_looked_up
    if not (standing.is_about(row) or (again and standing.event in _NOT_TAKEN)):
        return _conflict(row, standing, newest, resend)
    is_to_be_voided = void_referral and row.is_whole and standing.void_outcome in _NOT_VOIDED
    if again or is_to_be_voided or standing.event == Outcome.FAILED:
        return Send()
    is_hidden = newest is not None and newest.event in _NOTHING_HAPPENED | _OF_THE_ROW
    return Skip(standing, hidden_by=newest if is_hidden else None)


def _conflict(row: Row, sent: Entry, newest: Entry | None, resend: AbstractSet[Outcome]) -> Decision:
    if Outcome.CONFLICT in resend:
        return Send()
    message = (
        f"This refund_key was sent before with {told(sent)} and came out as {sent.event}; the row now says "
        f"{told(row)}, and was not sent: a further refund needs a refund_key of its own"
    )
    return _note_once(Note(Outcome.CONFLICT, message), newest)


def _note_once(note: Note, newest: Entry | None) -> Decision:
    """A problem that the ledger has already is not written there again with each run."""
    if newest and (newest.event, newest.error_message) == (note.outcome, note.message):
        return Skip(newest)
    return note


def told(refund: Row | Entry) -> str:
    """What Talkable is told of a refund, in words."""
    subtotal, moment = refund.refund_subtotal, refund.refunded_at
    amount = "the whole order" if subtotal is None or refund.is_whole else f"{subtotal.normalize():f}"
    date = "no date" if moment is None else moment.isoformat(timespec="seconds")
    return f"{amount}, {date}, for {refund.origin_slug}"
