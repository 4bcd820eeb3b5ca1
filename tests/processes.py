"""Runs tests in several processes, which are forked once all tests are collected.

Processes that start by themselves, as those of pytest-xdist do, would each import Airflow and collect
all tests: on two processors that takes a fifth of what `make check` does.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

# Tests that share what each process would start anew run in one.
SHARING = {
    "the scheduler": r"tests/airflow/test_(scheduler\.py|asking\.py|kinds_of_run\.py::test_each_kind)",
    "what importing costs": r"tests/airflow/test_provider_info\.py::test_(importing|what_every_command)",
    "BigQuery's emulator": r"tests/warehouses/test_suite\.py::.*\[bigquery",
    "the pages, SQLite": r"tests/plugin/test_pages\.py::.*\[sqlite",
    "the pages, PostgreSQL": r"tests/plugin/test_pages\.py::.*\[postgres",
}

# All that is imported and collected stays: nobody has to look for what may be freed.
gc.disable()

_forking = multiprocessing.get_context("fork")
_Group = list[pytest.Item]
_Location = tuple[str, int | None, str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processes", type=int, default=1, metavar="N", help="run the tests in N processes")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def _groups(items: list[pytest.Item]) -> list[_Group]:
    """The tests, each with those that it shares something with, in the order in which they begin."""
    groups: dict[str, _Group] = {}
    for item in items:
        name = next((name for name, ids in SHARING.items() if re.match(ids, item.nodeid)), item.nodeid)
        groups.setdefault(name, []).append(item)
    # Neighbours are alike: all processes would wait at the same time, and compute at the same time.
    names = sorted(groups, key=lambda name: crc32(name.encode()))
    names.sort(key=lambda name: groups[name][0].get_closest_marker("takes_long") is None)
    return [groups[name] for name in names]


@dataclass
class _Process:
    process: multiprocessing.process.BaseProcess
    begun: tuple[str, _Location] | None = "", ("", None, "no test yet")
    """The test that it has begun last, until it is done with all."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Have each process take the group of tests that is next, and report what becomes of them."""
    count = session.config.getoption("processes")
    # What cannot be collected is told by pytest itself.
    if count == 1 or session.testsfailed or session.config.getoption("collectonly"):
        return None
    groups = _groups(session.items)
    taken = _forking.Value("i", 0)
    # The folder of all temporary ones is made now, and one.
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    processes: dict[Connection, _Process] = {}
    for _ in range(count):
        receiving, sending = _forking.Pipe(duplex=False)
        process = _forking.Process(target=_run, args=(session, groups, taken, sending))
        process.start()
        processes[receiving] = _Process(process)
        # It is closed for good when the process has ended.
        sending.close()
    while processes:
        for connection in set(processes).intersection(wait(processes)):
            try:
                _report(session, processes[connection], connection.recv())
            except EOFError:
                _ended(session, processes.pop(connection))
            if session.shouldfail or session.shouldstop:
                taken.value = len(groups)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


def _report(session: pytest.Session, process: _Process, message: Any) -> None:
    if message is None or isinstance(message, tuple):
        process.begun = message
        return
    hook = session.config.hook
    report = hook.pytest_report_from_serializable(config=session.config, data=message)
    hook.pytest_runtest_logreport(report=report)
    if report.when == "teardown":
        hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)


def _ended(session: pytest.Session, ended: _Process) -> None:
    ended.process.join()
    if ended.begun:
        how = f"The process that ran this test ended with {ended.process.exitcode}."
        report = pytest.TestReport(*ended.begun, {}, "failed", how, "call")
        session.config.hook.pytest_runtest_logreport(report=report)


class _Reporter:
    """Tells the first process what happens in this one."""

    def __init__(self, config: pytest.Config, sending: Connection) -> None:
        self._config = config
        self._sending = sending

    def pytest_runtest_logstart(self, nodeid: str, location: _Location) -> None:
        self._sending.send((nodeid, location))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._sending.send(data)


def _run(
    session: pytest.Session, groups: list[_Group], taken: Synchronized[int], sending: Connection
) -> None:
    """Run tests in this process until none is left."""
    config = session.config
    # What tests print goes to a file, which has to be another one in each process; what pytest prints is
    # printed by the first process.
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
    capture.start_global_capturing()
    capture.suspend_global_capture()
    config.pluginmanager.register(_Reporter(config, sending))
    try:
        while True:
            with taken.get_lock():
                number, taken.value = taken.value, taken.value + 1
            if number >= len(groups):
                break
            # What comes after a group is unknown, but that it is of this session.
            for item, following in pairwise([*groups[number], session]):
                config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    finally:
        capture.resume_global_capture()
        session._setupstate.teardown_exact(None)
        capture.suspend_global_capture()
    sending.send(None)
