"""The entries of the ledger, and what those of one key result in. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.refund import is_whole
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.protocol.rewards import (
    NO_REFERRAL,
    UNKNOWN,
    KnownBy,
    Payment,
    is_late,
    payment_of,
)
from airflow_provider_talkable.sync.liveness import longest_sending
from airflow_provider_talkable.sync.rows import Row

_CENT = Decimal("0.01")

TICKS = 16
"""How many digits of an entry's id say when it was written; the rest says by which run."""

SUBMITTED = "submitted"
"""The event that is written before a refund is sent."""


class Settlement(StrEnum):
    """The event that a person has looked a refund up in Talkable, and says what is there."""

    REFUNDED = "settled_refunded"
    """Talkable has it."""

    NOT_REFUNDED = "settled_not_refunded"
    """Talkable does not have it: the next run sends it."""


SETTLED = frozenset(event.value for event in Settlement)
"""The events that a person has looked a refund up."""

HAS_IT = frozenset({Outcome.REFUNDED.value, Outcome.ALREADY_REFUNDED.value, Settlement.REFUNDED.value})
"""The events by which Talkable, or whoever has looked there, says that it has a refund."""

NOTHING_HAPPENED = frozenset({Outcome.ABORTED, Outcome.THROTTLED})
"""The outcomes that say that Talkable did not act: whatever was known before still holds."""

OF_THE_ROW = frozenset({Outcome.INVALID, Outcome.CONFLICT})
"""The outcomes that say something of a row, and nothing of what Talkable has."""

OPEN = frozenset(
    {
        SUBMITTED,
        Outcome.UNCONFIRMED.value,
        Outcome.FAILED.value,
        Outcome.THROTTLED.value,
        Outcome.ABORTED.value,
        Settlement.NOT_REFUNDED.value,
    }
)
"""The events after which a refund is still to reach Talkable, or may be there already."""

CONCLUSIVE = frozenset(
    outcome.value
    for outcome in Outcome
    if outcome not in NOTHING_HAPPENED | OF_THE_ROW | {Outcome.UNCONFIRMED}
)
"""The outcomes that say what Talkable made of a refund, whatever was known before."""

# What is read of older entries too: what Talkable has of an order, whether it ever took a refund of the site,
# how many of its orders it does not know, what a person has seen, what came too late.
_FACTS = HAS_IT | SETTLED | {Outcome.UNCONFIRMED.value, Outcome.NOT_FOUND.value}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a decision needs of an entry of the ledger; its fields are named as the ledger's columns.

    :param attempts: How many requests it took; ``None``: it repeats what an earlier entry has settled.
    :param settles: In a settlement, the ids of the entries ``submitted`` whose doubt it ends.
    :param sending_until: When the run that wrote ``submitted`` has stopped sending, whatever happens.
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
    reward_amount: Decimal | None = None
    void_outcome: str | None = None
    settles: str | None = None
    sending_until: datetime | None = None
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
    def written_at(self) -> datetime:
        """When it was written, by its id."""
        return datetime.fromtimestamp(self.ticks / 1e9, UTC)

    @property
    def is_notice(self) -> bool:
        """Whether a run says of another one's ``submitted`` that it is in doubt; it sent nothing itself."""
        return self.event == Outcome.UNCONFIRMED and self.attempts == 0

    @property
    def is_conclusive(self) -> bool:
        """Whether no decision needs an entry before it, once no run lives that wrote one of those.

        One that repeats an earlier entry took no attempts, and neither did a notice.
        """
        is_doubt_of_its_own = self.event == Outcome.UNCONFIRMED and bool(self.attempts)
        return self.attempts is not None and (self.event in CONCLUSIVE or is_doubt_of_its_own)

    @property
    def sent_until(self) -> datetime:
        """Until when the run that wrote it may be sending, also where an earlier version wrote it."""
        if self.sending_until is not None:
            return self.sending_until
        return self.written_at + longest_sending()

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
        """Whether the refund is late; ``None`` if that is unknown."""
        return is_late(is_whole=self.is_whole, paid=self.payment.paid)

    @property
    def is_counted_otherwise(self) -> bool:
        """Whether Talkable counts another amount as refunded than was sent in all."""
        is_contradicted = self.is_whole and bool(self.partially_refunded)
        return is_contradicted or counts_otherwise(self.counted_subtotal, self.sent_subtotal)

    @property
    def result(self) -> RefundResult:
        """The outcome it has, as a result of no requests; of the referral it knows a few facts."""
        facts = {"id": self.referral_id, "status": self.referral_status, "ad_rewarded": self.ad_rewarded}
        return RefundResult(
            self.origin_slug,
            # Whoever has looked it up says that Talkable had it before.
            Outcome.ALREADY_REFUNDED if self.event == Settlement.REFUNDED else Outcome(self.event),
            referral=facts if self.referral_id or self.referral_status else None,
            error_message=self.error_message,
            void_outcome=self.void_outcome,
            is_whole=self.is_whole,
            known_payment=self.payment,
        )

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
    """What the entries of one key result in.

    :param decisive: The newest that says what Talkable made of it.
    :param doubts: Each run's ``submitted`` after it, if nothing says what happened to that.
    :param noticed: The doubts of which another run has said that they are: the decisive entry is its notice.
    :param newest: The newest entry of all.
    :param unanswered: Each run's ``submitted`` after which that run itself has written nothing; it may be
        alive whatever others have written.
    """

    decisive: Entry | None = None
    doubts: tuple[Entry, ...] = ()
    newest: Entry | None = None
    unanswered: tuple[Entry, ...] = ()
    noticed: tuple[Entry, ...] = ()

    @property
    def doubt(self) -> Entry | None:
        """The first of the doubts."""
        return self.doubts[0] if self.doubts else None

    def sent_until(self, now: datetime) -> datetime | None:
        """Until when a run may be sending it; ``None``: none is."""
        until = max((entry.sent_until for entry in self.unanswered), default=now)
        return until if until > now else None

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        """Read the entries of one key, oldest first."""
        decisive = newest = None
        doubts: dict[str, Entry] = {}
        unanswered: dict[str, Entry] = {}
        # A notice stands until the run that is in doubt says itself that it sent nothing, before it or after.
        notices: dict[str, tuple[Entry, Entry]] = {}
        # The doubts that take no notice any more: runs that meet may each write one.
        explained: set[int] = set()
        for newest in entries:
            if newest.event == SUBMITTED:
                doubts[newest.writer] = unanswered[newest.writer] = newest
                continue
            unanswered.pop(newest.writer, None)
            if newest.event in NOTHING_HAPPENED or newest.attempts is None:
                # Of what another run may be sending at this time it says nothing.
                notices.pop(newest.writer, None)
                if doubt := doubts.pop(newest.writer, None):
                    explained.add(doubt.ticks)
            elif newest.is_notice and newest.ticks - 1 in explained:
                continue
            elif newest.is_notice and doubts:
                notices |= {writer: (doubt, newest) for writer, doubt in doubts.items()}
                explained.update(doubt.ticks for doubt in doubts.values())
                doubts.clear()
            elif newest.event in SETTLED:
                decisive = newest
                # Of a run that began after the refund was looked up it says nothing.
                ended = (newest.settles or "").split()
                doubts = {writer: doubt for writer, doubt in doubts.items() if doubt.entry_id not in ended}
                notices = {writer: both for writer, both in notices.items() if both[0].entry_id not in ended}
            elif newest.event not in OF_THE_ROW:
                decisive = newest
                doubts.clear()
                notices.clear()
        noticed = tuple(doubt for doubt, _ in notices.values())
        decisive = next((notice for _, notice in notices.values()), decisive)
        return cls(decisive, tuple(doubts.values()), newest, tuple(unanswered.values()), noticed)


def superseded(entries: Sequence[Entry]) -> list[Entry]:
    """Those of one key's entries that nothing needs any more.

    They lie before the newest conclusive one. Of those, the newest of each event that is a fact about an
    order is kept all the same.

    :param entries: Oldest first; all of them old enough for no run to write about them.
    """
    last = max((number for number, entry in enumerate(entries) if entry.is_conclusive), default=0)
    facts = {_fact(entry): entry for entry in entries if entry.event in _FACTS}
    return [entry for entry in entries[:last] if facts.get(_fact(entry)) is not entry]


def _fact(entry: Entry) -> tuple[str, str, bool, bool]:
    return entry.origin_slug, entry.event, entry.attempts is None, entry.late is True
