"""What to do with a row, given what the ledger knows of its key. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.referrals import ReferralOutcome
from airflow_provider_talkable.protocol.values import in_digits
from airflow_provider_talkable.sync.entries import (
    HAS_IT,
    NOTHING_HAPPENED,
    OF_THE_ROW,
    Entry,
    History,
    Settlement,
)
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.tables import escaped

RESENDABLE = frozenset({Outcome.NOT_FOUND, Outcome.NOT_COUNTED, Outcome.REJECTED, Outcome.CONFLICT})
"""The outcomes that hold a refund back until ``resend`` names them."""


# They say that Talkable looked at it and does not have it.
_NOT_TAKEN = frozenset({Outcome.NOT_FOUND, Outcome.NOT_COUNTED, Outcome.REJECTED})
# They say that its referral is still to be voided.
NOT_VOIDED = frozenset({ReferralOutcome.THROTTLED, ReferralOutcome.FAILED, ReferralOutcome.ABORTED})


@dataclass(frozen=True, slots=True)
class Send:
    """Send it."""


@dataclass(frozen=True, slots=True)
class Skip:
    """It is settled: nothing is sent.

    :param entry: What settled it. Of an entry of the same task in the same DAG run the outcome
        counts as this run's: a retry must not turn a failure into a success.
    :param hidden_by: The newest entry, if it says less, as that of a run that gave way, or of a row that was
        fixed since: the ledger gets what settled it once more.
    """

    entry: Entry
    hidden_by: Entry | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Nothing is sent, and the ledger says why.

    :param doubt: The ``submitted`` that it is about. If its run still lives, what that writes counts.
    """

    outcome: Outcome
    message: str
    doubt: Entry | None = None


Decision = Send | Skip | Note

_IN_DOUBT = (
    "Another run was stopped before it knew whether Talkable took this partial refund, or still waits for "
    "the answer, and a repeat might be counted again: look the order up in Talkable, then settle this "
    "refund_key with 'airflow talkable ledger settle'"
)


def decide(
    row: Row,
    history: History,
    *,
    resend: AbstractSet[Outcome] = frozenset(),
    resend_keys: AbstractSet[str] = frozenset(),
    now: datetime | None = None,
    writer: str = "",
    is_doubtful_site: bool = False,
    void_referral: bool = False,
) -> Decision:
    """Decide what to do with a row.

    :param row: The row.
    :param history: What the ledger knows of its key.
    :param resend: Outcomes to try again although they are settled or held.
    :param resend_keys: Refunds to send again whatever holds them, unless Talkable has them.
    :param now: The time; default: the present.
    :param writer: This run, where it is resumed: what it has settled before is not tried again, even
        if it failed.
    :param is_doubtful_site: Whether Talkable knows no order of the site, so that none is settled by that.
    :param void_referral: Whether referrals are voided: a whole refund whose referral is still to be voided
        is sent again, which Talkable answers with "already refunded".
    """
    decisive, doubt, newest = history.decisive, history.doubt, history.newest
    if row.problem:
        return _note_once(Note(row.problem, row.message or ""), newest)
    if row.refund_key in resend_keys and not (
        decisive and decisive.event in HAS_IT and decisive.is_about(row)
    ):
        return _decide_named(row, history, now or datetime.now(UTC), writer)
    if doubt:
        return _decide_doubt(row, doubt, history, resend)
    if decisive is None:
        return Send()
    if decisive.writer == writer:
        return Skip(decisive)
    if decisive.event == Settlement.NOT_REFUNDED:
        return Send()
    if is_doubtful_site and decisive.event == Outcome.NOT_FOUND:
        return Send()
    again = decisive.event in resend & RESENDABLE
    if not (decisive.is_about(row) or (again and decisive.event in _NOT_TAKEN)):
        return _conflict(row, decisive, newest, resend)
    is_to_be_voided = void_referral and row.is_whole and decisive.void_outcome in NOT_VOIDED
    if again or is_to_be_voided or decisive.event == Outcome.FAILED:
        return Send()
    is_hidden = newest is not None and newest.event in NOTHING_HAPPENED | OF_THE_ROW
    return Skip(decisive, hidden_by=newest if is_hidden else None)


def _decide_doubt(row: Row, doubt: Entry, history: History, resend: AbstractSet[Outcome]) -> Decision:
    """Decide on a refund of which nothing says what happened to it when it was sent before."""
    if not doubt.is_about(row):
        return _conflict(row, doubt, history.newest, resend)
    return Send() if row.is_whole else _in_doubt(history)


def _decide_named(row: Row, history: History, now: datetime, writer: str) -> Decision:
    """Decide on a refund that was named to be sent again, and that Talkable does not have for certain."""
    decisive, doubts = history.decisive, history.doubts
    if decisive and decisive.writer == writer and not doubts:
        return Skip(decisive)
    if row.is_whole:
        return Send()
    if until := history.sent_until(now):
        return _in_doubt(
            history,
            f"Another run may be sending this partial refund until {until:%Y-%m-%d %H:%M:%S} UTC: look the "
            "order up in Talkable after that and, if it is not refunded there, name this refund_key in "
            "resend_keys of a new DAG run",
        )
    # Whoever names it has looked the order up before this DAG run, not between two tries of its task.
    if any(doubt.is_of_this_task for doubt in doubts):
        return _in_doubt(history)
    if decisive and decisive.event == Outcome.UNCONFIRMED and decisive.is_of_this_task:
        return Skip(decisive)
    return Send()


def _in_doubt(history: History, message: str = _IN_DOUBT) -> Note:
    """Hold a partial refund that Talkable may have, or may be about to get."""
    # After the last of them: a notice before one would not be about it.
    doubt = max(history.doubts, key=lambda entry: entry.entry_id, default=None)
    decisive = history.decisive
    if doubt and decisive and decisive.entry_id > doubt.entry_id:
        # A clock was behind. What is noted right after the doubt would be hidden by what stands.
        doubt = None
    return Note(Outcome.UNCONFIRMED, message, doubt)


def _conflict(row: Row, sent: Entry, newest: Entry | None, resend: AbstractSet[Outcome]) -> Decision:
    if Outcome.CONFLICT in resend:
        return Send()
    message = (
        f"This refund_key was sent before with {in_words(sent)} and came out as {sent.event}; the row now "
        f"says {in_words(row)}, and was not sent: a further refund needs a refund_key of its own"
    )
    return _note_once(Note(Outcome.CONFLICT, message), newest)


def _note_once(note: Note, newest: Entry | None) -> Decision:
    """A problem that the ledger has already is not written there again with each run."""
    # A ledger that cannot keep all characters has it in ASCII.
    if newest and (newest.event, escaped(newest.error_message or "")) == (
        note.outcome,
        escaped(note.message),
    ):
        return Skip(newest)
    return note


def in_words(refund: Row | Entry) -> str:
    """What Talkable receives of a refund, in words."""
    subtotal, moment = refund.refund_subtotal, refund.refunded_at
    amount = "the whole order" if subtotal is None or refund.is_whole else in_digits(subtotal)
    date = "no date" if moment is None else moment.isoformat(timespec="seconds")
    return f"{amount}, {date}, for {refund.origin_slug}"
