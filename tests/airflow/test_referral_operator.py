"""The operator that approves or voids referrals, over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_talkable import (
    InvalidRefund,
    TalkableAuthError,
    TalkableError,
    TalkableOriginNotFound,
    TalkableReferralFinal,
)
from airflow_provider_talkable.operators.referral import TalkableReferralOperator
from airflow_provider_talkable.sandbox import Canned, Sandbox
from tests.airflow.task import TaskInstance
from tests.conftest import Sandboxes
from tests.shop import once_requested

Connect = Callable[..., str]


def run(*, ti: TaskInstance | None = None, params: Any = None, **fields: Any) -> Any:
    return execute(settling(**fields), ti, params)


def settling(**fields: Any) -> TalkableReferralOperator:
    return TalkableReferralOperator(task_id="settle", dag=DAG("shop", schedule=None), **fields)


def execute(operator: TalkableReferralOperator, ti: TaskInstance | None = None, params: Any = None) -> Any:
    context: Any = {"ti": ti or TaskInstance("settle"), "params": params or {}}
    operator.render_template_fields(context)
    return operator.execute(context)


@pytest.fixture
def shop(sandboxes: Sandboxes, connect: Connect) -> Sandbox:
    """The orders A to C, whose referrals are pending, voided and approved; D belongs to none."""
    sandbox = sandboxes()
    for slug, referral in {
        "A": {},
        "B": {"status": "voided"},
        "C": {"status": "approved"},
        "D": None,
    }.items():
        sandbox.talkable.create_purchase("my-store", {"order_number": slug, "referral": referral})
    connect(sandbox)
    return sandbox


def status(sandbox: Sandbox, slug: str) -> str:
    text: str = sandbox.talkable.snapshot()["my-store"][slug]["referral"]["status"]
    return text


def test_one_slug_gives_one_result(shop: Sandbox) -> None:
    ti = TaskInstance("settle")
    result = run(origin_slug="A", status="voided", ti=ti)
    assert list(result) == ["origin_slug", "outcome", "referral", "error_message"]
    assert (result["outcome"], result["referral"]["status"]) == ("updated", "voided")
    assert ti.xcom == {"results": result}
    assert status(shop, "A") == "voided"


def test_a_list_gives_a_list_and_all_of_it_is_tried(shop: Sandbox) -> None:
    ti = TaskInstance("settle")
    with pytest.raises(
        TalkableError, match=r"3 of 7 referrals failed \(1 not_found, 1 invalid, 1 conflict\)"
    ):
        run(origin_slug=["X", "", "C", "B", "D", "A", "A"], status="voided", ti=ti, ignore=())
    outcomes = [result["outcome"] for result in ti.xcom["results"]]
    assert outcomes == ["not_found", "invalid", "conflict", "updated", "no_referral", "updated", "updated"]
    assert status(shop, "A") == "voided"


@pytest.mark.parametrize(
    ("slug", "error"), [("C", TalkableReferralFinal), ("X", TalkableOriginNotFound), ("", InvalidRefund)]
)
def test_the_error_says_what_it_is(shop: Sandbox, slug: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(origin_slug=slug, status="voided", ignore=())
    with pytest.raises(error):
        run(origin_slug=[slug, slug], status="voided", ignore=())
    assert status(shop, "C") == "approved"


def test_templates(shop: Sandbox) -> None:
    assert set(TalkableReferralOperator.template_fields) == {
        "origin_slug", "status", "site_slug", "talkable_conn_id",
    }  # fmt: skip
    results = run(
        origin_slug="{{ params.slugs }}",
        status="{{ params.status }}",
        params={"slugs": ["A", "B"], "status": "voided"},
    )
    assert [result["outcome"] for result in results] == ["updated", "updated"]


def test_ignore(shop: Sandbox) -> None:
    assert run(origin_slug="C", status="voided", ignore="conflict")["outcome"] == "conflict"
    assert run(origin_slug="X", status="voided")["outcome"] == "not_found"
    with pytest.raises(TalkableOriginNotFound, match="not_found: add it to ignore if that is normal"):
        run(origin_slug="X", status="voided", ignore=())
    losses = "aborted, conflict, failed, invalid, not_found, rejected, throttled"
    with pytest.raises(ValueError, match=rf"ignore='not_counted': give some of {losses}, or \(\) for none"):
        run(origin_slug="X", status="voided", ignore="not_counted")


@pytest.mark.parametrize("given", ["gone", "", None])
def test_a_status_that_is_none_is_refused_before_anything_is_sent(shop: Sandbox, given: Any) -> None:
    with pytest.raises(InvalidRefund, match=r"status=.*these are: pending, flagged, approved, voided"):
        run(origin_slug="A", status=given)
    assert not shop.requests


def test_a_refused_key_stops_the_rest(shop: Sandbox, connect: Connect) -> None:
    connect(shop, key="wrong-api-key")
    ti = TaskInstance("settle")
    with pytest.raises(TalkableAuthError):
        run(origin_slug=[str(number) for number in range(100)], status="voided", ti=ti)
    assert {result["outcome"] for result in ti.xcom["results"]} == {"aborted"}
    assert len(shop.requests) < 20


def test_people_can_be_left_out(shop: Sandbox) -> None:
    ti = TaskInstance("settle")
    result = run(origin_slug="A", status="voided", redact_people=True, ti=ti)
    assert result["referral"]["friend_person"] == {"id": result["referral"]["friend_person"]["id"]}
    shop.dials.next(Canned(422, b'{"ok": false, "error_message": "not for jane@example.com"}'))
    ti = TaskInstance("settle")
    with pytest.raises(TalkableError):
        run(origin_slug=["A"], status="voided", redact_people=True, ti=ti)
    assert ti.xcom["results"][0]["error_message"] == "not for [redacted]"


def test_an_empty_list_does_nothing(shop: Sandbox) -> None:
    assert run(origin_slug=[], status="voided") == []
    assert not shop.requests


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_in_flight": 0}, "max_in_flight=0: give 1 or more"),
        ({"max_rate": 0}, "max_rate=0: give requests per second, more than 0, or None"),
    ],
)
def test_a_pace_that_is_none_is_refused(shop: Sandbox, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(origin_slug="A", status="voided", **fields)
    assert not shop.requests


def test_when_killed_what_is_on_the_wire_ends_and_is_in_xcom(shop: Sandbox) -> None:
    shop.dials.latency = 2
    operator = settling(origin_slug=["A", "B", "", "D", "X"], status="voided", max_in_flight=2)
    once_requested(shop, 2, operator.on_kill)
    ti = TaskInstance("settle")
    with pytest.raises(TalkableError, match="the task was stopped from outside"):
        execute(operator, ti)
    outcomes = [result["outcome"] for result in ti.xcom["results"]]
    assert outcomes == ["updated", "updated", "invalid", "aborted", "aborted"]
    assert len(shop.requests) == 2


def test_its_pace_is_what_it_was_told(shop: Sandbox) -> None:
    started = time.monotonic()
    run(origin_slug=["A", "B", "D"], status="voided", max_rate=2, max_in_flight=1)
    assert time.monotonic() - started > 0.9
    shop.dials.next(*[Canned(429)] * 20)
    with pytest.raises(TalkableError):
        run(origin_slug="A", status="voided", throttle_patience=0)
    assert len(shop.requests) <= 3 + 2
