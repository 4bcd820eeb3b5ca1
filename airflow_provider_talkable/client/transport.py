"""One HTTP exchange with Talkable: connections, deadlines, and what is known when it fails."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from airflow_provider_talkable.client import failures
from airflow_provider_talkable.client.config import USER_AGENT, ClientConfig
from airflow_provider_talkable.protocol.answers import Response
from airflow_provider_talkable.protocol.errors import TalkableConnectionError
from airflow_provider_talkable.protocol.wire import Request

# As long as a field or the status line may be for http.client, and so for requests.
_LONGEST_LINE = 65536
_LENGTHS = re.compile(rb"\r\ncontent-length:([^\r\n]*)", re.IGNORECASE)


class Transport:
    """Exchanges requests for answers with one Talkable host, as many as are awaited at once.

    A request whose repeat is harmless goes out on a connection that is kept. One whose repeat might count
    twice gets a connection of its own: a kept one may have been closed at the other end without a word, and
    then nobody knows whether the request was read.

    It belongs to one event loop and is used as an asynchronous context manager.

    :param config: Where to and with which key.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.requests: Counter[str] = Counter()
        """How many requests were sent, by method."""
        self._config = config
        self._under_way: set[_Exchange] = set()
        # With the request and never with the session, whose headers aiohttp shows to proxies.
        self._authorization = {"Authorization": config.authorization}

    async def __aenter__(self) -> Transport:
        self._opened = AsyncExitStack()
        self._kept = await self._opened.enter_async_context(self._session(force_close=False))
        self._single = await self._opened.enter_async_context(self._session(force_close=True))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._opened.aclose()

    async def exchange(self, request: Request) -> Response:
        """Send a request and return the answer, whatever it says.

        It takes the timeout at most to get a connection, and again to send and to read the answer.

        :raises TalkableConnectionError: if no complete answer came, saying whether the request may have
            been read.
        :raises TalkableProtocolError: if the answer is far too long.
        """
        exchange = _Exchange(self._config, partial(self._count, request))
        _current.set(exchange)
        self._under_way.add(exchange)
        try:
            async with asyncio.timeout(self._config.timeout) as exchange.deadline:
                return await self._send(request)
        # What aiohttp and yarl cannot make sense of comes as a ValueError.
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise exchange.failure(error) from None
        finally:
            self._under_way.discard(exchange)

    def stop(self) -> None:
        """End the exchanges under way now."""
        for exchange in self._under_way:
            exchange.stop()

    def _count(self, request: Request) -> None:
        self.requests[request.method] += 1

    def _session(self, *, force_close: bool) -> aiohttp.ClientSession:
        config = self._config
        return aiohttp.ClientSession(
            # In flight are as many as the caller awaits; the pool is not to be a second limit.
            connector=_Connector(limit=0, force_close=force_close, ssl=config.certificates or True),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            # The deadline is one for all of a request, what a proxy takes included.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=config.proxy.url if config.proxy else None,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
        )

    async def _send(self, request: Request) -> Response:
        session = self._kept if request.repeatable else self._single
        async with session.request(
            request.method,
            # Already encoded: yarl would decode what need not be encoded and encode it its own way.
            URL(self._config.base_url + request.path, encoded=True),
            data=request.body,
            headers=self._authorization | _headers(request),
            allow_redirects=False,
        ) as answer:
            return Response.received(answer.status, await _read_body(answer), answer.headers)


class _Exchange:
    """One exchange under way, and how far it has got.

    :param config: Where to, and with which timeout.
    :param on_sent: Called whenever there is a connection to send the request on.
    """

    __slots__ = ("_config", "_is_stopped", "_on_sent", "deadline", "has_new_connection", "is_sent")

    deadline: asyncio.Timeout

    def __init__(self, config: ClientConfig, on_sent: Callable[[], None]) -> None:
        self._config = config
        self._on_sent = on_sent
        self._is_stopped = False
        self.has_new_connection = False
        self.is_sent = False
        """Whether somebody may have read the request."""

    def connected(self) -> None:
        """There is a connection: the request goes out, and the time for it runs from here."""
        self.is_sent = True
        self._on_sent()
        self._end_in(self._config.timeout)

    def stop(self) -> None:
        """End it now."""
        self._is_stopped = True
        self._end_in(0)

    def failure(self, error: Exception) -> TalkableConnectionError:
        """What is to be said of it once it has failed."""
        if self._is_stopped:
            return failures.stopped(request_sent=self.is_sent)
        return (failures.no_answer if self.is_sent else failures.not_sent)(self._config, error)

    def _end_in(self, seconds: float) -> None:
        # One that has ended may still be about to learn of it.
        if not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time() + seconds)


_current: ContextVar[_Exchange] = ContextVar("exchange")


class _Connector(aiohttp.TCPConnector):
    """Hands out no connection on which anything came that was not asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # aiohttp has no other way to be given a protocol of one's own.
        self._factory = partial(_Protocol, asyncio.get_running_loop())  # type: ignore[assignment]

    async def connect(self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:
        """Take a connection from the pool, or make one."""
        exchange = _current.get()
        exchange.has_new_connection = False
        while True:
            connection = await super().connect(req, traces, timeout)
            # An answer that came twice lies there, and would be taken for the next request's.
            if connection.protocol is not None and not connection.protocol.should_close:
                exchange.connected()
                return connection
            connection.close()
            if exchange.has_new_connection:
                raise aiohttp.ClientConnectionError("It was answered before anything was asked")

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        _current.get().has_new_connection = True
        return await super()._create_connection(req, traces, timeout)


class _Protocol(ResponseHandler):
    """Takes a Content-Length that is there twice, some gateways write it so, for the one that it is.

    aiohttp's parser refuses it; RFC 9112, 6.3, lets a client read on where all values agree.
    """

    _expects_head = False

    def set_response_params(self, **params: Any) -> None:
        """A request goes out now."""
        self._expects_head = True
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """A part of the answer is here, the fields of an answer commonly in its first one."""
        if self._expects_head:
            self._expects_head = False
            data = _with_one_length(data)
        super().data_received(data)


def _with_one_length(data: bytes) -> bytes:
    head, end, body = data.partition(b"\r\n\r\n")
    fields: list[bytes] = _LENGTHS.findall(head)
    values = {value.strip() for field in fields for value in field.split(b",")}
    if len(values) != 1 or fields == list(values):
        return data
    return _LENGTHS.sub(b"", head) + b"\r\nContent-Length: " + values.pop() + end + body


def _headers(request: Request) -> dict[str, str]:
    headers = {"Content-Type": "application/json"} if request.body else {}
    return headers if request.repeatable else headers | {"Connection": "close"}


async def _read_body(answer: aiohttp.ClientResponse) -> bytes:
    """Read the body to its end, but no further than 1 MiB."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > failures.MAX_BODY_BYTES:
            raise failures.too_long(answer.status)
    return bytes(body)
