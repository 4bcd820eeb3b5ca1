"""The API key appears nowhere but in the Authorization header, whatever runs and however it ends."""

from __future__ import annotations

import base64
import json
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from airflow_provider_talkable.protocol.wire import AuthScheme
from airflow_provider_talkable.sandbox import Canned, Dials
from tests.airflow.conftest import Airflow

# Each form of it differs from the others.
SECRET = "i9uil7n+Qg/DjucCi=TJu%41&~"
BASE64 = base64.b64encode(f"{SECRET}:".encode()).decode()
FORMS = {
    "plain": SECRET,
    "Base64": BASE64.rstrip("="),
    "Base64 without the colon": base64.b64encode(SECRET.encode()).decode().rstrip("="),
    "URL-encoded": quote(SECRET, safe=""),
    "URL-encoded Base64": quote(BASE64, safe=""),
}

DAGS = """
from airflow.providers.common.compat.sdk import Asset, DAG
from airflow_provider_talkable.operators.reconcile import TalkableRefundReconcileOperator
from airflow_provider_talkable.operators.referral import TalkableReferralOperator
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.sensors.referral import TalkableReferralSensor
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator

shop = dict(sql_conn_id="shop_warehouse", fetch_referral=True)
with DAG("everything", schedule=None):
    TalkableRefundOperator(
        task_id="refund", origin_slug="A", fetch_referral=True
    ) >> TalkableReferralOperator(
        task_id="referral", origin_slug="B", status="voided", trigger_rule="all_done"
    ) >> SqlToTalkableRefundOperator(
        task_id="sync",
        sql="SELECT refund_id AS refund_key, order_number, refund_subtotal FROM refunds"
        " WHERE order_number IN ('E', 'G') AND site_slug = 'my-store'",
        outlets=[Asset("talkable://my-store/refunds")],
        trigger_rule="all_done",
        **shop,
    ) >> TalkableRefundReconcileOperator(
        task_id="reconcile",
        sql_conn_id="shop_warehouse",
        sql="SELECT refund_id AS refund_key, order_number, refund_subtotal,"
        " order_number || '@example.com' AS email, 'EUR' AS currency FROM refunds"
        " WHERE order_number IN ('E', 'G') AND site_slug = 'my-store'",
        ask_talkable=True,
        trigger_rule="all_done",
    ) >> TalkableReferralSensor(
        task_id="wait", person="B@example.com", statuses=["voided"], timeout=5, poke_interval=1,
        trigger_rule="all_done",
    )
"""
TASKS = {"refund", "referral", "sync", "reconcile", "wait"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "dags.py").write_text(DAGS)
    return folder


def run(airflow: Airflow, folder: Path, scheme: AuthScheme) -> str:
    """Run all operators with the key, and return what was logged."""
    connection = {
        "conn_type": "talkable",
        "host": airflow.sandbox.url,
        "password": SECRET,
        "extra": {"site_slug": "my-store", "auth_scheme": scheme},
    }
    airflow.connection = json.dumps(connection)
    return airflow.run("everything", folder=folder)


def assert_the_key_is_nowhere(airflow: Airflow, log: str) -> None:
    """Not in the log nor in anything that is kept: XComs, rendered fields, asset events, ledger, report,
    lineage.
    """
    # At DEBUG level `airflow dags test`, and nothing else in Airflow, writes down what it is to mask.
    found = {"log": "\n".join(line for line in log.splitlines() if "msg=MaskSecret(" not in line).encode()}
    found |= {str(path): path.read_bytes() for path in airflow.home.rglob("*") if path.is_file()}
    kept = {"airflow.db", "warehouse.sqlite", "lineage.jsonl"}
    assert kept <= {path.rpartition("/")[2] for path in found}
    assert {event["eventType"] for event in airflow.lineage("sync")} >= {"START"}
    for where, content in found.items():
        for form, text in FORMS.items():
            assert text.encode() not in content, f"the key is in {where}, {form}"


def test_when_all_succeed(airflow: Airflow, folder: Path) -> None:
    airflow.is_started_anew = True
    airflow.sandbox.api_key = SECRET
    log = run(airflow, folder, AuthScheme.BASIC)
    assert airflow.states() == {task: {"success"} for task in TASKS}, log[-6000:]
    assert "DEBUG" in log.upper()
    assert_the_key_is_nowhere(airflow, log)


def test_when_all_fail_and_answers_quote_the_request(airflow: Airflow, folder: Path) -> None:
    airflow.sandbox.api_key = SECRET
    quoted = " ".join([SECRET, BASE64, quote(SECRET, safe=""), f"Authorization: Basic {BASE64}"])
    body = json.dumps({"ok": False, "error_message": f"You sent {quoted}"}).encode()
    airflow.sandbox.dials.next(*[Canned(422, body)] * 100)
    log = run(airflow, folder, AuthScheme.BASIC)
    assert airflow.states() == {task: {"failed"} for task in TASKS}, log[-6000:]
    assert "You sent ***" in log
    with closing(airflow.warehouse) as warehouse:
        messages = {
            message for (message,) in warehouse.execute("SELECT error_message FROM talkable_refund_ledger")
        }
    assert any("You sent ***" in (message or "") for message in messages)
    assert_the_key_is_nowhere(airflow, log)


def test_when_the_key_is_refused_and_connections_break(airflow: Airflow, folder: Path) -> None:
    # The sandbox knows another key.
    airflow.sandbox.dials = Dials(resets_before=0.5)
    log = run(airflow, folder, AuthScheme.BEARER)
    assert airflow.states() == {task: {"failed"} for task in TASKS}, log[-6000:]
    assert "Talkable refused the API key" in log
    assert_the_key_is_nowhere(airflow, log)
