"""Tests in several processes are reported as they are in one, and so is what never came to an end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = """
import os
import signal
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def kept():
    (HERE / f"process-{os.getpid()}").touch()
    yield (HERE / "made").open("a").write("+")
    (HERE / "removed").open("a").write("-")


@pytest.mark.parametrize("number", range(40))
def test_good(number, kept, tmp_path):
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    (HERE / f"below-{tmp_path.parent.name}").touch()
    print("beside it")
    time.sleep(0.05)


@pytest.mark.takes_long
def test_bad(kept):
    print("before it fails")
    while len(list(HERE.glob("process-*"))) < 2:
        time.sleep(0.01)
    time.sleep(0.2)
    assert [1, 2] == [1, 3]


@pytest.mark.skip(reason="its report is what is looked at")
def test_later():
    pass


def test_killed():
    if KILLED:
        os.kill(os.getpid(), signal.SIGKILL)


def test_gone():
    if KILLED:
        os._exit(0)
"""


def run(folder: Path, *arguments: str, tests: str = "KILLED = False" + TESTS, status: int = 1) -> str:
    """Run pytest on tests, and return what it prints."""
    test = folder / "test_them.py"
    test.write_text(tests)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "-p",
        "tests.processes",
        *arguments,
        str(test),
    ]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        # Plugins that nothing here needs take longer than all that is done.
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_all_is_told_as_by_one_process(tmp_path: Path) -> None:
    output = run(tmp_path, "--processes=3", "-rA")
    assert "1 failed, 42 passed, 1 skipped" in output
    assert len(set(re.findall(r"^PASSED .*::(.*)", output, re.MULTILINE))) == 42
    assert re.search(r"^SKIPPED .*: its report is what is looked at$", output, re.MULTILINE)
    # Nothing is printed twice, or as what another test has printed.
    progress = "".join(re.findall(r"^([.Fs]+) *\[ *\d+%\]$", output, re.MULTILINE))
    assert len(progress) == 44
    assert re.search(r"Captured stdout call -+\nbefore it fails\n[=_]", output)
    assert "At index 1 diff: 2 != 3" in output
    assert len(list(tmp_path.glob("below-*"))) == 1
    # Each process has made and removed what its tests share.
    processes = len(list(tmp_path.glob("process-*")))
    assert 2 <= processes <= 3
    assert (tmp_path / "made").read_text() == "+" * processes
    assert (tmp_path / "removed").read_text() == "-" * processes


def test_a_test_whose_process_ends_has_failed(tmp_path: Path) -> None:
    output = run(tmp_path, "--processes=4", tests="KILLED = True" + TESTS)
    assert "The process that ran this test ended with -9." in output
    # A process that ends as if all were well has not told what became of its test either.
    assert "The process that ran this test ended with 0." in output
    assert "3 failed, 40 passed, 1 skipped" in output


def test_nothing_begins_after_as_many_failures_as_are_allowed(tmp_path: Path) -> None:
    output = run(tmp_path, "--processes=2", "--exitfirst", "-k", "bad or good")
    assert "stopping after 1 failures" in output
    [passed] = re.findall(r"1 failed, (\d+) passed", output)
    assert int(passed) < 40


def test_what_cannot_be_collected_is_told(tmp_path: Path) -> None:
    output = run(tmp_path, "--processes=2", tests="import nothing_of_that_name", status=2)
    assert "No module named 'nothing_of_that_name'" in output
