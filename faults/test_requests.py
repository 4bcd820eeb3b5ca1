"""Every failure of a request, at every moment, to full and to partial refunds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from airflow_provider_talkable import Refund
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.client.sync import TalkableClient
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from faults.conftest import Record, RecordRequest
from faults.line import Fault, Kind, Line, Moment, Tells, rendered
from tests.conftest import KEY
from tests.shop import SQL, Shop, connect_of

HTML = b"<!DOCTYPE html><html><body>We'll be back</body></html>"
ANSWERS = {
    "500": rendered(500, b'{"ok": false, "error_message": "Internal error"}'),
    "502 with HTML": rendered(502, HTML, "text/html"),
    "503": rendered(503),
    "408": rendered(408),
    "200 with HTML": rendered(200, HTML, "text/html"),
    "200 with nothing": rendered(200),
    "200 about another order": rendered(200, b'{"ok": true, "result": {"origin": {"order_number": "B"}}}'),
    "200 about an order not refunded": rendered(
        200, b'{"ok": true, "result": {"id": 1, "refunded_at": null}}'
    ),
}
BREAKS = [Kind.RESET, Kind.CLOSED, Kind.SILENCE, Kind.GARBAGE]
FAULTS = [
    *(Fault(Moment.CONNECTING, kind, Tells.NOT_SENT) for kind in (Kind.REFUSED, Kind.SILENCE)),
    *(Fault(moment, kind) for moment in list(Moment)[1:] for kind in BREAKS),
    *(Fault(moment, Kind.DRIP) for moment in (Moment.STATUS_LINE, Moment.HEADERS, Moment.BODY)),
    *(
        Fault(moment, Kind.ANSWER, name=name, answer=answer)
        for moment in (Moment.BEFORE, Moment.ACTED)
        for name, answer in ANSWERS.items()
    ),
    Fault(
        Moment.BEFORE,
        Kind.ANSWER,
        Tells.THROTTLED,
        "429",
        rendered(429, b"", "text/plain", "Retry-After: 1"),
    ),
    Fault(
        Moment.BEFORE,
        Kind.ANSWER,
        Tells.KEY_REFUSED,
        "401",
        rendered(401, b'{"ok": false, "error_message": "Invalid API key"}'),
    ),
    Fault(Moment.BEFORE, Kind.ANSWER, Tells.FOREIGN, "403 of a firewall", rendered(403, HTML, "text/html")),
    Fault(
        Moment.BEFORE,
        Kind.ANSWER,
        Tells.FOREIGN,
        "404 of a gateway",
        rendered(404, b'{"message": "no Route matched"}'),
    ),
    Fault(
        Moment.BEFORE,
        Kind.ANSWER,
        Tells.SENT_ELSEWHERE,
        "a redirect",
        rendered(307, b"", "text/html", "Location: https://other.example/"),
    ),
]
FOR_GOOD = 10**6
SETTLED = {"refunded", "already_refunded"}


def promised(fault: Fault, *, is_partial: bool, for_good: bool) -> str:
    """The outcome that the pages promise."""
    match fault.tells:
        case Tells.NOT_SENT:
            return "failed" if for_good else "refunded"
        case Tells.THROTTLED:
            return "throttled" if for_good else "refunded"
        case Tells.KEY_REFUSED:
            return "aborted"
        case Tells.FOREIGN | Tells.SENT_ELSEWHERE:
            return "failed"
    if is_partial:
        return "unconfirmed"
    if for_good:
        return "failed"
    return "already_refunded" if fault.acted else "refunded"


def requests_promised(fault: Fault, *, is_partial: bool, times: int) -> int:
    """How many requests that takes; one that cannot connect is none."""
    if fault.moment is Moment.CONNECTING:
        return 0 if times == FOR_GOOD else 1
    if fault.tells in (Tells.KEY_REFUSED, Tells.FOREIGN, Tells.SENT_ELSEWHERE) or (
        fault.tells is Tells.DOUBT and is_partial
    ):
        return 1
    if times == FOR_GOOD:
        return 1 if fault.tells is Tells.THROTTLED else 5
    return times + 1


class ByClient:
    """One refund through the synchronous client."""

    def __init__(self, shop: Shop, subtotal: str | None) -> None:
        self._refund = Refund.parse("A", site_slug="my-store", refund_subtotal=subtotal)

    def run(self, config: ClientConfig, policy: RetryPolicy) -> str:
        with TalkableClient(config, policy, sleep=lambda seconds: None) as client:
            return client.refund(self._refund).outcome


class BySync:
    """One refund through the sync, the ledger and SQLite."""

    def __init__(self, shop: Shop, subtotal: str | None) -> None:
        self._shop = shop
        shop.refund(("a", "A", None, subtotal))

    def run(self, config: ClientConfig, policy: RetryPolicy) -> str:
        sync(self._shop, config, policy)
        return self._shop.states()["a"]


def sync(shop: Shop, config: ClientConfig, policy: RetryPolicy) -> None:
    with Snapshot() as snapshot:
        ledger = Ledger(shop.engine)
        ledger.open()
        snapshot.fill(rows_of(connect_of(shop.engine), SQL, site_slug="my-store"))
        pace = Pace(initial_rate=None)
        RefundSync(snapshot, ledger, config, policy=policy, pace=pace, rules=Rules()).run()


@pytest.mark.parametrize("way", [ByClient, BySync])
@pytest.mark.parametrize("times", [1, 2, FOR_GOOD], ids=["once", "twice", "for good"])
@pytest.mark.parametrize("subtotal", [None, "5"], ids=["full", "partial"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.moment}, {fault}")
def test_a_refund_through_a_failure_ends_as_is_promised(
    shop: Shop,
    record_request: RecordRequest,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    subtotal: str | None,
    times: int,
    way: type[ByClient | BySync],
) -> None:
    is_partial, for_good = subtotal is not None, times == FOR_GOOD
    shop.order("A")
    refund = way(shop, subtotal)
    with Line(shop.sandbox, fault, times) as line:

        def no_time(low: float, high: float) -> float:
            line.attempt_failed()
            return 0

        # Asked once before each repeat: waiting is over at once.
        monkeypatch.setattr(random, "uniform", no_time)
        timeout = 30.0
        if fault.kind in (Kind.SILENCE, Kind.DRIP):
            # What succeeds at last needs time for it.
            timeout = 0.2 if for_good else 0.5
        config = ClientConfig.parse(host=line.url, api_key=KEY, timeout=timeout, auth_scheme="basic")
        outcome = refund.run(config, RetryPolicy(throttle_patience=0.5 if for_good else 30))
        requests, taken = len(line.seen), shop.times_refunded("A")

        line.mend()
        end = outcome
        is_settled = outcome in SETTLED | {"unconfirmed"}
        # Of a single refund it is the caller who remembers what is settled, or not to be repeated.
        if way is BySync or not is_settled:
            end = refund.run(
                ClientConfig.parse(host=line.url, api_key=KEY, auth_scheme="basic"), RetryPolicy()
            )
    column = f"{'partial' if is_partial else 'full'} refund, {'for good' if for_good else 'once or twice'}"
    told = outcome if outcome == end else f"{outcome}, then {end}"
    record_request(fault.moment, str(fault), column, f"{told}, ×{shop.times_refunded('A')}")

    expected = promised(fault, is_partial=is_partial, for_good=for_good)
    assert (outcome, taken) == (expected, 1 if fault.acted or expected in SETTLED else 0)
    assert requests == requests_promised(fault, is_partial=is_partial, times=times)
    after = (end, len(line.seen), shop.times_refunded("A"))
    if is_settled:
        assert after == (outcome, requests, taken)
    else:
        assert after == ("already_refunded" if fault.acted else "refunded", requests + 1, 1)


def test_every_failure_by_chance_to_six_hundred_refunds(
    shop: Shop, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = 11
    chance = random.Random(seed)
    possible = [fault for fault in FAULTS if fault.tells is Tells.DOUBT]

    def faults() -> Iterator[Fault | None]:
        while True:
            yield chance.choice(possible) if chance.random() < 0.3 else None

    subtotals = {f"order-{n}": "5" if n % 3 == 0 else None for n in range(600)}
    shop.order(*subtotals)
    shop.refund(*((slug, slug, None, subtotal) for slug, subtotal in subtotals.items()))
    monkeypatch.setattr(random, "uniform", lambda low, high: 0)
    with Line(shop.sandbox, faults()) as line:
        sync(shop, ClientConfig.parse(host=line.url, api_key=KEY, timeout=2), RetryPolicy())
        seen = list(line.seen)
        first = shop.states()
        line.mend()
        sync(shop, ClientConfig.parse(host=line.url, api_key=KEY), RetryPolicy())
        repeated = {slug for slug, _ in line.seen[len(seen) :]}
    states = shop.states()
    assert set(first) == set(states) == set(subtotals)
    met: dict[str, list[Fault]] = {slug: [] for slug in subtotals}
    for slug, fault in seen:
        if fault:
            met[slug].append(fault)
    for slug, subtotal in subtotals.items():
        acted = any(fault.acted for fault in met[slug])
        if subtotal is None:
            tried = sum(one == slug for one, _ in seen)
            assert first[slug] == (
                "failed" if len(met[slug]) == 5 else "already_refunded" if acted else "refunded"
            )
            assert tried == min(5, len(met[slug]) + 1)
            assert (states[slug] in SETTLED, shop.times_refunded(slug)) == (True, 1), slug
        else:
            assert len(met[slug]) <= 1
            assert states[slug] == ("unconfirmed" if met[slug] else "refunded"), slug
            assert shop.times_refunded(slug) == (acted or not met[slug]), slug
    assert repeated == {slug for slug, event in first.items() if event == "failed"}
    outcomes = Counter(states.values())
    record(
        "Surroundings",
        f"{sum(map(len, met.values()))} of {len(seen)} requests, by a failure drawn from those above that "
        f"leave doubt (seed {seed})",
        f"{sum(map(bool, met.values()))} of 600 refunds, a third of them partial",
        ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
        + "; each full refund taken once, each partial one at most once",
    )


def test_connections_that_end_or_speak_without_being_asked(shop: Shop, record: Record) -> None:
    subtotals = {f"order-{n}": "5" if n % 3 == 0 else None for n in range(600)}
    shop.order(*subtotals)
    shop.refund(*((slug, slug, None, subtotal) for slug, subtotal in subtotals.items()))
    shop.sandbox.dials.closes, shop.sandbox.dials.twice = 0.4, 0.3
    shop.sync(pace=Pace(initial_rate=None))
    states = shop.states()
    for slug, subtotal in subtotals.items():
        assert states[slug] in SETTLED, slug
        assert shop.times_refunded(slug) == 1, slug
        # Of full ones some were sent again, and refused.
        assert subtotal is None or (states[slug], shop.sent.count(slug)) == ("refunded", 1), slug
    outcomes = Counter(states.values())
    record(
        "Surroundings",
        "connections closed after four of ten answers, without a word, and three of ten answers given twice",
        "600 refunds, a third of them partial",
        ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
        + "; each taken once, no partial one sent twice",
    )
