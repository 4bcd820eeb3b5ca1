"""The alerts of the pages, as they reach Slack, a mailbox and any HTTP server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.conftest import Airflow
from tests.documents import block
from tests.network import free_port

for name in ("airflow.providers.http", "airflow.providers.slack", "airflow.providers.smtp"):
    pytest.importorskip(name, reason="the notifiers are in the development packages only")
smtp = pytest.importorskip("aiosmtpd.controller", reason="it is in the development packages only")


@dataclass
class Inboxes:
    """What was received: the body of each HTTP request by path, and each mail."""

    posted: list[tuple[str, Any]] = field(default_factory=list)
    mails: list[Any] = field(default_factory=list)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@pytest.fixture
def inboxes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inboxes]:
    """Servers on this machine, and Airflow's connections to them."""
    inboxes = Inboxes()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inboxes.posted.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_arguments: Any) -> None:
            pass

    mail = smtp.Controller(inboxes, hostname="127.0.0.1", port=free_port())
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mail.start()
        connections: dict[str, dict[str, Any]] = {
            "SLACK_ALERTS": {
                "conn_type": "slackwebhook",
                "host": f"http://127.0.0.1:{server.server_port}/slack",
                "password": "T0/B0/token",
            },
            "SMTP_ALERTS": {
                "conn_type": "smtp",
                "host": "127.0.0.1",
                "port": mail.port,
                "extra": {"disable_ssl": True, "disable_tls": True},
            },
            "HTTP_ALERTS": {
                "conn_type": "http",
                "host": f"http://127.0.0.1:{server.server_port}",
            },
        }
        for name, connection in connections.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
        yield inboxes
        mail.stop()
        server.shutdown()


def run(airflow: Airflow, dag_id: str, text: str) -> str:
    folder = airflow.home / "dags"
    folder.mkdir()
    (folder / f"{dag_id}.py").write_text(text)
    return airflow.run(dag_id, folder=folder)


def test_a_sync_that_failed_is_said_by_each_notifier(airflow: Airflow, inboxes: Inboxes) -> None:
    with closing(airflow.warehouse) as warehouse, warehouse:
        warehouse.execute("DELETE FROM refunds WHERE order_number = 'F'")
        warehouse.execute(
            "UPDATE refunds SET refunded_at = 'yesterday', order_number = '<!channel> {{ ti }}'"
            " WHERE order_number = 'D'"
        )
    log = run(airflow, "alerted_sync", block("docs/operations.md", "python", "alert_text"))
    assert airflow.states() == {"sync_refunds": {"failed"}}, log[-3000:]
    (slack_path, slack), (http_path, http) = inboxes.posted
    assert (slack_path, http_path) == ("/slack/T0/B0/token", "/events")
    lines = http["text"].splitlines()
    assert lines[:3] == [
        "Talkable refunds: 4 refunded, 1 invalid; 0 settled before",
        "Talkable does not have, or may not have, 1 refunds",
        "1 late: the advocate had been paid",
    ]
    assert "Late refunds: 1, more than warn_late=0" in lines
    assert lines[-1].startswith("- <!channel> {{ ti }}: invalid: refunded_at='yesterday'")
    assert "&lt;!channel&gt; {{ ti }}" in slack["text"]
    [mail] = inboxes.mails
    assert (mail["Subject"], mail["To"]) == ("Talkable refunds", "refunds@example.com")
    [html] = [part for part in mail.walk() if part.get_content_type() == "text/html"]
    assert html.get_content().strip() == f"<pre>{slack['text']}</pre>"


def test_what_a_threshold_warns_of_fails_no_task(airflow: Airflow, inboxes: Inboxes) -> None:
    example = block("docs/operations.md", "python", "alert_text")
    with closing(airflow.warehouse) as warehouse, warehouse:
        warehouse.execute("DELETE FROM refunds WHERE order_number IN ('D', 'F')")
    log = run(airflow, "alerted_sync", example)
    assert airflow.states() == {"sync_refunds": {"success"}}, log[-3000:]
    [summary] = airflow.xcom("sync_refunds", "summary")
    assert summary["alerts"] == ["Late refunds: 1, more than warn_late=0"]
    assert "Late refunds: 1, more than warn_late=0" in inboxes.posted[-1][1]["text"]
    assert (len(inboxes.posted), len(inboxes.mails)) == (2, 1)
    # Nothing new is worth no message.
    airflow.run("alerted_sync", folder=airflow.home / "dags")
    assert (len(inboxes.posted), len(inboxes.mails)) == (2, 1)


def test_a_sync_that_does_not_end_is_said(inboxes: Inboxes, tmp_path: Path) -> None:
    """By what the triggerer runs once the deadline is over, with what Airflow keeps of the callback."""
    callbacks = pytest.importorskip("airflow.triggers.callback", reason="Airflow before 3.1 has no deadlines")
    from airflow.dag_processing.dagbag import DagBag

    (tmp_path / "punctual.py").write_text(block("docs/operations.md", "python", "DeadlineAlert"))
    dag: Any = DagBag(tmp_path).dags["punctual_sync"]
    [deadline] = dag.deadline
    assert deadline.interval == timedelta(hours=2)

    async def miss() -> list[Any]:
        trigger = callbacks.CallbackTrigger(deadline.callback.path, deadline.callback.kwargs)
        return [event.payload["state"] async for event in trigger.run()]

    assert asyncio.run(miss())[-1] == "success"
    assert inboxes.posted == [
        ("/slack/T0/B0/token", {"text": "The sync of refunds has not ended within two hours"})
    ]
