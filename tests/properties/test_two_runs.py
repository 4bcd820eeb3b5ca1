"""Runs that meet over one ledger, at every step, also where reads lag behind writes."""

from __future__ import annotations

import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import create_engine

from airflow_provider_talkable import LedgerError, Outcome, RefundResult, TalkableError
from airflow_provider_talkable.protocol.answers import RefundAnswer
from airflow_provider_talkable.protocol.errors import TalkableAlreadyRefunded, TalkableConnectionError
from airflow_provider_talkable.sync.intake import Intake
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.records import Records
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.summary import Summary
from tests.conftest import examples
from tests.sync.test_guard import Replica

ROWS = [
    Row("my-store", f"key-{n}", f"order-{n}", refund_subtotal=None if n == 2 else Decimal(5))
    for n in range(3)
]


class Run:
    """One run over all rows, a step at a time, on the sync's own parts."""

    def __init__(self, ledger: Ledger, taken: Counter[str]) -> None:
        ledger.open()
        self.ledger = ledger
        self.taken = taken
        self.snapshot = Snapshot()
        self.snapshot.fill(ROWS)
        self.records = Records(ledger, Summary())
        self.intake = Intake(
            self.snapshot,
            ledger,
            self.records,
            resend=frozenset(),
            resend_keys=frozenset(),
            void_referral=False,
        )
        self.intake.most_parts = 10
        self.batch: list[Row] = []
        self.submitted: list[str] = []
        self.steps = [self.decide, self.submit, self.look_again]

    def step(self, how: str) -> None:
        """Go on by one step; it is over once there is none left."""
        if self.steps:
            self.steps.pop(0)()
        elif self.batch:
            self.send(self.batch.pop(0), how)
        else:
            self.records.write()

    @property
    def is_over(self) -> bool:
        return not self.steps and not self.batch

    def end(self) -> None:
        self.snapshot.__exit__()

    def decide(self) -> None:
        self.intake.decide(10)
        self.batch = self.intake.next_batch(10, ending=None, closed={})

    def submit(self) -> None:
        entries = [self.ledger.submitted(row) for row in self.batch]
        self.submitted = [entry["entry_id"] for entry in entries]
        self.records.write(entries)

    def look_again(self) -> None:
        try:
            self.batch = self.intake.without_contested(self.batch, self.submitted)
        except LedgerError as error:
            for row in self.batch:
                self.records.note(row, Outcome.ABORTED, str(error))
            self.batch = []
        self.records.write()

    def send(self, row: Row, how: str) -> None:
        error: TalkableError | None = None
        if how == "not tried":
            result = RefundResult.not_tried(row.refund, TalkableError("the task was stopped"))
        else:
            if row.refund_subtotal is None and self.taken[row.origin_slug]:
                error = TalkableAlreadyRefunded("Origin has already been refunded")
            self.taken[row.origin_slug] += error is None
            if how == "lost":
                error = TalkableConnectionError("It broke")
            result = (
                RefundResult.from_error(row.refund, error, attempts=1)
                if error
                else RefundResult.from_answer(row.refund, RefundAnswer(), http_status=200, attempts=1)
            )
        self.records.keep_all([(row, result)])
        self.records.write()


class Machine(RuleBasedStateMachine):
    """Up to three runs at once, which may be killed, and a replica that catches up now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        url = f"sqlite:///{Path(self.folder.name) / 'ledger.sqlite'}"
        self.engine, self.lagging = create_engine(url), create_engine(url)
        Ledger(self.engine).open()
        self.replica = Replica(self.lagging, Path(self.folder.name))
        self.runs: list[Run] = []
        self.writers = 0
        self.taken: Counter[str] = Counter()
        self.is_in_doubt = False

    @precondition(lambda self: len(self.runs) < 3)
    @rule(lags=st.sampled_from([False, False, True]), falling=st.booleans())
    def a_run_begins(self, lags: bool, falling: bool) -> None:
        self.writers += 1
        writer = f"{0xFFFFFFFF - self.writers if falling else self.writers:08x}"
        engine = self.lagging if lags else self.engine
        self.runs.append(Run(Ledger(engine, writer=writer), self.taken))

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 2), how=st.sampled_from(["answered", "answered", "not tried", "lost"]))
    def a_run_goes_on(self, which: int, how: str) -> None:
        run = self.runs[which % len(self.runs)]
        self.is_in_doubt |= how == "lost" and not run.steps
        run.step(how)
        if run.is_over:
            self.runs.remove(run)
            run.end()

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 2))
    def a_run_is_killed(self, which: int) -> None:
        self.runs.pop(which % len(self.runs)).end()
        self.is_in_doubt = True

    @rule()
    def the_replica_catches_up(self) -> None:
        self.lagging.dispose()
        self.replica.catch_up()

    @invariant()
    def no_order_is_refunded_twice(self) -> None:
        assert all(times <= 1 for times in self.taken.values())

    def teardown(self) -> None:
        try:
            while self.runs:
                self.a_run_goes_on(0, "answered")
            for _ in range(2):
                self.runs.append(Run(Ledger(self.engine), self.taken))
                while self.runs:
                    self.a_run_goes_on(0, "answered")
            self.no_order_is_refunded_twice()
            if not self.is_in_doubt:
                assert set(self.taken.values()) == {1}, "a refund is stranded"
                assert len(self.taken) == len(ROWS)
        finally:
            for run in self.runs:
                run.end()
            self.engine.dispose()
            self.lagging.dispose()
            self.folder.cleanup()


@pytest.mark.takes_long
def test_runs_that_meet_send_nothing_twice_and_strand_nothing() -> None:
    run_state_machine_as_test(Machine, settings=examples(150, stateful_step_count=25))
