"""What retention deletes changes no decision, no reconciliation and no overview, then or later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import Outcome
from airflow_provider_talkable.sync.columns import Values
from airflow_provider_talkable.sync.compaction import compact
from airflow_provider_talkable.sync.decisions import decide
from airflow_provider_talkable.sync.discrepancies import against_ledger, is_to_be_asked, settled_entry
from airflow_provider_talkable.sync.entries import History
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.overview import Period, overview_of
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.settling import unconfirmed
from tests.conftest import examples
from tests.documents import block
from tests.properties.test_lookups import NOW as TICKS
from tests.properties.test_lookups import WRITERS, facts, steps, written

SITE = "my-store"
ORDERS = ("A", "B")
AMOUNTS = (None, Decimal("5.0000"))
NOW = datetime.now(UTC)

orders_facts = st.fixed_dictionaries(
    {
        # Mostly the same refund; now and then another one under its key.
        "origin_slug": st.sampled_from([ORDERS[0]] * 3 + [ORDERS[1]]),
        "refund_subtotal": st.sampled_from([*AMOUNTS, AMOUNTS[0]]),
        "reward_paid": st.sampled_from([None, True, False]),
        "void_outcome": st.sampled_from([None, None, "throttled", "updated"]),
        "error_message": st.sampled_from([None, "why"]),
    }
)
histories = st.lists(st.tuples(steps, orders_facts), min_size=1, max_size=12)


@dataclass
class Both:
    """Two ledgers with the same entries, of which one is compacted."""

    kept: Ledger
    compacted: Ledger

    def empty(self) -> None:
        for ledger in (self.kept, self.compacted):
            ledger.change(lambda connection, table: connection.execute(table.delete()), needs="it all")

    def append(self, entries: Sequence[Values]) -> None:
        for ledger in (self.kept, self.compacted):
            ledger.append(entries)


def key_of(number: int) -> str:
    return f"key-{number}"


def entries_of(number: int, history: list[tuple[Any, dict[str, Any]]]) -> list[Values]:
    """The entries of a refund; those of no other have the same time, by which they are in order."""
    entries = []
    told = written([step for step, _ in history], TICKS + number * 10)
    for entry, (_, of_order) in zip(told, history, strict=False):
        ticks = int(str(entry["entry_id"])[:16], 16)
        paid = of_order["reward_paid"]
        entries.append(
            entry
            | of_order
            | {
                "site_slug": SITE,
                "refund_key": key_of(number),
                "logged_at": datetime.fromtimestamp(ticks / 1e9, UTC),
                "reward_known_by": None if paid is None else "rewards",
            }
        )
    return sorted(entries, key=lambda entry: str(entry["entry_id"]))


def late(ledger: Ledger) -> set[tuple[str, str]]:
    """As the page of the ledger finds them."""
    query = block("docs/ledger.md", "sql", "reward_paid").replace("talkable_refund_ledger", ledger.name)
    query = query.replace("site_slug, origin_slug", "refund_key, origin_slug")
    return ledger.read(lambda connection, _: {row[:2] for row in connection.exec_driver_sql(query)})


def known(ledger: Ledger, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Everything that the rest of the code makes of the ledger."""
    orders = [Row(SITE, "other", order) for order in ORDERS]
    yield "orders", {key: sorted(map(repr, taken)) for key, taken in ledger.orders(orders).items()}
    yield "site", ledger.has_taken(SITE), ledger.unknown_orders(SITE)
    yield "overview", overview_of(ledger, Period(SITE), limit=100)
    yield "recently", overview_of(ledger, Period(SITE, since=NOW - timedelta(days=2)), limit=100)
    yield "late", late(ledger)
    yield "in doubt", unconfirmed(ledger, site_slug=SITE)
    # They are looked up by their keys, whatever else a row has.
    histories = ledger.histories([Row(SITE, key, "any") for key in keys])
    yield "histories", {key: facts(history) for key, history in histories.items()}
    for key, order, amount in product(keys, ORDERS, AMOUNTS):
        row = Row(SITE, key, order, None, amount)
        history = histories.get((SITE, key), History())
        yield "reconciled", against_ledger(row, history), is_to_be_asked(row, settled_entry(history))
        for resend, named, doubtful, void in product(
            (frozenset[Outcome](), frozenset({Outcome.NOT_FOUND, Outcome.REJECTED, Outcome.CONFLICT})),
            (frozenset[str](), frozenset(keys)),
            (False, True),
            (False, True),
        ):
            decision = decide(
                row,
                history,
                resend=resend,
                resend_keys=named,
                now=NOW,
                writer=WRITERS[0],
                is_doubtful_site=doubtful,
                void_referral=void,
            )
            yield "decided", key, decision


@pytest.fixture
def both(database: URL, engines: Callable[[URL], Engine]) -> Both:
    engine = engines(database)
    kept, compacted = Ledger(engine, table="kept"), Ledger(engine, table="compacted")
    for ledger in (kept, compacted):
        ledger.open()
    return Both(kept, compacted)


def step(event: str, writer: int, attempts: int | None, hours: float, **of_order: Any) -> Any:
    plain = dict.fromkeys(("refund_subtotal", "reward_paid", "void_outcome", "error_message"))
    return (event, WRITERS[writer], attempts, hours), {"origin_slug": "A"} | plain | of_order


PAID, ABORTED = step("refunded", 0, 1, 30, reward_paid=True), step("aborted", 2, 0, 30)
AFTERWARDS = [step("failed", 1, 1, 30)] * 2


@pytest.mark.takes_long
def test_what_is_known_stays_the_same(both: Both) -> None:
    @examples(100)
    @given(given_histories=st.lists(histories, min_size=1, max_size=3), cut=st.integers(0, 12))
    @example([[step("refunded", 0, 1, 30), *AFTERWARDS]], 12)
    @example([[step("already_refunded", 0, 1, 30, origin_slug="B"), *AFTERWARDS]], 12)
    @example([[step("not_found", 0, 1, 30), *AFTERWARDS]], 12)
    @example([[step("refunded", 0, 1, 30), step("unconfirmed", 0, 1, 30), *AFTERWARDS]], 12)
    @example([[step("refunded", 0, 1, 30, origin_slug="B"), step("refunded", 0, 1, 30), *AFTERWARDS]], 12)
    @example([[step("refunded", 0, 1, 30, reward_paid=True), step("refunded", 0, 1, 30), *AFTERWARDS]], 12)
    @example([[PAID, step("refunded", 0, None, 30, reward_paid=True), *AFTERWARDS]], 12)
    @example([[step("rejected", 0, 1, 30), step("not_found", 1, None, 30), *[ABORTED] * 2]], 12)
    @example([[step("submitted", 0, 0, 30), step("notice", 1, 0, 0.01), *[ABORTED] * 2]], 12)
    @example([[step("settled_refunded", 0, 0, 30), *AFTERWARDS]], 12)
    @example([[step("submitted", 0, 0, 30), step("settled_not_refunded", 1, 0, 30), *AFTERWARDS]], 12)
    def keep(given_histories: list[list[Any]], cut: int) -> None:
        both.empty()
        keys = [key_of(number) for number in range(len(given_histories))]
        later: list[Values] = []
        for number, history in enumerate(given_histories):
            entries = entries_of(number, history)
            both.append(entries[:cut])
            later += entries[cut:]
        compact(both.compacted, timedelta(days=1), now=NOW)
        compare(keys)
        # What runs write afterwards finds the same.
        both.append(later)
        compare(keys)
        compact(both.compacted, timedelta(days=1), now=NOW)
        compare(keys)

    def compare(keys: Sequence[str]) -> None:
        kept, compacted = (list(known(ledger, keys)) for ledger in (both.kept, both.compacted))
        assert compacted == kept

    keep()
