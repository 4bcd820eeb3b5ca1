"""Syncs with a ledger each of whose statements takes seconds longer: ``python -m benchmarks.slow_ledger``.

Nine of ten refunds are settled; of the others a fifth is partial. Talkable answers at once, and is not paced.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url

from airflow_provider_talkable import Outcome
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot
from benchmarks import servers

CASES = ((2_000, 0.5), (2_000, 2.0), (20_000, 0.5), (20_000, 2.0))  # rows, seconds more a statement


@dataclass(frozen=True, slots=True)
class Took:
    """What a sync took.

    :param seconds: From its first statement to its last.
    :param statements: Of the ledger, by their first word.
    :param in_doubt: How many partial refunds were without an outcome in the ledger at a time, at most: as
        many as a kill may leave ``unconfirmed``.
    """

    seconds: float
    statements: Counter[str]
    in_doubt: int


def rows(count: int, *, partial: int = 20) -> Iterator[Row]:
    """Refunds; each tenth is new, and so many of a thousand are new and partial."""
    for n in range(count):
        part = Decimal("5.0000") if n % 1000 < 10 * partial and n % 10 == 0 else None
        yield Row("my-store", f"refund-{n}", f"order-{n}", refund_subtotal=part)


def measure(url: str, database: str, count: int, delay: float, partial: int = 20) -> Took:
    """Sync so many refunds with an empty ledger in which the settled ones are noted first."""
    name = f"slow_{time.monotonic_ns()}"
    with create_engine(database, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine = create_engine(make_url(database).set(database=name))
    ledger = Ledger(engine)
    ledger.open()
    settled = [row for n, row in enumerate(rows(count, partial=partial)) if n % 10]
    results = (RefundResult(row.origin_slug, Outcome.REFUNDED, attempts=1) for row in settled)
    ledger.append([ledger.outcome(row, result) for row, result in zip(settled, results, strict=True)])
    statements: Counter[str] = Counter()
    in_doubt, most = 0, 0
    parts = {row.refund_key for row in rows(count, partial=partial) if not row.is_whole}
    ledger = Ledger(engine)
    append = ledger.append

    def slowly(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        statements[statement.split()[0]] += 1
        time.sleep(delay)

    def counted(entries: Any) -> None:
        nonlocal in_doubt, most
        append(entries)
        for entry in entries:
            if entry["refund_key"] in parts:
                in_doubt += 1 if entry["event"] == "submitted" else -1
        most = max(most, in_doubt)

    ledger.append = counted  # type: ignore[method-assign]
    event.listen(engine, "before_cursor_execute", slowly)
    began = time.monotonic()
    with Snapshot() as snapshot:
        snapshot.fill(rows(count, partial=partial))
        ledger.open()
        config = ClientConfig.parse(host=url, api_key=servers.KEY)
        pace = Pace(initial_rate=None)
        sync = RefundSync(snapshot, ledger, config, policy=RetryPolicy(), pace=pace, rules=Rules())
        if error := sync.run():
            raise error
    seconds = time.monotonic() - began
    engine.dispose()
    if (sync.summary.skipped, sync.summary.outcomes) != (count - count // 10, {"refunded": count // 10}):
        raise RuntimeError(f"it ended otherwise: {sync.summary}")
    return Took(seconds, statements, most)


def main(cases: tuple[tuple[int, float], ...], shares: tuple[int, ...] = (0, 20)) -> None:
    """Measure, and print it."""
    with servers.constant() as (url, _), servers.postgres() as database:
        for count, delay in cases:
            for partial in shares:
                took = measure(url, database, count, delay, partial)
                said = ", ".join(f"{number} {word}" for word, number in sorted(took.statements.items()))
                print(
                    f"{count:6,} rows, {delay:.1f} s a statement, {partial / 10:.0f} % of them partial: "
                    f"{took.seconds:5.1f} s ({said}), at most {took.in_doubt} partial ones in doubt",
                    flush=True,
                )


if __name__ == "__main__":
    given = [float(each) for each in sys.argv[1:]]
    main(tuple((int(a), b) for a, b in zip(given[::2], given[1::2], strict=True)) or CASES)
