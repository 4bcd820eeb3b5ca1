"""How the refunds of a period stand: what the ledger says last of each. It only reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from operator import eq
from typing import Any

from sqlalchemy import Table, and_, case, func, not_, or_, select, tuple_
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import ColumnElement, FromClause
from sqlalchemy.sql.elements import Label, Null

from airflow_provider_talkable.protocol.rewards import is_late
from airflow_provider_talkable.sync.column_types import are_same
from airflow_provider_talkable.sync.columns import in_utc
from airflow_provider_talkable.sync.entries import HAS_IT, payment_of_entry
from airflow_provider_talkable.sync.ledger import Ledger

_SUCCESSES = sorted(HAS_IT)
_SHOWN = ("site_slug", "refund_key", "origin_slug", "event", "error_message", "logged_at")


@dataclass(frozen=True, slots=True)
class Period:
    """Which refunds are meant: those whose newest entry lies in it.

    :param site_slug: Those of one Talkable site id; ``None``: of all.
    :param since: Entries of this moment and later; ``None``: from the first.
    :param until: Entries before this moment; ``None``: to the last.
    """

    site_slug: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """How the refunds of a period stand.

    :param events: How many there are by the event of their newest entry: an outcome, what a person has
        settled it as, or ``submitted``, which says that it was sent and nothing more is known; the most
        frequent first.
    :param rewarded: Those that were late: refunds of whole orders whose advocate had been paid already.
    :param failures: The newest of those that Talkable does not have, or may not have, newest first.
    """

    events: dict[str, int]
    rewarded: int
    failures: list[dict[str, Any]]

    @property
    def refunds(self) -> int:
        """How many refunds there are."""
        return sum(self.events.values())

    @property
    def failed(self) -> int:
        """How many there are that Talkable does not have, or may not have."""
        return self.refunds - sum(self.events.get(success, 0) for success in _SUCCESSES)


def overview_of(ledger: Ledger, period: Period, *, limit: int) -> Overview:
    """Read how the refunds of a period stand.

    A refund whose newest entry is later than the period is not among them, whatever had happened to it
    in the period: its newest outcome is what counts.

    :param ledger: An opened ledger.
    :param limit: How many failures to read at most; the counts are of all.
    :raises LedgerError: if the database does not let it, or is gone for too long.
    """

    def read(connection: Connection, table: Table) -> Overview:
        newest = and_(*is_newest(table, period, connection.dialect))
        event = table.columns.event
        facts = facts_of_a_reward(ledger)
        # PostgreSQL groups by no constant, which stands for a column that is missing.
        varying = [fact for fact in facts if not isinstance(fact.element, Null)]
        counts = select(event, *facts, func.count()).where(newest).group_by(event, *varying)
        failures = (
            select(*(table.columns[name] for name in _SHOWN))
            .where(newest, event.not_in(_SUCCESSES))
            .order_by(table.columns.entry_id.desc())
            .limit(limit)
        )
        events: Counter[str] = Counter()
        late = 0
        for name, *values, count in connection.execute(counts):
            events[name] += count
            late += count if name in _SUCCESSES and is_late_by(*values) else 0
        return Overview(
            events=dict(sorted(events.items(), key=lambda item: (-item[1], item[0]))),
            rewarded=late,
            failures=[_failure(row) for row in connection.execute(failures)],
        )

    return ledger.read(read)


def facts_of_a_reward(ledger: Ledger) -> list[Label[Any]]:
    """The columns that say whether a refund is late, of which there are few combinations."""
    amount, whole = ledger.column("refund_subtotal"), ledger.column("order_subtotal").label("whole")
    has_referral = ledger.column("referral_id").is_not(None)
    # As numbers: not every database can select a condition.
    return [
        case((or_(amount.is_(None), amount >= whole), 1), else_=0).label("is_whole"),
        case((has_referral, 1), else_=0).label("has_referral"),
        *(
            ledger.column(name).label(name)
            for name in ("referral_status", "ad_rewarded", "reward_paid", "reward_known_by")
        ),
    ]


def is_late_by(
    whole: int,
    has_referral: int,
    status: str | None,
    rewarded: bool | None,
    paid: bool | None,
    known_by: str | None,
) -> bool:
    """Whether a refund that Talkable has is late, by the values of :func:`facts_of_a_reward`."""
    payment = payment_of_entry(paid, known_by, "a referral" if has_referral else None, status, rewarded)
    return is_late(is_whole=bool(whole), paid=payment.paid) is True


def is_newest(table: Table, period: Period, dialect: Dialect) -> Iterator[ColumnElement[bool]]:
    """The conditions that an entry is the newest of its refund, and lies in the period."""
    entry = table.columns
    yield is_last(table, table.alias("later"), dialect, same=partial(are_same, dialect=dialect))
    if period.site_slug is not None:
        yield entry.site_slug == period.site_slug
    if period.since:
        yield entry.logged_at >= period.since.astimezone(UTC)
    if period.until:
        yield entry.logged_at < period.until.astimezone(UTC)


def is_last(
    table: Table,
    later: FromClause,
    dialect: Dialect,
    *among: ColumnElement[bool],
    same: Callable[[ColumnElement[str], ColumnElement[str]], ColumnElement[bool]] = eq,
) -> ColumnElement[bool]:
    """The condition that an entry is the last of its refund.

    :param later: The table by another name.
    :param among: The conditions on ``later`` of those that count; default: all.
    :param same: The condition that two texts are the same.
    """
    entry, other = table.columns, later.columns
    if dialect.name == "clickhousedb":
        # In a subquery it takes the table's own name for the other one, and compares an entry with itself.
        key = (other.site_slug, other.refund_key)
        last = select(*key, func.max(other.entry_id)).where(*among).group_by(*key)
        return tuple_(entry.site_slug, entry.refund_key, entry.entry_id).in_(last)
    return not_(
        select(other.entry_id)
        .where(
            same(other.site_slug, entry.site_slug),
            same(other.refund_key, entry.refund_key),
            other.entry_id > entry.entry_id,
            *among,
        )
        .exists()
    )


def _failure(row: Any) -> dict[str, Any]:
    failure = dict(zip(_SHOWN, row, strict=True))
    failure["logged_at"] = in_utc(failure["logged_at"])
    return failure
