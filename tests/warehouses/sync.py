"""What the suite does with a warehouse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.engine import Engine

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sync.compaction import compact
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.overview import Period, overview_of
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.reconcile import Reconciliation, Report
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.summary import Summary


@dataclass
class Shop:
    """A warehouse with refunds and the ledger, and a local Talkable."""

    kind: str
    connect: Callable[[], Any]
    engine: Engine
    sandbox: Sandbox
    table: str
    schema: str | None

    def order(self, slug: str) -> None:
        self.sandbox.talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100})

    def rows(self, where: str = "1 = 1") -> list[Row]:
        sql = (
            "SELECT refund_key, order_number, refunded_at, refund_subtotal"
            f" FROM {self.table} WHERE {where} ORDER BY number"
        )
        return list(rows_of(self.connect, sql, site_slug="my-store"))

    def ledger(self) -> Ledger:
        ledger = Ledger(self.engine, schema=self.schema)
        ledger.open()
        return ledger

    def sync(self) -> Summary:
        ledger = self.ledger()
        with Snapshot() as snapshot:
            snapshot.fill(self.rows())
            sync = RefundSync(
                snapshot,
                ledger,
                ClientConfig.parse(host=self.sandbox.url, api_key=self.sandbox.api_key),
                policy=RetryPolicy(),
                pace=Pace(initial_rate=None),
                rules=Rules(),
            )
            stopped = sync.run()
            assert stopped is None, stopped
            return sync.summary

    def leave_in_doubt(self, rows: Sequence[Row]) -> None:
        """As a run does that is killed once it has written what it is about to send."""
        ledger = self.ledger()
        ledger.longest_sending = timedelta(hours=-1)
        ledger.append([ledger.submitted(row) for row in rows])

    def compact(self, *, is_preview: bool = False) -> int:
        """How many entries retention deletes, two days later."""
        later = datetime.now(UTC) + timedelta(days=2)
        done = compact(self.ledger(), timedelta(days=1), is_preview=is_preview, now=later)
        assert set(done.events) <= {"submitted"}
        return done.events.total()

    def reconcile(self) -> dict[str, int]:
        """How many discrepancies there are of each kind."""
        report = Report(self.engine, table="discrepancies", schema=self.schema)
        report.open()
        with Snapshot() as snapshot:
            snapshot.fill(self.rows())
            reconciliation = Reconciliation(snapshot, self.ledger(), report, None)
            assert reconciliation.run() is None
        return {kind: count for kind, count in reconciliation.summary.discrepancies.items() if count}

    def counted(self) -> dict[str, int]:
        """What the command line counts."""
        return overview_of(self.ledger(), Period("my-store"), limit=20).events
