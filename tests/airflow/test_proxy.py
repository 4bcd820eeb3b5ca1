"""No proxy sees the API key, whatever sends requests and however the proxy was named."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_talkable import ReferralUpdate, Refund, TalkableError
from airflow_provider_talkable.hooks.talkable import TalkableAsyncHook, TalkableHook
from airflow_provider_talkable.operators.reconcile import TalkableRefundReconcileOperator
from airflow_provider_talkable.operators.referral import TalkableReferralOperator
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.protocol.wire import AuthScheme
from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sensors.referral import TalkableReferralSensor
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator
from tests.airflow.task import TaskInstance
from tests.conftest import Sandboxes
from tests.network import Peer, answering, connect_proxy, with_tls

# Each form of it differs from the others.
SECRET = "i9uil7n+Qg/DjucCi=TJu%41&~"
FORMS = [
    form.lower().encode()
    for text in (SECRET, *(base64.b64encode(t.encode()).decode().rstrip("=") for t in (SECRET, f"{SECRET}:")))
    for form in (text, quote(text, safe=""))
]
ORDERS = "SELECT order_number FROM refunds"


@pytest.fixture
def sandbox(sandboxes: Sandboxes, scheme: str) -> Sandbox:
    # Where the key is tried by both schemes, the first one is refused.
    accepted = [AuthScheme.BEARER] if scheme == "auto" else AuthScheme
    sandbox = sandboxes(api_key=SECRET, auth_schemes=tuple(accepted))
    for slug in "ABCDEFGH":
        sandbox.talkable.create_purchase("my-store", {"order_number": slug, "email": "jane@example.com"})
    return sandbox


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A connection to a warehouse with a full and a partial refund."""
    path = tmp_path / "warehouse.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE refunds (order_number, refund_subtotal, email, currency)")
        rows = [("A", None), ("B", 5)]
        for row in rows:
            database.execute("INSERT INTO refunds VALUES (?, ?, 'jane@example.com', 'EUR')", row)
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    return "warehouse"


def run(operator: Any) -> None:
    context: Any = {"ti": TaskInstance(operator.task_id), "params": {}}
    operator.render_template_fields(context)
    operator.execute(context)


def by_hook(_warehouse: str) -> None:
    hook = TalkableHook()
    hook.refund("C")
    hook.refund("D", refund_subtotal=5)
    list(hook.refund_many([Refund("my-store", "E")], fetch_referral=True))
    hook.update_referral("F", "voided")
    list(hook.update_referrals([ReferralUpdate.parse("G", status="voided", site_slug="my-store")]))
    hook.referrals_as_friend("jane@example.com")
    hook.campaigns()
    works, message = hook.test_connection()
    assert works, message


def by_async_hook(_warehouse: str) -> None:
    async def call() -> None:
        hook = TalkableAsyncHook()
        await hook.refund("C")
        await hook.referrals_as_friend("jane@example.com")

    asyncio.run(call())


def by_refund(_warehouse: str) -> None:
    refunds = [{"order_number": "C"}, {"order_number": "D", "refund_subtotal": 5}]
    run(TalkableRefundOperator(task_id="refund", dag=DAG("shop", schedule=None), refunds=refunds))


def by_referral(_warehouse: str) -> None:
    dag = DAG("shop", schedule=None)
    run(TalkableReferralOperator(task_id="referral", dag=dag, origin_slug="C", status="voided"))


def by_sensor(_warehouse: str) -> None:
    dag = DAG("shop", schedule=None)
    sensor = TalkableReferralSensor(
        task_id="wait",
        dag=dag,
        person="jane@example.com",
        origin_id="1",
        statuses=["pending"],
        deferrable=False,
        poke_interval=0.05,
        timeout=1,
    )
    run(sensor)


def by_sync(warehouse: str) -> None:
    sql = f"{ORDERS.replace('order_number', 'order_number AS refund_key, order_number, refund_subtotal')}"
    dag = DAG("shop", schedule=None)
    run(
        SqlToTalkableRefundOperator(
            task_id="sync", dag=dag, sql=sql, sql_conn_id=warehouse, initial_rate=None
        )
    )
    report = sql.replace("refund_subtotal", "refund_subtotal, email, currency")
    reconcile = TalkableRefundReconcileOperator(
        task_id="reconcile", dag=dag, sql=report, sql_conn_id=warehouse, ask_talkable=True
    )
    run(reconcile)


SENDERS = [by_hook, by_async_hook, by_refund, by_referral, by_sensor, by_sync]


@pytest.fixture(params=["auto", "basic", "bearer"])
def scheme(request: pytest.FixtureRequest) -> str:
    scheme: str = request.param
    return scheme


@pytest.fixture(params=["field", "HTTPS_PROXY", "ALL_PROXY"])
def connect(
    request: pytest.FixtureRequest, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Makes the connection, with a proxy named in each way."""

    def make(host: str, proxy: str, **extra: Any) -> None:
        extra = {"site_slug": "my-store", "auth_scheme": scheme, "timeout": 5} | extra
        if request.param == "field":
            extra["proxy"] = f"http://{proxy}"
        else:
            monkeypatch.setenv(request.param, f"http://{proxy}")
            monkeypatch.setenv("HTTP_PROXY", f"http://{proxy}")
        connection = {"conn_type": "talkable", "host": host, "password": SECRET, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_TALKABLE_DEFAULT", json.dumps(connection))

    return make


@pytest.fixture
def talkable(sandbox: Sandbox, certificate: tuple[Path, Path]) -> Iterator[str]:
    """The sandbox's URL, with TLS."""
    with with_tls(sandbox, certificate) as url:
        yield url


def seen_of_the_key(proxy: Peer) -> list[bytes]:
    """The forms of the key in what the proxy read, and in what it carried."""
    seen = (b"".join(proxy.requests) + bytes(proxy.carried)).lower()
    return [form for form in FORMS if form in seen]


@pytest.mark.parametrize("send", SENDERS, ids=lambda send: send.__name__)
def test_a_good_proxy_sees_no_form_of_the_key(
    send: Callable[[str], None],
    connect: Callable[..., None],
    talkable: str,
    sandbox: Sandbox,
    warehouse: str,
    certificate: tuple[Path, Path],
) -> None:
    with Peer(connect_proxy) as proxy:
        connect(talkable, proxy.address, ca_bundle=str(certificate[0]))
        send(warehouse)
    assert sandbox.requests
    assert all(request.startswith(b"CONNECT ") for request in proxy.requests)
    assert proxy.carried
    assert seen_of_the_key(proxy) == []


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 407 No\r\n\r\n", b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b""]
)
@pytest.mark.parametrize("send", [by_hook, by_refund, by_sync], ids=lambda send: send.__name__)
def test_a_proxy_that_refuses_sees_none_either(
    send: Callable[[str], None],
    connect: Callable[..., None],
    talkable: str,
    warehouse: str,
    answer: bytes,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    with Peer(answering(answer)) as proxy:
        connect(talkable, proxy.address, ca_bundle=str(certificate[0]), timeout=0.1)
        with pytest.raises(TalkableError, match=r"proxy|failed"):
            send(warehouse)
    assert proxy.requests
    assert seen_of_the_key(proxy) == []


@pytest.mark.parametrize("send", SENDERS, ids=lambda send: send.__name__)
def test_plain_http_goes_through_no_proxy(
    send: Callable[[str], None],
    scheme: str,
    sandbox: Sandbox,
    warehouse: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Peer(connect_proxy) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        extra = {"site_slug": "my-store", "auth_scheme": scheme}
        connection = {"conn_type": "talkable", "host": sandbox.url, "password": SECRET, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_TALKABLE_DEFAULT", json.dumps(connection))
        send(warehouse)
    assert sandbox.requests
    assert proxy.connections == 0
