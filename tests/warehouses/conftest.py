"""The warehouses: real ones, and what stands in for them, each with the refunds in it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.hooks import databases
from tests.conftest import Sandboxes
from tests.network import free_port
from tests.shop import connect_of
from tests.warehouses.refunds import Refunded, refunds
from tests.warehouses.sync import Shop

ELSEWHERE = "only in the environment of `make warehouses`, where it runs"
Making = Callable[[dict[str, Any]], str]


@dataclass(frozen=True)
class Dialect:
    """What differs in SQL.

    :param moment: The type of a moment in UTC with milliseconds.
    :param literal: How one is written.
    :param schema: Where the ledger lies.
    :param commits: Whether the driver knows of transactions unless it is asked to begin one.
    """

    text: str = "VARCHAR(200)"
    moment: str = "TIMESTAMPTZ"
    literal: str = "'{}+00:00'"
    table: str = "refunds"
    schema: str | None = None
    commits: bool = True


DIALECTS = {
    "sqlite": Dialect(moment="VARCHAR(40)"),
    "postgres": Dialect(),
    "mariadb": Dialect("VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin", "DATETIME(3)", "'{}'"),
    "duckdb": Dialect(commits=False),
    "snowflake": Dialect(moment="TIMESTAMP_TZ"),
    "clickhouse": Dialect("Nullable(String)", "DateTime64(3, 'UTC')", "'{}'", commits=False),
    "bigquery": Dialect("STRING", "TIMESTAMP", "TIMESTAMP '{}+00:00'", "shop.refunds", "shop"),
}


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Making:
    """Makes an Airflow connection."""

    def make(fields: dict[str, Any]) -> str:
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))
        return "warehouse"

    return make


@pytest.fixture
def sqlite_connection(making: Making, tmp_path: Path) -> str:
    return making({"conn_type": "sqlite", "host": str(tmp_path / "warehouse.sqlite")})


@pytest.fixture
def postgres_connection(making: Making, postgres: URL) -> str:
    host = str(postgres.query["host"])
    return making(
        {"conn_type": "postgres", "host": host, "login": postgres.username, "schema": postgres.database}
    )


@pytest.fixture
def duckdb_connection(making: Making, tmp_path: Path) -> str:
    pytest.importorskip("duckdb_engine", reason=ELSEWHERE)
    return making({"conn_type": "duckdb", "host": str(tmp_path / "warehouse.duckdb")})


@pytest.fixture
def clickhouse(tmp_path: Path) -> URL:
    """A ClickHouse in the process."""
    for package in ("chdb", "clickhouse_connect"):
        pytest.importorskip(package, reason=ELSEWHERE)
    return URL.create("clickhousedb", query={"interface": "chdb", "path": str(tmp_path / "clickhouse")})


@pytest.fixture
def snowflake_connection(making: Making) -> Iterator[str]:
    fakesnow = pytest.importorskip("fakesnow", reason=ELSEWHERE)
    with fakesnow.patch():
        yield making(
            {
                "conn_type": "snowflake",
                "login": "shop",
                "password": "secret",
                "schema": "PUBLIC",
                "extra": {"account": "shop", "database": "SHOP", "warehouse": "SHOP"},
            }
        )


@pytest.fixture(scope="session")
def bigquery_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an emulator that runs as long as the tests."""
    python = os.environ.get("BQEMULATOR")
    if not python:
        pytest.skip(ELSEWHERE)
    home = tmp_path_factory.mktemp("bqemulator")
    _copy_extensions(Path(python), home)
    port, grpc = free_port(), free_port()
    command = [str(Path(python).with_name("bqemulator")), "start"]
    command += ["--rest-port", str(port), "--grpc-port", str(grpc), "--log-level", "warning"]
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "HOME": str(home)}
    with (
        (home / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as server,
    ):
        try:
            _wait_for(port, lambda: (home / "log").read_text())
            yield url
        finally:
            server.terminate()
            server.wait(60)


def _copy_extensions(python: Path, home: Path) -> None:
    """To where DuckDB looks for them, so that it downloads none."""
    script = "import sysconfig, duckdb; c = duckdb.connect(); print(sysconfig.get_path('purelib'));"
    script += " print(c.execute('PRAGMA platform').fetchone()[0]); print('v' + duckdb.__version__)"
    said = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    packages, platform, version = said.stdout.split()
    folder = home / ".duckdb" / "extensions" / version / platform
    folder.mkdir(parents=True)
    for extension in Path(packages).glob(f"duckdb_extension_*/extensions/{version}/*.duckdb_extension"):
        shutil.copy(extension, folder)


def _wait_for(port: int, log: Callable[[], str]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, log()
            time.sleep(0.2)
        else:
            return


class _Tokens(BaseHTTPRequestHandler):
    """Gives a token to whoever asks, as Google's own server does to a service account."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="session")
def service_account() -> Iterator[dict[str, str]]:
    """A key file whose tokens come from this machine."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with HTTPServer(("127.0.0.1", 0), _Tokens) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "type": "service_account",
            "project_id": "shop-project",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": "shop@shop-project.example.com",
            "client_id": "1",
            "token_uri": f"http://127.0.0.1:{server.server_port}/token",
        }
        server.shutdown()


@pytest.fixture
def bigquery_connection(
    making: Making,
    bigquery_emulator: str,
    service_account: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery_emulator)
    dataset = {"datasetReference": {"projectId": "shop-project", "datasetId": "shop"}}
    datasets = f"{bigquery_emulator}/bigquery/v2/projects/shop-project/datasets"
    request = urllib.request.Request(
        datasets, json.dumps(dataset).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=60).close()
    # The type that most people have: its own hook speaks no SQL.
    yield making(
        {
            "conn_type": "google_cloud_platform",
            "extra": {"keyfile_dict": json.dumps(service_account), "project": "shop-project"},
        }
    )
    gone = urllib.request.Request(f"{datasets}/shop?deleteContents=true", method="DELETE")
    urllib.request.urlopen(gone, timeout=60).close()


@pytest.fixture(params=list(DIALECTS))
def shop(
    request: pytest.FixtureRequest, sandboxes: Sandboxes, engines: Callable[[URL], Engine]
) -> Iterator[Shop]:
    """A shop on each warehouse, read and written as an Airflow connection does, with all of its refunds."""
    kind = request.param
    dialect = DIALECTS[kind]
    with ExitStack() as opened:
        if kind == "mariadb":
            # Its provider needs a compiler; the driver is what `pip` alone installs.
            engine = engines(request.getfixturevalue("mariadb"))
            connect: Callable[[], Any] = partial(connect_of(engine), init_command="SET time_zone = '+00:00'")
        elif kind == "clickhouse":
            # Its provider connects to servers only.
            engine = engines(request.getfixturevalue("clickhouse"))
            connect = connect_of(engine)
        else:
            conn_id = request.getfixturevalue(f"{kind}_connection")
            engine, connect = databases.engine_of(conn_id, opened), databases.connect_of(conn_id)
        shop = Shop(kind, connect, engine, sandboxes(generation="seed"), dialect.table, dialect.schema)
        _fill(connect, dialect, refunds())
        for row in refunds():
            if row.event == "refunded":
                shop.order(row.order)
        yield shop


def _fill(connect: Callable[[], Any], dialect: Dialect, rows: list[Refunded]) -> None:
    with closing(connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(
            f"CREATE TABLE {dialect.table}"
            f" (number INTEGER, refund_key {dialect.text}, order_number {dialect.text},"
            f" refunded_at {dialect.moment}, refund_subtotal {dialect.text})"
        )
        for start in range(0, len(rows), 300):
            cursor.execute(
                f"INSERT INTO {dialect.table} VALUES "
                + ", ".join(
                    _literal(dialect, number, row)
                    for number, row in enumerate(rows[start : start + 300], start)
                )
            )
        if dialect.commits:
            connection.commit()


def _literal(dialect: Dialect, number: int, row: Refunded) -> str:
    subtotal = "NULL" if row.subtotal is None else f"'{row.subtotal}'"
    return f"({number}, '{row.key}', '{row.order}', {dialect.literal.format(row.at)}, {subtotal})"
