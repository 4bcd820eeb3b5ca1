"""Which connection a request goes out on."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from airflow_provider_talkable import Outcome, Refund
from airflow_provider_talkable.client.concurrent import send_many
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.client.sync import TalkableClient
from tests.conftest import KEY, Clients
from tests.network import OK, Line, Peer, answering, connect_proxy, server_context, wait_until

FULL = Refund.parse("A", site_slug="my-store")
PARTIAL = Refund.parse("A", site_slug="my-store", refund_subtotal=30)


def slug_of(request: bytes) -> str:
    return request.split(b" ")[1].decode().split("/")[4]


def about(slug: str) -> bytes:
    body = json.dumps(
        {"ok": True, "result": {"origin": {"order_number": slug, "refunded_at": "2026-01-01"}}}
    ).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def named(line: Line) -> None:
    """A server that names the order in each answer, as Talkable does today."""
    while request := line.read_request():
        line.send(about(slug_of(request)))


def closing_after(answers: Callable[[], int]) -> Callable[[Line], None]:
    """A server that closes each connection after so many answers, and does not say so."""

    def behave(line: Line) -> None:
        for _ in range(answers()):
            if request := line.read_request():
                line.send(about(slug_of(request)))

    return behave


@pytest.mark.parametrize("partial", [True, False], ids=["partial", "full"])
def test_a_server_that_closes_without_a_word_leaves_nothing_in_doubt(partial: bool) -> None:
    chance = random.Random(20261125)
    refunds = [
        Refund("my-store", f"order-{n}", refund_subtotal=Decimal(5) if partial else None)
        for n in range(1_000)
    ]
    with Peer(closing_after(lambda: chance.randint(1, 5))) as peer:
        config = ClientConfig.parse(host=f"http://{peer.address}", api_key=KEY)
        pace = Pace(initial_rate=None)
        results = list(send_many(config, RetryPolicy(), pace, RefundOperation(), refunds))
    assert Counter(result.outcome for result in results) == {Outcome.REFUNDED: 1_000}
    if partial:
        assert Counter(map(slug_of, peer.requests)) == {f"order-{n}": 1 for n in range(1_000)}


def test_full_refunds_share_a_connection_and_partial_ones_have_their_own(clients: Clients) -> None:
    with Peer(named) as peer:
        client = clients(f"http://{peer.address}")
        for refund, connections in ((FULL, 1), (FULL, 1), (PARTIAL, 2), (PARTIAL, 3), (FULL, 3)):
            assert client.refund(refund).outcome is Outcome.REFUNDED
            assert peer.connections == connections
    said = [b"Connection: close" in request for request in peer.requests]
    assert said == [False, False, True, True, False]


def test_a_key_that_is_tried_again_goes_out_as_its_request_does(clients: Clients) -> None:
    def behave(line: Line) -> None:
        while request := line.read_request():
            is_bearer = b"Authorization: Bearer " in request
            line.send(about("A") if is_bearer else b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    for refund in (PARTIAL, FULL):
        with Peer(behave) as peer:
            client = clients(f"http://{peer.address}")
            for requests in (2, 3):
                assert client.refund(refund).outcome is Outcome.REFUNDED
                assert len(peer.requests) == requests
                # A page in Talkable's place ends the connection that it came on.
                assert peer.connections == (requests if refund is PARTIAL else 2)
        assert {b"Connection: close" in request for request in peer.requests} == {refund is PARTIAL}


def twice(pause: float) -> Callable[[Line], None]:
    """A server that gives the first answer on each connection twice, and reads no more."""

    def behave(line: Line) -> None:
        answer = about(slug_of(line.read_request()))
        line.send(answer)
        line.peer.is_over.wait(pause)
        line.send(answer)
        line.wait()

    return behave


@pytest.mark.parametrize("refund", [FULL, PARTIAL], ids=["full", "partial"])
def test_an_answer_that_comes_twice_is_not_taken_for_the_next_ones(clients: Clients, refund: Refund) -> None:
    with Peer(twice(0)) as peer:
        client = clients(f"http://{peer.address}")
        for _ in range(5):
            assert client.refund(refund).outcome is Outcome.REFUNDED
            # What follows sooner is told apart by its order alone, see below.
            time.sleep(0.1)
    # Each refund was read by somebody.
    assert len(peer.requests) == 5


def test_a_second_answer_that_is_late_is_known_by_its_order(clients: Clients) -> None:
    others = [Refund("my-store", f"order-{n}") for n in range(5)]
    with Peer(twice(0.2)) as peer:
        client = clients(f"http://{peer.address}")
        for other in others:
            # The second request is on its way when the first one's answer comes again.
            assert client.refund(FULL).outcome is Outcome.REFUNDED
            assert client.refund(other).outcome is Outcome.REFUNDED
    assert set(map(slug_of, peer.requests)) >= {other.origin_slug for other in others}


@pytest.mark.parametrize(
    "anonymous",
    [OK, b'HTTP/1.1 404 Not Found\r\nContent-Length: 20\r\n\r\n{"ok":false, "a": 1}'],
    ids=["success", "refusal"],
)
def test_a_late_second_answer_that_names_no_order_is_nobody_elses(clients: Clients, anonymous: bytes) -> None:
    def behave(line: Line) -> None:
        line.read_request()
        line.send(anonymous)
        # The next request is on its way when this answer comes again.
        line.peer.is_over.wait(0.2)
        line.send(anonymous)
        line.wait()

    orders = [f"order-{n}" for n in range(5)]
    with Peer(behave) as peer:
        client = clients(f"http://{peer.address}")
        results = [client.refund(Refund("my-store", order)) for order in orders]
    assert len({result.outcome for result in results}) == 1
    # Each was read by somebody.
    assert list(map(slug_of, peer.requests)) == orders


def test_what_a_server_says_unasked_ends_the_connection(clients: Clients) -> None:
    def behave(line: Line) -> None:
        while line.read_request():
            line.send(about("A"))
            line.peer.is_over.wait(0.05)
            line.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    with Peer(behave) as peer:
        client = clients(f"http://{peer.address}", max_attempts=1)
        for count in range(1, 4):
            assert client.refund(FULL).outcome is Outcome.REFUNDED
            assert peer.connections == count
            time.sleep(0.2)


def test_cookies_are_not_sent_back(clients: Clients) -> None:
    with_cookie = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: session=1; Path=/\r\n\r\n")
    with Peer(answering(with_cookie)) as peer:
        client = clients(f"http://{peer.address}")
        for refund in (FULL, FULL, PARTIAL):
            client.refund(refund)
    assert len(peer.requests) == 3
    assert not any(b"cookie" in request.lower() for request in peer.requests)


def test_a_tunnel_through_a_proxy_is_kept_too(clients: Clients, certificate: tuple[Path, Path]) -> None:
    def talkable(line: Line) -> None:
        line.wrap(server_context(certificate))
        named(line)

    with Peer(talkable) as server, Peer(connect_proxy) as proxy:
        client = clients(
            f"https://{server.address}", proxy=f"http://user:p%40ss@{proxy.address}", ca_bundle=certificate[0]
        )
        for refund in (FULL, FULL, PARTIAL):
            assert client.refund(refund).outcome is Outcome.REFUNDED
    assert len(server.requests) == 3
    assert len(proxy.requests) == 2
    for request in proxy.requests:
        # printf 'user:p@ss' | base64
        assert b"\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in request


def test_connections_end_with_the_client_also_where_nobody_closes_it() -> None:
    ended: list[Line] = []

    def behave(line: Line) -> None:
        answering(OK)(line)
        ended.append(line)

    with Peer(behave) as peer:
        config = ClientConfig.parse(host=f"http://{peer.address}", api_key=KEY)
        with TalkableClient(config) as client:
            client.refund(FULL)
        wait_until(lambda: len(ended) == 1)
        # A later call opens new ones.
        assert client.refund(FULL).outcome is Outcome.REFUNDED
        del client
        wait_until(lambda: len(ended) == 2)


def test_a_forked_process_has_connections_of_its_own() -> None:
    with Peer(named) as peer:
        config = ClientConfig.parse(host=f"http://{peer.address}", api_key=KEY)
        with TalkableClient(config) as client:
            client.refund(FULL)
            child = os.fork()
            if child == 0:
                os._exit(client.refund(FULL).outcome is not Outcome.REFUNDED)
            assert os.waitpid(child, 0)[1] == 0
            assert client.refund(FULL).outcome is Outcome.REFUNDED
        assert (len(peer.requests), peer.connections) == (3, 2)
