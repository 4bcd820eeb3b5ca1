"""The reconciliation: a query's refunds against the ledger and, on request, against Talkable."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Column, Integer
from sqlalchemy.engine import Engine

from airflow_provider_talkable.client.concurrent import Sender
from airflow_provider_talkable.protocol.errors import TalkableError, printable
from airflow_provider_talkable.protocol.referrals import JsonObject
from airflow_provider_talkable.sync.column_types import ExactText, amount_type, moment_type
from airflow_provider_talkable.sync.columns import Values, task_columns
from airflow_provider_talkable.sync.discrepancies import (
    Discrepancy,
    Kind,
    against_ledger,
    against_talkable,
    is_to_be_asked,
    settled_entry,
)
from airflow_provider_talkable.sync.entries import Entry, History
from airflow_provider_talkable.sync.ledger import Ledger, TaskRun
from airflow_provider_talkable.sync.rows import MAX_KEY, MAX_SITE, Row
from airflow_provider_talkable.sync.sites import doubtful_sites
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.tables import Layout, OwnTable, added, storable

log = logging.getLogger(__name__)

SHOWN = 20
NO_CURRENCY = "?"
"""What stands for the currency of refunds whose row gives none."""

_EVERY = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Question:
    """A refund that Talkable is asked about.

    :param row: The refund.
    :param entry: The ledger's entry that says that Talkable has it.
    :param found: What is wrong with it by the ledger alone.
    """

    row: Row
    entry: Entry
    found: list[Discrepancy]


Asking = Sender[Question, tuple[str, str], list[JsonObject] | TalkableError]


@dataclass(slots=True)
class ReconcileSummary:
    """The result of a reconciliation.

    :param rows: Rows that the query gave.
    :param refunds: Different refunds that they are.
    :param first: The earliest ``refunded_at`` among them: what the period really was.
    :param last: The latest.
    :param asked: Refunds that Talkable was asked about.
    :param unanswered: Those of them about which no answer came.
    :param unknown: Settled ones of which it is not known whether they are in order: the row has no
        ``email``, or nothing tells which of the person's referrals is the order's, or what happened to it.
    :param discrepancies: How many, by kind.
    :param rewards: The sum of what advocates of refunded orders were paid in money, by currency.
    :param other_rewards: How many rewards they were paid that are no money, by kind.
    :param revocable: How many of their coupons are unused, so that they may still be revoked.
    :param friend_rewards: The sum of what the friends were paid for those orders, by currency.
    :param shown: The first twenty discrepancies.
    """

    rows: int = 0
    refunds: int = 0
    first: datetime | None = None
    last: datetime | None = None
    asked: int = 0
    unanswered: int = 0
    unknown: int = 0
    discrepancies: Counter[str] = field(default_factory=Counter)
    rewards: dict[str, Decimal] = field(default_factory=dict)
    other_rewards: Counter[str] = field(default_factory=Counter)
    revocable: int = 0
    friend_rewards: dict[str, Decimal] = field(default_factory=dict)
    shown: list[dict[str, str]] = field(default_factory=list)

    def cover(self, moment: datetime | None) -> None:
        """Note that a refund of that moment was looked at."""
        if moment:
            self.first = min(moment, self.first or moment)
            self.last = max(moment, self.last or moment)

    def count(self, discrepancy: Discrepancy) -> None:
        """Count a discrepancy."""
        row, rewards = discrepancy.row, discrepancy.rewards
        self.discrepancies[discrepancy.kind] += 1
        if rewards is not None:
            currency = row.currency or NO_CURRENCY
            for sums, amount in (
                (self.rewards, rewards.money),
                (self.friend_rewards, rewards.friend_money),
            ):
                sums[currency] = sums.get(currency, Decimal(0)) + amount
            self.other_rewards += rewards.others
            self.revocable += rewards.revocable
        if len(self.shown) < SHOWN:
            self.shown.append(
                {
                    "kind": discrepancy.kind.value,
                    "site_slug": row.site_slug,
                    "refund_key": row.refund_key,
                    "origin_slug": row.origin_slug,
                    "message": discrepancy.message,
                }
            )

    def as_dict(self) -> dict[str, Any]:
        """The JSON-safe form; sums of money are texts, to be exact."""
        return {
            "rows": self.rows,
            "refunds": self.refunds,
            "first": self.first and self.first.isoformat(),
            "last": self.last and self.last.isoformat(),
            "asked": self.asked,
            "unanswered": self.unanswered,
            "unknown": self.unknown,
            "discrepancies": {kind.value: self.discrepancies[kind] for kind in Kind},
            "rewards": _amounts(self.rewards),
            "other_rewards": dict(self.other_rewards.most_common()),
            "revocable": self.revocable,
            "friend_rewards": _amounts(self.friend_rewards),
            "shown": self.shown,
        }

    def lines(self) -> Iterator[str]:
        """What the log ends with."""
        period = f", refunded from {self.first} to {self.last}" if self.first else ""
        yield f"Refunds: {self.refunds} in {self.rows} rows{period}"
        tally = ", ".join(f"{count} {kind}" for kind, count in self.discrepancies.most_common())
        yield f"Discrepancies: {tally or 'none'}"
        if self.asked:
            yield f"Talkable was asked about {self.asked} of them, {self.unanswered} without an answer"
        if self.unknown:
            yield f"Unknown: {self.unknown} have no email, or a referral that is not the only one possible"
        for currency, amount in sorted(self.rewards.items()):
            friends = f", to their friends {self.friend_rewards.get(currency, 0):.2f} {currency}"
            yield f"Paid to advocates of refunded orders: {amount:.2f} {currency}{friends}"
        if self.other_rewards:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.other_rewards.most_common())
            yield f"Paid besides, which is no money: {kinds}"
        if self.revocable:
            yield f"Coupons among them that are unused and may still be revoked: {self.revocable}"
        for one in self.shown:
            slug = printable(one["origin_slug"] or one["refund_key"])
            yield f"{slug}: {one['kind']}: {one['message']}"


def _amounts(sums: dict[str, Decimal]) -> dict[str, str]:
    return {currency: f"{amount:.2f}" for currency, amount in sorted(sums.items())}


class Report:
    """A table of discrepancies, of which every run of a task has its own rows.

    :param engine: The database.
    :param table: The table's name, quoted as it is; made if it is missing.
    :param schema: Its schema, quoted as it is. Default: the connection's.
    :param task_run: Whose rows these are: those that an earlier try left are replaced.
    """

    def __init__(
        self, engine: Engine, *, table: str, schema: str | None = None, task_run: TaskRun | None = None
    ) -> None:
        self._own = OwnTable(engine, REPORT, table, schema)
        self._task_run = {name: getattr(task_run or TaskRun(), name) for name in TaskRun.__slots__}
        self.name = self._own.name

    def open(self) -> None:
        """Make or check the table, and delete what an earlier try of the same task has written.

        :raises LedgerError: if another table has that name, or the database does not let it.
        """
        self._own.open()
        columns = self._own.table.columns
        mine = (columns[name] == value for name, value in self._task_run.items() if name != "try_number")
        statement = self._own.table.delete().where(*mine)

        def delete() -> None:
            with self._own.engine.begin() as connection:
                connection.execute(statement)

        if self._task_run["dag_id"]:
            self._own.patiently(delete)

    def write(self, discrepancies: Sequence[Discrepancy]) -> None:
        """Add rows, all or none.

        :raises LedgerLost: if the database is gone for too long.
        """
        if not discrepancies:
            return
        values = [self._values(discrepancy) for discrepancy in discrepancies]

        def insert() -> None:
            with self._own.engine.begin() as connection:
                connection.execute(self._own.table.insert(), values)

        self._own.patiently(insert)

    def _values(self, discrepancy: Discrepancy) -> Values:
        row, entry, referral = discrepancy.row, discrepancy.entry, discrepancy.referral or {}
        rewards = discrepancy.rewards
        return {
            "checked_at": datetime.now(UTC),
            "kind": discrepancy.kind.value,
            "site_slug": row.site_slug,
            "refund_key": row.refund_key,
            "origin_slug": row.origin_slug,
            "refunded_at": row.refunded_at,
            "refund_subtotal": row.refund_subtotal,
            "ledger_event": entry and entry.event,
            "ledger_refunded_at": entry and entry.refunded_at,
            "ledger_refund_subtotal": entry and entry.refund_subtotal,
            "ledger_counted_subtotal": entry and entry.counted_subtotal,
            "referral_id": storable(referral.get("id") or (entry and entry.referral_id), 64),
            "referral_status": storable(referral.get("status"), 32),
            "reward": rewards and rewards.money,
            "other_rewards": storable(", ".join(f"{n} {kind}" for kind, n in rewards.others.items()) or None)
            if rewards
            else None,
            "revocable": rewards and rewards.revocable,
            "friend_reward": rewards and rewards.friend_money,
            "currency": storable(row.currency, 32),
            "message": storable(discrepancy.message),
            **self._task_run,
        }


class Reconciliation:
    """One comparison of a snapshot with the ledger and, if there is something that asks, with Talkable.

    :param snapshot: The refunds that should be with Talkable.
    :param ledger: The ledger, opened.
    :param report: Where discrepancies are written.
    :param asking: Asks for friends' referrals; ``None``: the ledger alone is looked at.
    """

    def __init__(
        self, snapshot: Snapshot, ledger: Ledger, report: Report, asking: Asking | None = None
    ) -> None:
        self.summary = ReconcileSummary(rows=snapshot.rows, refunds=snapshot.refunds)
        self._snapshot = snapshot
        self._ledger = ledger
        self._report = report
        self._asking = asking
        self._failure: TalkableError | None = None

    def run(self) -> TalkableError | None:
        """Compare all, and write down what is wrong.

        :return: Why Talkable did not answer, if there was something that it did not answer.
        """
        asking: AbstractContextManager[Any] = self._asking or nullcontext()
        told_at, done = time.monotonic(), 0
        doubtful = doubtful_sites(self._ledger, self._snapshot.sites)
        with asking:
            while rows := self._snapshot.take(self._ledger.keys_at_a_time):
                found: list[Discrepancy] = []
                questions: list[Question] = []
                # Of what it cannot look up it has no entry.
                histories, _ = self._ledger.look_up(rows)
                for row in rows:
                    self.summary.cover(row.refunded_at)
                    history = histories.get((row.site_slug, row.refund_key), History())
                    is_doubtful = row.site_slug in doubtful
                    wrong = against_ledger(row, history, is_doubtful_site=is_doubtful)
                    entry = settled_entry(history)
                    if self._asking and entry and is_to_be_asked(row, entry):
                        questions.append(Question(row, entry, wrong))
                    else:
                        found += wrong
                found += self._ask(questions)
                for discrepancy in found:
                    self.summary.count(discrepancy)
                self._report.write(found)
                done += len(rows)
                if time.monotonic() - told_at >= _EVERY:
                    told_at = time.monotonic()
                    log.info("%d of %d refunds compared", done, self._snapshot.refunds)
        return self._failure

    def _ask(self, questions: Iterable[Question]) -> Iterator[Discrepancy]:
        """What is wrong with settled refunds, now that Talkable is asked."""
        if self._asking is None:
            return
        for question in questions:
            if question.row.email:
                self._asking.put([(question, (question.row.site_slug, question.row.email))])
                self.summary.asked += 1
            else:
                self.summary.unknown += 1
                yield from question.found
        for question, answer in self._asking.take(until=0):
            if isinstance(answer, TalkableError):
                self._failure = self._failure or answer
                self.summary.unanswered += 1
                yield from question.found
                continue
            verdict = against_talkable(question.row, question.entry, answer)
            if verdict is True:
                self.summary.unknown += 1
                yield from question.found
                continue
            yield from (wrong for wrong in question.found if wrong.kind is not Kind.REWARDED)
            if verdict:
                yield verdict


def report_columns() -> list[Column[Any]]:
    """The columns of the report."""
    return [
        Column("checked_at", moment_type(), nullable=False),
        Column("kind", ExactText(32), nullable=False),
        Column("site_slug", ExactText(MAX_SITE), nullable=False),
        Column("refund_key", ExactText(MAX_KEY), nullable=False),
        Column("origin_slug", ExactText(), nullable=False),
        Column("refunded_at", moment_type()),
        Column("refund_subtotal", amount_type()),
        Column("ledger_event", ExactText(32)),
        Column("ledger_refunded_at", moment_type()),
        Column("ledger_refund_subtotal", amount_type()),
        added(Column("ledger_counted_subtotal", amount_type())),
        Column("referral_id", ExactText(64)),
        Column("referral_status", ExactText(32)),
        Column("reward", amount_type()),
        Column("currency", ExactText(32)),
        added(Column("other_rewards", ExactText())),
        added(Column("revocable", Integer)),
        added(Column("friend_reward", amount_type())),
        Column("message", ExactText()),
        *task_columns(),
    ]


REPORT = Layout("report", report_columns)
