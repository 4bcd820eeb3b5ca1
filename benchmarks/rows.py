"""Seconds and peak memory of a whole sync, for more and more rows.

    python -m benchmarks.rows URL DATABASE FIRST COUNT

is one sync in a process of its own; it prints what it took.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ways import sync


@dataclass(frozen=True, slots=True)
class Took:
    """What a sync took.

    :param rows: How many rows it had.
    :param seconds: From the query to the last ledger entry.
    :param megabytes: The most memory that its process held.
    """

    rows: int
    seconds: float
    megabytes: float


def measure(url: str, database: str, first: int, count: int) -> Took:
    """Sync so many refunds, from an order number on, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.rows", url, database, str(first), str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Took(count, **json.loads(done.stdout))


def slope(took: list[Took]) -> float:
    """The exponent of the power law that fits best: 1 where the time grows as the rows do."""
    from math import log

    x = [log(each.rows) for each in took]
    y = [log(each.seconds) for each in took]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def once(url: str, database: str, first: int, count: int) -> None:
    """One sync."""
    started = time.perf_counter()
    assert sync(url, database, database, first, count).outcomes == {"refunded": count}
    seconds = time.perf_counter() - started
    # Not getrusage: it begins with what the process held that started this one.
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    print(json.dumps({"seconds": seconds, "megabytes": int(peak[1]) / 1024}))


if __name__ == "__main__":
    once(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
