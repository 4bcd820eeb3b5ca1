"""The trigger that waits for a site to be let through, and the asynchronous hook it uses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_talkable import (
    InvalidConnection,
    TalkableOriginNotFound,
    TalkableReferralFinal,
    TalkableThrottled,
)
from airflow_provider_talkable.hooks.talkable import TalkableAsyncHook
from airflow_provider_talkable.sandbox import Canned, Sandbox
from airflow_provider_talkable.triggers.throttle import TalkableThrottleTrigger

Connect = Callable[..., str]


def fire(trigger: TalkableThrottleTrigger) -> Any:
    async def first() -> Any:
        return await anext(aiter(trigger.run()))

    return asyncio.run(asyncio.wait_for(first(), 10)).payload


def trigger(poll_interval: float = 0.05, *, gives_up_after: float = 3600) -> TalkableThrottleTrigger:
    gives_up_at = time.time() + gives_up_after
    return TalkableThrottleTrigger("talkable_default", "my-store", poll_interval, gives_up_at=gives_up_at)


def asked(sandbox: Sandbox) -> list[str]:
    return [request["path"] for request in sandbox.requests]


def test_it_asks_until_it_is_not_429(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    sandbox.dials.next(Canned(429), Canned(503), Canned(429))
    assert fire(trigger()) == {"site_slug": "my-store", "is_over": True}
    assert asked(sandbox) == ["/api/v2/campaigns?site_slug=my-store"] * 4


def test_a_refused_key_is_for_the_task_to_find_out(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox, key="wrong-api-key")
    assert fire(trigger()) == {"site_slug": "my-store", "is_over": True}


def test_it_gives_up(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    sandbox.dials.next(*[Canned(429)] * 1_000)
    assert fire(trigger(gives_up_after=0.3)) == {"site_slug": "my-store", "is_over": False}
    assert sandbox.requests


def test_it_waits_before_it_asks(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(anext(aiter(trigger(60).run())), 0.3))
    assert not sandbox.requests


def test_it_can_be_made_again_from_what_it_serializes() -> None:
    path, arguments = trigger(3).serialize()
    assert path == "airflow_provider_talkable.triggers.throttle.TalkableThrottleTrigger"
    assert TalkableThrottleTrigger(**arguments).serialize() == (path, arguments)


def test_the_hook_refunds(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    hook = TalkableAsyncHook()
    result = asyncio.run(hook.refund("B00K2EOONI", refund_subtotal="12.50"))
    assert (result.outcome, result.origin and result.origin["refund_subtotal"]) == ("refunded", 12.5)
    with pytest.raises(TalkableOriginNotFound):
        asyncio.run(hook.refund("unknown"))


def test_the_hook_needs_a_site(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox, extra="")
    with pytest.raises(InvalidConnection, match="site_slug: is empty"):
        asyncio.run(TalkableAsyncHook().campaigns())
    assert asyncio.run(TalkableAsyncHook(site_slug="my-store").campaigns())


def test_the_hook_ends_at_its_patience(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    sandbox.dials.next(Canned(429))
    with pytest.raises(TalkableThrottled):
        asyncio.run(TalkableAsyncHook(throttle_patience=0).campaigns())
    assert len(sandbox.requests) == 1


def test_the_hook_changes_and_finds_referrals(sandbox: Sandbox, connect: Connect) -> None:
    connect(sandbox)
    hook = TalkableAsyncHook()
    referral = asyncio.run(hook.update_referral("B00K2EOONI", "voided"))
    assert referral
    found = asyncio.run(hook.referrals_as_friend(referral["friend_person"]["email"]))
    assert [(r["id"], r["status"]) for r in found] == [(referral["id"], "voided")]
    with pytest.raises(TalkableReferralFinal):
        asyncio.run(hook.update_referral("B00K2EOONI", "approved"))
