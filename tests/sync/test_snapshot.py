"""A query's rows on local disk."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.snapshot import Snapshot
from tests.conftest import sized

ROWS = [
    Row("my-store", "r2", "B", datetime(2026, 4, 27, 7, 0, 0, 123000, UTC), Decimal("0.1000")),
    Row("my-store", "r1", "Ä\n🛒'\"", None, Decimal("99999999999.9999")),
    Row("other", "r1", "A"),
    Row("my-store", "r3", "", problem=Outcome.INVALID, message="is not a date"),
]


def kept(rows: list[Row], *, at_a_time: int = 100) -> list[Row]:
    with Snapshot() as snapshot:
        snapshot.fill(iter(rows))
        taken: list[Row] = []
        while some := snapshot.take(at_a_time):
            assert len(some) <= at_a_time
            taken += some
        return taken


@pytest.mark.parametrize("at_a_time", [1, 3, 100])
def test_rows_come_back_as_they_were_in_the_same_order(at_a_time: int) -> None:
    assert kept(ROWS, at_a_time=at_a_time) == ROWS


def test_equal_rows_are_one() -> None:
    with Snapshot() as snapshot:
        snapshot.fill(ROWS * 3)
        assert (snapshot.rows, snapshot.refunds) == (12, 4)
        assert snapshot.take(100) == ROWS
        assert snapshot.take(100) == []


@pytest.mark.parametrize(
    "other",
    [
        Row("my-store", "r1", "A", None, Decimal(6)),
        Row("my-store", "r1", "A", None, None),
        Row("my-store", "r1", "A", datetime(2026, 4, 27, tzinfo=UTC), Decimal(5)),
        Row("my-store", "r1", "B", None, Decimal(5)),
        Row("my-store", "r1", "A", problem=Outcome.INVALID, message="is not a date"),
    ],
    ids=["amount", "no amount", "date", "origin", "invalid"],
)
def test_rows_that_differ_under_one_key_are_a_conflict(other: Row) -> None:
    row = Row("my-store", "r1", "A", None, Decimal(5))
    for rows in ([row, other], [other, row], [row, other, row, row]):
        found = kept(rows)
        assert [one.origin_slug for one in found] == [one.origin_slug for one in rows[:2]]
        for one in found:
            assert one.problem is Outcome.CONFLICT
            assert one.message
            assert f"{len(rows)} rows of the query have this refund_key and differ" in one.message


def test_rows_of_other_keys_and_sites_are_no_part_of_a_conflict() -> None:
    rows = [
        Row("s", "1", "A"),
        Row("s", "1", "B"),
        Row("t", "1", "A"),
        Row("s", "2", "A"),
        Row("s", "1", "A"),
    ]
    with Snapshot() as snapshot:
        snapshot.fill(rows)
        assert (snapshot.rows, snapshot.refunds, snapshot.sites) == (5, 4, ["s", "t"])
        assert [one.problem for one in snapshot.take(10)] == [Outcome.CONFLICT, Outcome.CONFLICT, None, None]


def test_many_rows_under_one_key_take_no_longer_than_under_many() -> None:
    count = sized(100_000)
    seconds = []
    for key in (lambda n: "0", str):
        started = time.process_time()
        with Snapshot() as snapshot:
            snapshot.fill(Row("s", key(n), f"O{n}") for n in range(count))
            assert sum(len(rows) for rows in iter(lambda: snapshot.take(500), [])) == count
        seconds.append(time.process_time() - started)
    assert seconds[0] < 3 * seconds[1]


def test_no_rows_are_no_rows() -> None:
    with Snapshot() as snapshot:
        snapshot.fill([])
        assert (snapshot.rows, snapshot.refunds, snapshot.take(10)) == (0, 0, [])


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    with Snapshot() as snapshot:
        snapshot.fill(Row("my-store", f"r{n}", "A" * 100) for n in range(50_000))
        assert list(tmp_path.iterdir()) == []
        assert len(snapshot.take(10)) == 10
    assert list(tmp_path.iterdir()) == []


# What the system calls the most memory of a process includes that of the one that started it.
FILL = """
import resource, signal, sys
import psutil
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.snapshot import Snapshot
count, length, limit = map(int, sys.argv[1:])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
most = 0
def look():
    global most
    most = max(most, psutil.Process().memory_info().rss)
def rows():
    for number in range(count):
        if number % 500 == 0:
            look()
        yield Row("my-store", f"refund-{number}", str(number).zfill(length))
with Snapshot() as snapshot:
    snapshot.fill(rows())
    while snapshot.take(500):
        look()
print(most)
"""


def fill(count: int, *, length: int = 10, file_size: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FILL, str(count), str(length), str(file_size)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_memory_does_not_grow_with_the_rows() -> None:
    """All of the rows are some 80 MB: fewer and longer in `make check`."""
    most = sized(200_000)
    few, many = (int(fill(count, length=40_000_000 // most).stdout) for count in (2_000, most))
    assert many - few < 20_000_000


def test_a_full_disk_says_what_to_do() -> None:
    failed = fill(200_000, file_size=1_000_000).stderr
    assert "The query's rows could not be kept on local disk" in failed
    assert "set TMPDIR to where there is room" in failed
