"""Commands that are forked from what has imported Airflow end as others do."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.airflow.commands import fork
from tests.network import wait_until

pytestmark = pytest.mark.airflow_process


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "AIRFLOW_HOME": str(tmp_path)}


def test_output_and_exit_status_are_told(tmp_path: Path, environment: dict[str, str]) -> None:
    done = fork("timeit", "--no-such-option", environment=environment, folder=tmp_path)
    assert done.returncode == 2
    assert "--no-such-option not recognized" in done.stdout + done.stderr


def test_what_takes_too_long_is_ended_and_nothing_else(tmp_path: Path, environment: dict[str, str]) -> None:
    over = tmp_path / "over"
    program = f"""
import os, time
open({str(tmp_path)!r} + f"/{{os.getpid()}}.began", "x")
while not os.path.exists({str(over)!r}):
    time.sleep(0.1)
"""

    def wait(timeout: float) -> subprocess.CompletedProcess[str]:
        once = ("-n1", "-r1", program)
        return fork("timeit", *once, environment=environment, folder=tmp_path, timeout=timeout)

    def running() -> set[int]:
        pids = {int(path.stem) for path in tmp_path.glob("*.began")}
        # In a container nobody may collect what is left of a process.
        processes = psutil.process_iter(["status"])
        return pids & {each.pid for each in processes if each.info["status"] != psutil.STATUS_ZOMBIE}

    with ThreadPoolExecutor(1) as beside:
        try:
            other = beside.submit(wait, 120)
            while not (first := running()):
                assert not other.done(), other.result()
                time.sleep(0.1)
            with pytest.raises(subprocess.TimeoutExpired):
                wait(5)
            # A process that is killed has not ended at once.
            wait_until(lambda: running() == first)
        finally:
            over.touch()
        assert other.result().returncode == 0
