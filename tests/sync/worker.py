"""A sync for a process of its own."""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import create_engine

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from tests.shop import SQL, connect_of


class Said(Protocol):
    """Where the process says how it goes."""

    def send(self, said: Any, /) -> None: ...


def work(database: str, talkable: str, api_key: str, in_flight: int, said: Said) -> None:
    """Sync; say "begins" once the rows are read, and in the end the summary."""
    engine = create_engine(database)
    with Snapshot() as snapshot:
        ledger = Ledger(engine)
        ledger.open()
        snapshot.fill(rows_of(connect_of(engine), SQL, site_slug="my-store"))
        said.send("begins")
        config = ClientConfig.parse(host=talkable, api_key=api_key)
        pace = Pace(in_flight, initial_rate=None)
        sync = RefundSync(snapshot, ledger, config, policy=RetryPolicy(), pace=pace, rules=Rules())
        sync.run()
        said.send(sync.summary.as_dict())
