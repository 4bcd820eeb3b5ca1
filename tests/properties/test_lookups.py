"""What a look-up leaves out of a key's entries changes nothing of what they come to."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import Outcome
from airflow_provider_talkable.sync.columns import READ, Values
from airflow_provider_talkable.sync.entries import SETTLED, SUBMITTED, Entry, History
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.rows import Row
from tests.conftest import examples

NOW = time.time_ns()
WRITERS = [f"{n:08x}" for n in (1, 7, 0xFFFFFFFF)]

events = st.sampled_from(
    [SUBMITTED] * 4 + [outcome.value for outcome in Outcome] + sorted(SETTLED) + ["notice"]
)
steps = st.tuples(
    events,
    st.sampled_from(WRITERS),
    st.sampled_from([0, 1, 1, None]),
    # Hours since the entry before; most histories are older than any run that may be alive.
    st.sampled_from([0.01, 0.5, 3, 30]),
)


def written(history: list[tuple[str, str, int | None, float]], now: int = NOW) -> list[Values]:
    """The entries, the last of them written now; a notice sorts right after what it is about.

    :param now: Nanoseconds since 1970.
    """
    age = sum(hours for *_, hours in history)
    entries: list[Values] = []
    for event, writer, attempts, hours in history:
        age -= hours
        ticks = now - int(age * 3600) * 10**9 + len(entries) * 1000
        doubts = [entry for entry in entries if entry["event"] == SUBMITTED]
        until, settles = None, None
        if event == "notice":
            event, attempts = Outcome.UNCONFIRMED.value, 0
            if doubts:
                ticks = int(doubts[-1]["entry_id"][:16], 16) + 1
        elif event == SUBMITTED:
            until = datetime.fromtimestamp(ticks / 1e9, UTC) + timedelta(minutes=20)
        elif event in SETTLED:
            settles = " ".join(entry["entry_id"] for entry in doubts[-2:]) or None
        entries.append(
            {
                "entry_id": f"{ticks:016x}{writer}",
                "event": event,
                "attempts": 0 if event == SUBMITTED else attempts,
                "sending_until": until,
                "settles": settles,
            }
        )
    return list({entry["entry_id"]: entry for entry in entries}.values())


def facts(history: History) -> dict[str, Any]:
    def ids(entries: tuple[Entry, ...]) -> list[str]:
        return [entry.entry_id for entry in entries]

    alive = tuple(entry for entry in history.unanswered if entry.sent_until > datetime.now(UTC))
    return {
        "decisive": history.decisive and history.decisive.entry_id,
        "newest": history.newest and history.newest.entry_id,
        "doubts": ids(history.doubts),
        "noticed": ids(history.noticed),
        "may be sending": ids(alive),
    }


@pytest.mark.takes_long
def test_a_look_up_comes_to_what_all_entries_come_to(database: URL, engines: Callable[[URL], Engine]) -> None:
    ledger = Ledger(engines(database))
    ledger.open()
    numbers = count()

    @examples(300)
    @given(histories=st.lists(st.lists(steps, min_size=1, max_size=12), min_size=1, max_size=4))
    @example(histories=[[("submitted", WRITERS[0], 0, 3), ("failed", WRITERS[1], 1, 0.01)]])
    @example(histories=[[("submitted", WRITERS[0], 0, 3), ("failed", WRITERS[0], 1, 3)] * 9])
    def look_up(histories: list[list[tuple[str, str, int | None, float]]]) -> None:
        rows = [Row("my-store", f"key-{next(numbers)}", "order") for _ in histories]
        expected = {}
        for row, history in zip(rows, histories, strict=True):
            entries = written(history)
            given_row = {"site_slug": row.site_slug, "refund_key": row.refund_key, "origin_slug": "order"}
            ledger.append([entry | given_row | {"logged_at": datetime.now(UTC)} for entry in entries])
            entries.sort(key=lambda entry: str(entry["entry_id"]))
            expected[row.site_slug, row.refund_key] = History.of(
                Entry(origin_slug="order", **{name: entry[name] for name in READ if name in entry})
                for entry in entries
            )
        new = Row("my-store", "never seen", "order")
        found = ledger.histories([*rows, new])
        assert found.keys() == expected.keys()
        assert {key: facts(history) for key, history in found.items()} == {
            key: facts(history) for key, history in expected.items()
        }

    look_up()


@pytest.mark.parametrize("pairs", [1, 500])
def test_a_look_up_reads_what_a_decision_needs(
    database: URL, engines: Callable[[URL], Engine], monkeypatch: pytest.MonkeyPatch, pairs: int
) -> None:
    ledger = Ledger(engines(database))
    ledger.open()
    history: list[tuple[str, str, int | None, float]]
    history = [("submitted", WRITERS[0], 0, 1.0), ("failed", WRITERS[0], 1, 1.0)] * pairs
    given_row = {"site_slug": "my-store", "refund_key": "r", "origin_slug": "A"}
    ledger.append([entry | given_row | {"logged_at": datetime.now(UTC)} for entry in written(history)])
    read: list[int] = []
    of = History.of

    def counted(entries: Any) -> History:
        kept = list(entries)
        read.append(len(kept))
        return of(kept)

    monkeypatch.setattr(History, "of", counted)
    assert ledger.histories([Row("my-store", "r", "A")])["my-store", "r"].decisive
    assert read[0] <= 7
