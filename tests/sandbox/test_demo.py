"""What ``--demo`` writes into a folder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sandbox.demo import DAG_ID, EXAMPLE_DAGS, Demo
from tests.documents import block

COMMAND = [sys.executable, "-m", "airflow_provider_talkable.sandbox", "--demo", "--port", "0"]


def columns(warehouse: sqlite3.Connection) -> list[tuple[str, bool, bool]]:
    """Each column of the refunds: its name, whether it takes no NULL, whether it is the key."""
    return [(row[1], bool(row[3]), bool(row[5])) for row in warehouse.execute("PRAGMA table_info(refunds)")]


def test_the_command_fills_an_empty_folder_and_says_what_to_type(tmp_path: Path) -> None:
    with subprocess.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            said = ""
            while "run it again" not in said:
                line = server.stdout.readline()
                assert line, said
                said += line
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "airflow.env",
        "warehouse.sqlite",
        f"dags/{DAG_ID}.py",
    }
    settings = (tmp_path / "airflow.env").read_text()
    assert settings in said
    assert f"airflow dags test {DAG_ID}" in said


def test_the_settings_reach_a_shell_as_they_are(tmp_path: Path, sandbox: Sandbox) -> None:
    folder = tmp_path / 'a shop\'s "folder"'
    folder.mkdir()
    demo = Demo(folder)
    demo.make(sandbox)
    shown = subprocess.run(
        ["bash", "-ec", f"source {shlex.quote(str(demo.settings))}; env -0"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    seen = dict(line.split("=", 1) for line in shown.stdout.strip("\0").split("\0"))
    expected = demo.environment(sandbox)
    assert {name: seen[name] for name in expected} == expected


def test_the_refunds_are_recent_and_end_as_foretold(tmp_path: Path, sandbox: Sandbox) -> None:
    demo = Demo(tmp_path)
    expected = demo.make(sandbox)
    held = sandbox.talkable.snapshot()["my-store"]
    with closing(sqlite3.connect(demo.warehouse)) as warehouse:
        rows = warehouse.execute("SELECT order_number, refunded_at FROM refunds").fetchall()
        made = columns(warehouse)
    outcomes = Counter(
        "not_found"
        if number not in held
        else "already_refunded"
        if held[number]["refunded_at"] and not held[number]["partially_refunded"]
        else "refunded"
        for number, _ in rows
    )
    assert outcomes == expected
    assert len(expected) == 3
    now = datetime.now(UTC)
    assert all(timedelta(0) < now - datetime.fromisoformat(at) < timedelta(days=2) for _, at in rows)
    # The examples' tables, as their page has them.
    with closing(sqlite3.connect(":memory:")) as page:
        page.executescript(block("docs/examples.md", "sql", "CREATE TABLE refunds"))
        assert made == columns(page)


def test_the_dag_is_the_example_and_what_the_readme_shows(tmp_path: Path, sandbox: Sandbox) -> None:
    demo = Demo(tmp_path)
    demo.make(sandbox)
    example = (EXAMPLE_DAGS / f"{DAG_ID}.py").read_text()
    assert demo.dag.read_text() == example
    assert example.endswith('"""\n\n' + block("README.md", "python", "SqlToTalkableRefundOperator"))


@pytest.mark.parametrize("name", ["airflow.env", "warehouse.sqlite", f"dags/{DAG_ID}.py"])
def test_what_is_there_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / name).write_text("mine")
    done = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path / name} exists: run --demo in an empty folder\n"
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["mine"]


def test_other_sites_than_the_demos_are_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--site", "other"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (1, "--demo has the site my-store only: leave out --site\n")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_writes_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    port = sandbox.url.rpartition(":")[2]
    done = subprocess.run(
        [*COMMAND[:-1], port], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"Cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --host and --port\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("no-such.invalid", "Name or service not known|Temporary failure in name resolution"),
        # An address of the documentation's, which no machine has.
        ("203.0.113.1", r"Cannot assign requested address|could not bind on any address out of .*"),
    ],
)
def test_a_host_that_is_not_this_machine_is_named_with_the_reason(
    tmp_path: Path, host: str, reason: str
) -> None:
    command = [*COMMAND, "--host", host]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    message = rf"Cannot listen on {re.escape(host)}:\d+: ({reason}); choose another with --host and --port\n"
    assert re.fullmatch(message, done.stderr)
    assert list(tmp_path.iterdir()) == []
