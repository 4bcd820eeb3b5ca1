"""The referral behind each refund, whichever generation of the API answers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.client import friends
from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.sandbox import Canned, Sandbox
from airflow_provider_talkable.sandbox.talkable import Generation
from airflow_provider_talkable.sync import run
from airflow_provider_talkable.sync.ledger import Ledger, TaskRun
from tests.conftest import KEY, Sandboxes
from tests.shop import Shop, once_requested

LATE = {"status": "approved", "ad_rewarded": True}
NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
# What differs from run to run.
MEASURED = ("seconds", "rate", "ledger_seconds")


def questions(sandbox: Sandbox) -> int:
    """How many requests asked for a friend's referrals."""
    return sum("referrals_as_friend" in request["path"] for request in sandbox.requests)


def entries(shop: Shop) -> dict[tuple[str, str], dict[str, Any]]:
    """The ledger, but for what says when it was written."""
    return {
        (entry["refund_key"], entry["event"]): {
            name: value
            for name, value in entry.items()
            if name not in ("entry_id", "logged_at", "sending_until", *NOT_TOLD)
        }
        for entry in shop.ledger()
    }


# What only some generations tell.
NOT_TOLD = (
    "entry_id", "logged_at", "sending_until",
    "order_subtotal", "partially_refunded", "counted_subtotal", "sent_subtotal", "origin_id",
    "reward_known_by", "reward_amount",
)  # fmt: skip


def fill(shop: Shop) -> None:
    """500 refunds of every kind; every fifth friend has bought twice."""
    for number in range(480):
        referral: Any = LATE if number % 7 == 0 else None if number % 11 == 0 else {}
        friend = number - 1 if number % 5 == 1 else number
        shop.order(f"order-{number}", referral=referral, email=f"friend{friend}@example.com")
    for number in range(0, 480, 40):
        shop.sandbox.talkable.refund("my-store", f"order-{number}", {})
    shop.refund(
        *(
            (f"r{number}", f"order-{number}", "2026-01-09", "5" if number % 3 == 0 else None)
            for number in range(500)
        )
    )


@pytest.fixture
def shop(sqlite: URL, engines: Callable[[URL], Engine], sandbox: Sandbox) -> Shop:
    """A shop whose Talkable answers with origins."""
    return Shop(engines(sqlite), sandbox)


@pytest.fixture
def generations(
    tmp_path: Path, engines: Callable[[URL], Engine], sandboxes: Sandboxes
) -> dict[Generation, Shop]:
    """The same shop three times, with an API of each generation."""
    shops = {}
    for generation in Generation:
        sandbox = sandboxes(generation=generation)
        sandbox.talkable.now = lambda: NOON
        engine = engines(URL.create("sqlite", database=str(tmp_path / f"{generation}.sqlite")))
        shops[generation] = Shop(engine, sandbox)
        fill(shops[generation])
    return shops


def test_every_generation_leaves_the_same_ledger_and_summary(generations: dict[Generation, Shop]) -> None:
    summaries = {}
    for generation, shop in generations.items():
        summary = shop.sync(fetch_referral=True).as_dict()
        assert summary.pop("lookups") == questions(shop.sandbox)
        # The first 20 of 24 by the order of their answers, which differs; the ledgers have them all.
        failures = {failure["refund_key"]: failure["outcome"] for failure in summary.pop("failures")}
        assert len(failures) == 20
        assert failures.items() <= {(entry["refund_key"], entry["event"]) for entry in shop.ledger()}
        # Likewise, of 45.
        late = {refund["refund_key"] for refund in summary.pop("late")}
        assert len(late) == 20
        assert late <= {entry["refund_key"] for entry in shop.ledger() if entry["reward_paid"]}
        summaries[generation] = {k: v for k, v in summary.items() if k not in MEASURED}
    first, *others = summaries.values()
    assert others == [first, first]
    assert first["outcomes"] == {
        "refunded": 468,
        "not_found": 20,
        "already_refunded": 8,
        "not_counted": 4,
    }
    assert first["referral_unknown"] == 0
    assert first["rewarded"] == sum(1 for n in range(480) if n % 7 == 0 and n % 40 and n % 3)
    ledger, *other_ledgers = (entries(shop) for shop in generations.values())
    assert len(ledger) == 1000
    assert other_ledgers == [ledger, ledger]


def test_without_it_later_generations_say_nothing_of_referrals(shop: Shop) -> None:
    shop.order("A")
    shop.refund("A")
    summary = shop.sync()
    assert (summary.referral_unknown, summary.lookups, questions(shop.sandbox)) == (1, 0, 0)
    assert shop.ledger()[-1]["ad_rewarded"] is None


def test_an_order_of_no_referral_is_known_to_have_rewarded_nobody(shop: Shop) -> None:
    shop.order("A", referral=None)
    shop.refund("A")
    summary = shop.sync(fetch_referral=True)
    assert (summary.referred, summary.rewarded, summary.referral_unknown) == (0, 0, 0)
    entry = shop.ledger()[-1]
    assert (entry["referral_id"], entry["ad_rewarded"]) == (None, 0)


def test_exactly_those_are_late_that_were_paid_before(shop: Shop) -> None:
    """Talkable pays a day after the purchase; the sync runs at noon for purchases of two days."""
    talkable = shop.sandbox.talkable
    talkable.reward_after = 24 * 3600
    for hour in range(48):
        bought = NOON - timedelta(hours=hour, minutes=1)
        talkable.now = lambda bought=bought: bought  # type: ignore[misc]
        shop.order(f"order-{hour}")
    talkable.now = lambda: NOON
    shop.refund(*(f"order-{hour}" for hour in range(48)))
    summary = shop.sync(fetch_referral=True)
    assert (summary.referred, summary.rewarded) == (48, 24)
    paid = {entry["origin_slug"] for entry in shop.ledger() if entry["reward_paid"]}
    assert paid == {f"order-{hour}" for hour in range(24, 48)}
    held = talkable.snapshot()["my-store"]
    assert paid == {slug for slug, order in held.items() if order["referral"]["status"] == "approved"}


@pytest.mark.parametrize(
    "answer",
    [
        Canned(500),
        Canned(200, b"<html>"),
        Canned(200, b'{"ok": true, "result": {}}'),
        Canned(403, b'{"ok": false, "error_message": "Access denied"}'),
        Canned(422, b'{"ok": false, "error_message": "Validation failed"}'),
    ],
    ids=lambda answer: f"{answer.status} {answer.body.decode()}",
)
def test_a_lookup_that_fails_changes_no_outcome(shop: Shop, answer: Canned) -> None:
    shop.order("A", "B")
    shop.refund("A", "B")
    shop.sandbox.dials.next(None, answer, None)
    pace, policy = Pace(max_in_flight=1, initial_rate=None), RetryPolicy(max_attempts=1)
    summary = shop.sync(fetch_referral=True, pace=pace, policy=policy)
    assert summary.outcomes == {"refunded": 2}
    assert shop.states() == {"A": "refunded", "B": "refunded"}
    unknown = 2 if answer.status == 403 else 1
    assert (summary.referral_unknown, summary.referred) == (unknown, 2 - unknown)
    assert questions(shop.sandbox) == summary.lookups == 3 - unknown


def test_a_throttled_lookup_waits_its_turn(shop: Shop) -> None:
    shop.order("A")
    shop.refund("A")
    shop.sandbox.dials.next(None, Canned(429))
    summary = shop.sync(fetch_referral=True)
    assert (summary.referred, summary.requests, summary.lookups) == (1, 1, 2)
    assert summary.throttled_requests == 1


def test_a_stop_during_the_lookup_keeps_the_refund(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the time for it is up: a partial refund that Talkable took is not in doubt."""
    shop.order("A", "B", "C")
    shop.refund(("a", "A", None, "5"), ("b", "B", None, "5"), ("c", "C", None, "5"))
    monkeypatch.setattr(run, "GRACE", 0.3)

    def stop(sync: run.RefundSync) -> None:
        def slow() -> None:
            shop.sandbox.dials.latency = 30

        once_requested(shop.sandbox, 2, lambda: sync.stop("enough"))
        once_requested(shop.sandbox, 1, slow)

    shop.sandbox.dials.latency = 0.5
    shop.sync(fetch_referral=True, pace=Pace(max_in_flight=1, initial_rate=None), before=stop)
    assert shop.states() == {"a": "refunded", "b": "aborted", "c": "aborted"}


def ask(sandbox: Sandbox, *slugs: str, at_once: bool) -> list[Any]:
    """Refund orders with one client and return their referrals."""

    async def run_all() -> list[Any]:
        operation = RefundOperation(fetch_referral=True)
        config = ClientConfig.parse(host=sandbox.url, api_key=KEY)
        async with AsyncTalkableClient(config) as client:
            runs = [operation.run(client, Refund.parse(slug, site_slug="my-store")) for slug in slugs]
            results = await asyncio.gather(*runs) if at_once else [await run for run in runs]
        return [result.referral for result in results]

    return asyncio.run(run_all())


def of_one_friend(sandbox: Sandbox, count: int, **fields: Any) -> list[str]:
    slugs = [f"order-{number}" for number in range(count)]
    for slug in slugs:
        order = {"order_number": slug, "subtotal": 10, "email": "jane@example.com"} | fields
        sandbox.talkable.create_purchase("my-store", order)
    return slugs


@pytest.mark.parametrize("fields", [{"referral": LATE}, {"referral": None}], ids=["paid", "none"])
def test_what_cannot_change_is_asked_for_once(sandbox: Sandbox, fields: Any) -> None:
    slugs = of_one_friend(sandbox, 5, **fields)
    referrals = ask(sandbox, *slugs, at_once=False)
    assert [bool(referral) for referral in referrals] == [bool(fields["referral"])] * 5
    assert questions(sandbox) == 1


def test_what_the_refund_itself_changes_is_asked_for_again(sandbox: Sandbox) -> None:
    slugs = of_one_friend(sandbox, 3)
    assert [r["status"] for r in ask(sandbox, *slugs, at_once=False)] == ["voided"] * 3
    assert questions(sandbox) == 3


def test_refunds_of_one_friend_at_a_time_share_an_answer(sandbox: Sandbox) -> None:
    slugs = of_one_friend(sandbox, 10)
    sandbox.dials.latency = 0.3
    assert Counter(r["status"] for r in ask(sandbox, *slugs, at_once=True)) == {"voided": 10}
    assert questions(sandbox) <= 3


def test_a_friends_address_is_sent_as_it_is(sandbox: Sandbox) -> None:
    slugs = of_one_friend(sandbox, 1, email="jane+a/b?c d@exämple.com")
    assert ask(sandbox, *slugs, at_once=False)[0]["friend_person"]["email"] == "jane+a/b?c d@exämple.com"


def test_no_log_names_the_friend(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    slugs = of_one_friend(sandbox, 1)
    sandbox.dials.next(None, Canned(502), Canned(429))
    assert ask(sandbox, *slugs, at_once=False)[0]
    assert "GET /api/v2/people/…/referrals_as_friend: " in caplog.text
    assert "jane" not in caplog.text


def test_questions_are_paced_like_refunds(shop: Shop) -> None:
    shop.order("A", "B", "C")
    shop.refund("A", "B", "C")
    started = time.monotonic()
    shop.sync(fetch_referral=True, pace=Pace(initial_rate=5, max_rate=5))
    # Six requests with a fifth of a second between them.
    assert time.monotonic() - started > 0.95


def test_memory_does_not_grow_with_the_number_of_friends(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(friends, "_REMEMBERED", 2)
    slugs = [f"order-{number}" for number in range(4)]
    for number, slug in enumerate(slugs):
        order = {"order_number": slug, "email": f"{number % 3}@example.com", "referral": LATE}
        sandbox.talkable.create_purchase("my-store", order)
    assert all(ask(sandbox, *slugs, at_once=False))
    # The first friend is forgotten when the third comes, and asked for once more.
    assert questions(sandbox) == 4


def test_an_answer_with_both_is_not_asked_about(sandbox: Sandbox) -> None:
    slugs = of_one_friend(sandbox, 1)
    both = (
        b'{"ok": true, "result": {"origin": {"id": 1, "email": "jane@example.com"}, "referral": {"id": 7}}}'
    )
    sandbox.dials.next(Canned(200, both))
    assert ask(sandbox, *slugs, at_once=False) == [{"id": 7}]
    assert questions(sandbox) == 0


@pytest.mark.parametrize(
    "origin", [b'{"id": 1}', b'{"id": 1, "email": ""}', b'{"email": "jane@example.com"}']
)
def test_without_an_address_or_an_id_nothing_is_asked(sandbox: Sandbox, origin: bytes) -> None:
    slugs = of_one_friend(sandbox, 1)
    sandbox.dials.next(Canned(200, b'{"ok": true, "result": {"origin": %s}}' % origin))
    assert ask(sandbox, *slugs, at_once=False) == [None]
    assert questions(sandbox) == 0


def test_what_the_ledger_had_of_an_earlier_try_counts_the_same(shop: Shop) -> None:
    shop.order("A", referral=None)
    shop.order("B")
    shop.order("C", referral=LATE)
    shop.refund("A", "B", "C")
    task_run = TaskRun("shop", "run", "sync", -1, 1)
    first = shop.sync(fetch_referral=True, ledger=Ledger(shop.engine, task_run=task_run))
    again = shop.sync(ledger=Ledger(shop.engine, task_run=task_run))
    for summary in (first, again):
        assert (summary.referred, summary.rewarded, summary.referral_unknown) == (2, 1, 0)
