"""Runs Airflow's commands, and those of its providers, in processes of their own."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Timer

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
    return _server().run(module, arguments, dict(environment), folder, timeout)


@cache
def _server() -> ForkServer:
    """One for all tests of this process; it ends with it."""
    server = ForkServer()
    atexit.register(server.stop)
    return server


class ForkServer:
    """Has one process forked after the other."""

    def __init__(self) -> None:
        self._home = tempfile.mkdtemp(prefix="talkable-tests-")
        self._process: subprocess.Popen[str] | None = None

    def run(
        self,
        module: str,
        arguments: tuple[str, ...],
        environment: dict[str, str],
        folder: Path,
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        process = self._running()
        assert process.stdin
        assert process.stdout
        with tempfile.TemporaryDirectory(prefix="talkable-tests-") as output:
            out, err = Path(output, "out"), Path(output, "err")
            command = {
                "module": module,
                "arguments": arguments,
                "environment": environment,
                "folder": str(folder),
                "out": str(out),
                "err": str(err),
            }
            print(json.dumps(command), file=process.stdin, flush=True)
            late = Timer(timeout, os.killpg, (process.pid, 9))
            late.start()
            answer = process.stdout.readline()
            late.cancel()
            written = out.read_text() if out.exists() else "", err.read_text() if err.exists() else ""
        if not answer:
            raise subprocess.TimeoutExpired([module, *arguments], timeout, *written)
        return subprocess.CompletedProcess([module, *arguments], int(answer), *written)

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate()
        shutil.rmtree(self._home, ignore_errors=True)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                # Without the tests' folder, in which Airflow's modules might be found as well.
                [sys.executable, "-P", str(FORKSERVER)],
                env={**os.environ, "AIRFLOW_HOME": self._home},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        return self._process
