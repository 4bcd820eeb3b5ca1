"""Servers and proxies that misbehave on the wire, and write down what they have read."""

from __future__ import annotations

import atexit
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from airflow_provider_talkable.sandbox import Sandbox

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"ok": true}'
_PATIENCE = 30.0


class Line:
    """One connection to a peer."""

    def __init__(self, peer: Peer, wire: socket.socket) -> None:
        self.peer = peer
        self._wire = wire

    def read_request(self) -> bytes:
        """Read a whole request, with its body, and write it down; empty once the client has hung up."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := self._wire.recv(65536)):
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += self._wire.recv(65536)
        self.peer.requests.append(head + b"\r\n\r\n" + body)
        return self.peer.requests[-1]

    def send(self, data: bytes) -> None:
        """Send all of it at once."""
        self._wire.sendall(data)

    def drip(self, data: bytes, every: float = 0.05) -> None:
        """Send it byte by byte."""
        for byte in data:
            self._wire.sendall(bytes((byte,)))
            if self.peer.is_over.wait(every):
                return

    def repeat(self, data: bytes, every: float = 0.005) -> None:
        """Send it again and again."""
        while not self.peer.is_over.wait(every):
            self._wire.sendall(data)

    def wait(self) -> None:
        """Say nothing more, until the client hangs up or the test is over."""
        while not self.peer.is_over.is_set() and self._wire.recv(65536):
            pass

    def reset(self) -> None:
        """Break the connection instead of closing it."""
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS from here on."""
        self._wire = context.wrap_socket(self._wire, server_side=True)
        self.peer.wires.append(self._wire)

    def tunnel(self, host: str, port: int) -> None:
        """Carry bytes both ways until one side hangs up."""
        with socket.create_connection((host, port)) as onward:
            back = threading.Thread(target=_pump, args=(onward, self._wire))
            back.start()
            _pump(self._wire, onward, self.peer.carried)
            back.join()


class Peer:
    """Whoever is at the other end, on a port of this machine, while it is entered.

    :param behave: What it does on each connection; called in a thread of the connection's own.
    """

    def __init__(self, behave: Callable[[Line], None]) -> None:
        self.requests: list[bytes] = []
        """The requests that were read to their ends."""
        self.carried = bytearray()
        """What went through a tunnel, on its way there."""
        self.connections = 0
        self.is_over = threading.Event()
        self._behave = behave
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listening.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._threads: list[threading.Thread] = []
        self.wires: list[socket.socket] = []
        """The connections, to be ended with the test."""

    def __enter__(self) -> Peer:
        self._threads.append(threading.Thread(target=self._accept))
        self._threads[0].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.is_over.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        for wire in list(self.wires):
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE)
            assert not thread.is_alive()
        self._listening.close()

    def _accept(self) -> None:
        while not self.is_over.is_set():
            try:
                wire, _ = self._listening.accept()
            except OSError:
                return
            wire.settimeout(_PATIENCE)
            self.connections += 1
            self.wires.append(wire)
            thread = threading.Thread(target=self._serve, args=(wire,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, wire: socket.socket) -> None:
        line = Line(self, wire)
        # The client hangs up, or the test is over.
        with suppress(OSError):
            self._behave(line)
        with suppress(OSError):
            line._wire.close()


def _pump(source: socket.socket, to: socket.socket, record: bytearray | None = None) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if record is not None:
                record += data
            to.sendall(data)
    for end in (source, to):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def answering(*answers: bytes) -> Callable[[Line], None]:
    """A server that answers with these in turn, the last one for good."""

    def behave(line: Line) -> None:
        count = 0
        while line.read_request():
            line.send(answers[min(count, len(answers) - 1)])
            count += 1

    return behave


def connect_proxy(line: Line) -> None:
    """A good proxy, which knows no names but numbers."""
    request = line.read_request()
    host, port = request.split(b" ")[1].decode().rsplit(":", 1)
    line.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    line.tunnel(host, int(port))


@contextmanager
def with_tls(sandbox: Sandbox, certificate: tuple[Path, Path]) -> Iterator[str]:
    """The sandbox behind TLS; yields its URL."""
    context = server_context(certificate)
    port = int(sandbox.url.rpartition(":")[2])

    def behave(line: Line) -> None:
        line.wrap(context)
        line.tunnel("127.0.0.1", port)

    with Peer(behave) as peer:
        yield f"https://{peer.address}"


def server_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """What a server speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def free_port() -> int:
    """A port of this machine that nobody listens on but a server that is told to.

    This process keeps it until it ends: another test would soon be given one that is let go of.
    """
    kept = socket.socket()
    # A server on it sets the same.
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    atexit.register(kept.close)
    port: int = kept.getsockname()[1]
    return port


def unused_address() -> str:
    """An address of this machine that nobody listens on."""
    return f"127.0.0.1:{free_port()}"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed but its own key, and that key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


class Lag:
    """How late this machine is at most with what it is to do now, while it is entered."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Lag:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.is_set():
            started = time.monotonic()
            self._is_over.wait(0.01)
            self.seconds = max(self.seconds, time.monotonic() - started - 0.01)


def wait_until(is_so: Callable[[], object], *, seconds: float = _PATIENCE) -> None:
    """Return as soon as it is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
