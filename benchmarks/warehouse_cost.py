"""What a thousand refunds cost a warehouse that keeps the ledger: ``python -m benchmarks.warehouse_cost``.

SQLite answers, asked in the way of each warehouse: how many statements, and how many bytes of text and
parameters.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from benchmarks import servers

WAREHOUSES = ("snowflake", "bigquery", "redshift", "mssql", "databricks", "postgresql")
REFUNDS = 1_000
_SECONDS = 0.3  # each statement takes longer, so that it counts as slow
_FEW = 0.02  # the same where there are hundreds


def measure(url: str, folder: str, dialect: str, *, partial: int) -> tuple[Counter[str], Counter[str]]:
    """Statements and bytes, by the statement's first word, of a sync of new refunds and of the next one."""
    engine = create_engine(f"sqlite:///{Path(folder, f'{dialect}-{partial}.sqlite')}")
    Ledger(engine).open()
    statements: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    runs: list[str] = []
    # PostgreSQL and SQLite are asked alike.
    if dialect != "postgresql":
        engine.dialect.name = dialect
    seconds = _FEW if dialect in ("databricks", "mssql") else _SECONDS

    def count(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        word = f"{statement.split()[0]}, {runs[-1]}"
        statements[word] += 1
        sizes[word] += len(statement) + len(str(parameters))
        time.sleep(seconds)

    event.listen(engine, "before_cursor_execute", count)
    for run in ("new", "settled"):
        runs.append(run)
        ledger = Ledger(engine)
        with Snapshot() as snapshot:
            snapshot.fill(
                Row(
                    "my-store",
                    f"refund-{n}",
                    f"order-{n}",
                    refund_subtotal=Decimal(5) if n < partial else None,
                )
                for n in range(REFUNDS)
            )
            config = ClientConfig.parse(host=url, api_key=servers.KEY)
            pace = Pace(initial_rate=None)
            # Opening is the same for any number.
            ledger.append_seconds = _SECONDS
            if error := RefundSync(
                snapshot, ledger, config, policy=RetryPolicy(), pace=pace, rules=Rules()
            ).run():
                raise error
    engine.dispose()
    return statements, sizes


def main() -> None:
    """Measure, and print it."""
    with servers.constant() as (url, _), tempfile.TemporaryDirectory() as folder:
        for dialect in WAREHOUSES:
            for partial in (0, 200):
                statements, sizes = measure(url, folder, dialect, partial=partial)
                said = ", ".join(
                    f"{word}: {statements[word]} ({sizes[word]:,} bytes)" for word in sorted(sizes)
                )
                print(f"{dialect:10} {partial} of {REFUNDS} partial: {said}", flush=True)


if __name__ == "__main__":
    main()
