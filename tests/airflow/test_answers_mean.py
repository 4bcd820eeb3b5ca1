"""What an answer means to those who use the operators and the hook."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_talkable import (
    Refund,
    TalkableAccessDenied,
    TalkableAlreadyRefunded,
    TalkableNotCounted,
    TalkableOriginNotFound,
    TalkablePersonNotFound,
)
from airflow_provider_talkable.hooks.talkable import TalkableHook
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.sandbox import Canned, Reset, Sandbox
from airflow_provider_talkable.sandbox.talkable import SecondRefund
from airflow_provider_talkable.sensors.referral import TalkableReferralSensor
from tests.airflow.task import LOSSES, Store, TaskInstance, needs_store
from tests.airflow.test_refund_operator import Connect
from tests.airflow.test_sync_operator import Shop
from tests.airflow.test_sync_operator import shop as warehouse  # noqa: F401 - a fixture
from tests.conftest import Sandboxes

JANE = {
    "email": "jane@example.com",
    "phone_number": "+15551234567",
    "customer_id": "C-42",
    "username": "jane",
}


@pytest.fixture
def sandbox(sandboxes: Sandboxes, connect: Connect) -> Sandbox:
    """A sandbox with the purchases A to E, which refuses second refunds, and a connection to it."""
    sandbox = sandboxes(second_refund=SecondRefund.REFUSE)
    for slug in "ABCDE":
        sandbox.talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100})
    connect(sandbox)
    return sandbox


def run(*, store: Store | None = None, try_number: int = 1, **fields: Any) -> Any:
    operator: Any = TalkableRefundOperator(task_id="refund", dag=DAG("refunds", schedule=None), **fields)
    context: Any = {"ti": TaskInstance("refund", try_number), "params": {}}
    if store is not None:
        context["task_state_store"] = store
    operator.render_template_fields(context)
    return operator.execute(context)


class TestASecondRefund:
    def test_of_a_part_is_not_counted(self, sandbox: Sandbox) -> None:
        parts = [{"origin_slug": "A", "refund_subtotal": amount} for amount in (30, 20)]
        results = run(refunds=parts, ignore=LOSSES)
        assert sorted(result["outcome"] for result in results) == ["not_counted", "refunded"]
        with pytest.raises(TalkableNotCounted):
            run(refunds=parts[:1])

    def test_of_the_whole_order_after_a_part_is_not_counted(self, sandbox: Sandbox) -> None:
        sandbox.dials.latency = 0.02
        rows = [{"origin_slug": "A", "refund_subtotal": 30}, {"origin_slug": "A"}]
        outcomes = [result["outcome"] for result in run(refunds=rows, ignore=LOSSES)]
        # Whichever comes first; a part after the whole order adds nothing.
        assert outcomes in (["refunded", "not_counted"], ["already_refunded", "refunded"])

    @needs_store
    def test_stays_not_counted_when_the_task_is_tried_again(self, sandbox: Sandbox) -> None:
        run(origin_slug="A", refund_subtotal=30)
        store, row = Store(), {"origin_slug": "A", "refund_subtotal": 20}
        assert run(refunds=row, store=store, ignore=LOSSES)["outcome"] == "not_counted"
        before = len(sandbox.requests)
        assert run(refunds=row, store=store, try_number=2, ignore=LOSSES)["outcome"] == "not_counted"
        assert len(sandbox.requests) == before

    def test_is_raised_by_the_hook(self, sandbox: Sandbox) -> None:
        hook = TalkableHook()
        hook.refund("A", refund_subtotal=30)
        with pytest.raises(
            TalkableNotCounted, match="A: Origin has already been refunded; Talkable has another"
        ):
            hook.refund("A", refund_subtotal=20)
        hook.refund("B")
        assert hook.refund("B").outcome == "already_refunded"
        assert isinstance(hook.refund("B").error, TalkableAlreadyRefunded)


class TestAnAmountThatReachesTheOrders:
    def test_is_sent_again_after_doubt(self, sandbox: Sandbox) -> None:
        sandbox.dials.next(Reset(acted=True))
        row = {"origin_slug": "A", "refund_subtotal": 100, "order_subtotal": "100.00"}
        assert run(refunds=row)["outcome"] == "already_refunded"
        sandbox.dials.next(Reset(acted=True))
        result = TalkableHook().refund("B", refund_subtotal=100, order_subtotal=100)
        assert result.outcome == "already_refunded"

    def test_is_late_where_the_advocate_was_paid(self, sandbox: Sandbox) -> None:
        sandbox.talkable.update_referral("my-store", "A", {"status": "approved"})
        rows = [{"origin_slug": slug, "refund_subtotal": 100, "order_subtotal": 100} for slug in ("A", "B")]
        assert [result["late"] for result in run(refunds=rows, fetch_referral=True)] == [True, False]


class TestVoiding:
    def test_answers_with_the_referral_and_changes_no_outcome(self, sandbox: Sandbox) -> None:
        sandbox.talkable.update_referral("my-store", "A", {"status": "flagged"})
        sandbox.talkable.update_referral("my-store", "B", {"status": "approved"})
        rows: list[Any] = ["A", "B", {"origin_slug": "C", "refund_subtotal": 10}, "nobody's"]
        results = run(refunds=rows, void_referral=True, ignore=LOSSES)
        assert [(r["outcome"], r["void_outcome"], r["late"]) for r in results] == [
            ("refunded", "updated", False),
            ("refunded", "conflict", True),
            ("refunded", None, False),
            ("not_found", None, None),
        ]
        assert results[0]["referral"]["advocate_rewards"] == []
        assert not any("people" in request["path"] for request in sandbox.requests)

    def test_by_the_hook(self, sandbox: Sandbox) -> None:
        refunds = [Refund.parse(slug, site_slug="my-store") for slug in "AB"]
        results = list(TalkableHook().refund_many(refunds, void_referral=True))
        assert [result.void_outcome for result in results] == ["updated", "updated"]


class TestThePerson:
    @pytest.mark.parametrize("person", JANE.values())
    def test_of_a_sensor_goes_by_every_kind_of_slug(self, sandbox: Sandbox, person: str) -> None:
        sandbox.talkable.create_purchase("my-store", {"order_number": "J", **JANE})
        sandbox.talkable.update_referral("my-store", "J", {"status": "approved"})
        sensor: Any = TalkableReferralSensor(task_id="wait", person=person, dag=DAG("shop", schedule=None))
        assert sensor.poke({"ti": TaskInstance("wait")}).xcom_value["status"] == "approved"

    def test_without_an_address_is_found_by_the_customers_id(self, sandbox: Sandbox) -> None:
        order = {
            "order_number": "J",
            "email": None,
            "customer_id": "C-42",
            "referral": {"status": "approved"},
        }
        sandbox.talkable.create_purchase("my-store", order)
        assert run(origin_slug="J", fetch_referral=True)["referral"]["status"] == "approved"

    def test_that_a_404_speaks_of_is_not_found(self, sandbox: Sandbox) -> None:
        sandbox.dials.next(
            Canned(404, b'{"ok": false, "error_message": "No person found by `person_slug`."}')
        )
        with pytest.raises(TalkablePersonNotFound):
            TalkableHook().referrals_as_friend("C-43")


class TestTheSync:
    def test_fails_for_a_denied_site_whatever_is_let_through(self, warehouse: Shop) -> None:  # noqa: F811
        site = "CASE origin_slug WHEN 'B' THEN 'foreign' END AS site_slug"
        sql = f"SELECT refund_key, origin_slug, {site} FROM refunds"
        with pytest.raises(TalkableAccessDenied, match="site foreign ended at order B"):
            warehouse.run(sql=sql, ignore=LOSSES)
        assert warehouse.states() == {"a": "refunded", "b": "aborted", "c": "refunded"}

    def test_fails_for_unknown_orders_only_whatever_is_let_through(self, warehouse: Shop) -> None:  # noqa: F811
        sql = "SELECT refund_key || n AS refund_key, 'id-' || rowid || n AS origin_slug FROM refunds, numbers"
        sql = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION SELECT n + 1 FROM numbers WHERE n < 17) {sql}"
        with pytest.raises(TalkableOriginNotFound, match="are these the order numbers that Talkable knows"):
            warehouse.run(sql=sql, ignore=LOSSES, max_failure_ratio=1)
        assert set(warehouse.states().values()) == {"not_found"}

    def test_takes_the_new_parameters(self, warehouse: Shop) -> None:  # noqa: F811
        summary = warehouse.run(void_referral=True, resend="not_counted")
        assert summary["voids"] == {"updated": 2}
