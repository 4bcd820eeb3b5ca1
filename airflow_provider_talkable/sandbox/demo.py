"""What ``--demo`` makes: a shop's orders in the sandbox, and a folder with a warehouse and a DAG to sync it.

It writes SQLite and text only, so it needs neither Airflow nor a provider of its.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow_provider_talkable.sandbox.server import Sandbox

DAG_ID = "example_talkable_first_sync"
SITE = "my-store"
ORDERS = 150
_PACKAGE = Path(__file__).parents[1]
# In the package once that is built; beside it in a clone.
EXAMPLE_DAGS = next(_PACKAGE.glob("example_dags"), _PACKAGE.parent / "example_dags")


class Demo:
    """A folder to try the provider in.

    :param folder: Where its files go.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder.absolute()
        self.folder = folder
        self.warehouse = folder / "warehouse.sqlite"
        self.dag = folder / "dags" / f"{DAG_ID}.py"
        self.settings = folder / "airflow.env"

    def existing(self) -> Path | None:
        """The first of its files that is there already, and may be somebody's work."""
        return next((path for path in (self.warehouse, self.dag, self.settings) if path.exists()), None)

    def make(self, sandbox: Sandbox) -> Counter[str]:
        """Register the orders with a sandbox that listens, and write the files.

        :return: How many refunds a sync will end in which outcome.
        """
        self.dag.parent.mkdir(parents=True, exist_ok=True)
        expected = self._seed(sandbox)
        shutil.copyfile(EXAMPLE_DAGS / self.dag.name, self.dag)
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in self.environment(sandbox).items())
        self.settings.write_text("".join(lines))
        return expected

    def environment(self, sandbox: Sandbox) -> dict[str, str]:
        """What Airflow's processes need to know: where the DAG lies, and both connections."""
        talkable = {
            "conn_type": "talkable",
            "host": sandbox.url,
            "password": sandbox.api_key,
            "extra": {"site_slug": SITE},
        }
        return {
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dag.parent),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_SHOP_WAREHOUSE": json.dumps({"conn_type": "sqlite", "host": str(self.warehouse)}),
            "AIRFLOW_CONN_TALKABLE_DEFAULT": json.dumps(talkable),
        }

    def next_steps(self) -> str:
        """What to type next."""
        return f"""
{ORDERS} refunds of yesterday are in {self.warehouse.name}, and Talkable knows their orders.
{self.dag.relative_to(self.folder)} syncs them. {self.settings.name} has what Airflow needs to know:

{self.settings.read_text()}
In a second terminal, in this folder:

  source {self.settings.name}
  airflow db migrate && airflow dags test {DAG_ID}

That is a preview. To send the refunds, remove preview=True from the DAG and run it again.
"""

    def _seed(self, sandbox: Sandbox) -> Counter[str]:
        """Of every ten referrals Talkable has paid one; every 31st order it never saw."""
        expected: Counter[str] = Counter()
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        talkable = sandbox.talkable
        with closing(sqlite3.connect(self.warehouse)) as warehouse, warehouse:
            warehouse.execute(
                "CREATE TABLE refunds (refund_id TEXT PRIMARY KEY, order_number TEXT NOT NULL,"
                " refunded_at TEXT NOT NULL, refund_subtotal NUMERIC, site_slug TEXT NOT NULL)"
            )
            for number in range(ORDERS):
                order, subtotal = f"SHOP-{10_000 + number}", 20 if number % 14 == 1 else None
                outcome = "refunded"
                if number % 31 == 0:
                    outcome = "not_found"
                else:
                    is_paid = number % 10 == 0
                    referral = {"status": "approved" if is_paid else "pending", "ad_rewarded": is_paid}
                    data = {"order_number": order, "subtotal": 80, "referral": referral}
                    talkable.create_purchase(SITE, data)
                    if number % 22 == 0:
                        talkable.refund(SITE, order, {})
                        outcome = "already_refunded"
                refunded_at = midnight - timedelta(days=1) + timedelta(minutes=number)
                row = (f"R-{number}", order, refunded_at.isoformat(), subtotal, SITE)
                warehouse.execute("INSERT INTO refunds VALUES (?, ?, ?, ?, ?)", row)
                expected[outcome] += 1
        return expected
