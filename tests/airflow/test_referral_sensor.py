"""The sensor that waits for a referral, and its trigger, over real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowSensorTimeout, TaskDeferred

from airflow_provider_talkable import (
    InvalidRefund,
    TalkableAuthError,
    TalkableReferralFinal,
)
from airflow_provider_talkable.sandbox import Canned, Sandbox
from airflow_provider_talkable.sensors.referral import TalkableReferralSensor
from airflow_provider_talkable.triggers.referral import TalkableReferralTrigger
from tests.airflow.task import TaskInstance
from tests.conftest import Sandboxes
from tests.shop import once_requested

Connect = Callable[..., str]
JANE = "jane@example.com"


@pytest.fixture
def shop(sandboxes: Sandboxes, connect: Connect) -> Sandbox:
    """One pending order, A, of Jane's."""
    sandbox = sandboxes()
    order(sandbox, "A")
    connect(sandbox)
    return sandbox


def order(sandbox: Sandbox, slug: str, **fields: Any) -> str:
    created = sandbox.talkable.create_purchase("my-store", {"order_number": slug, "email": JANE} | fields)
    return str(created["origin"]["id"])


def settle(sandbox: Sandbox, slug: str, status: str) -> None:
    sandbox.talkable.update_referral("my-store", slug, {"status": status})


def context() -> Any:
    return {"ti": TaskInstance("wait")}


def sensor(**fields: Any) -> Any:
    fields = {"person": JANE, "poke_interval": 0.05, "timeout": 20, "deferrable": False, **fields}
    made = TalkableReferralSensor(task_id="wait", dag=DAG("shop", schedule=None), **fields)
    made.render_template_fields({"params": {"person": JANE, "statuses": ["voided"]}})
    return made


def test_it_waits_until_the_referral_is_settled(shop: Sandbox) -> None:
    once_requested(shop, 3, lambda: settle(shop, "A", "voided"))
    referral = sensor().execute(context())
    assert (referral["status"], referral["friend_person"]["email"]) == ("voided", JANE)
    assert len(shop.requests) >= 3


def test_what_is_settled_is_not_waited_for(shop: Sandbox) -> None:
    settle(shop, "A", "approved")
    for deferrable in (False, True):
        assert sensor(deferrable=deferrable).execute(context())["status"] == "approved"
    assert len(shop.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        Canned(429, headers={"Retry-After": "30"}),
        Canned(502),
        Canned(200, b"<html>"),
        Canned(400, b'{"ok": false, "error_message": "No person found by `person_slug`."}'),
        Canned(200, b'{"ok": true, "result": {"referrals": []}}'),
    ],
    ids=lambda answer: f"{answer.status} {answer.body.decode()}",
)
def test_what_may_pass_is_waited_for(shop: Sandbox, answer: Canned) -> None:
    settle(shop, "A", "voided")
    shop.dials.next(answer, answer)
    started = time.monotonic()
    assert sensor().execute(context())["status"] == "voided"
    shop.dials.next(answer, answer)
    assert fire(trigger()) == {"site_slug": "my-store", "is_over": True}
    assert len(shop.requests) == 6
    assert time.monotonic() - started < 20


def test_a_refused_key_ends_it(shop: Sandbox, connect: Connect) -> None:
    connect(shop, key="wrong-api-key")
    with pytest.raises(TalkableAuthError):
        sensor().execute(context())
    assert fire(trigger()) == {"site_slug": "my-store", "is_over": True}
    with pytest.raises(TalkableAuthError):
        sensor(deferrable=True).look_again(
            {}, {"site_slug": "my-store", "is_over": True}, deadline=time.time()
        )


def test_the_other_final_status_ends_it(shop: Sandbox) -> None:
    settle(shop, "A", "approved")
    with pytest.raises(TalkableReferralFinal, match="is approved, which is final.*become voided"):
        sensor(statuses=["voided"]).execute(context())


def test_its_own_timeout_ends_it(shop: Sandbox) -> None:
    with pytest.raises(AirflowSensorTimeout):
        sensor(timeout=0.2).execute(context())


def test_one_of_several_referrals(shop: Sandbox) -> None:
    settle(shop, "A", "approved")
    other = order(shop, "B")
    with pytest.raises(InvalidRefund, match=f"origin_id=None: the friend has several.*, {other}"):
        sensor().execute(context())
    settle(shop, "B", "voided")
    assert sensor(origin_id=other).execute(context())["status"] == "voided"
    assert sensor(origin_id=f" {other} ").execute(context())["status"] == "voided"
    with pytest.raises(AirflowSensorTimeout):
        sensor(origin_id=999_999, timeout=0.1).execute(context())


@pytest.mark.parametrize(
    "fields",
    [
        {"person": None},
        {"person": ""},
        {"person": "None"},
        {"origin_id": "None"},
        {"origin_id": ""},
        {"origin_id": "B00K2EOONI"},
        {"origin_id": 1.0},
        {"statuses": []},
        {"statuses": ["gone"]},
        {"statuses": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("deferrable", [False, True])
def test_bad_input_is_named_before_anything_is_sent(shop: Sandbox, fields: Any, deferrable: bool) -> None:
    [name] = fields
    with pytest.raises(InvalidRefund, match=f"^{'status' if name == 'statuses' else name}"):
        sensor(deferrable=deferrable, **fields).execute(context())
    assert not shop.requests


def test_templates(shop: Sandbox) -> None:
    assert set(TalkableReferralSensor.template_fields) == {
        "person", "origin_id", "statuses", "site_slug", "talkable_conn_id",
    }  # fmt: skip
    settle(shop, "A", "voided")
    waited = sensor(person="{{ params.person }}", statuses="{{ params.statuses }}").execute(context())
    assert waited["status"] == "voided"


def test_people_can_be_left_out(shop: Sandbox) -> None:
    settle(shop, "A", "voided")
    assert JANE not in str(sensor(redact_people=True).execute(context()))


def trigger(poll_interval: float = 0.05, **fields: Any) -> TalkableReferralTrigger:
    arguments: Any = {"person": JANE, "origin_id": None, "statuses": ["approved", "voided"]} | fields
    return TalkableReferralTrigger("talkable_default", "my-store", poll_interval, **arguments)


def fire(waiting: Any) -> Any:
    async def first() -> Any:
        return await anext(aiter(waiting.run()))

    return asyncio.run(asyncio.wait_for(first(), 10)).payload


def test_it_defers_and_goes_on(shop: Sandbox) -> None:
    waiting = sensor(deferrable=True, poke_interval=0.05, timeout=1000)
    with pytest.raises(TaskDeferred) as deferred:
        waiting.execute(context())
    assert deferred.value.method_name == "look_again"
    assert deferred.value.timeout is not None
    assert timedelta(seconds=990) < deferred.value.timeout <= timedelta(seconds=1000)
    once_requested(shop, 4, lambda: settle(shop, "A", "voided"))
    event = fire(deferred.value.trigger)
    assert deferred.value.kwargs
    resumed = sensor(deferrable=True).look_again({}, event, **deferred.value.kwargs)
    assert resumed["status"] == "voided"


def test_a_false_alarm_defers_again_for_the_rest_of_the_time(shop: Sandbox) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        sensor(deferrable=True).look_again({}, {}, deadline=time.time() + 100)
    assert deferred.value.timeout is not None
    assert timedelta(seconds=95) < deferred.value.timeout <= timedelta(seconds=100)


def test_the_trigger_can_be_made_again_from_what_it_serializes() -> None:
    path, arguments = trigger(3, origin_id="7").serialize()
    assert path == "airflow_provider_talkable.triggers.referral.TalkableReferralTrigger"
    assert TalkableReferralTrigger(**arguments).serialize() == (path, arguments)
