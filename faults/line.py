"""The line between a client and Talkable, which breaks when and how it is told."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPConnection
from io import BufferedReader
from itertools import repeat

from airflow_provider_talkable.sandbox import Sandbox


class Moment(StrEnum):
    """Up to where a request gets."""

    CONNECTING = "while connecting"
    BEFORE = "before Talkable acts"
    ACTED = "Talkable acted, no answer yet"
    STATUS_LINE = "in the answer's status line"
    HEADERS = "in its headers"
    BODY = "in its body"


class Kind(StrEnum):
    """How it ends there."""

    REFUSED = "refused"
    RESET = "reset"
    CLOSED = "closed"
    SILENCE = "silence"
    DRIP = "byte by byte"
    GARBAGE = "garbage"
    ANSWER = "another answer"


class Tells(StrEnum):
    """What the client may conclude, by the pages; written down here and not asked of the package."""

    NOT_SENT = "nothing was sent"
    DOUBT = "Talkable may have acted"
    THROTTLED = "throttled"
    KEY_REFUSED = "the key is refused"
    FOREIGN = "somebody else refused it"
    SENT_ELSEWHERE = "nothing was done"


GARBAGE = b"\x16\x03\xff\x00\x00garbage\xfe\r\n\r\n" + b"\xc3\x28" * 300


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure.

    :param answer: What is answered whole in Talkable's place, if it is an answer.
    """

    moment: Moment
    kind: Kind
    tells: Tells = Tells.DOUBT
    name: str = ""
    answer: bytes = b""

    @property
    def acted(self) -> bool:
        return self.moment not in (Moment.CONNECTING, Moment.BEFORE)

    def __str__(self) -> str:
        return self.name or self.kind


class Line:
    """A proxy on a port of this machine, while it is entered.

    :param sandbox: Where it leads.
    :param faults: What happens to the requests, one each; after the last one all is well. Or a fault
        that happens to each of them.
    :param times: How often that one happens.
    """

    def __init__(self, sandbox: Sandbox, faults: Iterator[Fault | None] | Fault, times: int = 0) -> None:
        self.seen: list[tuple[str, Fault | None]] = []
        """The slug of each request that came, and what happened to it."""
        self._sandbox = sandbox
        self._faults: Iterator[Fault | None] = iter(())
        self._connecting: Fault | None = None
        self._failures_left = times
        if not isinstance(faults, Fault):
            self._faults = faults
        elif faults.moment is Moment.CONNECTING:
            self._connecting = faults
        else:
            self._faults = repeat(faults, times)
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self._fillers: list[socket.socket] = []
        self._listening = socket.socket()
        # Bound, so that nobody else takes the port; connections are refused until it listens.
        self._listening.bind(("127.0.0.1", 0))
        self._address = self._listening.getsockname()
        self.url = f"http://127.0.0.1:{self._address[1]}"

    def __enter__(self) -> Line:
        if self._connecting is None:
            self._open()
        elif self._connecting.kind is Kind.SILENCE:
            # With a queue of one that nobody empties, the next one's knock is not answered.
            self._listening.listen(0)
            self._fillers = [socket.socket() for _ in range(3)]
            for filler in self._fillers:
                filler.setblocking(False)
                filler.connect_ex(self._address)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for unused in (*self._fillers, self._listening):
            unused.close()

    def attempt_failed(self) -> None:
        """Told after each attempt that failed."""
        if self._connecting:
            self._failures_left -= 1
            if self._failures_left == 0:
                self.mend()

    def mend(self) -> None:
        """From now on all is well."""
        self._faults = iter(())
        if self._connecting:
            self._connecting = None
            for filler in self._fillers:
                filler.close()
            self._open()

    def _open(self) -> None:
        self._listening.listen(128)
        self._start(self._accept)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        self._listening.settimeout(0.05)
        while not self._is_over.is_set():
            with suppress(TimeoutError):
                connection, _ = self._listening.accept()
                self._connections.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(ConnectionError), connection, connection.makefile("rb") as requests:
            while request := _read(requests):
                with self._lock:
                    fault = next(self._faults, None)
                    self.seen.append((request[1].split("/")[4], fault))
                if fault is None:
                    connection.sendall(self._forward(*request))
                elif not self._break(connection, requests, fault, request):
                    return

    def _break(
        self,
        connection: socket.socket,
        requests: BufferedReader,
        fault: Fault,
        request: tuple[str, str, dict[str, str], bytes],
    ) -> bool:
        """Do to a request what is to be done, and say whether the connection outlives it."""
        answer = self._forward(*request) if fault.acted else b""
        if fault.kind is Kind.ANSWER:
            connection.sendall(fault.answer)
            return True
        end = _end(fault.moment, answer)
        connection.sendall(answer[:end])
        if fault.kind is Kind.GARBAGE and fault.moment is Moment.BODY:
            # Of the length that was announced: nothing but its sense is amiss.
            connection.sendall(GARBAGE[: len(answer) - end])
            return True
        if fault.kind is Kind.GARBAGE:
            connection.sendall(GARBAGE)
        elif fault.kind is Kind.DRIP:
            for byte in answer[end:]:
                connection.sendall(bytes((byte,)))
                if self._is_over.wait(0.3):
                    break
        elif fault.kind is Kind.SILENCE:
            requests.read()  # until the client hangs up
        elif fault.kind is Kind.RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
        onward = HTTPConnection(self._sandbox.url.removeprefix("http://"), timeout=30)
        try:
            onward.request(method, path, body, headers)
            answer = onward.getresponse()
            return rendered(answer.status, answer.read())
        finally:
            onward.close()


def rendered(status: int, body: bytes = b"", content_type: str = "application/json", *more: str) -> bytes:
    """An answer as it is on the wire."""
    lines = (f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *more)
    return "\r\n".join((*lines, "", "")).encode() + body


def _read(requests: BufferedReader) -> tuple[str, str, dict[str, str], bytes] | None:
    if not (line := requests.readline().decode()):
        return None
    headers: dict[str, str] = {}
    while header := requests.readline().decode().strip():
        name, value = header.split(": ", 1)
        headers[name.title()] = value
    method, path, _ = line.split(" ")
    return method, path, headers, requests.read(int(headers.get("Content-Length", 0)))


def _end(moment: Moment, answer: bytes) -> int:
    """How many bytes of the answer get through."""
    match moment:
        case Moment.STATUS_LINE:
            return len("HTTP/1.1 20")
        case Moment.HEADERS:
            return answer.index(b"Content-Length") + len("Content-Le")
        case Moment.BODY:
            return (answer.index(b"\r\n\r\n") + 4 + len(answer)) // 2
    return 0
