"""What the ledger says to people who look at pages: bounded in rows and in time. It only reads."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy import Table, and_, case, func, not_, or_, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.sql import ColumnElement

from airflow_provider_talkable.protocol.errors import TalkableError
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.columns import OF_OUTCOMES, exact, in_utc
from airflow_provider_talkable.sync.entries import HAS_IT, SUBMITTED
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.overview import facts_of_a_reward, is_late_by

T = TypeVar("T")

SECONDS = 10.0
"""How long a page's question may keep the database busy."""
SAMPLE = 2000
"""How many refunds the delays are taken from."""
HISTORY = 500
"""How many entries of a search are shown."""
OPEN = frozenset(
    {
        SUBMITTED,
        Outcome.UNCONFIRMED.value,
        Outcome.FAILED.value,
        Outcome.THROTTLED.value,
        Outcome.ABORTED.value,
        "settled_not_refunded",
    }
)
"""The events after which a refund is still to reach Talkable, or may be there already."""

_CLOCKS_DIFFER = timedelta(days=1)
_LISTED = ("entry_id", "logged_at", "site_slug", "refund_key", "origin_slug", "event", "refund_subtotal")
_OF_A_TASK = (*_LISTED, "refunded_at", "error_message", "is_late")
_OF_A_REFUND = (
    *_LISTED,
    "order_subtotal",
    "refunded_at",
    "http_status",
    "error_message",
    "attempts",
    "referral_id",
    "referral_status",
    "reward_paid",
    "void_outcome",
    "settled_note",
    "sending_until",
    "dag_id",
    "run_id",
    "task_id",
    "map_index",
)


@dataclass(frozen=True, slots=True)
class Visible:
    """Whose entries may be shown.

    :param dag_ids: Those that these DAGs have written.
    :param by_hand: Those that no DAG has written as well.
    """

    dag_ids: frozenset[str]
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class TaskEntries:
    """Which entries one task has written in one DAG run.

    :param since: When its DAG run may have begun at the earliest.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    since: datetime


@dataclass(slots=True)
class Activity:
    """What became of the refunds whose newest entry lies in a period.

    :param days: By day, in UTC, how many refunds there are by event.
    :param late: By day, how many were late: the advocate had been paid.
    :param open_since: By event, when the oldest of those that are open was written.
    :param delays: Seconds from ``refunded_at`` to Talkable's answer, of the newest, sorted.
    :param last: The newest entry's ``logged_at``, ``dag_id``, ``run_id``, ``task_id`` and ``map_index``.
    """

    days: dict[date, Counter[str]] = field(default_factory=dict)
    late: Counter[date] = field(default_factory=Counter)
    open_since: dict[str, datetime] = field(default_factory=dict)
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

    def delay(self, share: float) -> timedelta | None:
        """The delay within which this share of the refunds reached Talkable; ``None``: there are none."""
        if not self.delays:
            return None
        return timedelta(seconds=self.delays[min(len(self.delays) - 1, int(share * len(self.delays)))])


class TooMuch(TalkableError):
    """The database took too long to answer a page."""


def sites(ledger: Ledger, visible: Visible) -> list[str]:
    """The sites of which there are entries to be shown, by one look into the primary key for each."""

    def read(connection: Connection, table: Table) -> list[str]:
        found: list[str] = []
        slug = table.columns.site_slug
        while len(found) < HISTORY:
            further = [slug > found[-1]] if found else []
            following = connection.execute(
                select(func.min(slug)).where(*further, *_may_see(table, visible))
            ).scalar()
            if following is None:
                break
            found.append(following)
        return found

    return _limited(ledger, read)


def activity(
    ledger: Ledger, visible: Visible, *, days: int, site_slug: str | None = None, now: datetime | None = None
) -> Activity:
    """Read what became of the refunds of the last days.

    :param ledger: An opened ledger.
    :param days: How many days to go back, today included.
    :param site_slug: Those of one Talkable site id; default: of all.
    :param now: The time; default: the present.
    :raises TooMuch: if the database takes longer than :data:`SECONDS`.
    :raises LedgerError: if the database does not let it.
    """
    today = (now or datetime.now(UTC)).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    beginnings = [today - timedelta(days=ago) for ago in reversed(range(days))]

    def read(connection: Connection, table: Table) -> Activity:
        entry = table.columns
        shown = [*_may_see(table, visible), *_of(table, site_slug)]
        newest = [*_is_newest(table, beginnings[0]), *shown]
        found = Activity({beginning.date(): Counter() for beginning in beginnings})
        _count(connection, ledger, table, newest, beginnings, found)
        found.delays = _delays(connection, table, [entry.logged_at >= beginnings[0], *shown])
        found.last = _last(connection, table, [entry.logged_at >= beginnings[0], *shown])
        return found

    return _limited(ledger, read)


def entries_of_task(
    ledger: Ledger, task: TaskEntries, *, events: Sequence[str] | None, is_late: bool, offset: int, limit: int
) -> list[dict[str, Any]]:
    """The newest of a task's entries about each refund, oldest first, as dictionaries.

    :param ledger: An opened ledger.
    :param events: Only those of these events; ``None``: those that failed.
    :param is_late: Instead those that were late, whose advocate had been paid.
    :param offset: How many to pass over.
    :param limit: How many to read at most.
    :raises TooMuch: if the database takes longer than :data:`SECONDS`.
    :raises LedgerError: if the database does not let it.
    """

    def read(connection: Connection, table: Table) -> list[dict[str, Any]]:
        entry, later = table.columns, table.alias("later").columns
        conditions = [
            *_of_task(entry, task),
            not_(
                select(later.entry_id)
                .where(
                    later.site_slug == entry.site_slug,
                    later.refund_key == entry.refund_key,
                    later.entry_id > entry.entry_id,
                    *_of_task(later, task),
                )
                .exists()
            ),
        ]
        facts = facts_of_a_reward(ledger)
        if is_late:
            conditions.append(entry.event.in_(sorted(HAS_IT)))
            conditions.append(or_(ledger.column("reward_paid").is_(True), entry.ad_rewarded.is_(True)))
        elif events is not None:
            conditions.append(entry.event.in_(list(events)))
        else:
            conditions.append(entry.event.not_in(sorted(HAS_IT)))
        names = [name for name in _OF_A_TASK if name != "is_late"]
        shown = select(*(entry[name] for name in names), *facts).where(*conditions).order_by(entry.entry_id)
        found = []
        for row in connection.execute(shown.offset(offset).limit(limit)):
            values = _readable(zip(names, row, strict=False))
            values["is_late"] = values["event"] in HAS_IT and is_late_by(*row[len(names) :])
            if values["is_late"] or not is_late:
                found.append(values)
        return found

    return _limited(ledger, read)


def history(ledger: Ledger, visible: Visible, key_or_order: str) -> list[dict[str, Any]]:
    """All entries about a refund, or about each refund of an order, oldest first, as dictionaries.

    :param ledger: An opened ledger.
    :param key_or_order: A refund key, or an origin slug.
    :raises TooMuch: if the database takes longer than :data:`SECONDS`.
    :raises LedgerError: if the database does not let it.
    """
    of_sites = sites(ledger, visible)

    def read(connection: Connection, table: Table) -> list[dict[str, Any]]:
        entry = table.columns
        is_order = entry.origin_slug == key_or_order
        keys: set[tuple[str, str]] = {(site, key_or_order) for site in of_sites}
        orders = select(entry.site_slug, entry.refund_key).distinct().limit(HISTORY)
        found = connection.execute(orders.where(is_order, OF_OUTCOMES)).fetchall()
        keys.update((site, key) for site, key in found)
        rows = _entries_of(connection, ledger, table, keys, visible)
        if not rows and not found:
            # What was only submitted is in no index by its order.
            found = connection.execute(orders.where(is_order)).fetchall()
            rows = _entries_of(connection, ledger, table, {(site, key) for site, key in found}, visible)
        return rows

    return _limited(ledger, read)


def _entries_of(
    connection: Connection, ledger: Ledger, table: Table, keys: set[tuple[str, str]], visible: Visible
) -> list[dict[str, Any]]:
    by_site: defaultdict[str, list[str]] = defaultdict(list)
    for site, key in sorted(keys):
        by_site[site].append(key)
    columns = [ledger.column(name).label(name) for name in _OF_A_REFUND]
    rows: list[dict[str, Any]] = []
    for site, of_site in by_site.items():
        entries = select(*columns).where(
            table.columns.site_slug == site,
            table.columns.refund_key.in_(of_site),
            *_may_see(table, visible),
        )
        newest = entries.order_by(table.columns.entry_id.desc()).limit(HISTORY)
        rows += [_readable(zip(_OF_A_REFUND, row, strict=True)) for row in connection.execute(newest)]
    return sorted(rows, key=lambda row: str(row["entry_id"]))[-HISTORY:]


def _count(
    connection: Connection,
    ledger: Ledger,
    table: Table,
    newest: Sequence[ColumnElement[bool]],
    beginnings: Sequence[datetime],
    found: Activity,
) -> None:
    entry = table.columns
    # By comparison, since each database has functions of its own for dates.
    ends = [(entry.logged_at < following, day) for day, following in enumerate(beginnings[1:])]
    day = (case(*ends, else_=len(beginnings) - 1) if ends else entry.map_index * 0).label("day")
    facts = facts_of_a_reward(ledger)
    # Inside, so that all databases group by names; of a missing column too.
    each = select(day, entry.event, *facts, entry.logged_at).where(*newest).subquery()
    names = [each.columns[name] for name in ("day", "event", *(fact.name for fact in facts))]
    counts = select(*names, func.count(), func.min(each.columns.logged_at)).group_by(*names)
    for number, event, *values, count, since in connection.execute(counts):
        of_day = beginnings[int(number or 0)].date()
        found.days[of_day][event] += count
        if event in HAS_IT and is_late_by(*values):
            found.late[of_day] += count
        if event in OPEN:
            moment = in_utc(since)
            found.open_since[event] = min(moment, found.open_since.get(event, moment))


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
    return None if row is None else _readable(zip(names, row, strict=True))


def _is_newest(table: Table, since: datetime) -> Iterator[ColumnElement[bool]]:
    """That an entry is its refund's newest; later ones are looked for only where they can be."""
    entry, later = table.columns, table.alias("later").columns
    yield entry.logged_at >= since
    yield not_(
        select(later.entry_id)
        .where(
            later.site_slug == entry.site_slug,
            later.refund_key == entry.refund_key,
            later.entry_id > entry.entry_id,
            later.logged_at >= since - _CLOCKS_DIFFER,
        )
        .exists()
    )


def _may_see(table: Table, visible: Visible) -> Iterator[ColumnElement[bool]]:
    dag_id = table.columns.dag_id
    shown = dag_id.in_(sorted(visible.dag_ids))
    yield or_(shown, dag_id.is_(None)) if visible.by_hand else shown


def _of(table: Table, site_slug: str | None) -> Iterator[ColumnElement[bool]]:
    if site_slug:
        yield table.columns.site_slug == site_slug


def _of_task(columns: Any, task: TaskEntries) -> Iterator[ColumnElement[bool]]:
    yield and_(columns.dag_id == task.dag_id, columns.run_id == task.run_id)
    yield and_(columns.task_id == task.task_id, columns.map_index == task.map_index)
    yield columns.logged_at >= task.since - _CLOCKS_DIFFER


def _readable(pairs: Any) -> dict[str, Any]:
    values = dict(pairs)
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = in_utc(value)
        elif name in ("refund_subtotal", "order_subtotal"):
            values[name] = exact(value)
    return values


def _limited(ledger: Ledger, reading: Callable[[Connection, Table], T]) -> T:
    # A page says at once that the database is gone, and nobody waits for it.
    ledger.hurry()

    def read(connection: Connection, table: Table) -> T:
        with _time_limit(connection):
            return reading(connection, table)

    return ledger.read(read)


@contextmanager
def _time_limit(connection: Connection) -> Iterator[None]:
    """Let the database itself give up after :data:`SECONDS`, where it can."""
    began, name = monotonic(), connection.dialect.name
    raw: Any = getattr(connection.connection, "dbapi_connection", None) or connection.connection
    if name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(SECONDS * 1000)}")
    elif name in ("mysql", "mariadb"):
        limit = f"max_statement_time = {SECONDS:g}"
        if not getattr(connection.dialect, "is_mariadb", False):
            limit = f"max_execution_time = {int(SECONDS * 1000)}"
        connection.exec_driver_sql(f"SET SESSION {limit}")
    elif name == "sqlite":
        raw.set_progress_handler(lambda: monotonic() - began > SECONDS, 10_000)
    try:
        yield
    except OperationalError:
        if monotonic() - began < SECONDS:
            raise
        raise TooMuch(
            f"The ledger did not answer within {SECONDS:g} s; choose a shorter period or one site"
        ) from None
    finally:
        if name == "sqlite":
            raw.set_progress_handler(None, 0)
