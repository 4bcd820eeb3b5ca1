"""What happens to a refund whatever the network does, in each way of sending it.

One rule: a refund is in doubt if and only if its request may have been read. Each cell says what the peer
does; for a full and for a partial refund the outcome, the text and what the peer has read follow from that.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import Refund
from airflow_provider_talkable.client.concurrent import send_many
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.failures import MAX_BODY_BYTES
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.client.sync import TalkableClient
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from tests.conftest import KEY, Asynchronous, Waits
from tests.network import OK, Lag, Line, Peer, answering, self_signed, server_context, unused_address
from tests.shop import connect_of

TIMEOUT = 0.5  # where it is waited for
LONG = 20.0  # where it is not, and a busy machine may need it
FULL = Refund.parse("B00K2EOONI", site_slug="my-store")
PARTIAL = Refund.parse("B00K2EOONI", site_slug="my-store", refund_subtotal=30)


class Tells(Enum):
    """What a client may conclude."""

    NOT_SENT = "failed", "failed"
    DOUBT = "failed", "unconfirmed"
    NOT_ACTED_ON = "failed", "failed "
    TAKEN = "refunded", "refunded"


@dataclass(frozen=True)
class Cell:
    """One behaviour.

    :param text: What the error says.
    :param behave: What the peer does on each connection.
    :param role: Whether the peer is in Talkable's place, with or without TLS, or a proxy before it; empty:
        there is none.
    :param fields: Of the connection, besides.
    """

    name: str
    tells: Tells
    behave: Callable[[Line], None] = lambda line: None
    text: str = ""
    role: str = "http"
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def timeout(self) -> float:
        """Seconds; short where nothing else ends it."""
        is_answered = self.tells in (Tells.TAKEN, Tells.NOT_ACTED_ON)
        waits = not is_answered and any(
            text in self.text or not self.text for text in ("within", "No complete")
        )
        return TIMEOUT if waits else LONG


def answer(body: bytes = b'{"ok": true}', *fields: bytes, status: bytes = b"200 OK") -> bytes:
    lines = (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields)
    return b"\r\n".join((*lines, b"", body))


def origin(**shown: object) -> bytes:
    return answer(json.dumps({"ok": True, "result": {"origin": {"id": 1} | shown}}).encode())


def after_reading(act: Callable[[Line], None]) -> Callable[[Line], None]:
    def behave(line: Line) -> None:
        line.read_request()
        act(line)

    return behave


def then(line: Line, *data: bytes) -> None:
    for each in data:
        line.send(each)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SENT_BROKEN = [
    ("closed", lambda line: None, "broke"),
    ("reset", Line.reset, "broke"),
    ("silent", Line.wait, "No complete answer"),
    ("status line byte by byte", lambda line: line.drip(b"HTTP/1.1 200 " + b"O" * 999), "No complete"),
    ("headers byte by byte", lambda line: line.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 999), "No complete"),
    ("headers without end", lambda line: line.repeat(b"X: y\r\n"), ""),
    ("body byte by byte", lambda line: (line.send(OK[:-12]), line.drip(b" " * 12, 0.15)), "No complete"),
    ("chunk size byte by byte", lambda line: (line.send(CHUNKED), line.drip(b"0" * 999)), ""),
    (
        "chunks of one byte",
        lambda line: (line.send(CHUNKED), line.repeat(b"1\r\n \r\n", 0.05)),
        "No complete",
    ),
    (
        "trailers byte by byte",
        lambda line: (line.send(CHUNKED + b"0\r\n"), line.drip(b"X: " + b"x" * 999)),
        "No complete",
    ),
    ("trailers without end", lambda line: (line.send(CHUNKED + b"0\r\n"), line.repeat(b"X: y\r\n")), ""),
    ("100 Continue without end", lambda line: line.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), "No complete"),
    ("103 without end", lambda line: line.repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n"), "No complete"),
    ("half a body", lambda line: line.send(OK[:-6]), "broke"),
    ("half a status line", lambda line: line.send(b"HTTP/1.1 20"), "broke"),
    ("half a header", lambda line: line.send(b"HTTP/1.1 200 OK\r\nContent-Le"), "broke"),
    ("no HTTP", lambda line: line.send(b"SSH-2.0-OpenSSH_9.2\r\n"), "broke"),
    ("HTTP/2", lambda line: line.send(b"HTTP/2 200\r\n\r\n"), "broke"),
    (
        "lengths that differ",
        lambda line: line.send(answer(b'{"ok": true}', b"Content-Length: 11")),
        "broke",
    ),
    ("no gzip", lambda line: line.send(answer(b"{}", b"Content-Encoding: gzip")), "broke"),
    (
        "a gzip bomb",
        lambda line: line.send(answer(gzip.compress(b" " * (MAX_BODY_BYTES + 1)), b"Content-Encoding: gzip")),
        "more than",
    ),
    ("a body of more than 1 MiB", lambda line: line.send(answer(b" " * (MAX_BODY_BYTES + 1))), "more than"),
    ("another protocol", lambda line: line.send(answer(b"", status=b"101 Switching")), ""),
    ("HTML", lambda line: line.send(answer(b"<html>", b"Content-Type: text/html")), "text/html"),
    ("502", lambda line: line.send(answer(b"", status=b"502 Bad Gateway")), "502"),
    (
        "the answer to another order",
        lambda line: line.send(origin(order_number="B00K2EOONJ", refunded_at="2026-01-01")),
        "another origin, B00K2EOONJ",
    ),
    (
        "the answer to an event",
        lambda line: line.send(origin(event_category="signup", event_number=42)),
        "another origin, signup:42",
    ),
    (
        "an origin that is not refunded",
        lambda line: line.send(origin(order_number="B00K2EOONI", refunded_at=None)),
        "without a refund",
    ),
]
TAKEN = {
    "102 and 103 first": b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    + OK,
    "100 first": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "a header of 8,191 bytes": answer(b'{"ok": true}', b"X: " + b"x" * 8188),
    "a header of 60,000 bytes": answer(b'{"ok": true}', b"X: " + b"x" * 60_000),
    "a long reason": answer(status=b"200 " + b"x" * 9_000),
    "two lengths that agree": answer(b'{"ok": true}', b"Content-Length: 12"),
    "two lengths in one field": b"HTTP/1.1 200 OK\r\nContent-Length: 12, 12\r\n\r\n" + b'{"ok": true}',
    "folded fields": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 12\r\n\r\n" + b'{"ok": true}',
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 12\n\n" + b'{"ok": true}',
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 12\r\n\r\n" + b'{"ok": true}',
    "chunks": CHUNKED + b'4\r\n{"ok\r\n8\r\n": true}\r\n0\r\nX: trailer\r\n\r\n',
    "a cookie": answer(b'{"ok": true}', b"Set-Cookie: session=1; Path=/"),
    "its order as Talkable writes it": origin(order_number="#b00k-2eoo NI", refunded_at="2026-01-01"),
    "its order as a number": origin(order_number="B00K2EOONI"),
    "no order": origin(),
}
REDIRECTS = ["300", "301", "302", "303", "304", "307", "308"]


def tls(versions: ssl.TLSVersion, certificate: tuple[Path, Path], line: Line) -> None:
    context = server_context(certificate)
    # OpenSSL speaks what is as old as that on its lowest level of security only.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = versions
    line.wrap(context)


HANDSHAKES = [
    ("silent", Line.wait, "No connection to .* within"),
    ("closed", lambda line: None, "check the connection's host"),
    ("reset", Line.reset, "check the connection's host"),
    (
        "plain HTTP",
        lambda line: line.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        "check the connection's host",
    ),
    ("byte by byte", lambda line: line.drip(b"\x16\x03\x03\x40\x00" + b"\x02" * 999), "within"),
    ("no TLS", lambda line: line.send(b"SSH-2.0-OpenSSH_9.2\r\n"), "check the connection's host"),
]
TUNNELS = [
    ("silent", Line.wait, "within"),
    ("closed", lambda line: None, "The proxy did not connect"),
    ("reset", Line.reset, "The proxy did not connect"),
    ("byte by byte", lambda line: line.drip(b"HTTP/1.1 200 " + b"O" * 999), "within"),
    ("headers without end", lambda line: (line.send(b"HTTP/1.1 200 OK\r\n"), line.repeat(b"X: y\r\n")), ""),
    ("100 without end", lambda line: line.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), ""),
    ("no HTTP", lambda line: line.send(b"\x05\x00"), "The proxy did not connect"),
    (
        "407",
        lambda line: line.send(answer(b"", status=b"407 Proxy Authentication Required")),
        r"The proxy did not connect to .* \(HTTP 407\)",
    ),
    ("502", lambda line: line.send(answer(b"", status=b"502 Bad Gateway")), r"\(HTTP 502\)"),
    ("a redirect", lambda line: line.send(answer(b"", b"Location: /", status=b"302 Found")), r"\(HTTP 302\)"),
    *(
        (
            f"a tunnel to {name}",
            lambda line, act=act: (line.send(b"HTTP/1.1 200 OK\r\n\r\n"), act(line)),
            "",
        )
        for name, act, _ in HANDSHAKES
    ),
]

CELLS = [
    *(Cell(name, Tells.DOUBT, after_reading(act), text) for name, act, text in SENT_BROKEN),
    *(Cell(name, Tells.TAKEN, answering(data)) for name, data in TAKEN.items()),
    *(
        Cell(
            f"redirect {status}",
            Tells.NOT_ACTED_ON,
            answering(answer(b"", b"Location: http://127.0.0.1:9/x", status=status.encode() + b" X")),
            f"HTTP {status}, a redirect to http://127.0.0.1:9/x, which is not followed",
        )
        for status in REDIRECTS
    ),
    Cell("refused", Tells.NOT_SENT, text="No connection to", role=""),
    Cell(
        "no such name",
        Tells.NOT_SENT,
        text="No connection to",
        role="",
        fields={"host": "https://no-such.invalid"},
    ),
    *(Cell(f"TLS {name}", Tells.NOT_SENT, act, text, "https") for name, act, text in HANDSHAKES),
    Cell("TLS 1.1", Tells.NOT_SENT, text="TLS with .* failed", role="TLS 1.1"),
    Cell("a certificate nobody trusts", Tells.NOT_SENT, text="not trusted.*ca_bundle", role="untrusted"),
    Cell(
        "proxy refused",
        Tells.NOT_SENT,
        text="check the connection's proxy",
        role="",
        fields={"host": "https://talkable.invalid", "proxy": unused_address()},
    ),
    *(
        Cell(f"proxy {name}", Tells.NOT_SENT, after_reading(act), text, "proxy")
        for name, act, text in TUNNELS
    ),
    Cell("https proxy without TLS", Tells.NOT_SENT, lambda line: line.wait(), "within", "https proxy"),
]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an authority that has signed none of the peers'."""
    return self_signed(tmp_path_factory.mktemp("authority"))[0]


@pytest.fixture(autouse=True)
def trusted(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust this one alone: to read all that are trusted by default takes longer than most cells."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))


_NUMBERS = itertools.count()
WAYS = ["TalkableClient", "AsyncTalkableClient", "refund_many", "sync"]
Way = Callable[..., tuple[str, str]]


@pytest.fixture(params=WAYS)
def refund(request: pytest.FixtureRequest, sqlite: URL, engines: Callable[[URL], Engine]) -> Way:
    """Refunds one refund, tried once, in each way there is; returns its outcome and the error's text."""

    def once(refund: Refund, **fields: Any) -> tuple[str, str]:
        config = ClientConfig.parse(**({"api_key": KEY} | fields))
        policy = RetryPolicy(max_attempts=1)
        if request.param == "sync":
            return by_sync(refund, config, policy, engines(sqlite))
        if request.param == "TalkableClient":
            with TalkableClient(config, policy) as client:
                result = client.refund(refund)
        elif request.param == "AsyncTalkableClient":
            with Asynchronous(config, policy, Waits()) as asynchronous:
                result = asynchronous.refund(refund)
        else:
            [result] = send_many(config, policy, Pace(), RefundOperation(), [refund])
        return result.outcome.value, result.error_message or ""

    return once


def by_sync(refund: Refund, config: ClientConfig, policy: RetryPolicy, engine: Engine) -> tuple[str, str]:
    """As the operator does it; what counts is the ledger."""
    amount = "NULL" if refund.refund_subtotal is None else refund.refund_subtotal
    key = "partial" if refund.is_partial else "full"
    sql = f"SELECT '{key}' refund_key, '{refund.origin_slug}' origin_slug, {amount} refund_subtotal"
    # One of its own each time: what is in doubt is not sent again.
    table = f"ledger_{next(_NUMBERS)}"
    ledger = Ledger(engine, table=table)
    ledger.open()
    with Snapshot() as snapshot:
        snapshot.fill(rows_of(connect_of(engine), sql, site_slug=refund.site_slug))
        RefundSync(snapshot, ledger, config, policy=policy, pace=Pace(), rules=Rules()).run()
    with engine.connect() as connection:
        found = (
            f"SELECT event, error_message FROM {table}"
            f" WHERE refund_key = '{key}' ORDER BY entry_id DESC LIMIT 1"
        )
        event, message = connection.exec_driver_sql(found).one()
    return event, message or ""


@contextmanager
def placed(cell: Cell, certificate: tuple[Path, Path]) -> Iterator[tuple[Peer | None, dict[str, Any]]]:
    """Start a cell's peer; yields it and the connection's fields."""
    if not cell.role:
        yield None, {"host": f"http://{unused_address()}"} | cell.fields
        return
    behave = cell.behave
    if cell.role == "TLS 1.1":
        behave = partial(tls, ssl.TLSVersion.TLSv1_1, certificate)
    elif cell.role == "untrusted":
        behave = partial(tls, ssl.TLSVersion.TLSv1_3, certificate)
    with Peer(behave) as peer:
        by_role: dict[str, dict[str, Any]] = {
            "http": {"host": f"http://{peer.address}"},
            "https": {"host": f"https://{peer.address}"},
            "TLS 1.1": {"host": f"https://{peer.address}", "ca_bundle": certificate[0]},
            "untrusted": {"host": f"https://{peer.address}"},
            "proxy": {"host": "https://talkable.invalid", "proxy": peer.address},
            "https proxy": {"host": "https://talkable.invalid", "proxy": f"https://{peer.address}"},
        }
        yield peer, by_role[cell.role] | cell.fields


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_refund_is_in_doubt_if_and_only_if_it_may_have_been_read(
    cell: Cell, refund: Way, certificate: tuple[Path, Path]
) -> None:
    # At the same time, since most of it is waiting.
    with ThreadPoolExecutor(2) as both:
        list(both.map(partial(check, cell, refund, certificate), range(2)))


def check(cell: Cell, refund: Way, certificate: tuple[Path, Path], number: int) -> None:
    for _ in range(5):
        with placed(cell, certificate) as (peer, fields), Lag() as lag:
            started = time.monotonic()
            outcome, message = refund((FULL, PARTIAL)[number], timeout=cell.timeout, **fields)
            took = time.monotonic() - started
        # On a machine that stood still for that long, time may have run out before the peer did anything.
        if lag.seconds < cell.timeout / 2:
            break
    assert outcome == cell.tells.value[number].strip(), message
    assert re.search(cell.text, message)
    read = [request for request in peer.requests if request.startswith(b"POST")] if peer else []
    assert len(read) == (cell.tells is not Tells.NOT_SENT), message
    assert ("nothing was sent" in message) == (cell.tells is Tells.NOT_SENT)
    # The timeout to connect, and again for the answer.
    assert took < 2 * cell.timeout + 1 + lag.seconds
