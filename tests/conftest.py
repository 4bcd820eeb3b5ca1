"""Fixtures: an empty Airflow home, a sandbox, and connections to it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Engine

# Before anything imports Airflow, which reads its configuration once.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="talkable-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"

from airflow_provider_talkable import ReferralUpdate, Refund, RefundResult
from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.client.sync import TalkableClient
from airflow_provider_talkable.sandbox import Sandbox
from tests import servers
from tests.network import self_signed
from tests.shop import Shop

pytest_plugins = ["tests.processes"]

KEY = "i9uil7nQgDjucCiTJu"

# The same examples in every run, of which `make check` tries a fifth; large tests are a fifth as large there.
for profile, percent in (("repeatable", 100), ("quick", 20)):
    settings.register_profile(
        profile,
        derandomize=True,
        database=None,
        # A busy machine is no failure.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        max_examples=percent,
    )
settings.load_profile("repeatable")


def sized(count: int) -> int:
    """So many, or what the profile leaves of them."""
    return count * settings().max_examples // 100


def examples(count: int, **more: Any) -> settings:
    """Settings of Hypothesis that try so many examples, or what the profile leaves of them."""
    return settings(max_examples=sized(count), **more)


Sandboxes = Callable[..., Sandbox]
Clients = Callable[..., "TalkableClient | Asynchronous"]


@pytest.fixture
def sandboxes() -> Iterator[Sandboxes]:
    """Starts sandboxes with the arguments given and stops them after the test."""
    with ExitStack() as running:

        def start(**arguments: object) -> Sandbox:
            return running.enter_context(Sandbox(**({"api_key": KEY} | arguments)))  # type: ignore[arg-type]

        yield start


@pytest.fixture
def sandbox(sandboxes: Sandboxes) -> Sandbox:
    """A sandbox that answers as Talkable does today, with one purchase, B00K2EOONI."""
    sandbox = sandboxes()
    sandbox.talkable.create_purchase("my-store", {"order_number": "B00K2EOONI", "subtotal": 100})
    return sandbox


class Waits(list[float]):
    """Stands in for the clock: waiting is written down and over at once."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


class Asynchronous:
    """The asynchronous client, behind the synchronous one's methods."""

    def __init__(self, config: ClientConfig, policy: RetryPolicy, waits: Waits) -> None:
        async def sleep(seconds: float) -> None:
            waits(seconds)

        self.config = config
        self._runner = asyncio.Runner()
        self._client = AsyncTalkableClient(config, policy, sleep=sleep)

    def __enter__(self) -> Asynchronous:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.run(self._client.__aexit__())
        self._runner.close()

    def refund(self, refund: Refund) -> RefundResult:
        return self._runner.run(self._client.refund(refund))

    def update_referral(self, update: ReferralUpdate) -> dict[str, Any] | None:
        return self._runner.run(self._client.update_referral(update))

    def referrals_as_friend(self, site_slug: str, person: str) -> list[dict[str, Any]]:
        return self._runner.run(self._client.referrals_as_friend(site_slug, person))

    def campaigns(self, site_slug: str) -> list[dict[str, Any]]:
        return self._runner.run(self._client.campaigns(site_slug))


@pytest.fixture(params=["requests", "aiohttp"])
def clients(request: pytest.FixtureRequest, waits: Waits) -> Iterator[Clients]:
    """Makes clients, of either kind, of a sandbox or of any URL; their waits go to ``waits``."""
    with ExitStack() as opened:

        def make(
            to: Sandbox | str, *, max_attempts: int = 5, throttle_patience: float = 300, **fields: object
        ) -> TalkableClient | Asynchronous:
            config = ClientConfig.parse(
                **({"host": to if isinstance(to, str) else to.url, "api_key": KEY} | fields)
            )
            policy = RetryPolicy(max_attempts, throttle_patience)
            if request.param == "aiohttp":
                return opened.enter_context(Asynchronous(config, policy, waits))
            return opened.enter_context(TalkableClient(config, policy, sleep=waits))

        yield make


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes ``talkable_default`` a connection to a sandbox and returns its id."""

    def make(sandbox: Sandbox, *, key: str = KEY, extra: str = "site_slug=my-store") -> str:
        host = sandbox.url.removeprefix("http://")
        monkeypatch.setenv("AIRFLOW_CONN_TALKABLE_DEFAULT", f"talkable://http://:{key}@{host}/?{extra}")
        return "talkable_default"

    return make


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes of this run."""
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def postgres_server(shared_folder: Path) -> Iterator[Callable[..., URL]]:
    """Makes empty databases on a real PostgreSQL that lives as long as the tests."""
    with servers.postgres(shared_folder) as new_database:
        yield new_database


@pytest.fixture(scope="session")
def used_databases() -> defaultdict[str, list[URL]]:
    """By encoding, the databases on PostgreSQL that tests have left."""
    return defaultdict(list)


@pytest.fixture
def postgres_in(
    postgres_server: Callable[..., URL], used_databases: defaultdict[str, list[URL]]
) -> Iterator[Callable[[str], URL]]:
    """Makes empty databases on a real PostgreSQL that keep their text in an encoding, as ``LATIN1``."""
    taken: list[tuple[str, URL]] = []

    def make(encoding: str) -> URL:
        if used := used_databases[encoding]:
            servers.empty(url := used.pop())
        else:
            url = postgres_server(encoding)
        taken.append((encoding, url))
        return url

    yield make
    # Some of the test's connections are closed later: whoever is next empties it.
    for encoding, url in taken:
        used_databases[encoding].append(url)


@pytest.fixture
def postgres(postgres_in: Callable[[str], URL]) -> URL:
    """An empty database on a real PostgreSQL."""
    return postgres_in("UTF8")


@pytest.fixture(scope="session")
def mariadb_server(shared_folder: Path) -> Iterator[Callable[[], URL]]:
    """Makes empty databases on a real MariaDB that lives as long as the tests."""
    with servers.mariadb(shared_folder) as new_database:
        yield new_database


@pytest.fixture
def mariadb(mariadb_server: Callable[[], URL]) -> URL:
    """An empty database on a real MariaDB."""
    return mariadb_server()


def _do_not_wait_for_the_disk(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def engines() -> Iterator[Callable[[URL], Engine]]:
    """Makes engines and lets go of their connections after the test."""
    made: list[Engine] = []

    def make(url: URL) -> Engine:
        made.append(create_engine(url))
        if url.get_backend_name() == "sqlite":
            event.listen(made[-1], "connect", _do_not_wait_for_the_disk)
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


@pytest.fixture
def sqlite(tmp_path: Path) -> URL:
    """An SQLite file that is yet to be made."""
    return URL.create("sqlite", database=str(tmp_path / "warehouse.sqlite"))


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> URL:
    """Each of the databases that the ledger is tested on."""
    url: URL = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def shop(sqlite: URL, engines: Callable[[URL], Engine], sandboxes: Sandboxes) -> Shop:
    """A shop whose warehouse is SQLite and whose Talkable answers with referrals."""
    return Shop(engines(sqlite), sandboxes(generation="seed"))


@pytest.fixture
def postgres_shop(postgres: URL, engines: Callable[[URL], Engine], sandboxes: Sandboxes) -> Shop:
    """A shop whose warehouse is PostgreSQL and whose Talkable answers with referrals."""
    return Shop(engines(postgres), sandboxes(generation="seed"))
