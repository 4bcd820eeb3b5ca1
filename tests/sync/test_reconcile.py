"""The reconciliation, with real databases and over real HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Column, inspect, select, text
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable import LedgerError
from airflow_provider_talkable.client.concurrent import Sender
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.operations import FriendOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.sandbox import Canned, Sandbox
from airflow_provider_talkable.sync.column_types import moment_type
from airflow_provider_talkable.sync.discrepancies import Discrepancy, Kind
from airflow_provider_talkable.sync.ledger import Ledger, TaskRun
from airflow_provider_talkable.sync.query import rows_of
from airflow_provider_talkable.sync.reconcile import Asking, ReconcileSummary, Reconciliation, Report
from airflow_provider_talkable.sync.rows import REPORT_COLUMNS, Row
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.tables import storable
from tests.conftest import Sandboxes, sized
from tests.shop import SQL as SYNCED
from tests.shop import Shop, connect_of

SQL = (
    "SELECT refund_key, origin_slug, refunded_at, refund_subtotal,"
    " 'friend-' || origin_slug || '@example.com' AS email, 'EUR' AS currency FROM refunds ORDER BY number"
)
UNPACED = Pace(32, initial_rate=None)
TASK = TaskRun("shop", "run 1", "reconcile", -1, 1)


def reconcile(
    shop: Shop,
    *,
    sql: str = SQL,
    ask: bool = True,
    key: str | None = None,
    policy: RetryPolicy | None = None,
    task_run: TaskRun = TASK,
) -> ReconcileSummary:
    config = ClientConfig.parse(host=shop.sandbox.url, api_key=key or shop.sandbox.api_key)
    report = Report(shop.engine, table="discrepancies", task_run=task_run)
    report.open()
    ledger = Ledger(shop.engine)
    ledger.open(create=False)
    with Snapshot() as snapshot:
        snapshot.fill(rows_of(connect_of(shop.engine), sql, site_slug="my-store", more=REPORT_COLUMNS))
        asking: Asking | None = None
        if ask:
            asking = Sender(config, policy or RetryPolicy(), UNPACED, FriendOperation())
        reconciliation = Reconciliation(snapshot, ledger, report, asking)
        failure = reconciliation.run()
    assert bool(failure) is bool(reconciliation.summary.unanswered)
    return reconciliation.summary


def reported(shop: Shop) -> list[dict[str, Any]]:
    with shop.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM discrepancies ORDER BY refund_key, kind")
        return [dict(row) for row in rows.mappings()]


def by_kind(shop: Shop) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in reported(shop):
        found.setdefault(row["kind"], set()).add(row["refund_key"])
    return found


def order(shop: Shop, *slugs: str, **fields: Any) -> None:
    for slug in slugs:
        shop.order(slug, email=f"friend-{slug}@example.com", **fields)


def questions(sandbox: Sandbox) -> int:
    return sum("referrals_as_friend" in request["path"] for request in sandbox.requests)


@pytest.fixture
def shop(database: URL, engines: Callable[[URL], Engine], sandboxes: Sandboxes) -> Shop:
    """On each database, with a Talkable that answers as it does today."""
    return Shop(engines(database), sandboxes())


class Planted:
    """Thousands of refunds, of which a few in each 500 are wrong in each way, and a few only look wrong."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.slugs = [f"order-{number:05}" for number in range(sized(20_000))]
        ways = (
            "missing", "pending", "submitted", "failed", "rejected", "invalid", "amount", "date",
            "rewarded", "rewarded in part", "never seen",
        )  # fmt: skip
        self.wrong = {way: set(self.slugs[40 * at + 2 :: 500]) for at, way in enumerate(ways)}
        self.each = len(self.slugs) // 500
        """How many are wrong in each way."""
        assert {len(slugs) for slugs in self.wrong.values()} == {self.each}

    def partly(self, slug: str) -> bool:
        """Whether it is the refund of a part."""
        return slug.endswith("5") or slug in self.wrong["rewarded in part"]

    def rows(self, *, then: bool) -> list[tuple[str, str, str, str | None]]:
        """The refunds as they are in the warehouse, or as they were when they were synced."""
        dates = dict.fromkeys(self.wrong["invalid"], "yesterday")
        amounts = dict.fromkeys(self.wrong["amount"], "7.50") if then else {}
        if then:
            dates |= dict.fromkeys(self.wrong["date"], "2026-01-01")
        return [
            (slug, slug, dates.get(slug, "2026-01-02"), amounts.get(slug, "5" if self.partly(slug) else None))
            for slug in self.slugs
            if not (then and slug in self.wrong["missing"])
        ]

    def sync(self) -> None:
        """Register the orders, some of which belong to no referral, and sync their refunds.

        Those of all kinds are among the first 500; what the sync writes of these is copied for the others.
        """
        for slug in self.slugs:
            if slug not in self.wrong["never seen"]:
                order(self.shop, slug, referral=None if slug.endswith("9") else {})
        rows = self.rows(then=True)
        self.shop.refund(*rows)
        of_some = SYNCED.replace("ORDER BY", f"WHERE origin_slug < '{self.slugs[500]}' ORDER BY")
        self.shop.sync(sql=of_some, pace=UNPACED)
        talkable = self.shop.sandbox.talkable
        for _, slug, day, amount in rows:
            if slug >= self.slugs[500] and slug not in self.wrong["never seen"] | self.wrong["invalid"]:
                data = {"refunded_at": f"{day}T00:00:00+00:00", "refund_subtotal": amount and float(amount)}
                talkable.refund("my-store", slug, data)
        ledger, synced = Ledger(self.shop.engine), self.shop.ledger()
        for start in range(500, len(self.slugs), 500):
            ledger.append([self.copied(entry, start) for entry in synced])

    def copied(self, entry: dict[str, Any], start: int) -> dict[str, Any]:
        """What the entry of one of the first refunds is for the one that is so many after it."""
        slug = self.slugs[self.slugs.index(entry["refund_key"]) + start]
        copy = entry | {"refund_key": slug, "origin_slug": slug}
        if entry["origin_id"]:
            order = self.shop.sandbox.talkable.sites["my-store"][slug]
            copy["origin_id"] = str(order.id)
            copy["referral_id"] = order.referral and str(order.referral.id)
        return copy

    def go_wrong(self) -> None:
        """What has gone wrong since, in the ledger and at Talkable."""
        changes = (
            ("DELETE FROM talkable_refund_ledger", "submitted"),
            ("UPDATE talkable_refund_ledger SET event = 'failed'", "failed"),
            ("UPDATE talkable_refund_ledger SET event = 'rejected'", "rejected"),
        )
        with self.shop.engine.begin() as connection:
            for statement, way in changes:
                keys = ", ".join(f"'{slug}'" for slug in self.wrong[way])
                connection.exec_driver_sql(
                    f"{statement} WHERE event <> 'submitted' AND refund_key IN ({keys})"
                )
        talkable = self.shop.sandbox.talkable
        for way, status in (
            ("pending", "pending"),
            ("rewarded", "approved"),
            ("rewarded in part", "approved"),
        ):
            for slug in self.wrong[way]:
                referral = talkable.sites["my-store"][slug].referral
                assert referral
                referral.status, referral.ad_rewarded = status, status == "approved"
        self.shop.clear()
        self.shop.refund(*self.rows(then=False))


@pytest.mark.takes_long
def test_a_few_of_each_kind_among_thousands_are_found_and_nothing_else(postgres_shop: Shop) -> None:
    planted = Planted(postgres_shop)
    planted.sync()
    planted.go_wrong()
    summary = reconcile(postgres_shop)
    wrong = planted.wrong
    assert by_kind(postgres_shop) == {
        "missing": wrong["missing"] | wrong["pending"],
        "unsettled": wrong["submitted"] | wrong["failed"],
        "refused": wrong["rejected"] | wrong["invalid"],
        "different": wrong["amount"] | wrong["date"],
        "rewarded": wrong["rewarded"],
    }
    assert len(reported(postgres_shop)) == summary.discrepancies.total() == 9 * planted.each
    assert summary.rewards == {"EUR": Decimal(10 * planted.each)}
    assert (summary.refunds, summary.unknown) == (sized(20_000), 0)
    assert {row["reward"] for row in reported(postgres_shop) if row["kind"] == "rewarded"} == {10}


def test_against_the_ledger_alone_nothing_is_asked(shop: Shop) -> None:
    order(shop, "A", "B")
    order(shop, "C", referral={"status": "approved", "ad_rewarded": True})
    shop.refund("A", "B", "C")
    shop.sync(fetch_referral=True)
    shop.refund("D")
    before = len(shop.sandbox.requests)
    summary = reconcile(shop, ask=False)
    assert by_kind(shop) == {"missing": {"D"}, "rewarded": {"C"}}
    assert {row["refund_key"]: bool(row["referral_id"]) for row in reported(shop)} == {"C": True, "D": False}
    assert (summary.asked, summary.unknown, summary.rewards) == (0, 0, {})
    assert len(shop.sandbox.requests) == before


def test_a_row_of_the_report(shop: Shop) -> None:
    order(shop, "A", referral={"status": "approved", "ad_rewarded": True, "reward_amount": 12.5})
    shop.refund(("a", "A", "2026-01-02T03:04:05Z"))
    shop.sync(fetch_referral=True)
    summary = reconcile(shop)
    [row] = reported(shop)
    row.pop("checked_at")
    assert str(row.pop("refunded_at")).startswith("2026-01-02 03:04:05")
    assert str(row.pop("ledger_refunded_at")).startswith("2026-01-02 03:04:05")
    assert row == {
        "kind": "rewarded",
        "site_slug": "my-store",
        "refund_key": "a",
        "origin_slug": "A",
        "refund_subtotal": None,
        "ledger_event": "refunded",
        "ledger_refund_subtotal": None,
        "referral_id": str(shop.sandbox.talkable.sites["my-store"]["A"].referral.id),  # type: ignore[union-attr]
        "referral_status": "approved",
        "reward": 12.5,
        "currency": "EUR",
        "message": "The order was refunded, and Talkable has paid the advocate",
        "other_rewards": None,
        "revocable": 1,
        "friend_reward": 5,
        "ledger_counted_subtotal": 100,
        "dag_id": "shop",
        "run_id": "run 1",
        "task_id": "reconcile",
        "map_index": -1,
        "try_number": 1,
    }
    assert summary.as_dict() == {
        "rows": 1,
        "refunds": 1,
        "first": "2026-01-02T03:04:05+00:00",
        "last": "2026-01-02T03:04:05+00:00",
        "asked": 1,
        "unanswered": 0,
        "unknown": 0,
        "discrepancies": {"missing": 0, "unsettled": 0, "refused": 0, "different": 0, "rewarded": 1},
        "rewards": {"EUR": "12.50"},
        "other_rewards": {},
        "revocable": 1,
        "friend_rewards": {"EUR": "5.00"},
        "shown": [
            {
                "kind": "rewarded",
                "site_slug": "my-store",
                "refund_key": "a",
                "origin_slug": "A",
                "message": "The order was refunded, and Talkable has paid the advocate",
            }
        ],
    }
    assert list(summary.lines()) == [
        "Refunds: 1 in 1 rows, refunded from 2026-01-02 03:04:05+00:00 to 2026-01-02 03:04:05+00:00",
        "Discrepancies: 1 rewarded",
        "Talkable was asked about 1 of them, 0 without an answer",
        "Paid to advocates of refunded orders: 12.50 EUR, to their friends 5.00 EUR",
        "Coupons among them that are unused and may still be revoked: 1",
        "A: rewarded: The order was refunded, and Talkable has paid the advocate",
    ]


def test_a_row_of_the_report_names_what_the_ledger_and_talkable_say(shop: Shop) -> None:
    order(shop, "A", referral={"status": "pending"})
    shop.refund(("a", "A", "2026-01-02", "7.5"))
    shop.sync(fetch_referral=True)
    shop.clear()
    shop.refund(("a", "A", "2026-01-02", "8"))
    reconcile(shop)
    [row] = reported(shop)
    expected = {"kind": "different", "refund_subtotal": 8, "ledger_refund_subtotal": 7.5, "reward": None}
    assert {name: row[name] for name in expected} == expected
    # Of a part of an order Talkable is not asked: what is known of its referral, the ledger knows.
    referral_id = shop.sandbox.talkable.sites["my-store"]["A"].referral.id  # type: ignore[union-attr]
    assert (row["referral_id"], row["referral_status"]) == (str(referral_id), None)


def test_the_reports_columns(shop: Shop) -> None:
    Report(shop.engine, table="discrepancies").open()
    columns = {column["name"]: column for column in inspect(shop.engine).get_columns("discrepancies")}
    required = ["checked_at", "kind", "site_slug", "refund_key", "origin_slug"]
    assert [name for name, column in columns.items() if not column["nullable"]] == required
    lengths = {name: getattr(column["type"], "length", None) for name, column in columns.items()}
    assert {name: length for name, length in lengths.items() if length} == {
        "kind": 32, "site_slug": 128, "refund_key": 512, "ledger_event": 32, "referral_id": 64,
        "referral_status": 32, "currency": 32, "dag_id": 250, "run_id": 250, "task_id": 250,
    }  # fmt: skip


def test_what_is_too_long_for_a_column_of_the_report_is_cut(shop: Shop) -> None:
    report = Report(shop.engine, table="discrepancies")
    report.open()
    row = Row("my-store", "k", "A", currency="c" * 40)
    referral = {"id": "i" * 80, "status": "s" * 40}
    report.write([Discrepancy(Kind.MISSING, row, "gone", None, referral)])
    [written] = reported(shop)
    assert (written["referral_id"], written["referral_status"], written["currency"]) == (
        storable("i" * 80, 64), storable("s" * 40, 32), storable("c" * 40, 32),
    )  # fmt: skip
    assert [len(written[name]) for name in ("referral_id", "referral_status", "currency")] == [64, 32, 32]


def test_it_is_checked_at_a_moment_in_utc(shop: Shop) -> None:
    report = Report(shop.engine, table="discrepancies")
    report.open()
    before = datetime.now(UTC)
    report.write([Discrepancy(Kind.MISSING, Row("my-store", "k", "A"), "gone")])
    with shop.engine.connect() as connection:
        moment = connection.execute(
            select(Column("checked_at", moment_type())).select_from(text("discrepancies"))
        ).scalar_one()
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    assert before - timedelta(milliseconds=1) <= moment <= datetime.now(UTC)


def test_a_report_may_stand_in_a_schema_of_its_own(postgres_shop: Shop) -> None:
    with postgres_shop.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA reports")
    report = Report(postgres_shop.engine, table="discrepancies", schema="reports")
    report.open()
    report.write([Discrepancy(Kind.MISSING, Row("my-store", "k", "A"), "gone")])
    with postgres_shop.engine.connect() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM reports.discrepancies").scalar_one()
    assert count == 1


def test_every_discrepancy_is_counted_and_twenty_are_shown() -> None:
    summary = ReconcileSummary()
    for number in range(25):
        summary.count(Discrepancy(Kind.MISSING, Row("my-store", f"k{number}", "A"), "gone"))
    assert summary.discrepancies == {"missing": 25}
    assert [one["refund_key"] for one in summary.shown] == [f"k{number}" for number in range(20)]


def test_progress_is_logged_every_ten_seconds(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    Ledger(shop.engine).open()
    shop.refund(*(f"order-{number}" for number in range(2_100)))
    # Before the first and after each 500 the clock is looked at, and once more where it logs.
    times = iter([0.0, 9.9, 10.0, 10.0, 19.9, 20.0, 20.0, 20.0])
    clock = SimpleNamespace(monotonic=lambda: next(times))
    monkeypatch.setattr("airflow_provider_talkable.sync.reconcile.time", clock)
    reconcile(shop, ask=False)
    assert [line for line in caplog.messages if "compared" in line] == [
        "1000 of 2100 refunds compared",
        "2000 of 2100 refunds compared",
    ]


def test_rewards_are_summed_by_currency(shop: Shop) -> None:
    order(shop, "A", "B", "C", "D", referral={"status": "approved", "ad_rewarded": True})
    shop.refund("A", "B", "C", "D")
    shop.sync(fetch_referral=True)
    currency = "CASE origin_slug WHEN 'A' THEN 'USD' WHEN 'B' THEN ' ' ELSE 'EUR' END AS currency"
    summary = reconcile(shop, sql=SQL.replace("'EUR' AS currency", currency))
    assert summary.rewards == {"USD": 10, "?": 10, "EUR": 20}


def test_a_retry_replaces_its_own_rows_only(shop: Shop) -> None:
    shop.order("A")
    shop.refund("A")
    Ledger(shop.engine).open()
    other = TaskRun("shop", "run 2", "reconcile", -1, 1)
    for task_run in (TASK, other, TaskRun("shop", "run 1", "reconcile", -1, 2)):
        reconcile(shop, task_run=task_run)
    assert sorted((row["run_id"], row["try_number"]) for row in reported(shop)) == [
        ("run 1", 2), ("run 2", 1),
    ]  # fmt: skip


def test_without_an_address_or_an_answer_it_is_unknown(shop: Shop) -> None:
    late = {"status": "approved", "ad_rewarded": True}
    order(shop, "A", "B", "C")
    order(shop, "D", "E", referral=late)
    shop.refund("A", "B", "C", "D", "E")
    shop.sync(fetch_referral=True)
    nobody = "CASE WHEN origin_slug IN ('A', 'D') THEN NULL ELSE 'friend-B@example.com' END AS email"
    sql = SQL.replace("'friend-' || origin_slug || '@example.com' AS email", nobody)
    summary = reconcile(shop, sql=sql)
    # A and D have no address, C and E a wrong one; D and E are known to be late from the ledger.
    assert (summary.asked, summary.unknown) == (3, 4)
    assert by_kind(shop) == {"rewarded": {"D", "E"}}
    assert summary.rewards == {}
    assert "Unknown: 4 have no email, or a referral that is not the only one possible" in list(
        summary.lines()
    )


def test_a_person_that_talkable_does_not_know_is_an_answer(shop: Shop) -> None:
    order(shop, "A")
    shop.refund("A")
    shop.sync(fetch_referral=True)
    summary = reconcile(shop, sql=SQL.replace("friend-", "nobody-"))
    assert (summary.asked, summary.unanswered, summary.unknown) == (1, 0, 1)


def test_the_period_is_that_of_the_refunds(shop: Shop) -> None:
    Ledger(shop.engine).open()
    days = ("2026-01-03", "2026-01-01", "2026-01-05", None)
    shop.refund(*((f"r{day}", "A", day) for day in days))
    summary = reconcile(shop, ask=False).as_dict()
    assert (summary["first"], summary["last"]) == ("2026-01-01T00:00:00+00:00", "2026-01-05T00:00:00+00:00")


def test_a_refused_key_is_asked_with_once(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(100)]
    order(shop, *slugs)
    shop.refund(*slugs)
    shop.sync(fetch_referral=True, pace=UNPACED)
    before = questions(shop.sandbox)
    summary = reconcile(shop, key="wrong-api-key")
    assert (summary.unanswered, summary.unknown) == (100, 0)
    # Those under way, by either scheme.
    assert questions(shop.sandbox) - before <= 64


def test_a_friend_is_asked_about_once(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(20)]
    for slug in slugs:
        shop.order(slug, email="friend-jane@example.com")
    shop.refund(*slugs)
    shop.sync(fetch_referral=True, pace=UNPACED)
    before = questions(shop.sandbox)
    sql = SQL.replace("'friend-' || origin_slug || '@example.com'", "'friend-jane@example.com'")
    assert reconcile(shop, sql=sql).asked == 20
    assert questions(shop.sandbox) == before + 1


def test_throttling_is_waited_out(shop: Shop) -> None:
    order(shop, "A", referral={"status": "approved", "ad_rewarded": True})
    shop.refund("A")
    shop.sync(fetch_referral=True)
    shop.sandbox.dials.next(Canned(429), Canned(502))
    assert reconcile(shop).rewards == {"EUR": 10}
    shop.sandbox.dials.next(*[Canned(429)] * 3)
    assert reconcile(shop, policy=RetryPolicy(throttle_patience=0)).unanswered == 1


def test_another_table_of_that_name_is_left_alone(shop: Shop) -> None:
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE discrepancies (kind INTEGER)")
    with pytest.raises(LedgerError, match="is no report of refunds.*give report_table another name"):
        Report(shop.engine, table="discrepancies", task_run=TASK).open()


def test_no_message_names_the_friend(shop: Shop) -> None:
    shop.refund(("a", "jane@example.com"))
    shop.sandbox.dials.next(Canned(422, b'{"ok": false, "error_message": "no order of jane@example.com"}'))
    shop.sync()
    summary = reconcile(shop)
    assert summary.shown[0]["message"] == "The ledger says rejected: no order of [redacted]"
    assert reported(shop)[0]["message"] == "The ledger says rejected: no order of [redacted]"


def test_what_the_log_ends_with() -> None:
    assert list(ReconcileSummary().lines()) == ["Refunds: 0 in 0 rows", "Discrepancies: none"]
    day = datetime(2026, 1, 2, tzinfo=UTC)
    summary = ReconcileSummary(
        rows=5,
        refunds=4,
        first=day,
        last=day,
        asked=3,
        unanswered=1,
        unknown=2,
        discrepancies=Counter(rewarded=2, missing=1),
        other_rewards=Counter(percentage=3, other=1),
        revocable=2,
        friend_rewards={"EUR": Decimal(5)},
        rewards={"USD": Decimal("0.5"), "EUR": Decimal(20)},
        shown=[{"kind": "missing", "origin_slug": "", "refund_key": "r1", "message": "It is not there"}],
    )
    assert list(summary.lines()) == [
        "Refunds: 4 in 5 rows, refunded from 2026-01-02 00:00:00+00:00 to 2026-01-02 00:00:00+00:00",
        "Discrepancies: 2 rewarded, 1 missing",
        "Talkable was asked about 3 of them, 1 without an answer",
        "Unknown: 2 have no email, or a referral that is not the only one possible",
        "Paid to advocates of refunded orders: 20.00 EUR, to their friends 5.00 EUR",
        "Paid to advocates of refunded orders: 0.50 USD, to their friends 0.00 USD",
        "Paid besides, which is no money: 3 percentage, 1 other",
        "Coupons among them that are unused and may still be revoked: 2",
        "r1: missing: It is not there",
    ]
