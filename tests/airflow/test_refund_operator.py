"""The operator, run as Airflow runs it: fields rendered, then execute, against the sandbox."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_talkable import (
    InvalidRefund,
    Outcome,
    TalkableAuthError,
    TalkableConnectionError,
    TalkableError,
    TalkableOriginNotFound,
    TalkableRejected,
)
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.sandbox import Canned, Reset, Sandbox, Truncated
from airflow_provider_talkable.sandbox.talkable import Generation
from tests.airflow.task import HAS_STORE, LOSSES, Store, TaskInstance, needs_store
from tests.conftest import KEY, Sandboxes, sized

Connect = Callable[..., str]


def run(
    *,
    ti: TaskInstance | None = None,
    store: Store | None = None,
    native: bool = False,
    params: Any = None,
    **fields: Any,
) -> Any:
    dag = DAG("refunds", schedule=None, render_template_as_native_obj=native)
    operator = TalkableRefundOperator(task_id="refund", dag=dag, **fields)
    context: Any = {"ti": ti or TaskInstance("refund"), "params": params or {}}
    if store is not None:
        context["task_state_store"] = store
    operator.render_template_fields(context)
    return operator.execute(context)


@pytest.fixture
def shop(sandboxes: Sandboxes, connect: Connect) -> Sandbox:
    """A sandbox with the purchases A to E, of which E is refunded already, and a connection to it."""
    sandbox = sandboxes(generation="seed")
    for slug in "ABCDE":
        sandbox.talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100})
    sandbox.talkable.refund("my-store", "E", {})
    connect(sandbox)
    return sandbox


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """All that was logged, at DEBUG level: Airflow 3's own loggers print, the others go through logging."""
    caplog.set_level(logging.DEBUG)
    return lambda: caplog.text + "".join(capsys.readouterr())


def sent(sandbox: Sandbox) -> list[str]:
    return [request["path"].split("/")[4] for request in sandbox.requests]


def outcomes(results: Any) -> list[str]:
    return [result["outcome"] for result in results]


def test_the_documents_example(sandboxes: Sandboxes, connect: Connect) -> None:
    sandbox = sandboxes(generation="seed")
    sandbox.talkable.create_purchase(
        "my-store",
        {"order_number": "B00K2EOONI", "referral": {"id": 233, "status": "approved", "ad_rewarded": True}},
    )
    connect(sandbox)
    ti = TaskInstance("refund")
    result = run(origin_slug="B00K2EOONI", ti=ti)
    assert (result["referral"]["id"], result["referral"]["status"]) == (233, "approved")
    assert ti.xcom["results"] == result
    assert sandbox.requests[0]["body"] == '{"site_slug":"my-store"}'


def test_a_result_has_the_same_keys_whatever_became_of_it(shop: Sandbox) -> None:
    results = run(origin_slug=["A", "E", "unknown", None], ignore=LOSSES)
    assert outcomes(results) == ["refunded", "already_refunded", "not_found", "invalid"]
    for result in results:
        assert list(result) == [
            "origin_slug", "outcome", "referral", "origin", "late", "http_status", "error_message",
            "attempts", "void_outcome",
        ]  # fmt: skip


RENDERED = [
    pytest.param("{{ params.slug }}", "A", False, {"slug": "A"}, id="text"),
    pytest.param("{{ params.slug }}", "7", True, {"slug": 7}, id="native integer"),
    pytest.param("{{ params.slugs }}", ["A", "B"], True, {"slugs": ["A", "B"]}, id="native list"),
    pytest.param("{{ params.slugs }}", ["A", "B"], False, {"slugs": ["A", "B"]}, id="a Python list's text"),
    pytest.param("{{ params.slugs | tojson }}", ["A", "B"], False, {"slugs": ["A", "B"]}, id="a JSON list"),
    pytest.param(" \n{{ params.slugs }}\n", ["A"], False, {"slugs": ["A"]}, id="with white space around"),
    pytest.param("{{ params.rows }}", ["A", "B"], False, {"rows": [("A",), ("B",)]}, id="rows of one column"),
    pytest.param(["{{ params.slug }}", "B"], ["A", "B"], False, {"slug": "A"}, id="a list of templates"),
    pytest.param("{{ params.slugs }}", [], False, {"slugs": []}, id="an empty list"),
]


@pytest.mark.parametrize(("template", "slugs", "native", "params"), RENDERED)
def test_slugs_come_as_whatever_jinja_makes_of_them(
    shop: Sandbox, template: Any, slugs: str | list[str], native: bool, params: Any
) -> None:
    result = run(origin_slug=template, params=params, native=native, ignore=LOSSES)
    if isinstance(slugs, str):
        assert result["origin_slug"] == slugs
    else:
        assert [r["origin_slug"] for r in result] == slugs
    assert sent(shop) == [*slugs]


ROWS = [
    {"order_number": "A", "refund_subtotal": 30.5, "refunded_at": "2020-04-27T07:00:00Z"},
    {"order_number": "B", "refund_subtotal": None},
]


@pytest.mark.parametrize(
    ("refunds", "native"),
    [
        pytest.param(ROWS, False, id="the list itself"),
        pytest.param(tuple(ROWS), False, id="a tuple"),
        pytest.param("{{ params.rows }}", True, id="native"),
        pytest.param("{{ params.rows }}", False, id="a Python list's text"),
        pytest.param("{{ params.rows | tojson }}", False, id="JSON"),
        pytest.param("{{ params.rows[0] | tojson }}", False, id="one mapping"),
    ],
)
def test_refunds_come_as_rows(shop: Sandbox, refunds: Any, native: bool) -> None:
    result = run(refunds=refunds, params={"rows": ROWS}, native=native)
    assert sent(shop) == (["A", "B"] if isinstance(result, list) else ["A"])
    assert json.loads(shop.requests[0]["body"]) == {
        "site_slug": "my-store",
        "data": {"refunded_at": "2020-04-27T07:00:00.000+00:00", "refund_subtotal": 30.5},
    }


def test_values_a_database_returns_need_no_conversion(shop: Sandbox) -> None:
    rows = [
        {"order_number": "A", "refunded_at": datetime(2020, 4, 27, 7), "refund_subtotal": Decimal("30.50")}
    ]
    assert outcomes(run(refunds=rows)) == ["refunded"]


def test_details_of_one_slug_are_templated(shop: Sandbox) -> None:
    run(
        origin_slug="A",
        refunded_at="{{ params.at }}",
        refund_subtotal="{{ params.amount }}",
        site_slug="{{ params.site }}",
        talkable_conn_id="talkable_{{ params.conn }}",
        params={"at": "2020-04-27T07:00:00Z", "amount": 30.5, "site": "my-store", "conn": "default"},
    )
    assert json.loads(shop.requests[0]["body"])["data"] == {
        "refunded_at": "2020-04-27T07:00:00.000+00:00",
        "refund_subtotal": 30.5,
    }


NOTHING = [None, "", "  ", "None", float("nan"), {"a": 1}]


@pytest.mark.parametrize(
    ("value", "native"),
    [(value, native) for value in NOTHING for native in (False, True)],
    ids=repr,
)
def test_what_renders_to_no_slug_is_refused_before_a_request(
    shop: Sandbox, value: object, native: bool
) -> None:
    with pytest.raises(InvalidRefund, match=r"^origin_slug="):
        run(origin_slug="{{ params.value }}", params={"value": value}, native=native)
    assert not shop.requests


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "neither it nor refunds holds anything"),
        ({"origin_slug": "A", "refunds": [{"origin_slug": "B"}]}, "give one of them"),
        ({"refunds": [{"origin_slug": "A"}], "refund_subtotal": 5}, "each row has its own"),
        ({"refunds": [{"origin_slug": "A"}], "refunded_at": "2020-04-27"}, "each row has its own"),
        ({"origin_slug": ["A", "B"], "refund_subtotal": 5}, "goes with one origin_slug"),
        ({"origin_slug": "['A', datetime.now()]"}, "reads as neither JSON nor Python"),
        ({"origin_slug": "[A]"}, "reads as neither JSON nor Python"),
        ({"refunds": "{{1}}"}, None),
        ({"origin_slug": "A", "refund_subtotal": "None"}, "^refund_subtotal='None'"),
        ({"origin_slug": "A", "refunded_at": ""}, "^refunded_at=''"),
        ({"origin_slug": "A", "site_slug": ""}, "^site_slug=''"),
        ({"refunds": {"order_number": 4.0}}, r"^order_number=4\.0"),
    ],
)
def test_contradictions_are_refused_before_a_request(
    shop: Sandbox, fields: dict[str, Any], message: str | None
) -> None:
    if message is None:
        assert run(**fields)["outcome"] == "not_found"
        return
    with pytest.raises(InvalidRefund, match=message):
        run(**fields)
    assert not shop.requests


def test_all_of_a_list_is_tried_before_the_task_fails(shop: Sandbox) -> None:
    ti = TaskInstance("refund")
    with pytest.raises(TalkableError, match=r"2 of 5 refunds failed \(1 not_found, 1 invalid\)"):
        run(origin_slug=["unknown", float("nan"), "A", "E", "B"], ti=ti, ignore=())
    assert outcomes(ti.xcom["results"]) == [
        "not_found", "invalid", "refunded", "already_refunded", "refunded"
    ]  # fmt: skip
    assert sent(shop) == ["unknown", "A", "E", "B"]


def test_an_empty_list_succeeds_without_a_connection() -> None:
    ti = TaskInstance("refund")
    assert run(origin_slug=[], ti=ti, talkable_conn_id="none") == []
    assert ti.xcom["results"] == []


def test_equal_refunds_are_sent_once(shop: Sandbox) -> None:
    at = "2020-04-27T07:00:00Z"
    results = run(
        refunds=[
            {"order_number": "A", "refunded_at": at},
            "B",
            {"origin_slug": "A", "refunded_at": datetime(2020, 4, 27, 7), "refund_subtotal": None},
            {"origin_slug": "C", "refund_subtotal": 5, "refund_key": "r1"},
            {"origin_slug": "C", "refund_subtotal": 5.0, "refund_key": "r1"},
        ]
    )
    assert outcomes(results) == ["refunded"] * 5
    assert sorted(sent(shop)) == ["A", "B", "C"]


def test_equal_parts_of_an_order_need_keys(shop: Sandbox) -> None:
    part = {"origin_slug": "A", "refund_subtotal": 5}
    ti = TaskInstance("refund")
    with pytest.raises(InvalidRefund, match="2 of 3 refunds failed"):
        run(refunds=[part, "B", part], ti=ti)
    assert outcomes(ti.xcom["results"]) == ["invalid", "refunded", "invalid"]
    assert (
        "is given more than once for order A; give each part the refund's own id"
        in (ti.xcom["results"][0]["error_message"])
    )
    shop.requests.clear()
    keyed = [part | {"refund_key": "r1"}, part | {"refund_key": 2}]
    assert outcomes(run(refunds=keyed)) == ["refunded"] * 2
    assert sent(shop) == ["A", "A"]


@pytest.mark.parametrize(
    ("slugs", "error"),
    [
        pytest.param(["unknown", "A", "lost"], TalkableOriginNotFound, id="all of one kind"),
        pytest.param([None, "A"], InvalidRefund, id="invalid"),
        pytest.param(["unknown", None], TalkableError, id="of several kinds"),
        pytest.param("unknown", TalkableOriginNotFound, id="one"),
    ],
)
def test_the_task_fails_with_the_error_that_fits_all_failures(
    shop: Sandbox, slugs: Any, error: type[TalkableError]
) -> None:
    with pytest.raises(TalkableError) as caught:
        run(origin_slug=slugs, ignore=())
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("fields", "fails"),
    [
        ({}, False),
        ({"ignore": LOSSES}, False),
        ({"ignore": ["not_found"]}, False),
        ({"ignore": "not_found"}, False),
        ({"ignore": {Outcome.NOT_FOUND}}, False),
        ({"ignore": ()}, True),
        ({"ignore": ["rejected"]}, True),
    ],
    ids=str,
)
def test_ignore_names_the_outcomes_that_do_not_fail_the_task(
    shop: Sandbox, fields: dict[str, Any], fails: bool
) -> None:
    with pytest.raises(TalkableOriginNotFound) if fails else nullcontext():
        run(origin_slug=["E", "unknown"], **fields)


@pytest.mark.parametrize(
    ("given", "named"),
    [(["lost"], "'lost'"), ("refunded", "'refunded'"), (None, "None"), (["not_found", 7], "7")],
    ids=["unknown", "a success", "None", "a number"],
)
def test_what_cannot_be_ignored_is_refused_when_the_dag_is_parsed(given: Any, named: str) -> None:
    losses = "aborted, conflict, failed, invalid, not_counted, not_found, rejected, throttled, unconfirmed"
    with pytest.raises(ValueError, match=rf"^ignore={named}: give some of {losses}, or \(\) for none$"):
        TalkableRefundOperator(task_id="refund", origin_slug="A", ignore=given)


@pytest.mark.parametrize("slugs", ["unknown", ["unknown", "A"]], ids=["one", "several"])
def test_the_error_names_ignore_as_the_remedy(shop: Sandbox, slugs: Any) -> None:
    with pytest.raises(TalkableOriginNotFound, match="not_found: add it to ignore if that is normal"):
        run(origin_slug=slugs, ignore=())


def test_a_list_of_which_talkable_knows_nothing_fails_whatever_is_ignored(shop: Sandbox) -> None:
    ids = [f"id-{number}" for number in range(50)]
    with pytest.raises(TalkableOriginNotFound, match="knows none of the 50 orders of these refunds"):
        run(origin_slug=ids, ignore=LOSSES)
    assert set(outcomes(run(origin_slug=ids[1:]))) == {"not_found"}
    assert outcomes(run(origin_slug=[*ids, "A"]))[-1] == "refunded"


def test_a_refused_key_stops_the_run(shop: Sandbox, connect: Connect) -> None:
    connect(shop, key="wrong-api-key")
    ti = TaskInstance("refund")
    with pytest.raises(TalkableAuthError, match="3 of 3 refunds failed"):
        run(origin_slug=["A", "B", "C"], ti=ti)
    assert outcomes(ti.xcom["results"]) == ["aborted"] * 3
    # By either scheme.
    assert sent(shop) == ["A", "A"]


def test_the_log_says_what_failed_and_why(shop: Sandbox, logged: Callable[[], str]) -> None:
    with pytest.raises(TalkableError):
        run(origin_slug=["A", *(f"lost-{n}" for n in range(30))], ignore=())
    log = logged()
    assert "Refunds: 30 not_found, 1 refunded" in log
    assert "lost-0: not_found: No origin found by `origin_slug`." in log
    assert "lost-19: not_found" in log
    assert "lost-20: not_found" not in log
    assert "and 10 more" in log


def test_a_hostile_slug_or_answer_forges_no_log_line(shop: Sandbox, logged: Callable[[], str]) -> None:
    shop.dials.next(Canned(422, b'{"ok": false, "error_message": "no\\nERROR forged"}'))
    with pytest.raises(TalkableError, match="3 of 3 refunds failed"):
        run(origin_slug=["A\u2028ERROR forged", "A\nERROR forged", "B\u202e"])
    log = logged()
    assert "'A\\u2028ERROR forged': rejected: no ERROR forged" in log
    assert "'A\\nERROR forged': invalid: " in log
    assert "\nERROR forged" not in log
    assert "\u2028ERROR forged" not in log


@pytest.mark.parametrize("slugs", ["A", ["A", "B"]], ids=["one", "list"])
def test_an_address_in_an_answer_is_not_logged(
    shop: Sandbox, logged: Callable[[], str], slugs: str | list[str]
) -> None:
    shop.dials.next(Canned(400, b'{"ok": false, "error_message": "jane@example.com is blocked"}'))
    with pytest.raises(TalkableError) as caught:
        run(origin_slug=slugs)
    log = logged()
    assert "[redacted] is blocked" in log + str(caught.value)
    assert "jane" not in log + str(caught.value)


@needs_store
def test_redact_people_leaves_them_out_of_xcom_and_of_the_store(shop: Sandbox) -> None:
    ti, store = TaskInstance("refund"), Store()
    run(origin_slug=["A"], ti=ti, store=store, redact_people=True)
    for kept in (json.dumps(ti.xcom), json.dumps(store)):
        assert "@example.com" not in kept
        assert "first_name" not in kept
        assert '"status": "voided"' in kept
    run(origin_slug=["B"], ti=ti)
    assert "@example.com" in json.dumps(ti.xcom)


@needs_store
def test_what_was_learned_is_kept_when_the_task_is_stopped(
    shop: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        pass

    class StopsAtThird(Store):
        def set(self, key: str, value: Any, **more: Any) -> None:
            super().set(key, value, **more)
            if len(self) == 4 and "submitted" in value.values():
                raise Stopped

    ti = TaskInstance("refund")
    rows = [{"origin_slug": slug, "refund_subtotal": 5} for slug in "ABCD"]
    store = StopsAtThird()
    with pytest.raises(Stopped):
        run(refunds=rows, ti=ti, store=store)
    # Those before it may be on the wire by then, or not yet.
    assert set(sent(shop)) <= {"A", "B"}
    assert outcomes(ti.xcom["results"]) == [
        "refunded" if slug in sent(shop) else "aborted" for slug in "ABCD"
    ]
    assert outcomes(run(refunds=rows, ti=TaskInstance("refund", 2), store=Store(store))) == ["refunded"] * 4
    assert sorted(sent(shop)) == ["A", "B", "C", "D"]


class TestAirflowDoesNotAnswer:
    """A task whose reports do not reach Airflow sends no more, and keeps what it learns of what it sent."""

    @needs_store
    def test_before_a_refund_is_sent(self, shop: Sandbox) -> None:
        class FailsAtThird(Store):
            def set(self, key: str, value: Any, **more: Any) -> None:
                super().set(key, value, **more)
                if len(self) == 4 and "submitted" in value.values():
                    raise ConnectionError("no answer")

        ti = TaskInstance("refund")
        rows = [{"origin_slug": slug, "refund_subtotal": 5} for slug in "ABCD"]
        store = FailsAtThird()
        with pytest.raises(TalkableError, match=r"does not reach Airflow \(ConnectionError: no answer\)"):
            run(refunds=rows, ti=ti, store=store)
        # Those before it may be on the wire by then, or not yet.
        assert set(sent(shop)) <= {"A", "B"}
        assert outcomes(ti.xcom["results"]) == [
            "refunded" if slug in sent(shop) else "aborted" for slug in "ABCD"
        ]
        # What was not sent leaves no doubt for the retry.
        assert len(store) == 1 + len(sent(shop))

    @needs_store
    def test_after_an_answer(self, shop: Sandbox) -> None:
        class FailsOnce(Store):
            has_failed = False

            def set(self, key: str, value: Any, **more: Any) -> None:
                if self and not self.has_failed:
                    self.has_failed = True
                    raise ConnectionError("no answer")
                super().set(key, value, **more)

        slugs = [f"order-{number}" for number in range(300)]
        for slug in slugs:
            shop.talkable.create_purchase("my-store", {"order_number": slug})
        shop.dials.latency = 0.2
        ti, store = TaskInstance("refund"), FailsOnce()
        with pytest.raises(TalkableError, match="does not reach Airflow"):
            run(origin_slug=slugs, ti=ti, store=store)
        found = Counter(outcomes(ti.xcom["results"]))
        assert found == {"refunded": len(sent(shop)), "aborted": 300 - len(sent(shop))}
        # The first answer is lost, and the task's own mark is there.
        assert len(store) == len(sent(shop)) - 1 + 1
        assert len(sent(shop)) <= 100

    def test_at_the_end(self, shop: Sandbox) -> None:
        class Silent(TaskInstance):
            def xcom_push(self, key: str, value: Any) -> None:
                if key == "results":
                    raise ConnectionError("no answer")

        with pytest.raises(TalkableError, match="does not reach Airflow"):
            run(origin_slug=["A"], ti=Silent("refund"))
        assert sent(shop) == ["A"]


class TestRetries:
    """A task retry must not send again what an earlier try has settled."""

    @needs_store
    def test_nothing_settled_is_sent_again(self, shop: Sandbox, logged: Callable[[], str]) -> None:
        store = Store()
        slugs = ["A", "late", "E", "B"]
        run(origin_slug=slugs, store=store)
        shop.talkable.create_purchase("my-store", {"order_number": "late"})
        shop.requests.clear()
        ti = TaskInstance("refund", 2)
        results = run(origin_slug=slugs, store=store, ti=ti)
        assert sent(shop) == ["late"]
        assert outcomes(results) == ["refunded", "refunded", "already_refunded", "refunded"]
        assert results[0]["referral"]["status"] == "voided"
        assert ti.xcom["results"] == results
        assert "Not sent again after an earlier try of this task: 3" in logged()

    @pytest.mark.parametrize(
        "has_store", [pytest.param(True, marks=needs_store), False], ids=["Airflow 3.3", "earlier Airflow"]
    )
    def test_a_partial_refund_in_doubt_is_not_sent_again(self, shop: Sandbox, has_store: bool) -> None:
        store = Store() if has_store else None
        shop.dials.next(Reset(acted=True))
        row = {"origin_slug": "A", "refund_subtotal": 30}
        for number in (1, 2, 3):
            ti = TaskInstance("refund", number)
            with pytest.raises(TalkableConnectionError):
                run(refunds=row, store=store, ti=ti)
            assert ti.xcom["results"]["outcome"] == "unconfirmed"
        assert sent(shop) == ["A"]
        assert shop.talkable.snapshot()["my-store"]["A"]["refund_subtotal"] == 30

    @needs_store
    def test_a_partial_refund_that_a_crash_left_behind_is_unconfirmed(self, shop: Sandbox) -> None:
        class Crash(BaseException):
            pass

        class Dies(Store):
            def set(self, key: str, value: Any, **more: Any) -> None:
                if isinstance(value, dict) and "submitted" not in value.values():
                    raise Crash
                super().set(key, value, **more)

        store: Store = Dies()
        row = {"origin_slug": "A", "refund_subtotal": 30}
        with pytest.raises(Crash):
            run(refunds=row, store=store)
        store = Store(store)
        with pytest.raises(
            TalkableConnectionError,
            match="An earlier try of this task may have sent it; Talkable may have taken",
        ):
            run(refunds=row, store=store, ti=TaskInstance("refund", 2))
        assert sent(shop) == ["A"]

    @needs_store
    def test_a_partial_refund_that_was_certainly_not_taken_is_sent_again(self, shop: Sandbox) -> None:
        store = Store()
        row = {"origin_slug": "A", "refund_subtotal": 30}
        shop.dials.next(Canned(422, b'{"ok": false}'))
        with pytest.raises(TalkableRejected):
            run(refunds=row, store=store)
        assert run(refunds=row, store=store, ti=TaskInstance("refund", 2))["outcome"] == "refunded"

    def test_before_airflow_3_3_a_full_refund_is_sent_again_harmlessly(self, shop: Sandbox) -> None:
        run(origin_slug="A")
        assert run(origin_slug="A", ti=TaskInstance("refund", 2))["outcome"] == "already_refunded"

    @needs_store
    def test_a_first_try_asks_no_memory(self, shop: Sandbox) -> None:
        run(origin_slug="A", store=Store())
        assert run(origin_slug="A", store=Store())["outcome"] == "already_refunded"


@pytest.mark.parametrize(
    "fault", [None, Canned(500), Canned(422, b"{}"), Truncated(), Canned(401, b'{"ok": false}')], ids=repr
)
def test_the_key_is_in_no_log_no_xcom_and_no_rendered_field(
    shop: Sandbox, logged: Callable[[], str], fault: Any
) -> None:
    shop.dials.next(fault)
    ti, store = TaskInstance("refund"), Store() if HAS_STORE else None
    raised = ""
    try:
        run(refunds=[{"origin_slug": "A", "refund_subtotal": 5}], ti=ti, store=store)
    except TalkableError as error:
        raised = repr(error) + str(error)
    log = logged()
    assert "DEBUG" in log
    assert "Refunds: 1" in log
    everything = log + json.dumps(ti.xcom) + json.dumps(store) + raised
    for secret in (KEY, "aTl1aWw3blFnRGp1Y0NpVEp1"):
        assert secret not in everything


def test_template_fields_are_a_promise() -> None:
    assert TalkableRefundOperator.template_fields == (
        "origin_slug", "refunds", "refunded_at", "refund_subtotal", "order_subtotal", "refund_key",
        "site_slug", "talkable_conn_id", "ledger_conn_id", "ledger_table", "ledger_schema",
    )  # fmt: skip


def test_fields_are_kept_as_given_until_they_are_rendered() -> None:
    given: dict[str, Any] = {
        "origin_slug": " {{ x }} ",
        "refunds": ({"a": 1},),
        "refunded_at": 5,
        "refund_subtotal": "x",
        "order_subtotal": "y",
        "refund_key": 1.5,
        "ledger_conn_id": "{{ l }}",
        "site_slug": "",
        "talkable_conn_id": "{{ c }}",
    }
    operator = TalkableRefundOperator(task_id="refund", **given)
    assert {name: getattr(operator, name) for name in given} == given


@pytest.mark.takes_long
def test_every_generation_gives_the_same_xcom(sandboxes: Sandboxes, connect: Connect) -> None:
    pushed = []
    count = sized(500)
    known = count * 9 // 10
    for generation in Generation:
        sandbox = sandboxes(generation=generation)
        sandbox.talkable.now = lambda: datetime(2026, 1, 10, tzinfo=UTC)
        for number in range(known):
            late = {"status": "approved", "ad_rewarded": True}
            referral: Any = late if number % 7 == 0 else None if number % 11 == 0 else {}
            order = {"order_number": str(number), "referral": referral}
            sandbox.talkable.create_purchase("my-store", order)
        connect(sandbox)
        refunds = [{"order_number": n, "refund_subtotal": None if n % 3 else 1} for n in range(count)]
        results = run(refunds=refunds, ignore=LOSSES, fetch_referral=True)
        if generation is not Generation.SEED:
            assert all(bool(result["origin"]) is (number < known) for number, result in enumerate(results))
        for result in results:
            # What one generation or another does not know of.
            result["origin"] = None
            if result["referral"]:
                for name in ("advocate_rewards", "friend_rewards", "fraud_details", "fraud_policies_status"):
                    result["referral"].pop(name, None)
                for role in ("advocate_person", "friend_person"):
                    result["referral"][role].pop("phone_number", None)
        pushed.append(results)
    first, *others = pushed
    assert others == [first, first]
    assert sum(result["referral"] is not None for result in first) == sum(
        1 for n in range(known) if n % 7 == 0 or n % 11
    )


def test_an_amount_can_be_required(shop: Sandbox) -> None:
    rows = [{"order_number": "A", "refund_subtotal": 5}, {"order_number": "B"}, "C"]
    results = run(refunds=rows, require_subtotal=True, ignore=LOSSES)
    assert outcomes(results) == ["refunded", "invalid", "invalid"]
    assert "require_subtotal is set" in results[1]["error_message"]
    with pytest.raises(InvalidRefund, match="^refund_subtotal=None: holds no amount"):
        run(origin_slug="A", require_subtotal=True)
    assert sent(shop) == ["A"]


def test_columns_of_refunds_are_known_whatever_their_case(shop: Sandbox) -> None:
    results = run(
        refunds=[{"ORDER_NUMBER": "A", "REFUND_SUBTOTAL": 5}, {"ORDER_NUMBER": "B "}], ignore=LOSSES
    )
    assert [(r["origin_slug"], r["outcome"]) for r in results] == [("A", "refunded"), ("B ", "invalid")]
    assert json.loads(shop.requests[0]["body"])["data"] == {"refund_subtotal": 5}
