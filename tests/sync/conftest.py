"""A ledger in each database."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.sync.ledger import Ledger


@pytest.fixture
def engine(database: URL, engines: Callable[[URL], Engine]) -> Engine:
    return engines(database)


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    ledger = Ledger(engine)
    ledger.open()
    return ledger
