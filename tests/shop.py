"""A shop: a warehouse with refunds, a sandbox that knows the orders, and the sync between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import column, insert, table
from sqlalchemy.engine import Engine

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.summary import Summary

COLUMNS = ("refund_key", "origin_slug", "refunded_at", "refund_subtotal")
REFUNDS = table("refunds", *map(column, COLUMNS))
SQL = "SELECT refund_key, origin_slug, refunded_at, refund_subtotal FROM refunds ORDER BY number"


def wait_for_requests(sandbox: Sandbox, count: int) -> None:
    """Return as soon as so many requests have come in."""
    deadline = time.monotonic() + 120
    while len(sandbox.requests) < count:
        assert time.monotonic() < deadline, f"{len(sandbox.requests)} of {count} requests came in"
        time.sleep(0.01)


def once_requested(sandbox: Sandbox, count: int, action: Callable[[], object]) -> None:
    """Do something from another thread as soon as so many requests have come in."""

    def waiting() -> None:
        wait_for_requests(sandbox, count)
        action()

    threading.Thread(target=waiting, daemon=True).start()


def connect_of(engine: Engine) -> Callable[..., Any]:
    """What opens connections of the engine's driver, as a connection's hook does."""
    if engine.url.render_as_string() == "sqlite://":
        # In memory it has but one.
        return engine.raw_connection
    arguments, options = engine.dialect.create_connect_args(engine.url)
    return partial(engine.dialect.connect, *arguments, **options)


@dataclass
class Shop:
    """A warehouse, which holds the ledger too, and a local Talkable."""

    engine: Engine
    sandbox: Sandbox
    syncs: list[RefundSync] = field(default_factory=list)

    def order(self, *slugs: str, **fields: Any) -> None:
        for slug in slugs:
            self.sandbox.talkable.create_purchase(
                "my-store", {"order_number": slug, "subtotal": 100} | fields
            )

    def refund(self, *rows: Sequence[object] | str) -> None:
        """Put refunds into the warehouse: slugs, or (refund_key, slug, refunded_at, refund_subtotal)."""
        padded = [
            (None, row, None, None) if isinstance(row, str) else (*row, *[None] * (4 - len(row)))
            for row in rows
        ]
        identity = "" if self.engine.dialect.name == "sqlite" else " GENERATED ALWAYS AS IDENTITY"
        with self.engine.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE TABLE IF NOT EXISTS refunds (number INTEGER PRIMARY KEY{identity},"
                " refund_key TEXT, origin_slug TEXT, refunded_at TEXT, refund_subtotal TEXT)"
            )
            # Many rows in one statement, where the driver would send them one by one.
            connection.execute(insert(REFUNDS), [dict(zip(COLUMNS, row, strict=True)) for row in padded])

    def clear(self) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM refunds")

    def sync(
        self,
        *,
        sql: str = SQL,
        key: str | None = None,
        policy: RetryPolicy | None = None,
        pace: Pace | None = None,
        summary: Summary | None = None,
        ledger: Ledger | None = None,
        reason_to_stop: Callable[[], str | None] | None = None,
        before: Callable[[RefundSync], object] = lambda sync: None,
        **rules: Any,
    ) -> Summary:
        """Run one sync and return its summary; the sync itself is the last of ``syncs``."""
        with Snapshot() as snapshot:
            ledger = ledger or Ledger(self.engine)
            ledger.open()
            snapshot.fill(rows_of(connect_of(self.engine), sql, site_slug="my-store"))
            sync = RefundSync(
                snapshot,
                ledger,
                ClientConfig.parse(host=self.sandbox.url, api_key=key or self.sandbox.api_key),
                policy=policy or RetryPolicy(),
                pace=pace or Pace(initial_rate=None),
                rules=Rules(**rules),
                summary=summary,
                reason_to_stop=reason_to_stop,
            )
            self.syncs.append(sync)
            before(sync)
            sync.run()
            return sync.summary

    def wait_until_no_run_may_be_sending(self) -> None:
        """As if that time had passed since all that was submitted."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE talkable_refund_ledger SET sending_until = '2026-01-01 00:00:00.000000'"
                " WHERE sending_until IS NOT NULL"
            )

    def ledger(self) -> list[dict[str, Any]]:
        """All entries, in the order of writing."""
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT * FROM talkable_refund_ledger ORDER BY entry_id")
            return [dict(row) for row in rows.mappings()]

    def events(self, refund_key: str) -> list[str]:
        """What the ledger says of one key, oldest first."""
        return [entry["event"] for entry in self.ledger() if entry["refund_key"] == refund_key]

    def states(self) -> dict[str, str]:
        """The newest event of each key."""
        return {entry["refund_key"]: entry["event"] for entry in self.ledger()}

    def times_refunded(self, slug: str) -> int:
        times: int = self.sandbox.talkable.snapshot()["my-store"][slug]["times_refunded"]
        return times

    @property
    def sent(self) -> list[str]:
        """The slugs that Talkable was asked to refund, in order."""
        return [request["path"].split("/")[4] for request in self.sandbox.requests]
