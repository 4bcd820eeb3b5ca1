"""Whatever a snapshot leaves out as plainly settled, the decision would have skipped as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import Outcome
from airflow_provider_talkable.protocol.referrals import ReferralOutcome
from airflow_provider_talkable.sync.columns import READ
from airflow_provider_talkable.sync.decisions import Skip, decide
from airflow_provider_talkable.sync.entries import Entry, History
from airflow_provider_talkable.sync.ledger import Ledger, TaskRun
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.snapshot import Snapshot
from tests.conftest import examples
from tests.properties.test_lookups import WRITERS, steps, written

TASK = TaskRun("dag", "run", "task", -1, 1)
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
REFUND = Row("my-store", "", "order", MOMENT, Decimal("12.5000"), Decimal("100.0000"))

# What an entry and a row differ in; most entries are about the row as it is.
refunds = st.sampled_from(
    [{}] * 6
    + [
        {"origin_slug": "Order"},
        {"refunded_at": None},
        {"refunded_at": MOMENT.replace(microsecond=601_000)},
        {"refund_subtotal": None},
        {"refund_subtotal": Decimal("12.5001")},
        {"refund_subtotal": Decimal("100.0000")},
        {"refund_subtotal": Decimal("250.0000"), "order_subtotal": None},
        {"refund_subtotal": Decimal("99999999999.9999")},
        {"order_subtotal": Decimal("12.5000")},
    ]
)
voids = st.sampled_from([None] * 3 + [outcome.value for outcome in ReferralOutcome])
more = st.tuples(refunds, voids, st.booleans())
successes = st.sampled_from(["refunded", "refunded", "already_refunded", "settled_refunded"])
last_steps = st.tuples(successes, st.sampled_from(WRITERS), st.sampled_from([1, 1, None]), st.just(0.01))
entries_of_a_key = st.tuples(
    st.lists(st.tuples(steps, more), max_size=5), st.lists(st.tuples(last_steps, more), max_size=1)
).map(lambda both: [*both[0], *both[1]])
rows = st.tuples(refunds, st.sampled_from([None] * 6 + [Outcome.INVALID, Outcome.CONFLICT]), entries_of_a_key)
options = st.fixed_dictionaries(
    {
        "resend": st.sets(st.sampled_from(Outcome)),
        "is_doubtful_site": st.booleans(),
        "void_referral": st.booleans(),
        "writer": st.sampled_from(["", *WRITERS]),
    }
)
PLAIN: Any = ({}, None, False)
SETTLED: Any = ({}, None, [(("refunded", WRITERS[0], 1, 30), PLAIN)])
settled_rows: st.SearchStrategy[Any] = st.lists(st.tuples(steps, more), max_size=4).map(
    lambda before: ({}, None, [*before, (("refunded", WRITERS[0], 1, 0.01), PLAIN)])
)
# Whoever looked it up knew nothing of the first run.
OF_THREE_RUNS: Any = (
    {},
    None,
    [*((("submitted", writer, 0, 1), PLAIN) for writer in WRITERS), (("settled_refunded", "", 1, 1), PLAIN)],
)
WHOLE = {"refund_subtotal": None}
TO_BE_VOIDED: Any = (WHOLE, None, [(("refunded", WRITERS[0], 1, 30), (WHOLE, "failed", False))])


def entries_of(row: Row, steps_and_more: list[Any]) -> list[dict[str, Any]]:
    """What the ledger has of a row."""
    about: dict[str, Any] = {"site_slug": row.site_slug, "refund_key": row.refund_key}
    plain = {name: getattr(REFUND, name) for name in ("origin_slug", "refunded_at", "refund_subtotal")}
    entries = written([step for step, _ in steps_and_more])
    return [
        about
        | plain
        | {"order_subtotal": REFUND.order_subtotal, "void_outcome": void, "logged_at": datetime.now(UTC)}
        | changes
        | entry
        | {"is_of_this_task": is_own}
        for entry, (_, (changes, void, is_own)) in zip(entries, steps_and_more, strict=False)
    ]


def history_of(entries: list[dict[str, Any]]) -> History:
    """What all entries come to, as the ledger was given them."""
    kept = (*READ, "is_of_this_task")
    read = [Entry(**{name: entry[name] for name in kept if name in entry}) for entry in entries]
    return History.of(sorted(read, key=lambda entry: entry.entry_id))


@pytest.mark.takes_long
def test_what_is_left_out_would_have_been_skipped(database: URL, engines: Callable[[URL], Engine]) -> None:
    engine = engines(database)
    ours, others = Ledger(engine, task_run=TASK), Ledger(engine, task_run=replace(TASK, run_id="another"))
    ours.open()
    numbers = count()
    seen: Counter[str] = Counter()

    @examples(300)
    @given(
        drawn=st.lists(rows | settled_rows, min_size=1, max_size=8), options=options, names_keys=st.booleans()
    )
    @example(drawn=[SETTLED, SETTLED], options={}, names_keys=True)
    @example(drawn=[OF_THREE_RUNS], options={}, names_keys=False)
    @example(drawn=[TO_BE_VOIDED], options={"void_referral": True}, names_keys=False)
    def leave_out(drawn: list[Any], options: dict[str, Any], names_keys: bool) -> None:
        expected, histories = {}, {}
        for changes, problem, steps_and_more in drawn:
            row = replace(REFUND, refund_key=f"key-{next(numbers)}", problem=problem, **changes)
            entries = entries_of(row, steps_and_more)
            for entry in entries:
                values = {name: value for name, value in entry.items() if name != "is_of_this_task"}
                (ours if entry["is_of_this_task"] else others).append([values])
            expected[row.refund_key] = row
            histories[row.refund_key] = history_of(entries)
        with Snapshot() as snapshot:
            snapshot.fill(expected.values())
            said = ours.newest("my-store", snapshot.keys_ahead(100))
            found = snapshot.take_unsettled(100, None, said)
        kept = {row.refund_key for row in found.rows}
        assert found.settled == len(expected) - len(kept)
        assert [row for row in expected.values() if row.refund_key in kept] == found.rows
        assert {row.refund_key for row in found.known} == {key for key in kept if histories[key].newest}
        keys = frozenset(expected) if names_keys else frozenset()
        for key, row in expected.items():
            decision = decide(row, histories[key], resend_keys=keys, **options)
            is_skipped = isinstance(decision, Skip) and not decision.hidden_by
            seen["left out" if key not in kept else "skipped" if is_skipped else "decided"] += 1
            if key not in kept:
                assert isinstance(decision, Skip)
                assert not decision.hidden_by
                assert not decision.entry.is_of_this_task

    leave_out()
    assert all(seen[way] > 4 for way in ("left out", "skipped", "decided")), seen


def test_rows_with_one_key_and_letters_of_all_kinds_are_kept_apart(
    database: URL, engines: Callable[[URL], Engine]
) -> None:
    ledger = Ledger(engines(database))
    ledger.open()
    settled = [
        replace(REFUND, refund_key=key, origin_slug=f"{key}|")
        for key in ("a", "A", "a ", "\u00e4", '"', "\\", "'", "\U0001f6d2", "|")
    ]
    for number, row in enumerate(settled):
        entry = entries_of(row, [(("refunded", WRITERS[0], 1, number), ({}, None, False))])[0]
        del entry["is_of_this_task"]
        ledger.append([entry | {"origin_slug": row.origin_slug}])
    twice = [replace(REFUND, refund_key="twice", origin_slug=slug) for slug in ("order", "other")]
    with Snapshot() as snapshot:
        snapshot.fill([*settled, *twice])
        said = ledger.newest("my-store", snapshot.keys_ahead(100))
        found = snapshot.take_unsettled(100, None, said)
    assert found.settled == len(settled)
    assert [row.problem for row in found.rows] == [Outcome.CONFLICT] * 2
