"""One HTTP exchange with Talkable: connections, deadlines, and what is known when it fails."""

from __future__ import annotations

import asyncio
import math
import re
import select
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

from airflow_provider_talkable.client import failures
from airflow_provider_talkable.client.config import USER_AGENT, ClientConfig
from airflow_provider_talkable.protocol.answers import Response
from airflow_provider_talkable.protocol.errors import TalkableConnectionError, TalkableError
from airflow_provider_talkable.protocol.origins import names_origin
from airflow_provider_talkable.protocol.wire import AuthScheme, Request

T = TypeVar("T")

# As long as a field or the status line may be for http.client, and so for requests.
_LONGEST_LINE = 65536
_LATEST = 0.5  # seconds after its deadline that an answer may be waited for
_LENGTH = re.compile(rb"\r\ncontent-length:([^\r\n]*)", re.IGNORECASE)
_SEVERAL_LENGTHS = re.compile(
    rb"\r\ncontent-length:[0-9 \t]*(?:,|\r\n(?:[^\r\n]+\r\n)*?content-length:)", re.IGNORECASE
)


class Transport:
    """Exchanges requests for answers with one Talkable host, as many as are awaited at once.

    A request whose repeat is harmless goes out on a connection that is kept, but only for as long as each
    answer on it names its order: an answer that names none may come a second time, late, and would be
    taken for the next request's. A request whose repeat might count twice gets a connection of its own: a
    kept one may have been closed at the other end without a word, and then nobody knows whether the
    request was read.

    It belongs to one event loop and is used as an asynchronous context manager.

    :param config: Where to and with which key.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.requests: Counter[str] = Counter()
        """How many requests were sent, by method."""
        self._config = config
        self._under_way: set[_Exchange] = set()

    async def __aenter__(self) -> Transport:
        self._opened = AsyncExitStack()
        self._kept = await self._opened.enter_async_context(self._session(force_close=False))
        self._single = await self._opened.enter_async_context(self._session(force_close=True))
        self._end_late_ones()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._timer.cancel()
        await self._opened.aclose()

    async def exchange(
        self, request: Request, read: Callable[[Response], T], scheme: AuthScheme
    ) -> tuple[Response, T]:
        """Send a request, and return the answer and what it says.

        It takes the timeout at most to get a connection, and again to send and to read the answer.

        :param read: Says what an answer says. Where it raises, or what it says names no origin, the
            connection ends.
        :param scheme: How to send the key.
        :raises TalkableConnectionError: if no complete answer came, saying whether the request may have
            been read.
        :raises TalkableError: what ``read`` raises.
        """
        exchange = _Exchange(self._config.timeout, partial(self._count, request))
        _current.set(exchange)
        self._under_way.add(exchange)
        try:
            response, answer = await self._send(request, read, scheme)
        except TalkableError:
            exchange.hang_up()
            raise
        # What aiohttp and yarl cannot make sense of comes as a ValueError.
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise exchange.failure(self._config, error) from None
        finally:
            self._under_way.discard(exchange)
        if names_origin(answer):
            exchange.keep()
        else:
            exchange.hang_up()
        return response, answer

    def stop(self) -> None:
        """End the exchanges under way now."""
        for exchange in self._under_way:
            exchange.stop()

    def _end_late_ones(self) -> None:
        """Look after all deadlines with one timer: one for each answer takes a sixth of a whole sync."""
        loop = asyncio.get_running_loop()
        for exchange in self._under_way:
            exchange.end_if_late(loop.time())
        self._timer = loop.call_later(min(self._config.timeout / 10, _LATEST), self._end_late_ones)

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

    async def _send(
        self, request: Request, read: Callable[[Response], T], scheme: AuthScheme
    ) -> tuple[Response, T]:
        config = self._config
        session = self._kept if request.repeatable else self._single
        # With the request and never with the session, whose headers aiohttp shows to proxies.
        authorization = {"Authorization": config.authorization(scheme)}
        async with session.request(
            request.method,
            # Already encoded: yarl would decode what need not be encoded and encode it its own way.
            URL(config.base_url + request.path, encoded=True),
            data=request.body,
            headers=authorization | _headers(request),
            allow_redirects=False,
        ) as answer:
            response = Response.received(
                answer.status, await _read_body(answer), answer.headers, base_url=config.base_url
            )
            return response, read(response)


class _Exchange:
    """One exchange under way, and how far it has got.

    :param seconds: To get a connection, and again for the answer.
    :param on_sent: Called whenever there is a connection to send the request on.
    """

    def __init__(self, seconds: float, on_sent: Callable[[], None]) -> None:
        self.seconds = seconds
        self.connecting: asyncio.Timeout | None = None
        """While there is no connection yet, but one is being made."""
        self._on_sent = on_sent
        self._connection: asyncio.Transport | None = None
        self._protocol: _Protocol | None = None
        self._deadline = math.inf
        self._is_late = False
        self._is_stopped = False

    def connected(self, connection: Connection, protocol: _Protocol) -> None:
        """There is a connection: the request goes out, and the time for it runs from here.

        :raises aiohttp.ClientConnectionError: if it has ended before, and aiohttp tries it once more.
        """
        if self._is_late or self._is_stopped:
            connection.close()
            raise aiohttp.ClientConnectionError
        self._on_sent()
        self._connection = connection.transport
        self._protocol = protocol
        self._deadline = asyncio.get_running_loop().time() + self.seconds

    def stop(self) -> None:
        """End it now."""
        self._is_stopped = True
        if self._connection is not None:
            self._connection.abort()
        elif self.connecting is not None and not self.connecting.expired():
            self.connecting.reschedule(0)

    def keep(self) -> None:
        """Let its connection, which is in the pool again, serve the next request."""
        if self._protocol is not None:
            self._protocol.may_serve = True

    def hang_up(self) -> None:
        """End its connection, which may be in the pool again."""
        if self._connection is not None:
            self._connection.close()

    def end_if_late(self, now: float) -> None:
        """End it if its answer has had its time."""
        if self._deadline < now and self._connection is not None:
            self._is_late = True
            self._connection.abort()

    def failure(self, config: ClientConfig, error: Exception) -> TalkableConnectionError:
        """What is to be said of it once it has failed."""
        is_sent = self._connection is not None
        if self._is_stopped:
            return failures.stopped(request_sent=is_sent)
        if not is_sent:
            return failures.not_sent(config, error)
        return failures.no_answer(config, TimeoutError() if self._is_late else error)


_current: ContextVar[_Exchange] = ContextVar("exchange")


class _Connector(aiohttp.TCPConnector):
    """Hands out no connection on which anything came that was not asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # aiohttp has no other way to be given a protocol of one's own.
        self._factory = partial(_Protocol, asyncio.get_running_loop())  # type: ignore[assignment]

    async def connect(self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:
        """Take a connection from the pool, or make one."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol: Any = connection.protocol  # a _Protocol
            # An answer that came twice lies there, and would be taken for the next request's.
            if protocol.is_quiet():
                _current.get().connected(connection, protocol)
                return connection
            connection.close()
            if not protocol.is_used:
                raise aiohttp.ClientConnectionError("An answer came before anything was asked")

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        exchange = _current.get()
        # What a proxy takes is included.
        async with asyncio.timeout(exchange.seconds) as exchange.connecting:
            return await super()._create_connection(req, traces, timeout)


class _Protocol(ResponseHandler):
    """What aiohttp's own lacks: whether the line is quiet, and some leniency.

    A Content-Length that is there twice, some gateways write it so, is taken for the one that it is where
    all values agree (RFC 9112, 6.3); aiohttp's parser refuses it.
    """

    is_used = False
    """Whether anything was ever sent on it."""
    may_serve = True
    """Whether a request may go out on it: not before the last one's answer has named its order."""
    _expects_head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection."""
        super().connection_made(transport)
        self._unread = select.poll()
        self._unread.register(transport.get_extra_info("socket"), select.POLLIN)

    def is_quiet(self) -> bool:
        """Whether the last answer was its request's own, and nothing came since, its end included."""
        if self.should_close or not self.may_serve:
            return False
        # What the event loop has not got round to reading counts too, but for what TLS says at first.
        return not self.is_used or not self._unread.poll(0)

    def set_response_params(self, **params: Any) -> None:
        """A request goes out now."""
        self.is_used = self._expects_head = True
        self.may_serve = False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """A part of the answer is here, its fields commonly in the first one."""
        if self._expects_head:
            self._expects_head = False
            if _SEVERAL_LENGTHS.search(data):
                data = _with_one_length(data)
        super().data_received(data)


def _with_one_length(data: bytes) -> bytes:
    head, end, body = data.partition(b"\r\n\r\n")
    fields: list[bytes] = _LENGTH.findall(head)
    values = {value.strip() for field in fields for value in field.split(b",")}
    if len(values) != 1:
        return data
    return _LENGTH.sub(b"", head) + b"\r\nContent-Length: " + values.pop() + end + body


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
