"""Shows the provider at work: a warehouse, a local Talkable, and the daily sync between them, run twice.

Run it with ``make demo``. Everything it makes lies in ``.demo`` and is made again each time.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sandbox.demo import EXAMPLE_DAGS, Demo

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
WAREHOUSE = Demo(DEMO).warehouse
DAG_LOG = DEMO / "dag.log"
DAG_ID = "example_talkable_sync"


def main() -> int:
    """Run the demo; the exit status says whether every refund ended as it had to."""
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with Sandbox() as sandbox:
        expected = Demo(DEMO).make(sandbox)
        print(f"A local Talkable answers on {sandbox.url}.")
        print(f"The warehouse holds {sum(expected.values())} refunds of yesterday.", flush=True)
        airflow(sandbox, "db", "migrate")
        run_dag(sandbox, today)
        sent, seen = len(sandbox.requests), outcomes()
        if seen != expected:
            print(f"\nExpected {dict(expected)}, saw {dict(seen)}; see {DAG_LOG.relative_to(ROOT)}")
            return 1
        run_dag(sandbox, today + timedelta(days=1))
        if len(sandbox.requests) != sent or outcomes() != expected:
            print(f"\nThe second run sent something; see {DAG_LOG.relative_to(ROOT)}")
            return 1
        print(report(sandbox, seen))
    print(NEXT)
    return 0


def run_dag(sandbox: Sandbox, date: datetime) -> None:
    """Run the DAG with ``airflow dags test``, and show its log's end."""
    lines_before = len(list(summary_lines()))
    airflow(sandbox, "dags", "test", DAG_ID, date.isoformat())
    for line in list(summary_lines())[lines_before:]:
        print(f"  {line}", flush=True)


def airflow(sandbox: Sandbox, *arguments: str) -> None:
    """Run an Airflow command with connections from the environment; what it prints goes to the log."""
    print(f"\nairflow {' '.join(arguments)}", flush=True)
    environment = os.environ | Demo(DEMO).environment(sandbox)
    environment["AIRFLOW__CORE__DAGS_FOLDER"] = str(EXAMPLE_DAGS)
    with DAG_LOG.open("a") as log:
        subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=environment,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=150,
        )


def summary_lines() -> Iterator[str]:
    """What the sync itself wrote to the log at its end."""
    beginnings = ("Refunds: ", "Sent ", "Too late, ", "Referrals voided: ")
    for line in DAG_LOG.read_text().splitlines() if DAG_LOG.exists() else []:
        for beginning in beginnings:
            if beginning in line:
                yield line[line.index(beginning) :].split("[")[0].strip()


def outcomes() -> Counter[str]:
    """The newest entry of each refund in the ledger."""
    with closing(sqlite3.connect(WAREHOUSE)) as warehouse:
        try:
            entries = warehouse.execute(
                "SELECT refund_key, event FROM talkable_refund_ledger ORDER BY entry_id"
            ).fetchall()
        except sqlite3.OperationalError:
            entries = []
    return Counter(dict(entries).values())


def report(sandbox: Sandbox, seen: Counter[str]) -> str:
    """A short table of outcomes, from the ledger, and what Talkable itself holds."""
    with closing(sqlite3.connect(WAREHOUSE)) as warehouse:
        late = warehouse.execute(
            "SELECT origin_slug FROM talkable_refund_ledger"
            " WHERE reward_paid AND refund_subtotal IS NULL AND attempts > 0 ORDER BY entry_id"
        ).fetchall()
    voided = sum(
        bool(origin["referral"]) and origin["referral"]["status"] == "voided"
        for origin in sandbox.talkable.snapshot()["my-store"].values()
    )
    meaning = {
        "refunded": "Talkable took it",
        "already_refunded": "Talkable had it already",
        "not_found": "Talkable never saw that order",
    }
    lines = ["", f"{'in the ledger':<18}{'refunds':>8}  meaning"]
    lines += [f"{outcome:<18}{count:>8}  {meaning.get(outcome, '')}" for outcome, count in seen.most_common()]
    lines += [
        "",
        f"The second run sent nothing. Talkable holds {voided} voided referrals.",
        f"Too late came {len(late)}: their advocates had been paid. The first are "
        + ", ".join(slug for (slug,) in late[:3]),
    ]
    return "\n".join(lines)


NEXT = f"""
Where to look next:
  {DAG_LOG.relative_to(ROOT)}             the whole log of the run
  {WAREHOUSE.relative_to(ROOT)}   the refunds, and the table talkable_refund_ledger
  example_dags/{DAG_ID}.py
  README.md                 how to use it in your own Airflow
  .venv/bin/python -m airflow_provider_talkable.sandbox --help    a local Talkable for your own DAGs"""

if __name__ == "__main__":
    sys.exit(main())
