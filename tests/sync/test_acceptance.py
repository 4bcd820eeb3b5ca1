"""What the sync promises, on a real PostgreSQL: nothing lost, nothing sent twice, nothing held open."""

from __future__ import annotations

import multiprocessing
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.sandbox import Canned, Dials
from tests.conftest import KEY, sized
from tests.shop import Shop, wait_for_requests
from tests.sync.worker import work


class Refunds:
    """Refunds of all kinds: 3 % unknown to Talkable, 5 % refunded already, 1 % malformed, a fifth partial."""

    def __init__(self, count: int) -> None:
        kinds = ["unknown"] * 3 + ["already"] * 5 + ["malformed"] + ["partial"] * 20 + ["full"] * 71
        self.kinds = {f"order-{n}": kinds[n % 100] for n in range(count)}

    def fill(self, shop: Shop) -> None:
        talkable = shop.sandbox.talkable
        for slug, kind in self.kinds.items():
            if kind != "unknown":
                talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100})
            if kind == "already":
                talkable.refund("my-store", slug, {})
        shop.refund(*map(self._row, self.kinds))

    def _row(self, slug: str) -> tuple[str, str, str, str | None]:
        refunded_at = "soon" if self.kinds[slug] == "malformed" else "2026-01-02T03:04:05Z"
        return f"refund of {slug}", slug, refunded_at, "7.25" if self.kinds[slug] == "partial" else None

    def assert_each_has_its_outcome(self, shop: Shop) -> Counter[str]:
        """Compare ledger and sandbox row by row; return the outcomes."""
        states = shop.states()
        assert len(states) == len(self.kinds)
        held = shop.sandbox.talkable.snapshot()["my-store"]
        possible: dict[str, set[tuple[object, ...]]] = {
            "unknown": {("not_found", None, None)},
            "already": {("already_refunded", 1, None)},
            "malformed": {("invalid", 0, None)},
            # A full refund is sent again after doubt, and is then already refunded.
            "full": {("refunded", 1, None), ("already_refunded", 1, None)},
            # A partial one is not: whether Talkable took it stays open.
            "partial": {("refunded", 1, 7.25), ("unconfirmed", 1, 7.25), ("unconfirmed", 0, None)},
        }
        for slug, kind in self.kinds.items():
            origin = held.get(slug, {})
            found = (
                states[f"refund of {slug}"],
                origin.get("times_refunded"),
                origin.get("refund_subtotal") if kind == "partial" else None,
            )
            assert found in possible[kind], (slug, kind)
        return Counter(states.values())


@pytest.mark.takes_long
def test_thousands_of_refunds_through_faults_and_a_hidden_limit(postgres_shop: Shop) -> None:
    count = sized(10_000)
    shop, refunds = postgres_shop, Refunds(count)
    refunds.fill(shop)
    shop.sandbox.dials = Dials(errors=0.02, resets_after=0.01, rate_limit=500, seed=1)
    # A busy machine may never reach the limit.
    shop.sandbox.dials.next(*[None] * (count // 5), *[Canned(429)] * 5)
    summary = shop.sync(pace=Pace(max_in_flight=32, initial_rate=100))
    outcomes = refunds.assert_each_has_its_outcome(shop)
    assert outcomes == summary.outcomes
    assert (outcomes["not_found"], outcomes["invalid"]) == (count * 3 // 100, count // 100)
    # Of the partial refunds, a fifth, about 3 in 100 met a fault.
    assert 0.01 < outcomes["unconfirmed"] / (count // 5) < 0.06
    assert 0 < summary.throttled_requests < 0.05 * summary.requests
    assert summary.sent == count * 99 // 100

    before = len(shop.ledger())
    shop.sandbox.requests.clear()
    again = shop.sync()
    assert (again.skipped, again.sent, len(shop.sandbox.requests)) == (count, 0, 0)
    assert len(shop.ledger()) == before


# Imports what the workers need once, and forks each of them.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([work.__module__])


class Worker:
    """The sync in a process of its own."""

    def __init__(self, shop: Shop, *, in_flight: int) -> None:
        database = shop.engine.url.render_as_string(hide_password=False)
        self._said, said = PROCESSES.Pipe(duplex=False)
        self._process = PROCESSES.Process(
            target=work, args=(database, shop.sandbox.url, KEY, in_flight, said)
        )
        self._process.start()
        said.close()

    def begins(self) -> None:
        assert self._said.recv() == "begins"

    def kill(self) -> None:
        assert not self._said.poll(), "it was too fast to be killed"
        self._process.kill()
        self._process.join()

    def result(self) -> dict[str, object]:
        self._process.join(timeout=120)
        assert self._process.exitcode == 0
        *_, result = self._everything_said()
        assert isinstance(result, dict)
        return result

    def _everything_said(self) -> Iterator[object]:
        while self._said.poll():
            try:
                yield self._said.recv()
            except EOFError:
                return


@pytest.mark.takes_long
def test_killed_twenty_times_it_loses_nothing_and_sends_nothing_twice(postgres_shop: Shop) -> None:
    kills = sized(20)
    shop, refunds = postgres_shop, Refunds(kills * 300)
    refunds.fill(shop)
    shop.sandbox.dials = Dials(latency=0.05, errors=0.02, resets_after=0.01, seed=2)
    moments = random.Random(3)
    settled_at: list[tuple[int, set[str]]] = []
    for _ in range(kills):
        worker = Worker(shop, in_flight=8)
        worker.begins()
        # Not after a time: a busy machine would have sent little by then.
        wait_for_requests(shop.sandbox, len(shop.sandbox.requests) + moments.randrange(180))
        worker.kill()
        # What the dead process had on the wire still arrives.
        time.sleep(0.2)
        recorded = {e["origin_slug"] for e in shop.ledger() if "refunded" in e["event"]}
        settled_at.append((len(shop.sent), recorded))
    in_doubt = list(shop.states().values()).count("submitted")
    shop.sandbox.dials.latency = 0
    result = Worker(shop, in_flight=32).result()
    outcomes = refunds.assert_each_has_its_outcome(shop)

    # The runs that were killed have sent a good part of it, but not all, and left something in doubt.
    assert kills * 50 < settled_at[-1][0] < kills * 250
    assert in_doubt
    assert outcomes["unconfirmed"] < kills * (16 + 3)
    assert result["stopped"] is None
    sent = shop.sent
    assert len(sent) < 10_000, "the sandbox no longer remembers them all"
    times = Counter(sent)
    assert {times[slug] for slug, kind in refunds.kinds.items() if kind == "partial"} <= {0, 1}
    for position, recorded in settled_at:
        assert recorded.isdisjoint(sent[position:])


@pytest.mark.takes_long
def test_a_kill_leaves_little_more_in_doubt_than_was_on_the_wire(postgres_shop: Shop) -> None:
    shop = postgres_shop
    kills = sized(20)
    slugs = [f"order-{n}" for n in range(kills * 300)]
    shop.order(*slugs)
    shop.refund(*((slug, slug, None, "5") for slug in slugs))
    shop.sandbox.dials = Dials(latency=0.03)
    moments = random.Random(4)
    in_doubt = []
    for _ in range(kills):
        worker = Worker(shop, in_flight=16)
        worker.begins()
        until = len(shop.sandbox.requests) + moments.randrange(60, 200)
        wait_for_requests(shop.sandbox, until)
        worker.kill()
        entries = shop.ledger()
        writer = entries[-1]["entry_id"][16:]
        of_run = {e["refund_key"]: e["event"] for e in entries if e["entry_id"].endswith(writer)}
        in_doubt.append(list(of_run.values()).count("submitted"))
    assert 0 < statistics.median(in_doubt) <= 1.5 * 16, in_doubt


def test_runs_at_the_same_time_send_no_partial_refund_twice(postgres_shop: Shop) -> None:
    shop = postgres_shop
    slugs = [f"order-{n}" for n in range(1_000)]
    shop.order(*slugs)
    shop.refund(*((slug, slug, None, "5") for slug in slugs))
    # None gets far until all have begun, and each goes through the rows in the same order.
    shop.sandbox.dials.latency = 1
    workers = [Worker(shop, in_flight=8) for _ in range(3)]
    for worker in workers:
        worker.begins()
    shop.sandbox.dials.latency = 0.02
    results = [worker.result() for worker in workers]
    assert all(result["stopped"] is None for result in results)
    assert sum(bool(result["sent"]) for result in results) > 1, "they did not run at the same time"
    Worker(shop, in_flight=8).result()
    times = Counter(shop.sent)
    assert set(times.values()) == {1}
    # Where one run took for a doubt what another one was about to send, it is held.
    assert {slug for slug, state in shop.states().items() if state == "refunded"} == set(times)
    assert set(shop.states().values()) <= {"refunded", "unconfirmed"}
    assert len(times) > 950


def transactions(shop: Shop) -> Iterator[float]:
    """The ages, in seconds, of all transactions that others have open on the warehouse."""
    query = (
        "SELECT extract(epoch FROM clock_timestamp() - xact_start) FROM pg_stat_activity"
        " WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
    )
    with shop.engine.connect() as connection:
        yield from (float(age) for (age,) in connection.exec_driver_sql(query))


def test_no_transaction_stays_open_while_talkable_is_called(postgres_shop: Shop) -> None:
    shop = postgres_shop
    slugs = [f"order-{n}" for n in range(150)]
    shop.order(*slugs)
    shop.refund(*slugs)
    shop.sandbox.dials.latency = 2
    done = threading.Event()
    ages: list[float] = []
    looks: list[int] = []

    def watch() -> None:
        while not done.wait(0.005):
            if shop.sandbox.requests:
                looks.append(1)
                ages.extend(transactions(shop))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        assert shop.sync(pace=Pace(64, initial_rate=None)).outcomes == {"refunded": 150}
    finally:
        done.set()
        watching.join()
    assert len(looks) > 100
    # The ledger's own are over in milliseconds; on a busy machine in one; an answer takes two.
    assert max(ages, default=0) < 1.6


@pytest.mark.parametrize("transaction_is_open", [True, False])
def test_an_open_transaction_would_be_seen(postgres_shop: Shop, transaction_is_open: bool) -> None:
    with postgres_shop.engine.connect() as connection:
        if transaction_is_open:
            connection.exec_driver_sql("SELECT 1")
        time.sleep(1)
        assert any(age > 0.8 for age in transactions(postgres_shop)) is transaction_is_open
