"""The sandbox keeps to the documented API, and misbehaves as told."""

from __future__ import annotations

import base64
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from airflow_provider_talkable.protocol.wire import AuthScheme
from airflow_provider_talkable.sandbox import Canned, Dials, Refusal, Reset, Sandbox, Talkable, Truncated
from tests.conftest import KEY, Sandboxes


def call(sandbox: Sandbox, method: str, path: str, json: object = None, key: str = KEY) -> tuple[int, Any]:
    answer = requests.request(method, sandbox.url + path, json=json, auth=(key, ""), timeout=5)
    return answer.status_code, answer.json()


def created(sandbox: Sandbox, **data: object) -> Any:
    body = {"site_slug": "my-store", "data": {"order_number": "A", "subtotal": 100} | data}
    status, payload = call(sandbox, "POST", "/api/v2/origins/purchase", body)
    assert status == 201
    return payload["result"]["origin"]


def refunded(sandbox: Sandbox, slug: str = "A", **data: object) -> tuple[int, Any]:
    body = {"site_slug": "my-store"} | ({"data": data} if data else {})
    return call(sandbox, "POST", f"/api/v2/origins/{slug}/refund", body)


def referral_of(sandbox: Sandbox, slug: str = "A") -> Any:
    state = requests.get(f"{sandbox.url}/_sandbox/state", timeout=5).json()
    return state["my-store"][slug]["referral"]


def test_a_full_refund_voids_a_pending_referral_and_a_second_is_refused(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(generation="seed")
    origin = created(sandbox)
    status, payload = refunded(sandbox)
    assert (status, payload["ok"]) == (200, True)
    referral = payload["result"]["referral"]
    assert (referral["status"], referral["referred_origin_id"]) == ("voided", origin["id"])
    assert set(referral) == {
        "id", "status", "ad_rewarded", "advocate_person", "friend_person", "campaign_id", "offer_id",
        "referred_origin_id", "referred_subtotal", "qa_generated", "track_method", "created_at", "updated_at",
    }  # fmt: skip
    assert refunded(sandbox) == (400, {"ok": False, "error_message": "Origin has already been refunded"})


def test_a_full_refund_comes_too_late_for_an_approved_referral(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(generation="seed")
    created(sandbox, referral={"status": "approved", "ad_rewarded": True})
    _, payload = refunded(sandbox)
    assert payload["result"]["referral"]["status"] == "approved"


def test_partial_refunds_add_up_and_leave_the_referral(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    created(sandbox)
    for amount, total in ((30, 30), (30, 60)):
        _, payload = refunded(sandbox, refund_subtotal=amount)
        origin = payload["result"]["origin"]
        assert (origin["partially_refunded"], origin["refund_subtotal"]) == (True, total)
    assert referral_of(sandbox)["status"] == "pending"
    _, payload = refunded(sandbox)
    assert (payload["result"]["origin"]["partially_refunded"], referral_of(sandbox)["status"]) == (
        False,
        "voided",
    )


def test_the_flat_generation_answers_with_the_origins_fields(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(generation="flat")
    created(sandbox)
    _, payload = refunded(sandbox, refunded_at="2020-04-27T00:00:00.000-07:00")
    assert set(payload["result"]) == {
        "id", "type", "email", "order_number", "subtotal", "order_date", "refunded_at", "coupon_code",
        "customer_id", "ip_address",
    }  # fmt: skip
    assert payload["result"]["refunded_at"] == "2020-04-27T00:00:00.000-07:00"


def test_an_event_goes_by_category_and_number(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    data = {"event_category": "newsletter_subscription", "event_number": 42, "referral": None}
    body = {"site_slug": "my-store", "data": data}
    assert call(sandbox, "POST", "/api/v2/origins/event", body)[0] == 201
    assert refunded(sandbox, "newsletter_subscription:42")[0] == 200
    assert referral_of(sandbox, "newsletter_subscription:42") is None


@pytest.mark.parametrize(
    ("method", "path", "json", "status", "message"),
    [
        ("POST", "/origins/B/refund", {"site_slug": "my-store"}, 400, "No origin found by `origin_slug`."),
        ("POST", "/origins/A/refund", {"site_slug": "other"}, 403, "Access denied to site other"),
        ("POST", "/origins/A/refund", {}, 400, "site_slug can't be blank"),
        ("POST", "/origins/A/refund", [], 400, "The body is not an object with site_slug and data"),
        (
            "POST",
            "/origins/A/refund",
            {"site_slug": "my-store", "data": {"refunded_at": "12345"}},
            400,
            "refunded_at is invalid: ISO 8601 with offset expected",
        ),
        (
            "POST",
            "/origins/A/refund",
            {"site_slug": "my-store", "data": {"refund_subtotal": -1}},
            422,
            "Validation failed: an amount must be a number of at least 0",
        ),
        ("POST", "/origins/%FF/refund", {"site_slug": "my-store"}, 400, "The path is not UTF-8"),
        (
            "POST",
            "/origins/purchase",
            {"site_slug": "my-store", "data": {"order_number": "A"}},
            400,
            "Validation failed: duplicate entity: another origin has this number",
        ),
        ("POST", "/origins/purchase", {"site_slug": "my-store"}, 400, "order_number can't be blank"),
        ("GET", "/campaigns", None, 400, "site_slug can't be blank"),
        ("GET", "/people/x%40y.z/referrals_as_friend?site_slug=my-store", None, 400,
         "No person found by `person_slug`."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_in_talkables_words(
    sandboxes: Sandboxes, method: str, path: str, json: object, status: int, message: str
) -> None:
    sandbox = sandboxes()
    created(sandbox)
    assert call(sandbox, method, f"/api/v2{path}", json) == (status, {"ok": False, "error_message": message})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v2/origins/a/b/refund"),
        ("DELETE", "/api/v2/origins/A/refund"),
        ("GET", "/api/v2/api/v2/x"),
    ],
)
def test_a_path_that_is_none_of_the_apis_gets_a_page(sandboxes: Sandboxes, method: str, path: str) -> None:
    answer = requests.request(method, sandboxes().url + path, json={}, auth=(KEY, ""), timeout=5)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("text/html")


def test_the_state_of_a_referral_can_be_set_until_it_is_final(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    created(sandbox)

    def put(status: str) -> tuple[int, Any]:
        body = {"site_slug": "my-store", "data": {"status": status}}
        return call(sandbox, "PUT", "/api/v2/origins/A/referral", body)

    assert put("flagged")[1]["result"]["referral"]["status"] == "flagged"
    assert put("approved")[0] == put("approved")[0] == 200
    assert put("voided")[0] == 400
    assert put("nonsense")[0] == 400
    assert referral_of(sandbox)["status"] == "approved"


def test_a_friends_referrals_say_what_the_advocate_got(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    origin = created(sandbox, email="Friend+1@example.com", referral={"status": "approved"})
    path = "/api/v2/people/friend%2B1%40example.com/referrals_as_friend?site_slug=my-store"
    _, payload = call(sandbox, "GET", path)
    [referral] = payload["result"]["referrals"]
    assert referral["referred_origin_id"] == origin["id"]
    assert referral["advocate_rewards"][0]["status"] == "Paid"


@pytest.mark.parametrize("scheme", list(AuthScheme))
def test_a_key_is_accepted_by_the_schemes_it_was_told_to(sandboxes: Sandboxes, scheme: AuthScheme) -> None:
    sandbox = sandboxes(auth_schemes=(scheme,))
    statuses = {
        tried: requests.get(
            f"{sandbox.url}/api/v2/campaigns?site_slug=my-store",
            headers={"Authorization": tried.authorization(KEY)},
            timeout=5,
        ).status_code
        for tried in AuthScheme
    }
    assert statuses == {scheme: 200, scheme.other: 401}
    assert call(sandbox, "GET", "/api/v2/campaigns?site_slug=my-store", key="wrong-api-key")[0] == 401
    assert requests.get(f"{sandbox.url}/api/v2/campaigns", timeout=5).status_code == 401


def test_it_tells_what_it_was_asked_headers_included(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    refunded(sandbox, "a%2Fb")
    [asked] = requests.get(f"{sandbox.url}/_sandbox/requests", timeout=5).json()
    assert (asked["method"], asked["path"]) == ("POST", "/api/v2/origins/a%2Fb/refund")
    assert asked["body"] == '{"site_slug": "my-store"}'
    assert asked["headers"]["Authorization"].startswith("Basic ")


def test_what_it_was_asked_is_read_while_more_comes(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    refunded(sandbox, "order-1")
    seen = []
    for asked in sandbox.requests:
        seen.append(asked["path"])
        if len(seen) < 3:
            refunded(sandbox, f"order-{len(seen) + 1}")
    assert seen == [f"/api/v2/origins/order-{number}/refund" for number in (1, 2, 3)]


def test_it_remembers_the_last_ten_thousand_requests(sandbox: Sandbox) -> None:
    refunded(sandbox, "forgotten")
    sandbox.requests.extend({"path": str(number)} for number in range(9_999))
    refunded(sandbox, "last")
    assert len(sandbox.requests) == 10_000
    assert sandbox.requests[0] == {"path": "0"}
    assert sandbox.requests[-1]["path"] == "/api/v2/origins/last/refund"


def test_what_it_holds_is_read_while_more_comes() -> None:
    talkable = Talkable(reward_after=60)
    talkable.create_purchase("my-store", {"order_number": "A"})

    def another() -> datetime:
        talkable.now = lambda: datetime.now(UTC)
        talkable.create_purchase("my-store", {"order_number": "B"})
        return datetime.now(UTC)

    talkable.now = another
    assert set(talkable.snapshot()["my-store"]) == {"A"}
    assert set(talkable.snapshot()["my-store"]) == {"A", "B"}


@pytest.mark.parametrize(
    ("fault", "acted"),
    [(Reset(acted=False), False), (Reset(acted=True), True), (Truncated(), True)],
    ids=["reset before", "reset after", "truncated"],
)
def test_a_broken_connection_before_or_after_acting(
    sandboxes: Sandboxes, fault: Reset | Truncated, acted: bool
) -> None:
    sandbox = sandboxes()
    created(sandbox)
    sandbox.dials.next(fault)
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        refunded(sandbox)
    assert (referral_of(sandbox)["status"] == "voided") is acted


def raw(sandbox: Sandbox) -> socket.socket:
    """A connection on which a refund has just been asked for."""
    connection = socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2])), timeout=10)
    body = b'{"site_slug": "my-store"}'
    key = base64.b64encode(f"{sandbox.api_key}:".encode())
    connection.sendall(
        b"POST /api/v2/origins/A/refund HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (key, len(body), body)
    )
    return connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the other end closes, or for half a second."""
    connection.settimeout(0.5)
    data = b""
    with suppress(TimeoutError):
        while more := connection.recv(65536):
            data += more
        data += b"<closed>"
    return data


def voided(sandbox: Sandbox) -> bool:
    referral: Any = sandbox.talkable.snapshot()["my-store"]["A"]["referral"]
    return bool(referral["status"] == "voided")


def test_a_connection_that_is_closed_without_a_word(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    created(sandbox)
    sandbox.dials.closes = 1
    with raw(sandbox) as connection:
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" not in answer.lower()
    assert answer.endswith(b"<closed>")
    assert voided(sandbox)


def test_an_answer_that_comes_twice(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    created(sandbox)
    sandbox.dials.twice = 1
    with raw(sandbox) as connection:
        answers = everything(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 2
    assert answers.count(b'"ok": true') == 2
    assert not answers.endswith(b"<closed>")


def test_an_answer_that_comes_byte_by_byte(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes()
    created(sandbox)
    sandbox.dials.drips = 1
    with raw(sandbox) as connection:
        assert everything(connection).endswith(b"\r\n\r\n{")
    assert voided(sandbox)


def test_latency(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes(dials=Dials(latency=0.1))
    started = time.monotonic()
    refunded(sandbox)
    assert time.monotonic() - started >= 0.1


def test_a_hidden_limit_is_a_token_bucket_that_answers_a_bare_429() -> None:
    dials = Dials(rate_limit=10, burst=5)
    now = 100.0
    picks = [dials.pick(lambda: now) for _ in range(7)]
    assert picks == [None] * 5 + [Canned(429)] * 2
    now += 0.35
    assert [dials.pick(lambda: now) for _ in range(4)] == [None] * 3 + [Canned(429)]
    now += 60
    assert [dials.pick(lambda: now) for _ in range(6)] == [None] * 5 + [Canned(429)]


def test_shares_come_true_and_repeat_with_the_seed() -> None:
    def faults(seed: int) -> list[object]:
        resets = ("resets_before", "resets_after")
        shares = (*resets, "errors", "truncated", "html", "unrouted", "drips", "twice", "closes")
        values: dict[str, Any] = dict.fromkeys(shares, 0.1)
        dials = Dials(**values, seed=seed)
        return [dials.pick(time.monotonic) for _ in range(10_000)]

    picked = faults(1)
    assert picked == faults(1) != faults(2)
    kinds = Counter(map(repr, picked))
    assert len(kinds) == 10
    assert all(850 < count < 1150 for count in kinds.values())


def test_faults_asked_for_come_first_and_in_order() -> None:
    dials = Dials(errors=1)
    dials.next(None, Canned(418))
    assert dials.pick(time.monotonic) is None
    assert dials.pick(time.monotonic) == Canned(418)
    assert dials.pick(time.monotonic) is not None


def test_a_referral_of_unknown_fields_is_refused() -> None:
    with pytest.raises(Refusal, match="referral has fields other than"):
        Talkable().create_purchase("my-store", {"order_number": "A", "referral": {"state": "x"}})


def test_a_port_that_is_taken_is_an_error_and_leaves_no_thread_behind(sandboxes: Sandboxes) -> None:
    port = int(sandboxes().url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="address already in use"), Sandbox(port=port):
        pytest.fail("it started")


def test_the_command_line_serves_until_it_is_told_to_stop() -> None:
    command = [
        sys.executable,
        "-m",
        "airflow_provider_talkable.sandbox",
        "--port",
        "0",
        "--site",
        "a",
        "--site",
        "b",
    ]
    command += ["--api-key", KEY, "--auth", "bearer", "--generation", "seed", "--html", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout
        first = process.stdout.readline()
        match = re.fullmatch(r"Talkable sandbox: (http://127\.0\.0\.1:\d+)  sites: a, b\n", first)
        assert match
        answer = requests.get(f"{match[1]}/api/v2/campaigns?site_slug=a", timeout=5)
        assert "Maintenance" in answer.text
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


@pytest.mark.parametrize("arguments", [["--errors", "2"], ["--generation", "next"]])
def test_the_command_line_refuses_nonsense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from airflow_provider_talkable.sandbox.__main__ import main

    with pytest.raises(SystemExit):
        main(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_advocates_are_rewarded_after_a_delay(sandboxes: Sandboxes) -> None:
    talkable = sandboxes(reward_after=60).talkable
    noon = datetime(2026, 1, 10, 12, tzinfo=UTC)
    talkable.now = lambda: noon
    for slug in ("kept", "voided in time", "flagged"):
        talkable.create_purchase("my-store", {"order_number": slug, "email": f"{slug}@example.com"})
    talkable.now = lambda: noon + timedelta(seconds=59)
    talkable.refund("my-store", "voided in time", {})
    talkable.update_referral("my-store", "flagged", {"status": "flagged"})
    assert talkable.snapshot()["my-store"]["kept"]["referral"]["status"] == "pending"
    talkable.now = lambda: noon + timedelta(seconds=60)
    [referral] = talkable.referrals_as_friend("my-store", "kept@example.com")["referrals"]
    assert (referral["status"], referral["ad_rewarded"]) == ("approved", True)
    assert [reward["status"] for reward in referral["advocate_rewards"]] == ["Paid"]
    held = talkable.snapshot()["my-store"]
    assert {slug: order["referral"]["ad_rewarded"] for slug, order in held.items()} == {
        "kept": True,
        "voided in time": False,
        "flagged": True,
    }


def test_the_command_line_has_a_delay_for_rewards() -> None:
    command = [
        sys.executable,
        "-m",
        "airflow_provider_talkable.sandbox",
        "--port",
        "0",
        "--reward-after",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().split()[2]
            order = {"site_slug": "my-store", "data": {"order_number": "A"}}
            auth = ("sandbox-api-key", "")
            requests.post(
                f"{url}/api/v2/origins/purchase", json=order, auth=auth, timeout=5
            ).raise_for_status()
            state = requests.get(f"{url}/_sandbox/state", timeout=5).json()
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
        finally:
            process.kill()
    assert state["my-store"]["A"]["referral"]["status"] == "approved"


def test_connections_that_begin_as_it_ends_are_closed() -> None:
    """pytest fails a test that leaves one open."""
    for _ in range(5):
        connections: list[socket.socket] = []

        def connect(url: str, connections: list[socket.socket] = connections) -> None:
            host, port = url.removeprefix("http://").split(":")
            with suppress(OSError):
                while True:
                    connections.append(socket.create_connection((host, int(port)), timeout=1))

        with Sandbox() as sandbox:
            connecting = threading.Thread(target=connect, args=[sandbox.url])
            connecting.start()
            while len(connections) < 5:
                time.sleep(0.001)
        connecting.join()
        for connection in connections:
            connection.close()
    gc.collect()
