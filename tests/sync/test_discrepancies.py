"""What counts as wrong with a refund: the rules, one by one."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_talkable import Outcome
from airflow_provider_talkable.sync.discrepancies import (
    Discrepancy,
    Kind,
    against_ledger,
    against_talkable,
    is_to_be_asked,
    settled_entry,
)
from airflow_provider_talkable.sync.entries import Entry, History
from airflow_provider_talkable.sync.rows import Row

DAY = datetime(2026, 1, 2, tzinfo=UTC)
PAID_THEN: Any = {"reward_paid": True, "reward_known_by": "ad_rewarded"}
PENDING = {"id": 7, "status": "pending", "ad_rewarded": True}
FLAGGED = {"id": 7, "status": "flagged", "ad_rewarded": True}
PAID = {"id": 7, "status": "approved", "ad_rewarded": True}
VOIDED = {"id": 7, "status": "voided", "ad_rewarded": False}


def row(subtotal: str | None = None, **fields: Any) -> Row:
    amount = None if subtotal is None else Decimal(subtotal).quantize(Decimal("0.0001"))
    return Row("my-store", "k", "A", DAY, amount, **fields)


def entry(event: str, subtotal: str | None = None, *, writer: str = "w", **fields: Any) -> Entry:
    amount = None if subtotal is None else Decimal(subtotal).quantize(Decimal("0.0001"))
    values: Any = {"origin_slug": "A", "refunded_at": DAY} | fields
    return Entry(f"{0:016x}{writer}", event, refund_subtotal=amount, **values)


def kinds(row: Row, *entries: Entry) -> list[str]:
    return [found.kind for found in against_ledger(row, History.of(entries))]


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        ([], ["missing"]),
        ([entry("refunded")], []),
        ([entry("already_refunded")], []),
        ([entry("not_found")], []),
        ([entry("submitted")], ["unsettled"]),
        ([entry("refunded"), entry("submitted")], ["unsettled"]),
        ([entry("submitted"), entry("refunded")], []),
        ([entry("failed")], ["unsettled"]),
        ([entry("unconfirmed")], ["unsettled"]),
        ([entry("throttled")], ["unsettled"]),
        ([entry("aborted")], ["unsettled"]),
        ([entry("invalid")], ["unsettled"]),
        ([entry("conflict")], ["unsettled"]),
        ([entry("refunded"), entry("aborted")], []),
        ([entry("rejected")], ["refused"]),
        ([entry("refunded", "5")], ["different"]),
        ([entry("refunded", "5"), entry("conflict")], ["different"]),
        ([entry("refunded", refunded_at=None)], ["different"]),
        ([entry("refunded", origin_slug="B")], ["different"]),
        ([entry("refunded", **PAID_THEN)], ["rewarded"]),
        ([entry("refunded", ad_rewarded=False)], []),
        ([entry("refunded", origin_slug="B", **PAID_THEN)], ["different", "rewarded"]),
    ],
)
def test_a_refund_of_a_whole_order_against_the_ledger(entries: list[Entry], kind: list[str]) -> None:
    assert kinds(row(), *entries) == kind


def test_a_reward_stays_after_a_partial_refund() -> None:
    assert kinds(row("5"), entry("refunded", "5", **PAID_THEN)) == []


@pytest.mark.parametrize(("problem", "kind"), [(Outcome.INVALID, "refused"), (Outcome.CONFLICT, "different")])
def test_a_row_with_a_problem(problem: Outcome, kind: str) -> None:
    known = entry("refunded")
    [found] = against_ledger(row(problem=problem, message="no slug"), History.of([known]))
    assert (found.kind, found.message, found.entry) == (kind, "no slug", known)
    [found] = against_ledger(row(problem=problem), History.of([]))
    assert (found.message, found.entry) == ("", None)


@pytest.mark.parametrize(
    ("entries", "told_by"),
    [
        ([entry("failed")], 0),
        ([entry("rejected")], 0),
        ([entry("refunded", "5")], 0),
        ([entry("refunded", "5"), entry("conflict")], 0),
        ([entry("refunded", **PAID_THEN)], 0),
        ([entry("failed"), entry("submitted")], 1),
        ([entry("aborted")], 0),
    ],
)
def test_a_discrepancy_comes_with_the_entry_that_tells_it(entries: list[Entry], told_by: int) -> None:
    [found] = against_ledger(row(), History.of(entries))
    assert found.entry is entries[told_by]


def test_the_message_says_what_is_wrong() -> None:
    [found] = against_ledger(row(), History.of([]))
    assert found.message == "The ledger does not know this refund"
    [found] = against_ledger(row(), History.of([entry("failed")]))
    assert found.message == "The ledger says failed"
    [found] = against_ledger(row(), History.of([entry("refunded", **PAID_THEN)]))
    assert found.message == "The advocate was paid before the refund"
    verdict = against_talkable(row(), entry("refunded", referral_id="7"), [PENDING])
    assert isinstance(verdict, Discrepancy)
    assert verdict.message == "Talkable shows its referral as pending: it does not have the refund"


def test_the_message_says_what_the_ledger_says() -> None:
    [found] = against_ledger(row(), History.of([entry("failed", error_message="HTTP 502")]))
    assert found.message == "The ledger says failed: HTTP 502"
    [found] = against_ledger(row("12.50"), History.of([entry("refunded", refunded_at=None)]))
    assert found.message == (
        "Talkable received the whole order, no date, for A; the warehouse has 12.5, "
        "2026-01-02T00:00:00+00:00, for A under the same refund_key"
    )


@pytest.mark.parametrize(
    ("entries", "is_settled"),
    [
        ([], False),
        ([entry("refunded")], True),
        ([entry("already_refunded")], True),
        ([entry("rejected")], False),
        ([entry("refunded"), entry("submitted")], False),
    ],
)
def test_what_is_settled(entries: list[Entry], is_settled: bool) -> None:
    assert bool(settled_entry(History.of(entries))) is is_settled


@pytest.mark.parametrize(
    ("subtotal", "decisive", "asked"),
    [
        (None, entry("refunded", referral_id="7", ad_rewarded=False), True),
        (None, entry("refunded"), True),
        (None, entry("refunded", ad_rewarded=False), False),
        (None, None, False),
        ("5", entry("refunded", "5", referral_id="7"), False),
    ],
    ids=["its referral is known", "nothing is known", "it has none", "it is not settled", "it is partial"],
)
def test_what_talkable_is_asked_about(subtotal: str | None, decisive: Entry | None, asked: bool) -> None:
    assert is_to_be_asked(row(subtotal), decisive) is asked


def test_a_row_with_a_problem_is_not_asked_about() -> None:
    assert not is_to_be_asked(row(problem=Outcome.INVALID), entry("refunded"))


@pytest.mark.parametrize(
    ("referral_id", "referrals", "verdict"),
    [
        ("7", [VOIDED], False),
        ("7", [{"id": 7, "status": "approved", "ad_rewarded": False}], False),
        ("7", [PAID | {"id": 8}, VOIDED], False),
        ("7", [], True),
        ("7", [VOIDED | {"id": 8}], True),
        ("7", [PAID], "rewarded"),
        ("7", [VOIDED | {"id": 8}, PENDING], "missing"),
        ("7", [FLAGGED], "missing"),
        ("7", [{"id": 7}], True),
        (None, [], False),
        (None, [VOIDED, VOIDED], False),
        (None, [VOIDED, PAID], True),
        (None, [PENDING], True),
    ],
)
def test_against_talkable(referral_id: str | None, referrals: Any, verdict: bool | str) -> None:
    found = against_talkable(row(), entry("refunded", referral_id=referral_id), referrals)
    assert (found.kind if isinstance(found, Discrepancy) else found) == verdict


@pytest.mark.parametrize(("referral", "kind"), [(PENDING, None), (PAID, "rewarded")])
def test_talkable_was_told_of_a_part_of_what_was_refunded(referral: Any, kind: str | None) -> None:
    found = against_talkable(row(), entry("refunded", "5", referral_id="7"), [referral])
    assert (found.kind if isinstance(found, Discrepancy) else None) == kind


def test_only_a_reward_that_talkable_shows_has_an_amount() -> None:
    reward = {"id": 1, "amount": 10, "status": "Paid", "incentive_type": "rebate"}
    referral = PAID | {"advocate_rewards": [reward]}
    shown = Discrepancy(Kind.REWARDED, row(), "", None, referral).rewards
    assert shown is not None
    assert shown.money == 10
    assert Discrepancy(Kind.REWARDED, row(), "").rewards is None
    assert Discrepancy(Kind.MISSING, row(), "", None, referral).rewards is None


@pytest.mark.parametrize(
    ("referrals", "verdict"),
    [
        ([PAID | {"referred_origin_id": 9}], "rewarded"),
        ([PENDING | {"referred_origin_id": 9}, PAID | {"referred_origin_id": 8}], "missing"),
        ([PAID | {"referred_origin_id": 8}], False),
        ([], False),
    ],
)
def test_the_orders_own_id_tells_its_referral_from_others(referrals: Any, verdict: bool | str) -> None:
    found = against_talkable(row(), entry("refunded", origin_id="9"), referrals)
    assert (found.kind if isinstance(found, Discrepancy) else found) == verdict


@pytest.mark.parametrize(
    ("counted", "told_then", "found"),
    [("30", "30", []), ("20", "50", ["different"]), ("30.004", "30", []), (None, "30", []), ("30", None, [])],
)
def test_what_talkable_counts_otherwise_is_different(
    counted: str | None, told_then: str | None, found: list[str]
) -> None:
    amounts: Any = {
        name: None if text is None else Decimal(text)
        for name, text in (("counted_subtotal", counted), ("sent_subtotal", told_then))
    }
    assert kinds(row("5"), entry("refunded", "5", **amounts)) == found


def test_a_refund_that_is_not_counted_is_refused_and_an_unknown_site_unsettled() -> None:
    assert kinds(row(), entry("not_counted")) == ["refused"]
    history = History.of([entry("not_found")])
    assert against_ledger(row(), history) == []
    assert [d.kind for d in against_ledger(row(), history, is_doubtful_site=True)] == ["unsettled"]
