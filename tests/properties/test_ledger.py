"""The ledger keeps its promises whenever a run is cut off, and whatever the clock does."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count, cycle, pairwise, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import create_engine

from airflow_provider_talkable import Outcome, RefundResult, TalkableError
from airflow_provider_talkable.protocol.answers import RefundAnswer
from airflow_provider_talkable.protocol.errors import (
    TalkableAlreadyRefunded,
    TalkableConnectionError,
    TalkableOriginNotFound,
    TalkableProtocolError,
    TalkableRejected,
    TalkableServerError,
    TalkableThrottled,
)
from airflow_provider_talkable.sync import ledger as ledger_module
from airflow_provider_talkable.sync.columns import Values
from airflow_provider_talkable.sync.decisions import Decision, Note, Send, decide
from airflow_provider_talkable.sync.entries import SETTLED, SUBMITTED, History, Settlement
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.settling import settle
from tests.conftest import examples

HELD = {Outcome.REFUNDED, Outcome.ALREADY_REFUNDED}
REFUSED = {Outcome.NOT_FOUND, Outcome.REJECTED}
NOTHING_HAPPENED = {Outcome.THROTTLED, Outcome.ABORTED}
LOOKED_UP = frozenset({Outcome.NOT_FOUND, Outcome.REJECTED})
SOON, LATER = datetime(2026, 5, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)

amounts = st.sampled_from([None, Decimal("5.0000"), Decimal("6.5000")])
# Nanoseconds; often none at all: many entries are made between two ticks of a coarse clock.
jumps = st.sampled_from([0, 0, 1, 10**9]) | st.integers(-(10**13), 10**13) | st.just(-(10**17))

answers = st.sampled_from(
    ["answered", "answered", "lost", "half", "failed", "unreachable", "throttled", "rejected", "not tried"]
)


class Talkable:
    """Takes refunds of the orders it knows: a full one once, a partial one as often as it is sent."""

    def __init__(self) -> None:
        self.orders: set[str] = set()
        self.taken: Counter[str] = Counter()
        self.full: set[str] = set()

    def refund(self, row: Row) -> None:
        """:raises TalkableError: if it refuses."""
        if row.origin_slug not in self.orders:
            raise TalkableOriginNotFound("No origin found")
        if row.origin_slug in self.full:
            raise TalkableAlreadyRefunded("Origin has already been refunded")
        self.taken[row.origin_slug] += 1
        if row.refund_subtotal is None:
            self.full.add(row.origin_slug)

    def answer(self, row: Row, how: str) -> RefundResult:
        """What the client makes of it."""
        refund = row.refund
        not_acted = {
            "failed": TalkableServerError("Bad gateway", http_status=502),
            "unreachable": TalkableConnectionError("No connection", request_sent=False),
            "throttled": TalkableThrottled("Throttled", http_status=429),
            "rejected": TalkableRejected("Refund is not allowed", http_status=400),
        }
        if how == "not tried":
            return RefundResult.not_tried(refund, TalkableError("the task was stopped"))
        if how in not_acted:
            return RefundResult.from_error(refund, not_acted[how], attempts=1)
        refusal: TalkableError | None = None
        try:
            self.refund(row)
        except TalkableError as error:
            refusal = error
        if how == "lost":
            return RefundResult.from_error(refund, TalkableConnectionError("It broke"), attempts=1)
        if how == "half":
            return RefundResult.from_error(refund, TalkableProtocolError("Half a body"), attempts=1)
        if refusal:
            return RefundResult.from_error(refund, refusal, attempts=1)
        return RefundResult.from_answer(refund, RefundAnswer(), http_status=200, attempts=1)


class Crash(Exception):
    """The process is gone: what it has not written is lost."""


class Run:
    """One run over a snapshot of the rows.

    :param named: The keys of refunds to send again.
    :param happens: Called at each point where it may be cut off; raises :class:`Crash` to do so.
    """

    def __init__(
        self,
        ledger: Ledger,
        resend: frozenset[Outcome],
        named: frozenset[str],
        happens: Callable[[], object],
        now: datetime,
    ) -> None:
        self.ledger = ledger
        self.resend = resend
        self.named = named
        self.now = now
        self.happens = happens
        self.unrecorded: list[Values] = []

    def decide(self, rows: Sequence[Row]) -> list[Row]:
        to_send = []
        histories = self.ledger.histories(rows)
        for row in rows:
            history = histories.get((row.site_slug, row.refund_key), History())
            match self.decision(row, history):
                case Send():
                    to_send.append(row)
                case Note(outcome, message):
                    result = RefundResult(row.origin_slug, outcome, error_message=message)
                    self.unrecorded.append(self.ledger.outcome(row, result))
        return to_send

    def decision(self, row: Row, history: History) -> Decision:
        return decide(
            row,
            history,
            resend=self.resend,
            resend_keys=self.named,
            now=self.now,
            writer=self.ledger.writer,
        )

    def record(self, to_send: Sequence[Row] = ()) -> None:
        self.happens()
        self.ledger.append(self.unrecorded + [self.ledger.submitted(row) for row in to_send])
        self.unrecorded = []
        self.happens()

    def go_through(self, rows: Sequence[Row], send: Callable[[Row], RefundResult]) -> None:
        for row in rows:
            result = send(row)
            self.happens()
            self.unrecorded.append(self.ledger.outcome(row, result))


class Machine(RuleBasedStateMachine):
    """Rows, runs over them one after another, crashes, and a clock that jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.engine = create_engine(f"sqlite:///{Path(self.folder.name) / 'ledger.sqlite'}")
        self.now = 1_777_000_000_000_000_000
        self.patches = pytest.MonkeyPatch()
        clocks = SimpleNamespace(time_ns=self.clock, monotonic=time.monotonic)
        self.patches.setattr(ledger_module, "time", clocks)
        self.talkable = Talkable()
        self.rows: list[Row] = []
        self.edited: set[str] = set()
        self.writers = 0
        self.resumable: str | None = None
        self.settled = 0

    def clock(self) -> int:
        return self.now

    def entries(self, key: str) -> list[tuple[str, str]]:
        """A key's entries in the order of writing, as they lie in the table."""
        query = "SELECT entry_id, event FROM talkable_refund_ledger WHERE refund_key = ? ORDER BY rowid"
        with self.engine.connect() as connection:
            return [(row[0], row[1]) for row in connection.exec_driver_sql(query, (key,))]

    def events(self, key: str) -> list[str]:
        return [event for _, event in self.entries(key)]

    # Few, so that much happens to each.
    @precondition(lambda self: len(self.rows) < 5)
    @rule(
        kinds=st.lists(st.tuples(amounts, st.sampled_from([True, True, True, False])), min_size=1, max_size=3)
    )
    def rows_come(self, kinds: list[tuple[Decimal | None, bool]]) -> None:
        for amount, is_known in kinds:
            number = len(self.rows)
            self.rows.append(Row("my-store", f"key-{number}", f"order-{number}", refund_subtotal=amount))
            if is_known:
                self.talkable.orders.add(f"order-{number}")

    @precondition(lambda self: self.rows)
    @rule(which=st.integers(0, 100), amount=amounts)
    def a_row_is_changed(self, which: int, amount: Decimal | None) -> None:
        number = which % len(self.rows)
        assume(amount != self.rows[number].refund_subtotal)
        self.rows[number] = replace(self.rows[number], refund_subtotal=amount)
        self.edited.add(self.rows[number].refund_key)

    @rule(jump=jumps)
    def the_clock_jumps(self, jump: int) -> None:
        self.now = max(0, self.now + jump)

    @precondition(lambda self: self.rows)
    @rule(
        kind=st.sampled_from(["new", "new", "resumed", "looked up", "named", "named at once"]),
        size=st.integers(1, 4),
        replies=st.lists(st.tuples(answers, jumps), min_size=1, max_size=8),
        ends_after=st.none() | st.integers(0, 8),
    )
    def it_runs(self, kind: str, size: int, replies: list[tuple[str, int]], ends_after: int | None) -> None:
        happened = count()

        def happens() -> None:
            if next(happened) == ends_after:
                raise Crash

        try:
            self.go_on(kind, size, cycle(replies), happens)
        except Crash:
            self.resumable = None

    def go_on(
        self, kind: str, size: int, replies: Iterator[tuple[str, int]], happens: Callable[[], object]
    ) -> None:
        self.writers += 1
        # Falling, so that it is not the writers' names that put entries in order.
        writer = f"{0xFFFFFFFF - self.writers:08x}"
        if kind == "resumed" and self.resumable:
            writer = self.resumable
        ledger = Ledger(self.engine, writer=writer)
        ledger.open()
        # To send again what is settled or held is for whoever has looked the orders up.
        resend = LOOKED_UP if kind == "looked up" else frozenset[Outcome]()
        rows = [row for row in self.rows if not (resend and self.talkable.taken[row.origin_slug])]
        # By name, only what was looked up is sent again; the others are in the same query all the same.
        named = frozenset[str]()
        if kind == "named":
            named = frozenset(row.refund_key for row in rows if not self.talkable.taken[row.origin_slug])
        elif kind == "named at once":
            # Before anybody can have looked: a run may be alive, and nothing in doubt is sent.
            named = frozenset(row.refund_key for row in rows if self.is_unanswered(row))
        run = Run(ledger, resend, named, happens, SOON if kind == "named at once" else LATER)

        def send(row: Row) -> RefundResult:
            how, jump = next(replies)
            self.the_clock_jumps(jump)
            return self.talkable.answer(row, how)

        for start in range(0, len(rows), size):
            to_send = run.decide(rows[start : start + size])
            for row in to_send:
                self.check_that_it_may_be_sent(row, resend, named)
            run.record(to_send)
            assert all(self.events(row.refund_key)[-1] == SUBMITTED for row in to_send)
            run.go_through(to_send, send)
        run.record()
        self.resumable = writer

    def is_unanswered(self, row: Row) -> bool:
        """Whether it is a part, and a run that has submitted it has written nothing since."""
        ledger = Ledger(self.engine)
        ledger.open()
        history = ledger.histories([row]).get((row.site_slug, row.refund_key), History())
        return not row.is_whole and bool(history.unanswered)

    @precondition(lambda self: self.rows and self.writers)
    @rule(which=st.integers(0, 100), meanwhile=st.booleans())
    def a_person_settles(self, which: int, meanwhile: bool) -> None:
        """After a look into Talkable; a run may submit the refund at the same time, and crash."""
        row = self.rows[which % len(self.rows)]
        ledger = Ledger(self.engine, writer=f"{0x10000000 + self.settled:08x}")
        self.settled += 1
        ledger.open()
        settlement = Settlement.REFUNDED if self.talkable.taken[row.origin_slug] else Settlement.NOT_REFUNDED
        append = ledger.append

        def appending(entries: Sequence[Values]) -> None:
            self.submit_and_crash(row)
            append(entries)

        if meanwhile:
            ledger.append = appending  # type: ignore[method-assign]
        before = self.events(row.refund_key)
        refused = ""
        try:
            settle(ledger, row.refund_key, settlement, by="jane", note="seen", now=LATER)
        except TalkableError as error:
            refused = str(error)
        self.resumable = None
        added = self.events(row.refund_key)[len(before) :]
        if not refused or "began to send" in refused:
            assert added[-1] == settlement
        else:
            assert not added
            assert not before or HELD & set(before)

    def submit_and_crash(self, row: Row) -> None:
        """A run sends a refund that it may send, and is gone before the answer comes."""
        self.writers += 1
        ledger = Ledger(self.engine, writer=f"{0xFFFFFFFF - self.writers:08x}")
        ledger.open()
        run = Run(ledger, frozenset(), frozenset(), lambda: None, LATER)
        if run.decide([row]):
            self.check_that_it_may_be_sent(row)
            run.record([row])
            self.talkable.answer(row, "lost")

    def check_that_it_may_be_sent(
        self, row: Row, resend: frozenset[Outcome] = frozenset(), named: frozenset[str] = frozenset()
    ) -> None:
        events = self.events(row.refund_key)
        assert not HELD & set(events)
        assert not events or events[-1] not in REFUSED - resend or row.refund_key in named

    @invariant()
    def no_order_is_refunded_twice(self) -> None:
        assert all(times <= 1 for times in self.talkable.taken.values())

    @invariant()
    def ids_are_in_the_order_of_writing(self) -> None:
        if not self.writers:
            return
        for row in self.rows:
            # A settlement sorts before what a run has written meanwhile.
            of_runs = [entry for entry in self.entries(row.refund_key) if entry[1] not in SETTLED]
            assert all(a < b for (a, _), (b, _) in pairwise(of_runs))

    def teardown(self) -> None:
        try:
            if self.rows:
                self.finish()
        finally:
            self.patches.undo()
            self.engine.dispose()
            self.folder.cleanup()

    def finish(self) -> None:
        """A last run, in which nothing goes wrong, leaves nothing open."""
        self.go_on("new", 2, repeat(("answered", 0)), lambda: None)
        self.no_order_is_refunded_twice()
        self.ids_are_in_the_order_of_writing()
        for row in self.rows:
            events = self.events(row.refund_key)
            assert events[-1] != SUBMITTED
            # Where sending again what was held came to nothing, what was known before still holds.
            newest = [event for event in events if event not in {SUBMITTED} | NOTHING_HAPPENED][-1]
            times = self.talkable.taken[row.origin_slug]
            assert newest != Outcome.FAILED
            assert events[-1] == newest or newest in LOOKED_UP | {Outcome.UNCONFIRMED}
            if newest in HELD | {Settlement.REFUNDED}:
                assert times == 1
            if row.refund_key in self.edited or newest == Outcome.REJECTED:
                continue
            if row.origin_slug not in self.talkable.orders:
                assert newest in {Outcome.NOT_FOUND, Outcome.UNCONFIRMED}
            elif row.refund_subtotal is None:
                assert (newest in HELD | {Settlement.REFUNDED}, times) == (True, 1)
            else:
                assert newest in {Outcome.REFUNDED, Outcome.UNCONFIRMED, Settlement.REFUNDED}


@pytest.mark.takes_long
def test_no_crash_and_no_clock_makes_the_ledger_forget_a_refund_or_send_it_twice() -> None:
    run_state_machine_as_test(Machine, settings=examples(100, stateful_step_count=20))
