"""The sync's operator, run as Airflow runs it, with real databases and HTTP."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow import __version__
from airflow.providers.common.compat.sdk import DAG, Asset, TaskDeferred
from sqlalchemy.engine import URL

from airflow_provider_talkable import (
    InvalidConnection,
    InvalidRefund,
    LedgerError,
    TalkableAuthError,
    TalkableError,
    TalkableOriginNotFound,
    TalkableRejected,
    TalkableThrottled,
)
from airflow_provider_talkable.sandbox import Canned, Dials, Reset, Sandbox
from airflow_provider_talkable.sandbox.talkable import Generation
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator
from airflow_provider_talkable.triggers.throttle import TalkableThrottleTrigger
from tests.airflow.task import LOSSES, TaskInstance
from tests.conftest import KEY, Sandboxes
from tests.shop import once_requested

Connect = Callable[..., str]
SQL = "SELECT * FROM refunds ORDER BY rowid"
# However fast the rows are read: B's is sent before the others, which are of whole orders.
PARTIAL_FIRST = "SELECT * FROM refunds ORDER BY refund_subtotal IS NULL, rowid"


class OutletEvents:
    """What Airflow hands to a task for its outlets. In Airflow 3.0 an asset is no key of a dictionary."""

    def __init__(self) -> None:
        self.events: dict[str, Any] = {}

    def __getitem__(self, asset: Asset) -> Any:
        return self.events.setdefault(asset.uri, SimpleNamespace(extra={}))


@dataclass
class Shop:
    """A warehouse in SQLite, a local Talkable, and connections to both."""

    path: Path
    sandbox: Sandbox

    def refund(self, *rows: tuple[object, ...]) -> None:
        with closing(sqlite3.connect(self.path)) as warehouse, warehouse:
            warehouse.execute(
                "CREATE TABLE IF NOT EXISTS refunds (refund_key, origin_slug, refunded_at, refund_subtotal)"
            )
            padded = [(*row, *[None] * (4 - len(row))) for row in rows]
            warehouse.executemany("INSERT INTO refunds VALUES (?, ?, ?, ?)", padded)

    def order(self, *slugs: str) -> None:
        for slug in slugs:
            self.sandbox.talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100})

    def operator(self, *, params: Any = None, ti: Any = None, **fields: Any) -> tuple[Any, Any]:
        dag = DAG("shop", schedule=None)
        fields = {"sql": SQL, "sql_conn_id": "warehouse", "initial_rate": None} | fields
        operator = SqlToTalkableRefundOperator(task_id="sync", dag=dag, **fields)
        context: Any = {
            "ti": ti or TaskInstance("sync"),
            "params": params or {},
            "outlet_events": OutletEvents(),
        }
        operator.render_template_fields(context)
        return operator, context

    def run(self, **fields: Any) -> Any:
        operator, context = self.operator(**fields)
        return operator.execute(context)

    def states(self, table: str = "talkable_refund_ledger", path: Path | None = None) -> dict[str, str]:
        with closing(sqlite3.connect(path or self.path)) as warehouse:
            rows = warehouse.execute(f"SELECT refund_key, event FROM {table} ORDER BY entry_id")
            return dict(rows.fetchall())


@pytest.fixture
def shop(tmp_path: Path, sandboxes: Sandboxes, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop with the orders A to C, refunded as a, b and c; Talkable never saw X, refunded as x."""
    shop = Shop(tmp_path / "warehouse.sqlite", sandboxes(generation="seed"))
    connection = {"conn_type": "sqlite", "host": str(shop.path)}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    connect(shop.sandbox)
    shop.order("A", "B", "C")
    shop.refund(("a", "A"), ("b", "B", "2026-01-02", 12.5), ("c", "C"))
    return shop


def test_the_summary_is_returned_and_pushed(shop: Shop) -> None:
    shop.refund(("x", "X"))
    ti = TaskInstance("sync")
    summary = shop.run(ti=ti, ignore=LOSSES)
    assert summary["outcomes"] == {"refunded": 3, "not_found": 1}
    query = ti.xcom.pop("ledger_query")
    assert ti.xcom == {"summary": summary}
    with closing(sqlite3.connect(shop.path)) as warehouse:
        warehouse.row_factory = sqlite3.Row
        entries = warehouse.execute(query).fetchall()
    assert [entry["event"] for entry in entries[:4]] == ["submitted"] * 4
    assert {entry["refund_key"]: entry["event"] for entry in entries} == shop.states()
    assert ti.links == {
        "TalkableSiteLink": "https://admin.talkable.com/sites/my-store",
        "TalkableLedgerLink": "http://localhost:8080/dags/shop/grid?dag_run_id=manual__1&task_id=sync&tab=xcom"
        if __version__ < "3"
        else "/dags/shop/runs/manual__1/tasks/sync/xcom",
    }
    assert shop.states() == {"a": "refunded", "b": "refunded", "c": "refunded", "x": "not_found"}


def test_the_fields_that_are_templated() -> None:
    assert set(SqlToTalkableRefundOperator.template_fields) == {
        "sql", "parameters", "sql_conn_id", "talkable_conn_id", "site_slug",
        "ledger_conn_id", "ledger_table", "ledger_schema", "resend", "resend_keys", "preview",
    }  # fmt: skip


def test_parameters_and_tables_are_templated(shop: Shop) -> None:
    summary = shop.run(
        sql="SELECT * FROM refunds WHERE origin_slug = :slug",
        parameters={"slug": "{{ params.slug }}"},
        ledger_table="{{ params.table }}",
        params={"slug": "B", "table": "Settled Refunds"},
    )
    assert summary["rows"] == 1
    assert shop.states('"Settled Refunds"') == {"b": "refunded"}


def test_the_ledger_may_lie_elsewhere(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "ledger.sqlite"
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER", json.dumps({"conn_type": "sqlite", "host": str(elsewhere)}))
    shop.run(ledger_conn_id="ledger")
    assert set(shop.states(path=elsewhere)) == {"a", "b", "c"}
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        shop.states()


def test_postgres_as_airflow_connects_to_it(
    postgres: URL, shop: Shop, engines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {
        "conn_type": "postgres",
        "host": postgres.query["host"],
        "login": "postgres",
        "schema": postgres.database,
    }
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES", json.dumps(connection))
    with engines(postgres).begin() as warehouse:
        warehouse.exec_driver_sql("CREATE SCHEMA talkable")
        warehouse.exec_driver_sql(
            "CREATE TABLE refunds (id uuid DEFAULT gen_random_uuid(), order_number text, at timestamptz,"
            " amount numeric(10, 2))"
        )
        warehouse.exec_driver_sql(
            "INSERT INTO refunds (order_number, at, amount)"
            " VALUES ('A', '2026-01-02 03:04:05.678+02', NULL), ('B', now(), 12.30)"
        )
    fields = {
        "sql_conn_id": "postgres",
        "sql": "SELECT id AS refund_key, order_number, at AS refunded_at, amount AS refund_subtotal"
        " FROM refunds WHERE order_number = ANY(%(slugs)s)",
        "parameters": {"slugs": ["A", "B"]},
        "ledger_schema": "talkable",
    }
    assert shop.run(**fields)["outcomes"] == {"refunded": 2}
    assert shop.run(**fields)["sent"] == 0
    held = shop.sandbox.talkable.snapshot()["my-store"]
    assert held["A"]["refunded_at"] == "2026-01-02T01:04:05.678+00:00"
    assert held["B"]["refund_subtotal"] == 12.3


def test_too_many_failures_fail_the_task_after_everything_was_tried(shop: Shop) -> None:
    shop.refund(("x", "X"))
    ti = TaskInstance("sync")
    with pytest.raises(
        TalkableOriginNotFound,
        match=r"1 of 4 refunds failed \(1 not_found: add it to ignore if that is normal\), "
        r"more than max_failure_ratio=0.2 allows; .* has each$",
    ):
        shop.run(ti=ti, max_failure_ratio=0.2, ignore=())
    assert ti.xcom["summary"]["outcomes"] == {"refunded": 3, "not_found": 1}
    shop.run(ti=TaskInstance("sync"), max_failure_ratio=0.25, ignore=())


def test_an_ignored_outcome_counts_neither_way(shop: Shop) -> None:
    shop.refund(("x", "X"))
    assert shop.run()["outcomes"] == {"refunded": 3, "not_found": 1}
    # Of five that count, two failed; of all six it would be a third.
    shop.refund(("y", "Y", "yesterday"), ("z", "Z", "yesterday"))
    with pytest.raises(InvalidRefund, match=r"2 of 5 refunds failed.*; ignored: 1 not_found$"):
        shop.run(max_failure_ratio=0.35)
    assert shop.run(max_failure_ratio=0.4)["outcomes"] == {"refunded": 3, "invalid": 2, "not_found": 1}


def test_a_retry_does_not_turn_a_failure_into_a_success(shop: Shop) -> None:
    shop.refund(("x", "X"))
    for try_number in (1, 2):
        with pytest.raises(TalkableOriginNotFound):
            shop.run(ti=TaskInstance("sync", try_number), ignore=())
    assert len(shop.sandbox.requests) == 4


def test_failures_of_several_kinds_are_a_plain_error(shop: Shop) -> None:
    shop.refund(("x", "X"), ("y", "Y", "yesterday"))
    with pytest.raises(TalkableError, match="2 of 5 refunds failed") as caught:
        shop.run(ignore=())
    assert type(caught.value) is TalkableError


def test_a_refused_key_fails_the_task_as_such(shop: Shop, connect: Connect) -> None:
    connect(shop.sandbox, key="wrong-api-key")
    ti = TaskInstance("sync")
    with pytest.raises(TalkableAuthError, match="Talkable refused the API key"):
        shop.run(ti=ti)
    assert ti.xcom["summary"]["stopped"].startswith("Talkable refused the API key")
    assert set(shop.states().values()) == {"aborted"}


def test_many_rejections_in_a_row_fail_the_task(shop: Shop) -> None:
    shop.sandbox.dials.next(*[Canned(422, b'{"ok": false, "error_message": "no"}')] * 3)
    with pytest.raises(TalkableError, match="2 refunds in a row were rejected with the same words"):
        shop.run(abort_after=2, max_in_flight=1)
    assert sorted(shop.states().values()) == ["aborted", "rejected", "rejected"]


@pytest.mark.parametrize(
    "again",
    [["not_found"], {"not_found"}, "not_found, rejected", "{{ params.again }}"],
    ids=["list", "set", "text", "template"],
)
def test_resend_tries_again_what_is_settled(shop: Shop, again: Any) -> None:
    shop.refund(("x", "X"))
    shop.run(ignore=LOSSES)
    shop.order("X")
    assert shop.run(resend="{{ params.again }}", params={"again": ""}, ignore=LOSSES)["sent"] == 0
    assert shop.run(resend=again, params={"again": '["not_found"]'})["outcomes"] == {"refunded": 4}
    assert len(shop.sandbox.requests) == 5
    assert shop.states()["x"] == "refunded"


def an_earlier_run() -> TaskInstance:
    ti = TaskInstance("sync")
    ti.run_id = "manual__0"
    return ti


@pytest.mark.parametrize(
    "named",
    [["b", "gone"], {"b", "gone"}, '["b", "gone"]', "['b', 'gone']", "{{ params.again }}"],
    ids=["list", "set", "JSON", "Python", "template"],
)
@pytest.mark.parametrize("preview", [True, False])
def test_the_refunds_that_are_named_are_sent_again(
    shop: Shop, named: Any, preview: bool, caplog: pytest.LogCaptureFixture
) -> None:
    shop.sandbox.dials.next(Reset(acted=False))
    first = {
        "ti": an_earlier_run(),
        "ignore": LOSSES,
        "sql": PARTIAL_FIRST,
    }
    assert shop.run(max_in_flight=1, **first)["outcomes"] == {"refunded": 2, "unconfirmed": 1}
    nothing: tuple[Any, ...] = ((), [], "", "[]", None)
    for none in nothing:
        assert shop.run(resend_keys=none)["skipped"] == 3
    with closing(sqlite3.connect(shop.path)) as ledger, ledger:
        ledger.execute("UPDATE talkable_refund_ledger SET sending_until = '2026-01-01 00:00:00.000000'")
    caplog.set_level("INFO")
    summary = shop.run(resend_keys=named, preview=preview, params={"again": ["b", "gone"]})
    assert summary["outcomes"] == ({"to_send": 1} if preview else {"refunded": 1})
    assert (summary["skipped"], summary["unmatched_keys"]) == (2, ["gone"])
    assert "resend_keys: no row has 'gone'; nothing was sent for it" in caplog.messages
    assert shop.sandbox.talkable.snapshot()["my-store"]["B"]["times_refunded"] == (not preview)


def test_one_key_may_be_named_by_itself(shop: Shop) -> None:
    shop.refund((1001, "X"))
    assert shop.run(ti=an_earlier_run(), ignore=LOSSES)["outcomes"] == {"refunded": 3, "not_found": 1}
    shop.order("X")
    for key in (1001, "1001"):
        summary = shop.run(resend_keys=key)
        assert (summary["outcomes"], summary["unmatched_keys"]) == ({"refunded": 1}, [])
    assert len(shop.sandbox.requests) == 5


def test_a_try_of_the_same_run_sends_nothing_again_by_name(shop: Shop) -> None:
    """It was named because of what an earlier run had left, not this one."""
    shop.sandbox.dials.next(Reset(acted=True))
    for _ in range(2):
        summary = shop.run(sql=PARTIAL_FIRST, max_in_flight=1, resend_keys=["b"], ignore=LOSSES)
        assert summary["outcomes"] == {"refunded": 2, "unconfirmed": 1}
    with closing(sqlite3.connect(shop.path)) as ledger, ledger:
        ledger.execute("UPDATE talkable_refund_ledger SET sending_until = '2026-01-01 00:00:00.000000'")
    assert shop.run(resend_keys=["b"], ignore=LOSSES)["outcomes"] == {"refunded": 2, "unconfirmed": 1}
    assert shop.sandbox.talkable.snapshot()["my-store"]["B"]["times_refunded"] == 1


def test_a_key_of_several_sites_is_refused_before_anything_is_sent(shop: Shop) -> None:
    sql = f"SELECT r.*, 'my-store' AS site_slug FROM ({SQL}) r UNION ALL SELECT r.*, 'other' FROM ({SQL}) r"
    message = "resend_keys='a': is a refund of each of the sites my-store, other; let the query select one"
    with pytest.raises(InvalidRefund, match=message):
        shop.run(sql=sql, resend_keys=["a"])
    assert not shop.sandbox.requests


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"resend": ["refunded"]},
            "resend='refunded': give some of conflict, not_counted, not_found, rejected",
        ),
        (
            {"resend": "not_found unconfirmed"},
            "resend='unconfirmed': Talkable may have some of these refunds, and would count them twice",
        ),
        ({"resend_keys": {"a": 1}}, "resend_keys={'a': 1}: is a mapping; give a list of refund keys"),
        ({"resend_keys": "[a"}, r"resend_keys='\[a': looks like a list but reads as neither JSON nor Python"),
        ({"resend_keys": [1.5]}, "resend_keys=1.5: is not a whole number"),
        ({"preview": "perhaps"}, "preview='perhaps': give True or False"),
        ({"max_failure_ratio": 5}, "max_failure_ratio=5: give a share, 0 to 1"),
        ({"warn_late": -1}, "warn_late=-1: give a number of refunds, 0 or more, or None"),
        ({"warn_open_after": 3600}, "warn_open_after=3600: give a timedelta above 0, or None"),
        ({"abort_after": 0}, "abort_after=0: give 1 or more"),
        ({"max_in_flight": 0}, "max_in_flight=0: give 1 or more"),
        ({"max_rate": 0}, "max_rate=0: give requests per second, more than 0, or None"),
        ({"ignore": ["lost"]}, "ignore='lost': give some of aborted, conflict, failed, "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_is_refused_before_anything_is_sent(
    shop: Shop, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        shop.run(**fields)
    assert not shop.sandbox.requests


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"sql": "SELECT 1 AS amount"}, InvalidRefund, "column='amount': rename it or leave it out"),
        ({"sql": "SELECT 1 AS refund_key"}, InvalidRefund, "one has to be origin_slug, or order_number"),
        ({"sql": "UPDATE refunds SET refund_key = 1"}, TalkableError, "sql: gives no rows"),
        ({"ledger_table": "refunds"}, LedgerError, "refunds is no ledger of refunds"),
    ],
    ids=["unknown column", "no slug", "no rows", "another table"],
)
def test_what_cannot_be_synced_is_an_error_before_anything_is_sent(
    shop: Shop, fields: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        shop.run(**fields)
    assert not shop.sandbox.requests
    shop.run()


@pytest.mark.skipif(__version__ < "3", reason="as tested here, Airflow 2 loads no other provider's hook")
def test_a_connection_that_is_no_database_is_an_error(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FOLDER", "fs://")
    with pytest.raises(TalkableError, match=r"'folder' is not an SQL database .*FSHook"):
        shop.run(sql_conn_id="folder")


def test_a_bad_connection_shows_before_the_warehouse_is_asked(shop: Shop, connect: Connect) -> None:
    connect(shop.sandbox, extra="site_slug=my-store&timeout=never")
    with pytest.raises(InvalidConnection, match="timeout='never'"):
        shop.run(sql="this is no SQL")


def test_rows_without_any_site_are_invalid(shop: Shop, connect: Connect) -> None:
    connect(shop.sandbox, extra="")
    with pytest.raises(InvalidRefund, match="3 invalid"):
        shop.run()
    assert shop.run(site_slug="my-store")["outcomes"] == {"refunded": 3}


@pytest.mark.parametrize("preview", [True, "{{ params.preview }}"], ids=["flag", "template"])
def test_a_preview_sends_and_writes_nothing(
    shop: Shop, preview: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shop.refund(("y", "Y", "yesterday"))
    summary = shop.run(preview=preview, params={"preview": True})
    assert summary["outcomes"] == {"to_send": 3, "invalid": 1}
    assert "Would send: B (12.5 of it, site my-store)" in caplog.messages
    assert "Preview: nothing was sent, and nothing was written" in caplog.messages
    assert not shop.sandbox.requests
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        shop.states()
    shop.run(ignore=LOSSES)
    again = shop.run(preview=preview, params={"preview": True})
    assert (again["skipped"], again["outcomes"]) == (4, {})


def test_an_asset_gets_the_summary(shop: Shop) -> None:
    asset = Asset("talkable://my-store/refunds")
    operator, context = shop.operator(outlets=[asset])
    summary = operator.execute(context)
    assert context["outlet_events"][asset].extra == summary


def test_when_killed_what_is_on_the_wire_is_recorded(shop: Shop) -> None:
    shop.sandbox.dials.latency = 2
    operator, context = shop.operator(max_in_flight=2)
    once_requested(shop.sandbox, 2, operator.on_kill)
    with pytest.raises(TalkableError, match="the task was stopped from outside"):
        operator.execute(context)
    assert shop.states() == {"a": "refunded", "b": "refunded", "c": "aborted"}
    assert context["ti"].xcom["summary"]["outcomes"] == {"refunded": 2, "aborted": 1}


def test_when_killed_before_it_sends_it_sends_nothing(shop: Shop) -> None:
    operator, context = shop.operator()
    operator.on_kill()
    with pytest.raises(TalkableError, match="the task was stopped from outside"):
        operator.execute(context)
    assert not shop.sandbox.requests


def test_a_throttled_task_defers_and_goes_on_with_the_same_summary(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    throttled = Canned(429, headers={"Retry-After": "60"})
    shop.sandbox.dials.next(None, *[throttled] * 9)
    fields = {"deferrable": True, "throttle_patience": 1, "max_in_flight": 1}
    operator, context = shop.operator(**fields)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    assert context["ti"].xcom.keys() == {"ledger_query"}
    assert isinstance(deferred.value.trigger, TalkableThrottleTrigger)
    arguments = deferred.value.trigger.serialize()[1]
    assert arguments == {
        "talkable_conn_id": "talkable_default",
        "site_slug": "my-store",
        "poll_interval": 10,
        "gives_up_at": pytest.approx(time.time() + 6 * 3600, abs=60),
    }
    assert re.search(
        r"asking again at \d\d:\d\d:\d\d UTC, then every 10 s until \d\d:\d\d:\d\d UTC", caplog.text
    )
    kwargs = json.loads(json.dumps(deferred.value.kwargs))
    shop.sandbox.dials._next.clear()

    # Another process goes on.
    operator, context = shop.operator(**fields)
    resume = getattr(operator, deferred.value.method_name)
    summary = resume(context, event={"site_slug": "my-store", "is_over": True}, **kwargs)
    assert summary["outcomes"] == {"refunded": 3}
    assert (summary["rows"], summary["sent"], summary["skipped"], summary["requests"]) == (3, 3, 0, 4)
    assert summary["throttled_requests"] == 1
    assert summary["referred"] == 3
    # It is one run: what it has settled, a failure for instance, it does not try again.
    with closing(sqlite3.connect(shop.path)) as warehouse:
        rows = warehouse.execute("SELECT DISTINCT substr(entry_id, 17) FROM talkable_refund_ledger")
        assert len(rows.fetchall()) == 1


def test_a_site_that_is_throttled_for_hours_is_tried_a_last_time(shop: Shop) -> None:
    shop.sandbox.dials.next(*[Canned(429)] * 1_000)
    fields = {"deferrable": True, "throttle_patience": 1, "max_in_flight": 1}
    operator, context = shop.operator(**fields)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    first = deferred.value.kwargs
    assert first
    # Let through for a moment, it goes on waiting until the same time.
    with pytest.raises(TaskDeferred) as deferred:
        operator.resume(context, {"site_slug": "my-store", "is_over": True}, **first)
    assert deferred.value.kwargs
    assert deferred.value.kwargs["carried"]["gives_up_at"] == first["carried"]["gives_up_at"]
    with pytest.raises(TalkableThrottled, match="3 of 3 refunds failed"):
        operator.resume(context, {"site_slug": "my-store", "is_over": False}, **deferred.value.kwargs)
    assert context["ti"].xcom["summary"]["outcomes"] == {"throttled": 3}


def test_without_deferral_the_patience_ends_in_failures(shop: Shop) -> None:
    shop.sandbox.dials.next(None, *[Canned(429, headers={"Retry-After": "60"})] * 9)
    with pytest.raises(TalkableError, match="2 throttled"):
        shop.run(throttle_patience=1, max_in_flight=1)


def test_no_people_are_in_the_summary_or_the_ledger(shop: Shop) -> None:
    said = b'{"ok": false, "error_message": "no refund for jane.doe@example.com"}'
    shop.sandbox.dials.next(Canned(422, said))
    ti = TaskInstance("sync")
    with pytest.raises(TalkableRejected):
        shop.run(ti=ti, max_in_flight=1)
    kept = json.dumps(ti.xcom).encode() + shop.path.read_bytes()
    assert b"no refund for" in kept
    assert b"jane.doe" not in kept
    assert b"@example.com" not in kept


def test_the_key_is_nowhere(shop: Shop, caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
    caplog.set_level(logging.DEBUG)
    ti = TaskInstance("sync")
    shop.run(ti=ti)
    log = caplog.text + "".join(capsys.readouterr())
    assert "3 refunded" in log
    kept = log.encode() + json.dumps(ti.xcom).encode() + shop.path.read_bytes()
    for secret in (KEY, "aTl1aWw3blFnRGp1Y0NpVEp1"):
        assert secret.encode() not in kept


def test_questions_for_referrals_are_counted_across_a_deferral(shop: Shop) -> None:
    shop.sandbox.talkable.generation = Generation.CURRENT
    throttled = Canned(429, headers={"Retry-After": "60"})
    shop.sandbox.dials.next(None, None, *[throttled] * 9)
    fields = {"deferrable": True, "throttle_patience": 1, "max_in_flight": 1, "fetch_referral": True}
    operator, context = shop.operator(**fields)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    shop.sandbox.dials = Dials()
    assert deferred.value.kwargs
    operator, context = shop.operator(**fields)
    summary = operator.resume(context, {"site_slug": "my-store", "is_over": True}, **deferred.value.kwargs)
    assert (summary["outcomes"], summary["lookups"]) == ({"refunded": 3}, 3)
    assert (summary["referred"], summary["referral_unknown"]) == (3, 0)


def test_an_amount_can_be_required(shop: Shop) -> None:
    ti = TaskInstance("sync")
    with pytest.raises(InvalidRefund, match="2 of 3 refunds failed"):
        shop.run(require_subtotal=True, ti=ti)
    assert ti.xcom["summary"]["outcomes"] == {"invalid": 2, "refunded": 1}
    assert shop.states() == {"a": "invalid", "b": "refunded", "c": "invalid"}
    with pytest.raises(InvalidRefund, match="one has to be refund_subtotal"):
        shop.run(require_subtotal=True, sql="SELECT origin_slug FROM refunds")
    assert len(shop.sandbox.requests) == 1


def test_amounts_without_keys_are_an_error_before_anything_is_sent_or_written(shop: Shop) -> None:
    with pytest.raises(InvalidRefund, match="refund_subtotal needs refund_key beside it"):
        shop.run(sql="SELECT origin_slug, refund_subtotal FROM refunds")
    assert not shop.sandbox.requests
    assert shop.states() == {}


@pytest.mark.parametrize(
    "parameters",
    [["A"], ("A",), "['A']", '["A"]', "{{ params.slugs }}"],
    ids=["list", "tuple", "Python's text", "JSON", "template"],
)
def test_parameters_are_a_sequence_or_its_text(shop: Shop, parameters: Any) -> None:
    sql = "SELECT * FROM refunds WHERE origin_slug = ?"
    assert shop.run(sql=sql, parameters=parameters, params={"slugs": ["A"]})["rows"] == 1
    named = shop.run(
        sql="SELECT * FROM refunds WHERE origin_slug = :s", parameters="{'s': 'B'}", ignore=LOSSES
    )
    assert named["outcomes"] == {"refunded": 1}


def test_parameters_that_are_one_text_are_an_error_before_anything_is_sent(shop: Shop) -> None:
    with pytest.raises(InvalidRefund, match=r"^parameters='AB': give a mapping or a sequence"):
        shop.run(sql="SELECT * FROM refunds WHERE origin_slug IN (?, ?)", parameters="AB")
    assert not shop.sandbox.requests


def test_a_refused_key_is_one_reason_and_no_list(
    shop: Shop, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    shop.refund(*((f"more-{number}", "A") for number in range(50)))
    connect(shop.sandbox, key="wrong-api-key")
    with pytest.raises(TalkableAuthError) as caught:
        shop.run()
    reason = caught.value.args[0]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in warned if "more-" in line] == []
    left = [line for line in warned if line.startswith("Left for the next run")]
    assert 1 <= len(left) <= 2
    assert all(reason in line for line in left)
    # Airflow writes some of its own.
    assert len(caplog.messages) < 20


def test_an_expected_error_has_one_frame_of_ours(shop: Shop, connect: Connect) -> None:
    connect(shop.sandbox, key="wrong-api-key")
    with pytest.raises(TalkableAuthError) as caught:
        shop.run()
    frames = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    ours = [name for name in frames if "airflow_provider_talkable" in name and "tests" not in name]
    assert len(ours) == 1
    assert not any("aiohttp" in name or "tenacity" in name or "contextlib" in name for name in frames)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_mapped_task_is_named_after_its_site(shop: Shop) -> None:
    operator, context = shop.operator(site_slug="{{ 1 + 1 }}")
    context["ti"].map_index = 3
    operator.site_slug = "my-store"
    operator.execute(context)
    assert context["map_index_template"] == "{{ task.site_slug or task.talkable_conn_id }}"

    operator, context = shop.operator()
    context["ti"].map_index, context["map_index_template"] = 3, "{{ mine }}"
    operator.execute(context)
    assert context["map_index_template"] == "{{ mine }}"
