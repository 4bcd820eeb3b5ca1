"""The pacer against simulated limits, without sleeping."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from airflow_provider_talkable.client.pacing import Pacer
from airflow_provider_talkable.sandbox import Dials

FROM, UNTIL = 10.0, 70.0


class Simulation:
    """Workers of 16 slots each, sending to one hidden limit; time passes only here.

    :param limit: Requests per second of the limit, a token bucket of one second.
    :param latency: Seconds from sending to the answer.
    """

    def __init__(
        self, limit: float, *, latency: float = 0.02, workers: int = 1, **pacing: float | None
    ) -> None:
        self.now = 0.0
        self.dials = Dials(rate_limit=limit)
        self.pacers = [Pacer(clock=lambda: self.now, **pacing) for _ in range(workers)]
        self.latency = latency
        self.accepted: list[list[float]] = [[] for _ in self.pacers]
        self.throttled: list[float] = []
        self.sent: list[float] = []
        self._ids = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for worker in range(workers):
            for _ in range(16):
                self._at(0.0, self._slot(worker))

    def run(self, until: float = UNTIL) -> Simulation:
        while self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self

    @property
    def goodput(self) -> list[float]:
        """Refunds per second of each worker, after the first ten seconds."""
        return [sum(at >= FROM for at in times) / (UNTIL - FROM) for times in self.accepted]

    @property
    def share_throttled(self) -> float:
        """Of all answers after the first ten seconds, the share that was 429."""
        bad = sum(at >= FROM for at in self.throttled)
        return bad / (bad + sum(self.goodput) * (UNTIL - FROM))

    def _at(self, when: float, slot: Iterator[float]) -> None:
        heapq.heappush(self._events, (when, next(self._ids), lambda: self._at(self.now + next(slot), slot)))

    def _slot(self, worker: int) -> Iterator[float]:
        pacer = self.pacers[worker]
        while True:
            while (wait := pacer.seconds_to_wait()) > 0:
                yield wait
            sent_at = self.now
            self.sent.append(sent_at)
            yield self.latency / 2
            fault = self.dials.pick(lambda: self.now)
            yield self.latency / 2
            if fault is None:
                self.accepted[worker].append(self.now)
                pacer.accepted(sent_at)
            else:
                self.throttled.append(self.now)
                pacer.throttled(sent_at)


@pytest.fixture(autouse=True)
def _chance() -> None:
    random.seed(7)


@pytest.mark.parametrize("latency", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("limit", [5, 50])
def test_it_stays_just_below_a_limit_nobody_told_it(limit: float, latency: float) -> None:
    simulation = Simulation(limit, latency=latency).run()
    assert sum(simulation.goodput) >= 0.95 * limit
    assert simulation.share_throttled <= 0.02


def test_it_finds_a_high_limit_from_a_gentle_start() -> None:
    simulation = Simulation(300, latency=0.01).run()
    assert sum(at < 1 for at in simulation.sent) <= 12
    assert sum(simulation.goodput) >= 0.95 * 300
    assert simulation.share_throttled <= 0.02


@pytest.mark.parametrize("limit", [50, 300])
def test_workers_that_know_nothing_of_each_other_end_up_sharing(limit: float) -> None:
    simulation = Simulation(limit, workers=4).run()
    rates = simulation.goodput
    fairness = sum(rates) ** 2 / (len(rates) * sum(rate**2 for rate in rates))
    assert sum(rates) >= 0.95 * limit
    assert fairness >= 0.75
    assert simulation.share_throttled <= 0.02


def test_it_follows_a_limit_that_changes() -> None:
    simulation = Simulation(100)
    simulation.run(30).dials.rate_limit = 20
    simulation.run(60)
    lowered = sum(at >= 40 for at in simulation.accepted[0]) / 20
    assert 18 <= lowered <= 20.5
    simulation.dials.rate_limit = 100
    simulation.run(120)
    assert sum(at >= 100 for at in simulation.accepted[0]) / 20 >= 80


def test_without_initial_rate_it_is_unpaced_until_the_first_429() -> None:
    simulation = Simulation(50, initial_rate=None).run()
    assert sum(at == 0 for at in simulation.sent) == 16
    assert sum(simulation.goodput) >= 0.95 * 50


def test_max_rate_caps_it() -> None:
    simulation = Simulation(50, max_rate=10).run()
    assert 9.5 <= sum(simulation.goodput) <= 10.1
    assert not simulation.throttled


def test_a_rate_that_is_not_used_does_not_grow() -> None:
    simulation = Simulation(10_000, latency=1.0).run()
    assert simulation.pacers[0].rate <= 2 * 16 + 1


def test_pauses_double_up_to_a_minute_and_end_with_three_successes() -> None:
    now = 0.0
    pacer = Pacer(clock=lambda: now)
    pauses = []
    for _ in range(9):
        now += pacer.seconds_to_wait()
        pacer.throttled(now)
        pauses.append(pacer.seconds_to_wait())
    for pause, longest in zip(pauses, (0.5, 1, 2, 4, 8, 16, 32, 60, 60), strict=True):
        assert longest / 2 <= pause <= longest
    now += pacer.seconds_to_wait()
    for _ in range(3):
        pacer.accepted(now)
    pacer.throttled(now)
    assert pacer.seconds_to_wait() <= 0.5


def test_retry_after_is_obeyed_by_all() -> None:
    pacer = Pacer(clock=lambda: 0.0)
    pacer.throttled(0.0, retry_after=17)
    assert pacer.seconds_to_wait() == 17


def test_the_429s_of_requests_already_under_way_count_once() -> None:
    now = 0.0
    pacer = Pacer(clock=lambda: now)
    now = 1.0
    pacer.throttled(0.9)
    rate = pacer.rate
    now = 1.1
    pacer.throttled(0.9)
    assert pacer.rate == rate
