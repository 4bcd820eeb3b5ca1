"""Runs Airflow's commands, and those of its providers, in processes of their own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Timer

from tests.servers import locked

SOCKET = "TALKABLE_TESTS_FORKS"
"""The environment variable with the path of the server's socket."""
# Of the run: the processes that run its tests are forked from the one that imports this.
OWNER = os.getpid()
# Below pytest's own folder the socket's path would be too long.
FOLDER = Path(tempfile.gettempdir(), f"talkable-forks-{secrets.token_hex(16)}")
FORKSERVER = Path(__file__).with_name("forkserver.py")


def start(
    module: str, *arguments: str, environment: Mapping[str, str], folder: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m`` with a module in a new process, as people do; it takes seconds to import Airflow.

    :param timeout: Seconds after which it fails.
    """
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def fork(
    module: str, *arguments: str, environment: Mapping[str, str], folder: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """The same in a process that is forked from one that has imported Airflow.

    :param environment: Of the process; has AIRFLOW_HOME.
    :param timeout: Seconds after which it fails.
    """
    with (
        tempfile.TemporaryDirectory(prefix="talkable-tests-") as output,
        socket.socket(socket.AF_UNIX) as connection,
        connection.makefile("rw") as stream,
    ):
        connection.connect(server())
        group = int(stream.readline())
        out, err = Path(output, "out"), Path(output, "err")
        command = {
            "module": module,
            "arguments": arguments,
            "environment": dict(environment),
            "folder": str(folder),
            "out": str(out),
            "err": str(err),
        }
        print(json.dumps(command), file=stream, flush=True)
        late = Timer(timeout, os.killpg, (group, signal.SIGKILL))
        late.start()
        answer = stream.readline()
        late.cancel()
        written = out.read_text() if out.exists() else "", err.read_text() if err.exists() else ""
    if not answer:
        raise subprocess.TimeoutExpired([module, *arguments], timeout, *written)
    return subprocess.CompletedProcess([module, *arguments], int(answer), *written)


def server() -> str:
    """The server's socket. Whoever of the run comes first starts it; it ends with the run."""
    if SOCKET in os.environ:
        return os.environ[SOCKET]
    FOLDER.mkdir(exist_ok=True)
    with locked(FOLDER, "server"), (FOLDER / "log").open("a") as log:
        if not (FOLDER / "socket").exists():
            subprocess.run(
                # Without the tests' folder, in which Airflow's modules might be found as well.
                [sys.executable, "-P", str(FORKSERVER), str(FOLDER), str(OWNER)],
                env={**os.environ, "AIRFLOW_HOME": str(FOLDER)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                timeout=120,
                check=True,
            )
    # The processes that tests start have it as well.
    os.environ[SOCKET] = str(FOLDER / "socket")
    return os.environ[SOCKET]
