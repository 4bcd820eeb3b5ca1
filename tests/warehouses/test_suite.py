"""One suite for every warehouse: its rows are synced twice, after a crash too, reconciled and counted."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from tests.warehouses.refunds import refunds
from tests.warehouses.sync import Shop

pytestmark = [
    pytest.mark.takes_long,
    # What stands in for Snowflake asks its DuckDB in a way that a newer one advises against.
    pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result:UserWarning"),
    # BigQuery's dialect, once it is imported, has put its own `unnest` in the place of PostgreSQL's.
    pytest.mark.filterwarnings("ignore:Class unnest will not make use of SQL compilation caching"),
]


def of_keys() -> dict[str, int]:
    """How many refunds there are with each outcome; two rows of one key are one."""
    return dict(Counter({row.key: row.event for row in refunds()}.values()))


def of_rows() -> dict[str, int]:
    return dict(Counter(row.event for row in refunds()))


def test_rows_are_read_as_they_were_written(shop: Shop) -> None:
    read = shop.rows()
    expected = refunds()
    assert [row.origin_slug for row in read] == [row.order for row in expected]
    keys = {row.origin_slug: row.refund_key for row in read if row.problem is None}
    assert keys == {row.order: row.key for row in expected if row.event != "invalid"}
    moments = {row.refund_key: row.refunded_at for row in read}
    assert moments["night-1"] == datetime(2025, 10, 26, 0, 30, tzinfo=UTC)
    assert moments["night-2"] == datetime(2025, 10, 26, 1, 30, tzinfo=UTC)
    assert moments["ms-7"] == datetime(2025, 11, 2, 12, 0, 0, 7000, tzinfo=UTC)


def test_a_sync_again_and_after_a_crash(shop: Shop) -> None:
    last = shop.rows()[-1]
    parts = shop.rows("refund_key IN ('ms-1', 'ms-2')")
    wholes = shop.rows("refund_key IN ('R1', 'emoji-😀-1', 'CASE-1')")
    shop.leave_in_doubt([*parts, *wholes])

    first = shop.sync()
    assert first.rows == len(refunds())
    assert first.outcomes == {**of_rows(), "refunded": of_rows()["refunded"] - 2, "unconfirmed": 2}
    requests = Counter(request["path"].split("/")[4] for request in shop.sandbox.requests)
    assert max(requests.values()) == 1
    assert "ms-1" not in requests
    assert last.origin_slug == "never-seen"

    again = shop.sync()
    settled = {"refunded", "not_found", "unconfirmed", "invalid", "conflict"}
    assert again.sent == 0
    assert set(again.outcomes) <= settled
    assert len(shop.sandbox.requests) == sum(requests.values())
    assert shop.counted() == {**of_keys(), "refunded": of_keys()["refunded"] - 2, "unconfirmed": 2}

    found = shop.reconcile()
    assert found.pop("unsettled") == 2
    assert sum(found.values()) == of_rows()["invalid"] + of_rows()["conflict"]


def test_retention_changes_nothing_that_is_known(shop: Shop) -> None:
    wholes = shop.rows("refund_key IN ('R1', 'emoji-😀-1', 'CASE-1', 'case-1')")
    shop.leave_in_doubt(wholes)
    shop.sync()
    known = (shop.counted(), shop.reconcile())
    entries = len(wholes) + of_rows()["refunded"] + of_rows()["not_found"]
    assert shop.compact(is_preview=True) == entries
    assert shop.compact() == entries
    assert shop.compact() == 0
    assert (shop.counted(), shop.reconcile()) == known
    assert shop.sync().sent == 0
