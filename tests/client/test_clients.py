"""Both clients against a sandbox over real HTTP: they behave alike."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from airflow_provider_talkable import (
    Outcome,
    Refund,
    TalkableConnectionError,
    TalkableProtocolError,
    TalkableThrottled,
    __version__,
)
from airflow_provider_talkable.client.failures import MAX_BODY_BYTES
from airflow_provider_talkable.protocol.wire import refund_request
from airflow_provider_talkable.sandbox import Canned, Reset, Sandbox, Truncated
from tests.conftest import KEY, Clients, Sandboxes, Waits
from tests.network import unused_address

FULL = Refund.parse("B00K2EOONI", site_slug="my-store")
PARTIAL = Refund.parse("B00K2EOONI", site_slug="my-store", refund_subtotal=30)
BAD_GATEWAY = Canned(502, b"<html>", {"Content-Type": "text/html"})


def held(sandbox: Sandbox) -> dict[str, object]:
    origin = sandbox.talkable.snapshot()["my-store"]["B00K2EOONI"]
    assert isinstance(origin, dict)
    return origin


def test_the_documents_request_byte_for_byte(sandboxes: Sandboxes, clients: Clients) -> None:
    sandbox = sandboxes(generation="seed")
    referral = {"id": 233, "status": "approved", "ad_rewarded": True}
    sandbox.talkable.create_purchase("my-store", {"order_number": "B00K2EOONI", "referral": referral})

    result = clients(sandbox).refund(FULL)

    [request] = sandbox.requests
    assert request["method"] == "POST"
    assert request["path"] == "/api/v2/origins/B00K2EOONI/refund"
    assert request["body"] == '{"site_slug":"my-store"}'
    # printf 'i9uil7nQgDjucCiTJu:' | base64
    assert request["headers"]["Authorization"] == "Basic aTl1aWw3blFnRGp1Y0NpVEp1Og=="
    assert request["headers"]["Content-Type"] == "application/json"
    assert request["headers"]["Accept"] == "application/json"
    assert request["headers"]["User-Agent"] == f"airflow-provider-talkable/{__version__}"
    assert result.outcome is Outcome.REFUNDED
    assert result.referral is not None
    assert (result.referral["id"], result.referral["status"]) == (233, "approved")


def test_bearer(sandbox: Sandbox, clients: Clients) -> None:
    assert clients(sandbox, auth_scheme="bearer").refund(FULL).outcome is Outcome.REFUNDED
    assert sandbox.requests[-1]["headers"]["Authorization"] == f"Bearer {KEY}"


def test_a_netrc_on_the_worker_does_not_replace_the_key(
    sandbox: Sandbox, clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert clients(sandbox).refund(FULL).outcome is Outcome.REFUNDED


@pytest.mark.parametrize("generation", ["seed", "flat", "current"])
def test_every_generation_answers_with_referral_or_origin(
    sandboxes: Sandboxes, clients: Clients, generation: str
) -> None:
    sandbox = sandboxes(generation=generation)
    sandbox.talkable.create_purchase("my-store", {"order_number": "B00K2EOONI"})
    result = clients(sandbox).refund(FULL)
    if generation == "seed":
        assert result.referral is not None
        assert result.referral["status"] == "voided"
    else:
        assert result.origin is not None
        assert result.origin["order_number"] == "B00K2EOONI"


HOSTILE = [
    "a/b", "../../x", "?x=1", "#top", "100%", "%2e%2e", "%2F", "a b", "'\"\\", "a\nb", "\r\nX-Evil: 1", "\0",
    "🎁", "مرحبا", "\u202eabc", "a" * 4000, "newsletter_subscription:42", "~.-_+&=;,@!$*()", "...", "%00",
]  # fmt: skip


@pytest.mark.parametrize("slug", HOSTILE, ids=lambda s: ascii(s)[:20])
def test_any_slug_arrives_as_it_is(sandbox: Sandbox, clients: Clients, slug: str) -> None:
    sandbox.talkable.create_purchase("my-store", {"order_number": slug})
    # Some of them are refused as input; what sends them does not rely on that.
    refund = Refund("my-store", slug)
    result = clients(sandbox).refund(refund)
    assert (result.outcome, result.origin_slug) == (Outcome.REFUNDED, slug)
    assert sandbox.requests[-1]["path"].count("/") == 5
    assert sandbox.requests[-1]["path"] == refund_request(refund).path


def test_details_arrive(sandbox: Sandbox, clients: Clients) -> None:
    refund = Refund.parse(
        "B00K2EOONI", site_slug="my-store", refunded_at="2020-04-27T00:00-07:00", refund_subtotal="30.5"
    )
    clients(sandbox).refund(refund)
    assert held(sandbox)["refunded_at"] == "2020-04-27T07:00:00.000+00:00"
    assert held(sandbox)["refund_subtotal"] == 30.5
    assert held(sandbox)["partially_refunded"] is True


def test_settled_refusals_are_not_repeated(sandbox: Sandbox, clients: Clients, waits: Waits) -> None:
    client = clients(sandbox)
    outcomes = [
        client.refund(Refund.parse(slug, site_slug=site)).outcome
        for slug, site in [("B00K2EOONI", "my-store"), ("B00K2EOONI", "my-store"), ("unknown", "my-store")]
    ]
    sandbox.dials.next(Canned(422, b'{"ok": false, "error_message": "Validation failed"}'))
    rejected = client.refund(FULL)
    assert outcomes == [Outcome.REFUNDED, Outcome.ALREADY_REFUNDED, Outcome.NOT_FOUND]
    assert (rejected.outcome, rejected.error_message) == (Outcome.REJECTED, "Validation failed")
    assert (len(sandbox.requests), waits) == (4, [])


REPEATABLE_FAULTS = [
    pytest.param(BAD_GATEWAY, id="502, not acted"),
    pytest.param(Canned(503, acted=True), id="503, acted"),
    pytest.param(Canned(200, b"<html>"), id="200 with HTML"),
    pytest.param(Canned(200, b"[]"), id="200 with JSON that is no object"),
    pytest.param(Canned(200, acted=True), id="200 with nothing, acted"),
    pytest.param(Canned(200, b"x" * (MAX_BODY_BYTES + 1)), id="200 with too much"),
    pytest.param(
        Canned(200, gzip.compress(b" " * (MAX_BODY_BYTES + 1)), {"Content-Encoding": "gzip"}), id="gzip bomb"
    ),
    pytest.param(Canned(200, b"not gzip", {"Content-Encoding": "gzip"}), id="no gzip"),
    pytest.param(Reset(acted=False), id="reset before acting"),
    pytest.param(Reset(acted=True), id="reset after acting"),
    pytest.param(Truncated(), id="half a body, acted"),
]


@pytest.mark.parametrize("fault", REPEATABLE_FAULTS)
def test_a_full_refund_is_sent_again_after_doubt(
    sandbox: Sandbox, clients: Clients, waits: Waits, fault: Canned
) -> None:
    sandbox.dials.next(fault, fault)
    result = clients(sandbox).refund(FULL)
    assert result.outcome.is_success
    assert result.attempts == 3
    assert len(waits) == 2
    assert held(sandbox)["times_refunded"] == 1


@pytest.mark.parametrize("fault", REPEATABLE_FAULTS)
def test_a_partial_refund_is_not(sandbox: Sandbox, clients: Clients, waits: Waits, fault: Canned) -> None:
    sandbox.dials.next(fault)
    result = clients(sandbox).refund(PARTIAL)
    assert result.outcome is Outcome.UNCONFIRMED
    assert (result.attempts, len(sandbox.requests), waits) == (1, 1, [])


def test_a_body_is_read_up_to_1_mib_even_if_it_is_talkables(sandbox: Sandbox, clients: Clients) -> None:
    for padding, outcome in ((0, Outcome.REFUNDED), (1, Outcome.FAILED)):
        body = b'{"ok": true}'.ljust(MAX_BODY_BYTES + padding)
        sandbox.dials.next(Canned(200, body))
        assert clients(sandbox, max_attempts=1).refund(FULL).outcome is outcome


def test_a_partial_refund_is_sent_again_where_nothing_can_have_been_done(
    sandbox: Sandbox, clients: Clients, waits: Waits
) -> None:
    sandbox.dials.next(Canned(429), Canned(429))
    assert clients(sandbox).refund(PARTIAL).outcome is Outcome.REFUNDED
    assert len(waits) == 2
    assert held(sandbox)["refund_subtotal"] == 30

    nobody = clients(f"http://{unused_address()}").refund(PARTIAL)
    assert (nobody.outcome, nobody.attempts) == (Outcome.FAILED, 5)


def test_attempts_are_bounded_and_their_waits_grow_at_random(
    sandbox: Sandbox, clients: Clients, waits: Waits
) -> None:
    sandbox.dials.next(*[BAD_GATEWAY] * 9)
    result = clients(sandbox, max_attempts=9).refund(FULL)
    assert (result.outcome, result.attempts, result.http_status) == (Outcome.FAILED, 9, 502)
    assert len(waits) == 8
    assert all(0 <= wait <= min(30, 2**n) for n, wait in enumerate(waits))
    assert len(set(waits)) == 8


def test_throttling_uses_up_no_attempt_but_patience(sandbox: Sandbox, clients: Clients, waits: Waits) -> None:
    sandbox.dials.next(*[Canned(429)] * 7, BAD_GATEWAY)
    result = clients(sandbox, max_attempts=2).refund(FULL)
    assert (result.outcome, result.attempts) == (Outcome.REFUNDED, 2)
    assert all(
        pause / 2 <= wait <= pause for wait, pause in zip(waits, (1, 2, 4, 8, 16, 32, 60), strict=False)
    )

    waits.clear()
    sandbox.dials.next(*[Canned(429)] * 99)
    result = clients(sandbox, throttle_patience=100).refund(FULL)
    assert (result.outcome, result.attempts, result.http_status) == (Outcome.THROTTLED, 0, 429)
    assert 40 < sum(waits) <= 100


@pytest.mark.parametrize(
    ("status", "retry_after"), [(429, "17"), (503, "40")], ids=["429", "503"]
)  # fmt: skip
def test_retry_after_is_obeyed(
    sandbox: Sandbox, clients: Clients, waits: Waits, status: int, retry_after: str
) -> None:
    sandbox.dials.next(Canned(status, headers={"Retry-After": retry_after}))
    assert clients(sandbox).refund(FULL).outcome is Outcome.REFUNDED
    assert waits == [float(retry_after)]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_beyond_the_patience_ends_it_at_once(
    sandbox: Sandbox, clients: Clients, waits: Waits, status: int
) -> None:
    sandbox.dials.next(Canned(status, headers={"Retry-After": "86400"}))
    assert not clients(sandbox).refund(FULL).outcome.is_success
    assert waits == []


def test_a_redirect_is_not_followed(sandboxes: Sandboxes, sandbox: Sandbox, clients: Clients) -> None:
    elsewhere = sandboxes()
    sandbox.dials.next(Canned(307, headers={"Location": f"{elsewhere.url}/api/v2/origins/B00K2EOONI/refund"}))
    result = clients(sandbox).refund(FULL)
    assert result.outcome is Outcome.FAILED
    assert elsewhere.url in (result.error_message or "")
    assert not elsewhere.requests


def test_an_answer_that_does_not_come_in_time(sandbox: Sandbox, clients: Clients) -> None:
    sandbox.dials.latency = 0.5
    with pytest.raises(TalkableConnectionError, match=r"within 0\.1 s") as caught:
        clients(sandbox, timeout=0.1, max_attempts=1).campaigns("my-store")
    assert caught.value.request_sent


def test_an_answer_that_comes_in_drips_ends_with_the_timeout(clients: Clients) -> None:
    started = time.monotonic()
    with (
        raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", drip=b".", every=0.15) as url,
        pytest.raises(TalkableConnectionError, match="No complete answer") as caught,
    ):
        clients(url, timeout=0.2, max_attempts=1).campaigns("my-store")
    assert caught.value.request_sent
    assert time.monotonic() - started < 10


def test_no_connection_means_nothing_was_sent(clients: Clients) -> None:
    for url in (f"http://{unused_address()}", "https://no-such-host.invalid"):
        with pytest.raises(TalkableConnectionError, match="No connection to") as caught:
            clients(url, max_attempts=1).campaigns("my-store")
        assert not caught.value.request_sent


def test_a_proxy_that_is_not_there_is_named(clients: Clients) -> None:
    client = clients("https://talkable.invalid", proxy=f"http://{unused_address()}", max_attempts=1)
    with pytest.raises(TalkableConnectionError, match="check the connection's proxy") as caught:
        client.campaigns("my-store")
    assert not caught.value.request_sent


def test_a_server_that_speaks_no_http(clients: Clients) -> None:
    with raw_server(b"SSH-2.0-OpenSSH_9.2\r\n") as url, pytest.raises(TalkableConnectionError, match="broke"):
        clients(url, max_attempts=1).campaigns("my-store")


def test_a_certificate_must_be_trusted(clients: Clients, certificate: tuple[Path, Path]) -> None:
    with https_server(certificate) as url:
        with pytest.raises(TalkableConnectionError, match=r"not trusted.*ca_bundle") as caught:
            clients(url, max_attempts=1).campaigns("my-store")
        assert not caught.value.request_sent
        assert clients(url, ca_bundle=certificate[0]).campaigns("my-store") == [{"id": 1}]


def test_https_to_a_server_of_plain_http_says_where_to_look(sandbox: Sandbox, clients: Clients) -> None:
    with pytest.raises(TalkableConnectionError, match="TLS with .* check the connection's host, schema"):
        clients(sandbox.url.replace("http:", "https:"), max_attempts=1).campaigns("my-store")


def test_the_environments_ca_bundle_does_not_replace_the_connections(
    clients: Clients, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[1]))
    with https_server(certificate) as url:
        assert clients(url, ca_bundle=certificate[0]).campaigns("my-store") == [{"id": 1}]


ECHOES = [
    pytest.param(KEY, id="plain"),
    pytest.param("aTl1aWw3blFnRGp1Y0NpVEp1Og==", id="as Basic sends it"),
]


@pytest.mark.parametrize("echo", ECHOES)
def test_a_key_that_an_answer_quotes_goes_no_further(
    sandbox: Sandbox, clients: Clients, caplog: pytest.LogCaptureFixture, echo: str
) -> None:
    caplog.set_level("DEBUG")
    body = json.dumps({"ok": False, "error_message": f"bad key {echo}"}).encode()
    sandbox.dials.next(Canned(500, body), Canned(422, body))
    client = clients(sandbox)
    result = client.refund(FULL)
    assert result.error_message == "bad key ***"
    for text in (repr(result), str(result.error), repr(client.config), repr(vars(client)), caplog.text):
        assert echo not in text


def test_campaigns(sandbox: Sandbox, clients: Clients) -> None:
    sandbox.dials.next(BAD_GATEWAY)
    assert [c["name"] for c in clients(sandbox).campaigns("my-store")] == ["Invite a friend"]
    sandbox.dials.next(Canned(429, headers={"Retry-After": "9999"}))
    with pytest.raises(TalkableThrottled):
        clients(sandbox).campaigns("my-store")
    sandbox.dials.next(*[Canned(200, b"hello")] * 5)
    with pytest.raises(TalkableProtocolError):
        clients(sandbox).campaigns("my-store")


@contextmanager
def raw_server(answer: bytes, *, drip: bytes = b"", every: float = 0.0) -> Iterator[str]:
    """Answers one connection with these bytes, then drips until it is closed."""
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
            while drip and not over.wait(every):
                try:
                    connection.sendall(drip)
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join()


class _Campaigns(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"ok": true, "result": {"campaigns": [{"id": 1}]}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def https_server(certificate: tuple[Path, Path]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = HTTPServer(("127.0.0.1", 0), _Campaigns)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
