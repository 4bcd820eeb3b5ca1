"""No part of an order is sent twice by the tries of tasks, whatever happens to what they remember."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from itertools import count, cycle
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from airflow_provider_talkable import Outcome
from airflow_provider_talkable.operators._task_state import KeyedRefund, TaskState
from airflow_provider_talkable.sync.rows import Row
from tests.airflow.task import Store, TaskInstance, needs_store
from tests.conftest import examples
from tests.properties.test_ledger import Crash, Talkable, amounts, answers


class Task:
    """A task instance: how often it was tried, and its store."""

    def __init__(self) -> None:
        self.tries = 0
        self.store = Store()
        self.is_intact = True
        """Whether its store was never emptied."""


class Tries(RuleBasedStateMachine):
    """One DAG run with a list of refunds, in one task or mapped: tries, crashes, losses, growth."""

    def __init__(self) -> None:
        super().__init__()
        self.talkable = Talkable()
        self.rows: list[Row] = []
        self.tasks: dict[int, Task] = {}
        self.clear_number = 0
        self.noted: set[str] = set()
        self.sent: set[str] = set()

    @precondition(lambda self: len(self.rows) < 6)
    @rule(amounts=st.lists(amounts, min_size=1, max_size=3), at_the_front=st.booleans())
    def the_list_grows(self, amounts: list[Decimal | None], at_the_front: bool) -> None:
        """Once a task has begun, the upstream has to be cleared for that, and what follows with it."""
        new = []
        for amount in amounts:
            slug = f"order-{len(self.talkable.orders)}"
            self.talkable.orders.add(slug)
            new.append(Row("my-store", slug, slug, refund_subtotal=amount))
        self.rows = new + self.rows if at_the_front else self.rows + new
        self.clear_number += bool(self.tasks)

    @precondition(lambda self: self.tasks)
    @rule(which=st.integers(0, 20), marker_alone=st.booleans())
    def a_store_is_lost(self, which: int, marker_alone: bool) -> None:
        task = list(self.tasks.values())[which % len(self.tasks)]
        task.is_intact = False
        if marker_alone:
            task.store.pop("talkable_begun", None)
        else:
            task.store.clear()

    @precondition(lambda self: self.rows)
    @rule(
        which=st.integers(0, 20),
        is_mapped=st.booleans(),
        replies=st.lists(answers, min_size=1, max_size=6),
        ends_after=st.none() | st.integers(0, 12),
    )
    def a_try(self, which: int, is_mapped: bool, replies: list[str], ends_after: int | None) -> None:
        # One or the other for all of a DAG run.
        is_mapped = min(self.tasks) >= 0 if self.tasks else is_mapped
        index = which % len(self.rows) if is_mapped else -1
        happened = count()

        def happens() -> None:
            if next(happened) == ends_after:
                raise Crash

        with suppress(Crash):
            self.go_on(index, cycle(replies), happens)

    def go_on(self, index: int, replies: Iterator[str], happens: Callable[[], object]) -> None:
        task = self.tasks.setdefault(index, Task())
        task.tries += 1
        rows = self.rows if index < 0 else [self.rows[index]]
        context: Any = {
            "ti": TaskInstance("refund", task.tries, index),
            "dag_run": SimpleNamespace(clear_number=self.clear_number),
            "task_state_store": task.store,
        }
        state = TaskState(context, [row.refund_key for row in rows], redact_people=False)
        happens()
        given = {KeyedRefund(row.refund): row for row in rows}
        recalled = state.recall(given)
        for refund, row in given.items():
            if refund in recalled:
                self.check(recalled[refund].outcome, row, is_certain=index < 0 and task.is_intact)
                continue
            state.will_send(refund)
            self.noted.add(row.refund_key)
            happens()
            self.sent.add(row.refund_key)
            result = self.talkable.answer(row, next(replies))
            happens()
            state.keep(refund, result)

    def check(self, outcome: Outcome, row: Row, *, is_certain: bool) -> None:
        """What is recalled is so, and an intact store leaves no doubt of what no request was made for."""
        if outcome.is_success:
            assert self.talkable.taken[row.origin_slug] == 1
        elif is_certain and outcome is Outcome.UNCONFIRMED:
            # Cut off between its note and its request is as good as sent.
            assert row.refund_key in self.sent | self.noted

    @invariant()
    def no_order_is_refunded_twice(self) -> None:
        assert all(times <= 1 for times in self.talkable.taken.values())


@needs_store
@pytest.mark.takes_long
def test_whatever_is_lost_no_part_is_sent_twice() -> None:
    run_state_machine_as_test(Tries, settings=examples(300, stateful_step_count=20))
