"""Settled refunds: how fast they are looked up and decided on, beside a ledger of five million entries.

    python -m benchmarks.settled ENTRIES COUNT …

compares, in one run and in turns, looking each entry up and deciding on it, as is done where somebody waits
for the result of each refund, with leaving out what is plainly settled, as a sync does. Each turn is in a
process of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import median

from sqlalchemy import create_engine, text

from airflow_provider_talkable.sync.intake import Intake
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.records import Records
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.summary import Summary
from benchmarks import servers

ENTRIES = 5_000_000
RUNS = 5
WAYS = ("one by one", "left out")

_FILL = """
INSERT INTO talkable_refund_ledger (
    site_slug, refund_key, entry_id, logged_at, event, origin_slug, refunded_at, refund_subtotal, attempts,
    sending_until)
SELECT 'my-store', 'refund-' || n, lpad(to_hex(1700000000000000000 + n * 1000 + said), 16, '0') || '00000001',
    timestamptz '2024-01-01' + n * interval '1 second', CASE said WHEN 0 THEN 'submitted' ELSE 'refunded' END,
    'order-' || n, timestamptz '2023-12-31 12:00:00.25+00', 12.5, said,
    CASE said WHEN 0 THEN timestamptz '2024-01-02' + n * interval '1 second' END
FROM generate_series(CAST(1 AS bigint), :refunds) n, generate_series(0, 1) said"""


@dataclass(frozen=True, slots=True)
class Took:
    """What looking up and deciding took.

    :param seconds: By the clock.
    :param processor: Of this process's processor time.
    :param filling: Seconds that the copy on local disk took before.
    :param megabytes: The most memory that the process held.
    """

    seconds: float
    processor: float
    filling: float
    megabytes: float


def fill(database: str, entries: int) -> None:
    """Make a ledger of so many entries, two for each refund."""
    engine = create_engine(database)
    Ledger(engine).open()
    with engine.begin() as connection:
        connection.execute(text(_FILL), {"refunds": entries // 2})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE talkable_refund_ledger"))
    engine.dispose()


def once(database: str, count: int, way: str) -> Took:
    """Decide on so many settled refunds."""
    from datetime import UTC, datetime

    moment = datetime(2023, 12, 31, 12, 0, 0, 250_000, tzinfo=UTC)
    amount = Decimal("12.5000")
    ledger, summary = Ledger(create_engine(database)), Summary()
    ledger.open()
    records = Records(ledger, summary, (lambda _row, _result: None) if way == WAYS[0] else None)
    began = time.perf_counter()
    with Snapshot() as snapshot:
        snapshot.fill(
            Row("my-store", f"refund-{n}", f"order-{n}", moment, amount) for n in range(1, count + 1)
        )
        filled = time.perf_counter()
        intake = Intake(
            snapshot,
            ledger,
            records,
            resend=frozenset(),
            resend_keys=frozenset(),
            void_referral=False,
        )
        cpu = time.process_time()
        while not intake.is_empty:
            intake.decide(500)
        seconds, cpu = time.perf_counter() - filled, time.process_time() - cpu
    if summary.skipped != count:
        raise RuntimeError(f"{summary.skipped} of {count} refunds were settled")
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    return Took(seconds, cpu, filled - began, int(peak[1]) / 1024)


def measure(database: str, count: int, way: str) -> Took:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.settled", "once", database, str(count), way]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Took(**json.loads(done.stdout))


def compare(database: str, count: int, runs: int = RUNS) -> dict[str, list[Took]]:
    """Both ways, in turns."""
    took: dict[str, list[Took]] = {way: [] for way in WAYS}
    for _ in range(runs):
        for way, of_way in took.items():
            of_way.append(measure(database, count, way))
    return took


def main(entries: int, counts: list[int]) -> None:
    """Compare, and print it."""
    with servers.postgres() as database:
        began = time.perf_counter()
        fill(database, entries)
        print(f"{entries:,} entries, filled in {time.perf_counter() - began:.0f} s")
        for count in counts:
            for way, took in compare(database, count, RUNS if count < 10**6 else 1).items():
                print(
                    f"{count:9,} {way:10}: {median(each.seconds for each in took):5.1f} s, "
                    f"{count / median(each.processor for each in took):8,.0f} rows/s of processor time, "
                    f"{median(each.megabytes for each in took):.0f} MB "
                    f"(copied to local disk before in {median(each.filling for each in took):.1f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["once"]:
        took = once(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        print(json.dumps({name: getattr(took, name) for name in Took.__slots__}))
    else:
        entries, *counts = [int(each) for each in sys.argv[1:]] or [ENTRIES, 100_000, 1_000_000]
        main(entries, counts)
