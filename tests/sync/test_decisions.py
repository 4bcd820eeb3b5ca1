"""What is done with a row, for every history its key can have."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.decisions import RESENDABLE, Decision, Note, Send, Skip, decide
from airflow_provider_talkable.sync.entries import SETTLED, SUBMITTED, Entry, History
from airflow_provider_talkable.sync.rows import Row

WHEN = datetime(2026, 4, 27, tzinfo=UTC)
FULL = Row("my-store", "r1", "A", WHEN)
PARTIAL = Row("my-store", "r1", "A", WHEN, Decimal("5.0000"))
OTHERS = {
    "amount": Row("my-store", "r1", "A", WHEN, Decimal("6.0000")),
    "date": Row("my-store", "r1", "A", None, Decimal("5.0000")),
    "origin": Row("my-store", "r1", "B", WHEN, Decimal("5.0000")),
    "full": FULL,
}


def entries(row: Row, events: str) -> list[Entry]:
    """Entries about a row, oldest first; ``@b`` behind an event says that writer b wrote it.

    A settlement ends the doubts before it.
    """
    made: list[Entry] = []
    for number, word in enumerate(events.split()):
        event, _, writer = word.partition("@")
        made.append(
            Entry(
                f"{number:016x}{writer or 'a'}",
                event,
                row.origin_slug,
                row.refunded_at,
                row.refund_subtotal,
                settles=" ".join(entry.entry_id for entry in made) if event in SETTLED else None,
            )
        )
    return made


def after(row: Row, events: str, *, now: Row | None = None, **options: object) -> Decision:
    """The decision on a row whose key has such a history."""
    return decide(now or row, History.of(entries(row, events)), **options)  # type: ignore[arg-type]


def outcome(decision: Decision) -> str:
    match decision:
        case Note(outcome):
            return outcome
        case Skip():
            return "skip"
        case Send():
            return "send"


@pytest.mark.parametrize(
    ("events", "full", "partial"),
    [
        ("", "send", "send"),
        ("submitted refunded", "skip", "skip"),
        ("submitted already_refunded", "skip", "skip"),
        ("submitted not_found", "skip", "skip"),
        ("submitted rejected", "skip", "skip"),
        ("submitted throttled", "send", "send"),
        ("submitted failed", "send", "send"),
        ("submitted unconfirmed", "skip", "skip"),
        ("submitted aborted", "send", "send"),
        ("aborted", "send", "send"),
        ("invalid", "send", "send"),
        ("conflict", "send", "send"),
        ("submitted", "send", "unconfirmed"),
        ("submitted refunded submitted", "send", "unconfirmed"),
        ("submitted failed submitted", "send", "unconfirmed"),
        # What says that nothing happened leaves what was known before as it is.
        ("submitted refunded aborted", "skip", "skip"),
        ("submitted refunded submitted throttled", "skip", "skip"),
        ("submitted refunded invalid", "skip", "skip"),
        ("submitted refunded conflict", "skip", "skip"),
        ("submitted invalid", "send", "unconfirmed"),
        ("submitted conflict", "send", "unconfirmed"),
        # Of another run's doubt a run can say nothing, unless Talkable has answered.
        ("submitted@a submitted@b aborted@b", "send", "unconfirmed"),
        ("submitted@a submitted@b throttled@b", "send", "unconfirmed"),
        ("submitted@a submitted@b refunded@b", "skip", "skip"),
        ("submitted@a submitted@b aborted@b aborted@a", "send", "send"),
    ],
)
def test_what_is_done_with_the_same_refund(events: str, full: str, partial: str) -> None:
    assert outcome(after(FULL, events)) == full
    assert outcome(after(PARTIAL, events)) == partial


@pytest.mark.parametrize("now", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("submitted refunded", "conflict"),
        ("submitted already_refunded", "conflict"),
        ("submitted not_found", "conflict"),
        ("submitted rejected", "conflict"),
        ("submitted failed", "conflict"),
        ("submitted unconfirmed", "conflict"),
        ("submitted", "conflict"),
        ("submitted refunded aborted", "conflict"),
        # Talkable has never looked at it: there is nothing to contradict.
        ("submitted throttled", "send"),
        ("aborted", "send"),
        ("invalid", "send"),
        ("conflict", "send"),
    ],
)
def test_what_is_done_with_another_refund_of_the_same_key(now: Row, events: str, expected: str) -> None:
    assert outcome(after(PARTIAL, events, now=now)) == expected


@pytest.mark.parametrize(
    ("events", "resend", "same", "other"),
    [
        ("submitted not_found", "not_found", "send", "send"),
        ("submitted rejected", "rejected", "send", "send"),
        # Of many that are in doubt nobody can have looked up each.
        ("submitted unconfirmed", "unconfirmed", "skip", "conflict"),
        ("submitted", "unconfirmed", "unconfirmed", "conflict"),
        ("submitted unconfirmed", "conflict", "skip", "send"),
        ("submitted refunded", "conflict", "skip", "send"),
        ("submitted refunded", "not_found", "skip", "conflict"),
        ("submitted not_found", "rejected", "skip", "conflict"),
    ],
)
def test_what_resend_lets_through(events: str, resend: str, same: str, other: str) -> None:
    named = frozenset({Outcome(resend)})
    assert outcome(after(PARTIAL, events, resend=named)) == same
    assert outcome(after(PARTIAL, events, now=OTHERS["amount"], resend=named)) == other


@pytest.mark.parametrize("settled", ["refunded", "already_refunded"])
def test_nothing_sends_again_what_talkable_has(settled: str) -> None:
    assert outcome(after(PARTIAL, f"submitted {settled}", resend=RESENDABLE)) == "skip"


def test_a_row_with_a_problem_is_never_sent() -> None:
    problem = Row("my-store", "r1", "A", problem=Outcome.INVALID, message="refunded_at='soon': is not a date")
    for events in ("", "submitted", "submitted refunded", "submitted failed"):
        decision = after(PARTIAL, events, now=problem, resend=RESENDABLE)
        assert decision == Note(Outcome.INVALID, "refunded_at='soon': is not a date")


def test_a_problem_is_noted_once_and_again_only_in_other_words() -> None:
    problem = Row("my-store", "r1", "A", problem=Outcome.INVALID, message="is not a date")
    known = Entry("1", "invalid", "A", error_message="is not a date")
    assert decide(problem, History.of([known])) == Skip(known)
    other = Row("my-store", "r1", "A", problem=Outcome.INVALID, message="is negative")
    assert decide(other, History.of([known])) == Note(Outcome.INVALID, "is negative")


def test_a_conflict_is_noted_once_and_again_with_another_amount() -> None:
    sent = entries(PARTIAL, "submitted refunded")
    first = decide(OTHERS["amount"], History.of(sent))
    assert isinstance(first, Note)
    noted = Entry("3", "conflict", "A", error_message=first.message)
    assert decide(OTHERS["amount"], History.of([*sent, noted])) == Skip(noted)
    assert outcome(decide(OTHERS["date"], History.of([*sent, noted]))) == "conflict"


def test_a_conflict_says_what_was_sent_what_the_row_says_and_what_to_do() -> None:
    decision = after(PARTIAL, "submitted refunded", now=OTHERS["full"])
    assert isinstance(decision, Note)
    assert decision.message == (
        "This refund_key was sent before with 5, 2026-04-27T00:00:00+00:00, for A and came out as refunded; "
        "the row now says the whole order, 2026-04-27T00:00:00+00:00, for A, and was not sent: "
        "a further refund needs a refund_key of its own"
    )


def test_a_resumed_run_does_not_try_its_own_failures_again() -> None:
    assert outcome(after(FULL, "submitted@me failed@me", writer="me")) == "skip"
    assert outcome(after(FULL, "submitted@me throttled@me", writer="me")) == "send"
    assert outcome(after(FULL, "submitted@me aborted@me", writer="me")) == "send"
    assert outcome(after(FULL, "submitted@you failed@you", writer="me")) == "send"


NAMED = frozenset({"r1"})


@pytest.mark.parametrize(
    ("events", "same", "other"),
    [
        ("", "send", "send"),
        ("submitted", "send", "send"),
        ("submitted unconfirmed", "send", "send"),
        ("submitted not_found", "send", "send"),
        ("submitted not_counted", "send", "send"),
        ("submitted rejected", "send", "send"),
        ("submitted failed", "send", "send"),
        # Talkable has the one; the other was named by whoever knows that.
        ("submitted refunded", "skip", "send"),
        ("submitted already_refunded", "skip", "send"),
        ("submitted settled_refunded", "skip", "send"),
        ("submitted settled_not_refunded", "send", "send"),
        # What is in doubt besides may be a second one, where the first one is known to be there.
        ("submitted@a refunded@a submitted@b", "unconfirmed", "send"),
    ],
)
def test_what_naming_a_key_lets_through(events: str, same: str, other: str) -> None:
    assert outcome(after(PARTIAL, events, resend_keys=NAMED)) == same
    assert outcome(after(PARTIAL, events, now=OTHERS["amount"], resend_keys=NAMED)) == other
    others = frozenset({"r2"})
    assert after(PARTIAL, events, resend_keys=others) == after(PARTIAL, events)


@pytest.mark.parametrize("last", ["submitted", "unconfirmed@b", "settled_not_refunded@b"])
def test_what_a_run_may_be_sending_is_not_sent_by_name(last: str) -> None:
    """Whatever others have written since."""
    now = datetime(2026, 5, 1, tzinfo=UTC)
    submitted, *rest = entries(PARTIAL, f"submitted@a {last}")
    rest = rest if last != "submitted" else []
    for seconds, expected in ((1, "unconfirmed"), (0, "send")):
        until = now + timedelta(seconds=seconds)
        history = History.of([replace(submitted, sending_until=until), *rest])
        decision = decide(PARTIAL, history, resend_keys=NAMED, now=now)
        assert outcome(decision) == expected
        if isinstance(decision, Note):
            assert "may be sending this partial refund until 2026-05-01 00:00:01 UTC" in decision.message
    # A whole one does no harm.
    sending = replace(submitted, refund_subtotal=None, sending_until=now + timedelta(seconds=1))
    assert outcome(decide(FULL, History.of([sending]), resend_keys=NAMED, now=now)) == "send"


def test_an_entry_of_an_earlier_version_tells_by_its_id_until_when_it_may_be_sent() -> None:
    submitted_at = datetime(2026, 5, 1, tzinfo=UTC)
    entry_id = f"{int(submitted_at.timestamp()) * 10**9:016x}abcdabcd"
    history = History.of([Entry(entry_id, SUBMITTED, "A", WHEN, Decimal(5))])
    assert history.sent_until(submitted_at) == submitted_at + timedelta(seconds=1470)
    assert history.sent_until(submitted_at + timedelta(seconds=1470)) is None


@pytest.mark.parametrize("events", ["submitted", "submitted unconfirmed", "submitted@a submitted@b"])
def test_a_retry_of_the_task_does_not_repeat_what_its_first_try_left_in_doubt(events: str) -> None:
    *earlier, last = entries(PARTIAL, events)
    own = History.of([*earlier, replace(last, is_of_this_task=True)])
    assert outcome(decide(PARTIAL, own, resend_keys=NAMED)) != "send"
    assert outcome(decide(PARTIAL, History.of([*earlier, last]), resend_keys=NAMED)) == "send"


def test_a_resumed_run_does_not_send_again_by_name_what_it_has_tried() -> None:
    assert outcome(after(PARTIAL, "submitted@me rejected@me", writer="me", resend_keys=NAMED)) == "skip"


@pytest.mark.parametrize(
    ("settled", "same", "other"),
    [("settled_refunded", "skip", "conflict"), ("settled_not_refunded", "send", "send")],
)
@pytest.mark.parametrize("before", ["submitted", "submitted unconfirmed", "submitted rejected", ""])
def test_what_a_person_says_settles_it(before: str, settled: str, same: str, other: str) -> None:
    history = History.of(entries(PARTIAL, f"{before} {settled}"))
    assert outcome(decide(PARTIAL, history)) == same
    assert outcome(decide(OTHERS["amount"], history)) == other


@pytest.mark.parametrize("settled", ["settled_refunded", "settled_not_refunded"])
@pytest.mark.parametrize("events", ["submitted@a {} submitted@b", "submitted@a submitted@b {}"])
def test_a_person_ends_no_doubt_of_a_run_that_began_meanwhile(events: str, settled: str) -> None:
    """Whichever entry comes to lie first: a clock may be behind."""
    made = entries(PARTIAL, events.format(settled))
    history = History.of(
        [replace(entry, settles=made[0].entry_id) if entry.event == settled else entry for entry in made]
    )
    [doubt] = history.doubts
    assert doubt.writer == "b"
    decision = decide(PARTIAL, history)
    assert outcome(decision) == "unconfirmed"
    # Noted where what stands does not hide it.
    assert isinstance(decision, Note)
    assert (decision.doubt is None) == events.endswith("{}")


def test_every_outcome_of_a_lone_entry_leads_to_a_decision() -> None:
    for event in [SUBMITTED, *Outcome]:
        assert outcome(after(FULL, event)) in {"send", "skip"}


@pytest.mark.parametrize("row", [FULL, PARTIAL])
def test_an_unknown_order_of_an_unknown_site_is_not_settled(row: Row) -> None:
    assert outcome(after(row, "not_found")) == "skip"
    assert after(row, "not_found", is_doubtful_site=True) == Send()
    # Its number may have been the wrong one.
    assert after(row, "not_found", now=replace(row, origin_slug="B"), is_doubtful_site=True) == Send()
    assert outcome(after(row, "rejected", is_doubtful_site=True)) == "skip"
    # A resumed run has tried it already.
    assert outcome(after(row, "not_found@b", is_doubtful_site=True, writer="b")) == "skip"


@pytest.mark.parametrize(
    ("void", "again"),
    [
        ("failed", True),
        ("aborted", True),
        ("throttled", True),
        ("updated", False),
        ("conflict", False),
        (None, False),
    ],
)
def test_a_whole_refund_whose_referral_is_still_to_be_voided_is_sent_again(
    void: str | None, again: bool
) -> None:
    for row, is_sent in ((FULL, again), (PARTIAL, False)):
        [entry] = entries(row, "refunded")
        history = History.of([replace(entry, void_outcome=void)])
        assert (decide(row, history, void_referral=True) == Send()) is is_sent
        assert decide(row, history) != Send()


def test_an_amount_that_reaches_the_orders_is_a_whole_refund() -> None:
    whole = replace(PARTIAL, order_subtotal=Decimal("5.0000"))
    assert (whole.is_whole, whole.refund.is_partial) == (True, False)
    assert after(whole, "submitted") == Send()
    assert outcome(after(PARTIAL, "submitted")) == "unconfirmed"
    # The same refund as one without an amount, and as one from before the order's subtotal was known.
    sent_whole = [replace(entry, order_subtotal=Decimal(5)) for entry in entries(whole, "refunded")]
    assert outcome(decide(FULL, History.of(sent_whole))) == "skip"
    assert outcome(after(PARTIAL, "refunded", now=whole)) == "skip"
    assert outcome(after(FULL, "refunded", now=whole)) == "skip"
    assert outcome(after(FULL, "refunded", now=replace(whole, order_subtotal=Decimal(6)))) == "conflict"
