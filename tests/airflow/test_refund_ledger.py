"""The operator with a ledger, run as Airflow runs it: it remembers on every Airflow, whatever was cleared."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow import __version__
from airflow.providers.common.compat.sdk import DAG
from sqlalchemy import create_engine
from sqlalchemy.engine import URL

from airflow_provider_talkable import InvalidRefund, TalkableConnectionError, TalkableError
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.sandbox import Canned, Reset, Sandbox
from tests.airflow.task import LOSSES, TaskInstance
from tests.conftest import Sandboxes

Connect = Callable[..., str]
PART = {"origin_slug": "A", "refund_subtotal": 30, "refund_key": "r1"}


@pytest.fixture
def shop(sandboxes: Sandboxes, connect: Connect, sqlite: URL, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The purchases A to E, of which E was refunded in whole, and a connection ``shop`` for the ledger."""
    sandbox = sandboxes(generation="seed")
    for slug in "ABCDE":
        sandbox.talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100})
    sandbox.talkable.refund("my-store", "E", {})
    connect(sandbox)
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "sqlite", "host": sqlite.database}))
    return sandbox


def run(*, ti: TaskInstance | None = None, params: Any = None, **fields: Any) -> Any:
    fields = {"ledger_conn_id": "shop", **fields}
    operator = TalkableRefundOperator(task_id="refund", dag=DAG("refunds", schedule=None), **fields)
    context: Any = {"ti": ti or TaskInstance("refund"), "params": params or {}}
    operator.render_template_fields(context)
    return operator.execute(context)


def outcomes(results: Any) -> list[str]:
    return [result["outcome"] for result in results]


def told(shop: Sandbox, slug: str) -> Any:
    return shop.talkable.snapshot()["my-store"][slug]["refund_subtotal"]


def test_results_keep_their_form_and_order(shop: Sandbox) -> None:
    ti = TaskInstance("refund")
    rows = ["B", PART, "unknown", {"order_number": None}, "E", PART]
    results = run(refunds=rows, ti=ti, ignore=LOSSES)
    assert outcomes(results) == [
        "refunded", "refunded", "not_found", "invalid", "already_refunded", "refunded"
    ]  # fmt: skip
    assert ti.xcom["results"] == results
    assert {tuple(result) for result in results} == {
        ("origin_slug", "outcome", "referral", "origin", "late", "http_status", "error_message", "attempts",
         "void_outcome")
    }  # fmt: skip
    one = run(origin_slug="C")
    assert (one["outcome"], one["origin_slug"]) == ("refunded", "C")


@pytest.mark.parametrize("try_number", [1, 2], ids=["another run, or a lost marker", "a retry, or cleared"])
def test_a_part_is_sent_once_by_whatever_try(shop: Sandbox, try_number: int) -> None:
    assert run(refunds=PART)["outcome"] == "refunded"
    again = TaskInstance("refund", try_number, map_index=3)
    assert run(refunds=PART, ti=again)["outcome"] == "refunded"
    assert told(shop, "A") == 30
    assert run(refunds=PART | {"refund_key": "r2"}, ti=again)["outcome"] == "refunded"
    assert told(shop, "A") == 60


def test_a_part_in_doubt_stays_so(shop: Sandbox) -> None:
    shop.dials.next(Reset(acted=True))
    for error, number in ((TalkableConnectionError, 1), (TalkableError, 2)):
        ti = TaskInstance("refund", number)
        with pytest.raises(error):
            run(refunds=PART, ti=ti)
        assert ti.xcom["results"]["outcome"] == "unconfirmed"
    assert told(shop, "A") == 30


def test_doubt_beside_another_failure_is_not_told_as_that_failure(shop: Sandbox) -> None:
    shop.dials.next(Reset(acted=True))
    with pytest.raises(TalkableConnectionError):
        run(refunds=PART)
    with pytest.raises(TalkableError, match="2 of 2 refunds failed") as caught:
        run(refunds=[PART, "unknown"], ti=TaskInstance("refund", 2), ignore=())
    assert type(caught.value) is TalkableError


def test_fields_of_one_slug_and_of_the_ledger_are_templated(shop: Sandbox, sqlite: URL) -> None:
    fields: dict[str, Any] = {
        "origin_slug": "A",
        "refund_subtotal": "{{ params.amount }}",
        "order_subtotal": "{{ params.whole }}",
        "refund_key": "{{ params.key }}",
        "ledger_conn_id": "{{ params.conn }}",
        "ledger_table": "refunds_of_{{ params.name }}",
    }
    params = {"amount": 30, "whole": 100, "key": "r7", "conn": "shop", "name": "de"}
    ti = TaskInstance("refund")
    assert run(**fields, params=params, ti=ti)["outcome"] == "refunded"
    engine = create_engine(sqlite)
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT refund_key, event, refund_subtotal, order_subtotal FROM refunds_of_de ORDER BY entry_id"
        ).fetchall()
    engine.dispose()
    assert [tuple(row) for row in found] == [("r7", "submitted", 30, 100), ("r7", "refunded", 30, 100)]
    assert "refunds_of_de" in ti.xcom["ledger_query"]


@pytest.mark.parametrize("ledger_conn_id", ["shop", None])
def test_an_amount_that_reaches_the_orders_refunds_it_all(shop: Sandbox, ledger_conn_id: str | None) -> None:
    fields: dict[str, Any] = {"origin_slug": "A", "refund_subtotal": 100, "order_subtotal": "100.00"}
    assert run(**fields, ledger_conn_id=ledger_conn_id)["outcome"] == "refunded"
    assert json.loads(shop.requests[0]["body"]) == {"site_slug": "my-store"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"origin_slug": "A", "refund_subtotal": 5},
            "^refund_key=None: is missing; a part of an",
        ),
        ({"refunds": {"origin_slug": "A", "refund_subtotal": 5}}, "^refund_key=None"),
        ({"origin_slug": ["A", "B"], "order_subtotal": 5}, "^order_subtotal=5: goes with one"),
        ({"origin_slug": ["A", "B"], "refund_key": "r"}, "^refund_key='r': goes with one"),
        ({"refunds": ["A"], "order_subtotal": 5}, "^order_subtotal=5: goes with origin_slug"),
        ({"refunds": {"origin_slug": "A", "refund_subtotl": 5}}, "not a column of a refund"),
        ({"origin_slug": {"a": 1}}, "^origin_slug="),
    ],
)
def test_what_makes_no_refund_is_refused_before_a_request(
    shop: Sandbox, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRefund, match=message):
        run(**fields)
    assert not shop.requests


@pytest.mark.skipif(__version__ < "3", reason="as tested here, Airflow 2 knows no other provider's hook")
def test_a_ledger_that_cannot_be_used_stops_it_before_a_request(shop: Sandbox) -> None:
    with pytest.raises(TalkableError, match="is not an SQL database"):
        run(refunds=[PART], ledger_conn_id="talkable_default")
    assert not shop.requests


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_in_flight": 0}, "max_in_flight=0: give 1 or more"),
        ({"max_rate": 0}, "max_rate=0: give requests per second, more than 0, or None"),
    ],
)
@pytest.mark.parametrize("ledger_conn_id", ["shop", None])
def test_a_pace_that_is_none_is_refused(
    shop: Sandbox, fields: dict[str, Any], message: str, ledger_conn_id: str | None
) -> None:
    with pytest.raises(ValueError, match=message):
        run(origin_slug="A", ledger_conn_id=ledger_conn_id, **fields)
    assert not shop.requests


@pytest.mark.parametrize("ledger_conn_id", ["shop", None])
def test_its_pace_is_what_it_was_told(shop: Sandbox, ledger_conn_id: str | None) -> None:
    shop.dials.next(None, *[Canned(429)] * 50)
    ti = TaskInstance("refund")
    pace = {"throttle_patience": 0.5, "max_in_flight": 1, "max_rate": 20}
    with pytest.raises(TalkableError):
        run(origin_slug=["A", "B", "C"], ti=ti, ledger_conn_id=ledger_conn_id, **pace)
    assert outcomes(ti.xcom["results"]) == ["refunded", "throttled", "throttled"]
    assert len(shop.requests) < 10
