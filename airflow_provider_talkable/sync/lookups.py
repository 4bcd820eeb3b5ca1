"""What is asked of the ledger's table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any

from sqlalchemy import String, Table, and_, bindparam, case, cast, distinct, func, literal, null, or_, select
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement, Executable, Select
from sqlalchemy.sql.selectable import ScalarSelect, TableValuedAlias

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.columns import OF_OUTCOMES, READ, TASK, Key, entry_of, exact
from airflow_provider_talkable.sync.entries import CONCLUSIVE, SETTLED, Entry, Settlement
from airflow_provider_talkable.sync.orders import Taken
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.settled import DATABASES, text_of_entry
from airflow_provider_talkable.sync.statement_sizes import in_statements
from airflow_provider_talkable.sync.tables import OwnTable

_TAKEN = tuple(outcome.value for outcome in Outcome if outcome.is_success)


@dataclass(frozen=True)
class _Statements:
    """The statements that every run asks with; they take longer to build than to execute.

    :param table: The ledger's.
    :param dialect: The database's.
    :param missing: The columns that the table lacks.
    :param task_run: Which task asks, as :data:`TASK` has it, by column.
    """

    table: Table
    dialect: str
    missing: frozenset[str]
    task_run: tuple[tuple[str, object], ...]

    def column(self, name: str) -> ColumnElement[Any]:
        """A column to read, of nothing where the table lacks it."""
        return null() if name in self.missing else self.table.columns[name]

    @property
    def is_of_task(self) -> list[ColumnElement[bool]]:
        """The conditions that the task wrote an entry, whichever try of it."""
        return [self.table.columns[name] == value for name, value in self.task_run]

    @cached_property
    def entries(self) -> Select[Any]:
        """The statement of :meth:`Lookups.entries`."""
        columns = self.table.columns
        # As a number: not every database can select a condition.
        of_this_task = case((and_(*self.is_of_task), 1), else_=0) if self._is_a_task else literal(0)
        wanted = [
            columns.site_slug,
            columns.refund_key,
            *(self.column(name).label(name) for name in READ),
            of_this_task,
        ]
        is_of_site = columns.site_slug == bindparam("site")
        if self.dialect not in DATABASES:
            of_keys = columns.refund_key.in_(bindparam("keys", expanding=True))
            return select(*wanted).where(is_of_site, of_keys)
        # Key by key, so that the index leads to the newest entries past whatever else there is. An outer join
        # keeps the order of the two, whatever the database believes of the table.
        keys = self._asked()
        is_of_key = and_(is_of_site, columns.refund_key == keys.columns.value)
        since = columns.entry_id >= func.coalesce(self._newest_conclusive(keys.columns.value), "")
        return select(*wanted).select_from(keys.outerjoin(self.table, and_(is_of_key, since)))

    def _asked(self) -> TableValuedAlias:
        """The keys that are asked about, as a table."""
        given = bindparam("asked", type_=String)
        if self.dialect == "postgresql":
            asked = func.json_array_elements_text(cast(given, JSON))
        else:
            asked = func.json_each(given)
        return asked.table_valued("value").alias("keys_asked")

    def _newest_conclusive(self, key: ColumnElement[str]) -> ScalarSelect[str]:
        """The newest entry that is conclusive, as :attr:`Entry.is_conclusive` has it."""
        earlier = self.table.alias("earlier").columns
        is_doubt_of_its_own = and_(earlier.event == Outcome.UNCONFIRMED.value, earlier.attempts > 0)
        return (
            select(func.max(earlier.entry_id))
            .where(
                earlier.site_slug == bindparam("site"),
                earlier.refund_key == key,
                earlier.entry_id < bindparam("settled_before"),
                # What repeats an earlier entry took none.
                earlier.attempts.is_not(None),
                or_(earlier.event.in_(sorted(CONCLUSIVE)), is_doubt_of_its_own),
            )
            .scalar_subquery()
        )

    @cached_property
    def newest(self) -> Executable:
        """The statement of :meth:`Lookups.newest`."""
        columns, later = self.table.columns, self.table.alias("later").columns
        keys = self._asked()
        key = keys.columns.value
        newest = (
            select(func.max(later.entry_id))
            .where(later.site_slug == bindparam("site"), later.refund_key == key)
            .scalar_subquery()
        )
        is_newest = and_(
            columns.site_slug == bindparam("site"), columns.refund_key == key, columns.entry_id == newest
        )
        of_this_task = self.is_of_task if self._is_a_task else []
        said = text_of_entry(columns, self.column("void_outcome"), of_this_task, self.dialect)
        by_key = func.json_object_agg if self.dialect == "postgresql" else func.json_group_object
        # Drivers would read JSON at once.
        text = cast(by_key(key, said).filter(columns.entry_id.is_not(None)), String)
        return select(text, func.max(columns.entry_id)).select_from(keys.outerjoin(self.table, is_newest))

    @property
    def _is_a_task(self) -> bool:
        return bool(dict(self.task_run)["dag_id"])


_statements = lru_cache(_Statements)


class Lookups:
    """Reads entries with a connection that is open.

    :param own: The table.
    :param task_run: Which task asks, by column; an entry of its own is known as such.
    """

    def __init__(self, own: OwnTable, task_run: Mapping[str, object]) -> None:
        self._own = own
        self._columns = own.table.columns
        self._task_run = tuple((name, task_run[name]) for name in TASK)

    @property
    def statements(self) -> _Statements:
        """For the table as it is known to be: opening it may tell that it lacks columns."""
        own = self._own
        return _statements(own.table, own.engine.dialect.name, own.missing, self._task_run)

    def entries(
        self, connection: Connection, rows: Iterable[Row], *, settled_before: str
    ) -> dict[Key, list[Entry]]:
        """The entries of the rows' keys that a decision needs, oldest first.

        Where the database can, what came before the newest one that says what Talkable made of a refund is
        left out; with all entries :meth:`History.of` gives the same result.

        :param settled_before: The id before which that one has to lie, since a run may be alive of which a
            later one says nothing.
        """
        found: dict[Key, list[Entry]] = {}
        query = self.statements.entries
        for site, of_site in groupby(sorted(rows, key=_site), key=_site):
            for keys in in_statements(connection.dialect.name, [row.refund_key for row in of_site]):
                asked = {"keys": keys, "asked": json.dumps(keys)}
                given = {"site": site, "settled_before": settled_before} | asked
                for site_slug, refund_key, *values in connection.execute(query, given):
                    if site_slug is not None:
                        found.setdefault((site_slug, refund_key), []).append(entry_of(values))
        for entries in found.values():
            entries.sort(key=lambda entry: entry.entry_id)
        return found

    def newest(self, connection: Connection, site: str, asked: str) -> tuple[str, str | None]:
        """What the newest entry of each key says, for the snapshot to compare; see :mod:`.settled`.

        :param asked: The keys, as a list in JSON.
        :return: By key, as an object in JSON; and the id of the newest of these entries.
        """
        query = self.statements.newest
        found = connection.execute(query, {"site": site, "asked": asked}).one()
        return found[0] or "{}", found[1]

    def orders(self, connection: Connection, slugs: Mapping[str, AbstractSet[str]]) -> dict[Key, list[Taken]]:
        """What Talkable has taken, or may have, of orders; each refund once.

        :param slugs: The orders' slugs by site.
        """
        columns = self._columns
        column = self.statements.column
        wanted = ("refund_key", "event", "refund_subtotal", "order_subtotal")
        query = (
            select(columns.origin_slug, *(column(name).label(name) for name in wanted))
            .where(
                columns.site_slug == bindparam("site"),
                columns.origin_slug.in_(bindparam("asked", expanding=True)),
                OF_OUTCOMES,
                columns.event.in_((*_TAKEN, Outcome.UNCONFIRMED.value, *SETTLED)),
            )
            .order_by(columns.entry_id)
        )
        found: dict[Key, dict[str, Taken]] = {}
        for site, of_site in slugs.items():
            for asked in in_statements(connection.dialect.name, sorted(of_site)):
                for slug, key, event, amount, whole in connection.execute(
                    query, {"site": site, "asked": asked}
                ):
                    by_key = found.setdefault((site, slug), {})
                    if event == Settlement.NOT_REFUNDED:
                        by_key.pop(key, None)
                    else:
                        by_key[key] = Taken(key, event, exact(amount), exact(whole))
        return {order: list(by_key.values()) for order, by_key in found.items()}

    def has_taken(self, connection: Connection, site_slug: str) -> bool:
        """Whether there is any refund of a site that Talkable has taken."""
        columns = self._columns
        of_site = (columns.site_slug == site_slug, columns.event.in_(_TAKEN))
        return connection.execute(select(literal(1)).where(*of_site).limit(1)).first() is not None

    def unknown_orders(self, connection: Connection, site_slug: str) -> int:
        """Of how many refunds of a site Talkable has not found the order."""
        columns = self._columns
        of_site = (columns.site_slug == site_slug, columns.event == Outcome.NOT_FOUND.value)
        count = select(func.count(distinct(columns.refund_key))).where(*of_site)
        return int(connection.execute(count).scalar_one())


def _site(row: Row) -> str:
    return row.site_slug
