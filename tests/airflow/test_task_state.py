"""What later tries of a task do, whatever happened to the task state store: run as Airflow runs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_talkable import InvalidConnection, TalkableError
from airflow_provider_talkable.client import concurrent
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.sandbox import Canned, Sandbox
from tests.airflow.task import LOSSES, Store, TaskInstance, needs_store
from tests.conftest import Sandboxes
from tests.shop import wait_for_requests

Connect = Callable[..., str]
A = {"origin_slug": "A", "refund_subtotal": 30}
B = {"origin_slug": "B", "refund_subtotal": 20}
WHOLE = {"origin_slug": "W"}


@pytest.fixture
def shop(sandboxes: Sandboxes, connect: Connect) -> Sandbox:
    sandbox = sandboxes(generation="seed")
    for slug in "ABCDEFGHW":
        sandbox.talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100})
    connect(sandbox)
    return sandbox


class Task:
    """One task instance, which may be tried again; its store is Airflow's, or gone."""

    def __init__(self, store: Store | None = None, map_index: int = -1) -> None:
        self.store = store
        self.map_index = map_index
        self.tries = 0
        self.clear_number = 0
        self.results: Any = None

    def run(self, refunds: Any = None, **fields: Any) -> list[str]:
        """Try it, and return the outcomes."""
        self.tries += 1
        operator = self.operator(refunds=refunds, **fields)
        context = self.context()
        operator.render_template_fields(context)
        try:
            operator.execute(context)
        finally:
            self.results = context["ti"].xcom.get("results")
        return [result["outcome"] for result in self.results]

    def operator(self, **fields: Any) -> TalkableRefundOperator:
        fields = {"ignore": LOSSES, **fields}
        return TalkableRefundOperator(task_id="refund", dag=DAG("refunds", schedule=None), **fields)

    def context(self) -> Any:
        context: Any = {
            "ti": TaskInstance("refund", self.tries, self.map_index),
            "dag_run": SimpleNamespace(clear_number=self.clear_number),
        }
        return context if self.store is None else context | {"task_state_store": self.store}


def told(sandbox: Sandbox, slug: str) -> Any:
    """What Talkable counts as refunded of an order."""
    return sandbox.talkable.snapshot()["my-store"][slug]["refund_subtotal"]


@pytest.mark.parametrize(
    ("lost", "of_the_first"),
    [
        pytest.param("all", "unconfirmed", marks=needs_store, id="cleared"),
        pytest.param("talkable_begun", "refunded", marks=needs_store, id="the marker alone is lost"),
        pytest.param("store", "unconfirmed", id="there is no store"),
    ],
)
def test_a_later_try_whose_store_is_lost_sends_no_part_again(
    shop: Sandbox, lost: str, of_the_first: str
) -> None:
    """As after clear_on_success, after clearing in Airflow 3.4, and once what expires has expired."""
    task = Task(None if lost == "store" else Store())
    assert task.run([A, WHOLE]) == ["refunded", "refunded"]
    for key in [key for key in task.store or () if lost in ("all", key)]:
        del task.store[key]  # type: ignore[union-attr]
    for _ in range(2):
        part, other, whole = task.run([A, B, WHOLE])
        assert (part, other) == (of_the_first, "unconfirmed")
        assert whole in ("refunded", "already_refunded")
    assert (told(shop, "A"), told(shop, "B")) == (30, None)
    assert "ledger_conn_id remembers" in task.results[1]["error_message"]


@needs_store
def test_what_an_intact_store_does_not_name_was_not_sent(shop: Sandbox) -> None:
    task = Task(Store())
    assert task.run([A]) == ["refunded"]
    assert task.run([A, B]) == ["refunded", "refunded"]
    assert (told(shop, "A"), told(shop, "B")) == (30, 20)


@needs_store
def test_a_try_that_failed_before_it_sent_leaves_no_doubt(
    shop: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(Store())
    monkeypatch.setenv("AIRFLOW_CONN_NOT_THERE_YET", "talkable://")
    with pytest.raises(InvalidConnection):
        task.run([A], talkable_conn_id="not_there_yet")
    assert task.run([A]) == ["refunded"]


@needs_store
def test_a_message_that_is_delivered_twice_is_a_later_try(shop: Sandbox) -> None:
    task = Task(Store())
    assert task.run([A]) == ["refunded"]
    task.tries = 0
    assert task.run([A]) == ["refunded"]
    assert told(shop, "A") == 30


@needs_store
def test_a_part_that_changed_between_tries_is_not_sent_beside_the_first(shop: Sandbox) -> None:
    task = Task(Store())
    assert task.run([A]) == ["refunded"]
    assert task.run([A | {"refund_subtotal": 31}, B]) == ["conflict", "refunded"]
    assert told(shop, "A") == 30
    # Beside the first it is another part.
    assert task.run([A, A | {"refund_subtotal": 31}]) == ["refunded", "refunded"]
    assert told(shop, "A") == 61


class TestMapped:
    """A mapped upstream that is cleared may return more than before: an index then names another refund."""

    @needs_store
    def test_an_index_that_names_another_refund_sends_no_part(self, shop: Sandbox) -> None:
        store = Store()
        first, second = Task(store, 0), Task(Store(), 1)
        assert (first.run([A]), second.run([B])) == (["refunded"], ["refunded"])
        second.clear_number = 1
        # The upstream returns C, A, B now.
        assert second.run([A]) == ["unconfirmed"]
        assert second.run([WHOLE]) == ["refunded"]
        assert told(shop, "A") == 30

    @pytest.mark.parametrize("store", [pytest.param(True, marks=needs_store), False])
    def test_an_index_that_is_new_after_clearing_sends_no_part(self, shop: Sandbox, store: bool) -> None:
        assert Task(Store() if store else None, 1).run([B]) == ["refunded"]
        new = Task(Store() if store else None, 2)
        new.clear_number = 1
        for _ in range(2):
            assert new.run([B]) == ["unconfirmed"]
        assert told(shop, "B") == 20

    @needs_store
    def test_a_retry_of_the_same_refund_knows_what_was_sent(self, shop: Sandbox) -> None:
        task = Task(Store(), 1)
        shop.dials.next(Canned(422, b'{"ok": false}'))
        assert task.run([A]) == ["rejected"]
        assert task.run([A]) == ["refunded"]
        assert task.run([A]) == ["refunded"]
        assert told(shop, "A") == 30


class Timeout(BaseException):
    """As Airflow's AirflowTaskTimeout, which is none of Exception's."""


class TestStopped:
    """What was on the wire may have been taken; nothing else is in doubt."""

    ROWS = tuple({"origin_slug": slug, "refund_subtotal": 5} for slug in "ABCDEFGH")

    def stop(self, task: Task, shop: Sandbox, monkeypatch: pytest.MonkeyPatch, how: str) -> list[str]:
        task.tries += 1
        operator = task.operator(refunds=list(self.ROWS), max_in_flight=2)
        context = task.context()
        monkeypatch.setattr(concurrent, "GRACE", 0.5)
        if how == "on_kill":

            def kill() -> None:
                wait_for_requests(shop, 2)
                operator.on_kill()

            thread = threading.Thread(target=kill)
            thread.start()
        else:
            take = concurrent.Sender.take
            interruptions: list[Timeout] = []

            def interrupted(sender: Any, **arguments: Any) -> Any:
                if shop.requests and not interruptions:
                    wait_for_requests(shop, 2)
                    interruptions.append(Timeout())
                    raise interruptions[0]
                return take(sender, **arguments)

            monkeypatch.setattr(concurrent.Sender, "take", interrupted)
        operator.render_template_fields(context)
        with pytest.raises((Timeout, TalkableError)):
            operator.execute(context)
        if how == "on_kill":
            thread.join()
        monkeypatch.undo()
        return [result["outcome"] for result in context["ti"].xcom["results"]]

    @pytest.mark.parametrize("how", ["on_kill", "timeout"])
    def test_what_waits_for_its_turn_is_aborted(
        self, shop: Sandbox, connect: Connect, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        shop.dials.latency = 30
        task = Task()
        assert self.stop(task, shop, monkeypatch, how) == ["unconfirmed"] * 2 + ["aborted"] * 6

    @needs_store
    @pytest.mark.parametrize("how", ["on_kill", "timeout"])
    def test_the_retry_sends_what_was_aborted(
        self, shop: Sandbox, connect: Connect, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        shop.dials.latency = 30
        task = Task(Store())
        self.stop(task, shop, monkeypatch, how)
        shop.dials.latency = 0
        connect(shop)
        assert task.run(list(self.ROWS)) == ["unconfirmed"] * 2 + ["refunded"] * 6
