"""A ledger each of whose statements takes long is asked few times, whatever there is to send."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import Outcome
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sandbox import Sandbox
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.run import RefundSync
from tests.shop import Shop


def test_a_slow_ledger_is_asked_few_times(
    sqlite: URL, engines: Callable[[URL], Engine], sandbox: Sandbox
) -> None:
    shop = Shop(engines(sqlite), sandbox)
    slugs = [f"order-{n}" for n in range(3_000)]
    new = slugs[::10]
    parts = set(new)
    shop.order(*new)
    shop.refund(*((slug, slug, None, "5" if slug in parts else None) for slug in slugs))
    earlier = Ledger(shop.engine)
    earlier.open()
    settled = [Row("my-store", slug, slug) for slug in slugs if slug not in new]
    earlier.append([earlier.outcome(row, RefundResult(row.origin_slug, Outcome.REFUNDED)) for row in settled])
    engine = engines(sqlite)
    statements: Counter[str] = Counter()

    def slowly(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        time.sleep(0.3)
        statements[statement.split()[0]] += 1

    event.listen(engine, "before_cursor_execute", slowly)
    ledger = Ledger(engine)
    append, in_doubt = ledger.append, [0]

    def counted(entries: Any) -> None:
        # Nothing is sent before it is written.
        submitted = [entry["origin_slug"] for entry in entries if entry["event"] == "submitted"]
        assert not set(submitted) & set(shop.sent)
        append(entries)
        of_parts = [entry["event"] for entry in entries if entry["refund_key"] in parts]
        in_doubt.append(in_doubt[-1] + 2 * of_parts.count("submitted") - len(of_parts))

    def count(sync: RefundSync) -> None:
        ledger.append = counted  # type: ignore[method-assign]

    summary = shop.sync(ledger=ledger, before=count)
    assert (summary.outcomes, summary.skipped) == ({"refunded": 300}, 2_700)
    # For each batch one look for other runs, and one at the orders' other refunds.
    assert statements["SELECT"] <= 20
    assert statements["INSERT"] <= 16
    assert 0 < max(in_doubt) <= 6 * 16
    assert in_doubt[-1] == 0
