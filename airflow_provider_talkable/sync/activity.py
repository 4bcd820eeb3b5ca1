"""What happened to the refunds of the last days, counted by the database in one pass. It only reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Table, case, cast, func, literal, select
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import ColumnElement

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.bounded_reads import CLOCKS_DIFFER, Visible, bounded, readable
from airflow_provider_talkable.sync.columns import exact, in_utc
from airflow_provider_talkable.sync.entries import HAS_IT, OPEN
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.overview import facts_of_a_reward, is_last, is_late_by

SAMPLE = 2000
"""How many refunds the delays are taken from."""
ENTRIES = 450_000
"""How many entries are counted at most: PostgreSQL takes 0.5 to 0.8 s for them on two cores."""


@dataclass(slots=True)
class Late:
    """Late refunds: the advocate had been paid.

    :param refunds: How many they are.
    :param money: What the advocates were paid in money, in the shop's currency, as far as it is known.
    :param unknown: Of how many refunds it is not: Talkable did not list the rewards, or they are no money.
    """

    refunds: int = 0
    money: Decimal = Decimal(0)
    unknown: int = 0

    def __add__(self, other: Late) -> Late:
        return Late(self.refunds + other.refunds, self.money + other.money, self.unknown + other.unknown)


@dataclass(slots=True)
class Activity:
    """What happened to the refunds whose newest entry lies in a period.

    :param days: By day, in UTC, how many refunds there are by event; the last ones only, where more days were
        asked for than may be counted.
    :param late_by_day: By day and site, those that were late: the advocate had been paid.
    :param open_since: By event, when the oldest of those that are open was written.
    :param sites: The sites of all refunds that may be shown, also where one is chosen.
    :param delays: Seconds from ``refunded_at`` to Talkable's answer, of the newest, sorted.
    :param last: The newest entry's ``logged_at``, ``dag_id``, ``run_id``, ``task_id`` and ``map_index``.
    """

    days: dict[date, Counter[str]] = field(default_factory=dict)
    late_by_day: dict[tuple[date, str], Late] = field(default_factory=dict)
    open_since: dict[str, datetime] = field(default_factory=dict)
    sites: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    last: dict[str, Any] | None = None

    @property
    def events(self) -> Counter[str]:
        """How many refunds there are by event, in the whole period."""
        return sum(self.days.values(), Counter())

    @property
    def still_open(self) -> int:
        """How many refunds are open."""
        return sum(count for event, count in self.events.items() if event in OPEN)

    @property
    def refused(self) -> int:
        """How many refunds Talkable does not take as they are."""
        return sum(count for event, count in self.events.items() if event not in OPEN | HAS_IT)

    @property
    def late(self) -> int:
        """How many refunds were late."""
        return sum(each.refunds for each in self.late_by_day.values())

    def late_by_site(self) -> dict[str, Late]:
        """Those that were late, by site: each has its own currency."""
        found: dict[str, Late] = {}
        for (_, site), late in sorted(self.late_by_day.items()):
            found[site] = found.get(site, Late()) + late
        return found

    def late_by_week(self) -> dict[date, dict[str, Late]]:
        """The same by the week's Monday and site, for every week of the period."""
        found: dict[date, dict[str, Late]] = {_monday(day): {} for day in self.days}
        for (day, site), late in sorted(self.late_by_day.items()):
            of_week = found[_monday(day)]
            of_week[site] = of_week.get(site, Late()) + late
        return found

    def delay(self, share: float) -> timedelta | None:
        """The delay within which this share of the refunds reached Talkable; ``None``: there are none."""
        if not self.delays:
            return None
        return timedelta(seconds=self.delays[min(len(self.delays) - 1, int(share * len(self.delays)))])


def activity(
    ledger: Ledger,
    visible: Visible,
    *,
    days: int,
    site_slug: str | None = None,
    now: datetime | None = None,
    entries: int = ENTRIES,
) -> Activity:
    """Read what happened to the refunds of the last days.

    :param ledger: An opened ledger.
    :param days: How many days to go back, today included.
    :param site_slug: Those of one Talkable site id; default: of all.
    :param now: The time; default: the present.
    :param entries: How many entries to count at most, in whole days; today's are counted in any case.
    :raises TooMuch: if the database takes longer than a page may.
    :raises LedgerError: if the database does not let it.
    """
    today = (now or datetime.now(UTC)).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    wanted = [today - timedelta(days=ago) for ago in reversed(range(days))]

    def read(connection: Connection, table: Table) -> Activity:
        beginnings = _countable(connection, table, wanted, entries)
        found = Activity({beginning.date(): Counter() for beginning in beginnings})
        _count(connection, ledger, table, visible, beginnings, site_slug, found)
        shown = [table.columns.logged_at >= beginnings[0], visible.condition(table)]
        if site_slug:
            shown.append(table.columns.site_slug == site_slug)
        found.delays = _delays(connection, table, shown)
        found.last = _last(connection, table, shown)
        return found

    return bounded(ledger, read)


def _countable(
    connection: Connection, table: Table, beginnings: Sequence[datetime], entries: int
) -> Sequence[datetime]:
    """The beginnings of the last days that have no more than so many entries, found in the index alone."""
    moment = table.columns.logged_at
    newest = select(moment).where(moment >= beginnings[0]).order_by(moment.desc())
    too_many = connection.execute(newest.offset(entries).limit(1)).scalar()
    if too_many is None:
        return beginnings
    first = in_utc(too_many)
    return [beginning for beginning in beginnings if beginning > first] or beginnings[-1:]


def _count(
    connection: Connection,
    ledger: Ledger,
    table: Table,
    visible: Visible,
    beginnings: Sequence[datetime],
    site_slug: str | None,
    found: Activity,
) -> None:
    entry = table.columns
    facts = facts_of_a_reward(ledger)
    # Where the column is missing, its NULL needs a type to be summed.
    amount = cast(ledger.column("reward_amount"), entry.reward_amount.type).label("amount")
    # Inside, so that all databases group by names; of a missing column too.
    each = (
        select(
            _day(entry.logged_at, beginnings).label("day"),
            entry.site_slug.label("site"),
            entry.event,
            *facts,
            amount,
            entry.logged_at,
        )
        .where(*_is_newest(table, beginnings[0], connection.dialect), visible.condition(table))
        .subquery()
    )
    by = [each.columns[name] for name in ("day", "site", "event", *(fact.name for fact in facts))]
    of_all = (
        func.count(),
        func.min(each.columns.logged_at),
        func.sum(each.columns.amount),
        func.count(each.columns.amount),
    )
    sites = set()
    for row in connection.execute(select(*by, *of_all).group_by(*by)):
        number, site, event, *values, count, since, money, known = row
        sites.add(site)
        if site_slug and site != site_slug:
            continue
        day = beginnings[int(number)].date()
        found.days[day][event] += count
        if event in HAS_IT and is_late_by(*values):
            late = Late(count, exact(money) or Decimal(0), count - known)
            found.late_by_day[day, site] = found.late_by_day.get((day, site), Late()) + late
        if event in OPEN:
            moment = in_utc(since)
            found.open_since[event] = min(moment, found.open_since.get(event, moment))
    found.sites = sorted(sites)


def _day(moment: ColumnElement[datetime], beginnings: Sequence[datetime], first: int = 0) -> Any:
    """The number of the day that a moment lies in.

    By comparison, since each database has functions of its own for dates; by halves, since a comparison with
    each day would take most of the query's time.
    """
    if len(beginnings) == 1:
        return literal(first)
    half = len(beginnings) // 2
    earlier, later = (
        _day(moment, beginnings[:half], first),
        _day(moment, beginnings[half:], first + half),
    )
    return case((moment < beginnings[half], earlier), else_=later)


def _delays(connection: Connection, table: Table, shown: Sequence[ColumnElement[bool]]) -> list[float]:
    entry = table.columns
    moments = (
        select(entry.refunded_at, entry.logged_at)
        .where(*shown, entry.event == Outcome.REFUNDED.value, entry.refunded_at.is_not(None))
        .order_by(entry.logged_at.desc())
        .limit(SAMPLE)
    )
    return sorted(
        (in_utc(logged) - in_utc(refunded)).total_seconds()
        for refunded, logged in connection.execute(moments)
    )


def _last(
    connection: Connection, table: Table, shown: Sequence[ColumnElement[bool]]
) -> dict[str, Any] | None:
    names = ("logged_at", "dag_id", "run_id", "task_id", "map_index")
    entry = table.columns
    newest = select(*(entry[name] for name in names)).where(*shown, entry.dag_id.is_not(None))
    row = connection.execute(newest.order_by(entry.logged_at.desc()).limit(1)).first()
    return None if row is None else readable(zip(names, row, strict=True))


def _is_newest(table: Table, since: datetime, dialect: Dialect) -> Iterator[ColumnElement[bool]]:
    """That an entry is its refund's newest; later ones are looked for only where they can be."""
    later = table.alias("later")
    yield table.columns.logged_at >= since
    yield is_last(table, later, dialect, later.columns.logged_at >= since - CLOCKS_DIFFER)


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())
