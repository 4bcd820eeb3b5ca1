"""What to do with a row, given what the ledger knows of its key. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.rows import Row

TICKS = 16
"""How many digits of an entry's id say when it was written; the rest says by which run."""

SUBMITTED = "submitted"
"""The event that is written before a refund is sent."""

RESENDABLE = frozenset({Outcome.NOT_FOUND, Outcome.REJECTED, Outcome.UNCONFIRMED, Outcome.CONFLICT})
"""The outcomes that hold a refund back until ``resend`` names them."""

# They say that Talkable did not act: whatever was known before still holds.
_NOTHING_HAPPENED = frozenset({Outcome.ABORTED, Outcome.THROTTLED})
# They say that Talkable looked at it and does not have it.
_NOT_TAKEN = frozenset({Outcome.NOT_FOUND, Outcome.REJECTED})
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
    ad_rewarded: bool | None = None
    is_of_this_task: bool = False

    @property
    def writer(self) -> str:
        """Which run wrote it."""
        return self.entry_id[TICKS:]

    def is_about(self, row: Row) -> bool:
        """Whether the row is the same refund, to the amount and the date."""
        return (self.origin_slug, self.refunded_at, self.refund_subtotal) == (
            row.origin_slug,
            row.refunded_at,
            row.refund_subtotal,
        )


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
        for newest in entries:
            if newest.event == SUBMITTED:
                doubts[newest.writer] = newest
            elif newest.event in _NOTHING_HAPPENED or newest.attempts is None:
                # Of what another run may be sending at this time it says nothing.
                doubts.pop(newest.writer, None)
            elif newest.event not in _OF_THE_ROW:
                standing = newest
                doubts.clear()
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
    row: Row, history: History, *, resend: AbstractSet[Outcome] = frozenset(), writer: str = ""
) -> Decision:
    """Decide what to do with a row.

    :param row: The row.
    :param history: What the ledger knows of its key.
    :param resend: Outcomes to try again although they are settled or held.
    :param writer: This run, where it is resumed: what it has settled before is not tried again, even
        if it failed.
    """
    standing, doubt, newest = history.standing, history.doubt, history.newest
    if row.problem:
        return _note_once(Note(row.problem, row.message or ""), newest)
    if doubt:
        if not doubt.is_about(row):
            return _conflict(row, doubt, newest, resend)
        if row.refund_subtotal is None:
            return Send()
        return Note(Outcome.UNCONFIRMED, _IN_DOUBT, doubt)
    if standing is None:
        return Send()
    if standing.writer == writer:
        return Skip(standing)
    # Whoever names it has looked the order up before this DAG run, not between two tries of its task.
    is_looked_up = standing.event != Outcome.UNCONFIRMED or not standing.is_of_this_task
    again = standing.event in resend and is_looked_up
    if not (standing.is_about(row) or (again and standing.event in _NOT_TAKEN)):
        return _conflict(row, standing, newest, resend)
    if again or standing.event == Outcome.FAILED:
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
    amount = "the whole order" if subtotal is None else f"{subtotal.normalize():f}"
    date = "no date" if moment is None else moment.isoformat(timespec="seconds")
    return f"{amount}, {date}, for {refund.origin_slug}"
