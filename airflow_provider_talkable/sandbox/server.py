"""The sandbox's HTTP side, on aiohttp."""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
import struct
import threading
import time
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from aiohttp import web

from airflow_provider_talkable.protocol.wire import AuthScheme
from airflow_provider_talkable.sandbox.faults import Canned, Closed, Dials, Dripped, Fault, Reset, Truncated
from airflow_provider_talkable.sandbox.referrals import Json
from airflow_provider_talkable.sandbox.talkable import Generation, Refusal, SecondRefund, Talkable

REMEMBERED_REQUESTS = 10_000
NO_PAGE = "<!DOCTYPE html><html><head><title>Not found (404)</title></head></html>"
_SOON = 0.005  # seconds
_BACKLOG = 128


class Unrouted(Exception):
    """The path is none of the API's."""


class Sandbox:
    """A local Talkable on a port of this machine, in a thread of its own while it is entered.

    :param api_key: The key it accepts.
    :param site_slugs: The sites the key is good for.
    :param auth_schemes: How it accepts the key.
    :param generation: Which generation's answers to give: ``seed``, ``flat`` or ``current``.
    :param reward_after: Seconds after which a referral that is still pending is approved and its advocate
        rewarded; ``None``: never.
    :param second_refund: What happens to a refund of an order that was refunded in part: ``add``, ``replace``
        or ``refuse``.
    :param dials: How it misbehaves.
    :param host: The address to listen on; loopback by default, since it shows what it
        was sent, keys and people included.
    :param port: The port; 0 takes a free one.
    """

    def __init__(
        self,
        *,
        api_key: str = "sandbox-api-key",
        site_slugs: tuple[str, ...] = ("my-store",),
        auth_schemes: tuple[AuthScheme, ...] = tuple(AuthScheme),
        generation: Generation | str = Generation.CURRENT,
        reward_after: float | None = None,
        second_refund: SecondRefund | str = SecondRefund.ADD,
        dials: Dials | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.api_key = api_key
        self.auth_schemes = auth_schemes
        self.talkable = Talkable(
            site_slugs,
            Generation(generation),
            reward_after=reward_after,
            second_refund=SecondRefund(second_refund),
        )
        self.dials = dials or Dials()
        self.requests: list[Json] = []
        """The last requests as they came: method, raw path, headers and body. More may come as one reads."""
        self.url = ""
        """Where it listens, once it does."""
        self._host, self._port = host, port
        self._server: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="talkable-sandbox", daemon=True)

    def __enter__(self) -> Sandbox:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.start(), self._loop).result()
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result()
        asyncio.run_coroutine_threadsafe(_end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def start(self) -> None:
        """Listen on the running event loop.

        :raises OSError: if the port is taken.
        """
        # A bare server, no router: that would decode the path before a slug could be told from it.
        self._server = web.Server(self._handle, access_log=None)
        self._listener = await asyncio.get_running_loop().create_server(
            self._server, self._host, self._port, backlog=_BACKLOG
        )
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{port}"

    async def stop(self) -> None:
        """Stop listening; answers under way have a second to end."""
        if not (self._listener and self._server):
            return
        for sock in self._listener.sockets:
            asyncio.get_running_loop().remove_reader(sock)
        # asyncio forgets to close a connection that is accepted, but not yet served, when its server closes.
        await _turns()
        self._listener.close()
        self._server.pre_shutdown()
        await self._server.shutdown(1)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = urlsplit(request.raw_path).path
        if path == "/_sandbox/state":
            return web.json_response(self.talkable.snapshot())
        if path == "/_sandbox/requests":
            return web.json_response(self.requests)
        body = await request.read()
        self.requests.append(
            {
                "method": request.method,
                "path": request.raw_path,
                "headers": dict(request.headers),
                "body": body.decode("utf-8", "backslashreplace"),
            }
        )
        del self.requests[:-REMEMBERED_REQUESTS]
        fault = self.dials.blocks(unquote(path)) or self.dials.pick(time.monotonic)
        if self.dials.latency:
            await asyncio.sleep(self.dials.latency)
        if isinstance(fault, Canned | Reset) and not fault.acted:
            return _break(request, fault)
        try:
            status, payload = self._answer(request, path, body)
        except Unrouted:
            # No envelope: what is asked at another path reaches none of the API's code.
            return web.Response(status=404, text=NO_PAGE, content_type="text/html")
        if isinstance(fault, Canned | Reset):
            return _break(request, fault)
        text = json.dumps(payload).encode()
        if isinstance(fault, Truncated):
            return await _in_part(request, status, text, [text[: len(text) // 2]])
        if isinstance(fault, Dripped):
            return await _in_part(request, status, text, [text[n : n + 1] for n in range(len(text))])
        if fault is not None:
            _afterwards(request, fault, status, text)
        return web.Response(status=status, body=text, content_type="application/json")

    def _answer(self, request: web.BaseRequest, path: str, body: bytes) -> tuple[int, Json]:
        try:
            self._authenticate(request.headers.get("Authorization", ""))
            status, result = self._route(request.method, path, urlsplit(request.raw_path).query, body)
        except Refusal as refusal:
            return refusal.status, {"ok": False, "error_message": refusal.message}
        return status, {"ok": True, "result": result}

    def _authenticate(self, authorization: str) -> None:
        for scheme in self.auth_schemes:
            expected = scheme.authorization(self.api_key)
            if hmac.compare_digest(authorization.encode(errors="replace"), expected.encode()):
                return
        raise Refusal(401, "Invalid API key")

    def _route(self, method: str, path: str, query: str, body: bytes) -> tuple[int, Json]:
        talkable = self.talkable
        # Split first, decode then: a slug may hold an encoded slash.
        match [method, *(_decoded(segment) for segment in path.split("/")[1:])]:
            case ["POST", "api", "v2", "origins", "purchase"]:
                return 201, talkable.create_purchase(*_site_and_data(body))
            case ["POST", "api", "v2", "origins", "event"]:
                return 201, talkable.create_event(*_site_and_data(body))
            case ["POST", "api", "v2", "origins"]:
                return 201, _created(talkable, body)
            case ["POST", "api", "v2", "origins", slug, "refund"]:
                site, data = _site_and_data(body)
                return 200, talkable.refund(site, slug, data)
            case ["PUT", "api", "v2", "origins", slug, "referral"]:
                site, data = _site_and_data(body)
                return 200, talkable.update_referral(site, slug, data)
            case ["GET", "api", "v2", "campaigns"]:
                return 200, talkable.campaigns(_site_of(query))
            case ["GET", "api", "v2", "people", person, "referrals_as_friend"]:
                return 200, talkable.referrals_as_friend(_site_of(query), person)
        raise Unrouted


async def _end() -> None:
    """End what still waits to answer somebody who is gone."""
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await _turns()


async def _turns() -> None:
    """Give the event loop the turns that a connection takes to begin, or to end."""
    for _ in range(10):
        await asyncio.sleep(0)


def _decoded(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise Refusal(400, "The path is not UTF-8") from None


def _site_and_data(body: bytes) -> tuple[str, Json]:
    try:
        payload: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not JSON") from None
    if not isinstance(payload, dict) or not isinstance(payload.get("data", {}), dict):
        raise Refusal(400, "The body is not an object with site_slug and data")
    return _checked(payload.get("site_slug")), payload.get("data", {})


def _created(talkable: Talkable, body: bytes) -> Json:
    """As Talkable's Ruby client makes origins: with their ``type`` beside the data."""
    site, data = _site_and_data(body)
    kind = json.loads(body).get("type")
    makes = {"Purchase": talkable.create_purchase, "Event": talkable.create_event}
    if kind not in makes:
        raise Refusal(400, f"type is not one of: {', '.join(makes)}")
    return makes[kind](site, data)


def _site_of(query: str) -> str:
    return _checked(parse_qs(query).get("site_slug", [None])[0])


def _checked(site_slug: object) -> str:
    if not isinstance(site_slug, str) or not site_slug:
        raise Refusal(400, "site_slug can't be blank")
    return site_slug


def _break(request: web.BaseRequest, fault: Fault) -> web.Response:
    if isinstance(fault, Canned):
        return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
    transport = request.transport
    assert transport
    # With no time to linger, closing sends a reset instead of an orderly end.
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abort()
    return web.Response()


async def _in_part(
    request: web.BaseRequest, status: int, text: bytes, parts: list[bytes]
) -> web.StreamResponse:
    """Announce all of the body, and send some of it, each part a second after the last."""
    response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
    response.content_length = len(text)
    await response.prepare(request)
    for number, part in enumerate(parts):
        await asyncio.sleep(1 if number else 0)
        await response.write(part)
    assert request.transport
    request.transport.close()
    return response


def _afterwards(request: web.BaseRequest, fault: Fault, status: int, text: bytes) -> None:
    """Do to the connection what is to be done once the answer is on its way."""
    transport = request.transport
    if not isinstance(transport, asyncio.Transport):
        return  # whoever asked is gone
    loop = asyncio.get_running_loop()
    if isinstance(fault, Closed):
        loop.call_later(_SOON, transport.close)
    else:
        fields = f"Content-Type: application/json\r\nContent-Length: {len(text)}"
        loop.call_later(
            _SOON, transport.write, f"HTTP/1.1 {status} Again\r\n{fields}\r\n\r\n".encode() + text
        )
