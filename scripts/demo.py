"""Shows the provider at work: a warehouse, a local Talkable, and a DAG between them.

Run it with ``make demo``. Everything it makes lies in ``.demo`` and is made anew each time.
"""

from __future__ import annotations

import json
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

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
WAREHOUSE = DEMO / "warehouse.sqlite"
DAG_LOG = DEMO / "dag.log"
DAG_ID = "example_talkable_refunds_write_back"
ORDERS = 300


def main() -> int:
    """Run the demo; the exit status says whether every refund ended as it had to."""
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    with Sandbox(generation="seed") as sandbox:
        expected = fill(sandbox)
        print(f"A local Talkable answers on {sandbox.url}.")
        print(f"The warehouse holds {ORDERS} orders; {sum(expected.values())} were refunded in the last day.")
        print(f"\nRunning airflow dags test {DAG_ID} …")
        run_dag(sandbox)
        seen = outcomes()
        if seen != expected:
            print(f"\nExpected {dict(expected)}, saw {dict(seen)}; see {DAG_LOG.relative_to(ROOT)}")
            return 1
        print(report(sandbox, seen))
        print(f"\nOne of the results in XCom:\n{json.dumps(late_result(), indent=2)}")
    print(NEXT)
    return 0


def fill(sandbox: Sandbox) -> Counter[str]:
    """Fill warehouse and Talkable; return how many refunds of the last day will end in which outcome."""
    now = datetime.now(UTC)
    expected: Counter[str] = Counter()
    with closing(sqlite3.connect(WAREHOUSE)) as warehouse, warehouse:
        warehouse.execute(
            "CREATE TABLE refunded_orders (order_number TEXT, refunded_at TEXT, refund_subtotal NUMERIC)"
        )
        for number in range(ORDERS):
            slug = f"SHOP-{10_000 + number}"
            known = number % 31 != 0
            if known:
                # Of every ten referrals, Talkable has approved and paid one before the refund arrives.
                paid = number % 10 == 0
                referral = {"status": "approved" if paid else "pending", "ad_rewarded": paid}
                sandbox.talkable.create_purchase(
                    "my-store", {"order_number": slug, "subtotal": 80, "referral": referral}
                )
            if number % 2:
                continue
            # Every second order was refunded: most in the last day, one in twelve long before.
            recent = number % 12 != 0
            refunded_at = now - timedelta(minutes=5 + number) - timedelta(days=0 if recent else 9)
            subtotal = 20 if number % 14 == 0 else None
            warehouse.execute(
                "INSERT INTO refunded_orders VALUES (?, ?, ?)", (slug, refunded_at.isoformat(), subtotal)
            )
            already = known and number % 22 == 0
            if already:
                sandbox.talkable.refund("my-store", slug, {})
            if recent:
                expected["already_refunded" if already else "refunded" if known else "not_found"] += 1
    sandbox.requests.clear()
    return expected


def run_dag(sandbox: Sandbox) -> None:
    """Run the DAG as ``airflow dags test`` does, with connections from the environment."""
    host = sandbox.url.removeprefix("http://")
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(DEMO / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_SHOP_WAREHOUSE": json.dumps({"conn_type": "sqlite", "host": str(WAREHOUSE)}),
        "AIRFLOW_CONN_TALKABLE_DEFAULT": f"talkable://http://:{sandbox.api_key}@{host}/?site_slug=my-store",
    }
    with DAG_LOG.open("w") as log:
        for command in (["db", "migrate"], ["dags", "test", DAG_ID]):
            subprocess.run(
                [sys.executable, "-m", "airflow", *command],
                env=environment,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=150,
            )
    for line in told(DAG_LOG.read_text()):
        print(f"  {line}")


def told(log: str) -> Iterator[str]:
    """The lines of the log that the tasks themselves wrote about refunds."""
    for line in log.splitlines():
        if "Refunds: " in line:
            yield line[line.index("Refunds: ") :].split("[")[0].strip()


def outcomes() -> Counter[str]:
    """What the DAG wrote back to the warehouse."""
    with closing(sqlite3.connect(WAREHOUSE)) as warehouse:
        try:
            return Counter(
                dict(warehouse.execute("SELECT outcome, count(*) FROM talkable_refunds GROUP BY 1"))
            )
        except sqlite3.OperationalError:
            return Counter()


def late_result() -> object:
    """From XCom, the first refund whose advocate had been rewarded already."""
    with closing(sqlite3.connect(DEMO / "airflow" / "airflow.db")) as metadata:
        query = "SELECT value FROM xcom WHERE task_id = 'refund' AND key = 'return_value'"
        [[value]] = metadata.execute(query).fetchall()
    results = json.loads(value)
    results = json.loads(results) if isinstance(results, str) else results
    return next(result for result in results if (result["referral"] or {}).get("ad_rewarded"))


def report(sandbox: Sandbox, seen: Counter[str]) -> str:
    """A short table of outcomes, from the warehouse, and what Talkable itself holds."""
    with closing(sqlite3.connect(WAREHOUSE)) as warehouse:
        [late] = warehouse.execute("SELECT count(*) FROM talkable_refunds WHERE advocate_rewarded").fetchone()
    voided = sum(
        bool(origin["referral"]) and origin["referral"]["status"] == "voided"
        for origin in sandbox.talkable.snapshot()["my-store"].values()
    )
    meaning = {
        "refunded": "Talkable took it",
        "already_refunded": "Talkable had it already",
        "not_found": "Talkable never saw that order",
    }
    lines = ["", f"{'outcome':<18}{'refunds':>8}  meaning"]
    lines += [f"{outcome:<18}{count:>8}  {meaning.get(outcome, '')}" for outcome, count in seen.most_common()]
    lines += [
        "",
        f"{len(sandbox.requests)} requests; Talkable now holds {voided} voided referrals.",
        f"{late} refunds arrived after the advocate was rewarded.",
    ]
    return "\n".join(lines)


NEXT = f"""
Where to look next:
  {DAG_LOG.relative_to(ROOT)}             the whole log of the run
  {WAREHOUSE.relative_to(ROOT)}   the table talkable_refunds, written by the DAG
  example_dags/{DAG_ID}.py
  README.md                 how to use it in your own Airflow
  python -m airflow_provider_talkable.sandbox --help    a local Talkable for your own DAGs"""

if __name__ == "__main__":
    sys.exit(main())
