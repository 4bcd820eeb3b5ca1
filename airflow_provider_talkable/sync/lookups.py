"""What is asked of the ledger's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import groupby
from typing import Any

from sqlalchemy import and_, case, distinct, func, literal, null, select
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.columns import OF_OUTCOMES, READ, TASK, Key, entry_of, exact
from airflow_provider_talkable.sync.decisions import Entry
from airflow_provider_talkable.sync.orders import Taken
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.tables import OwnTable

_TAKEN = tuple(outcome.value for outcome in Outcome if outcome.is_success)


class Lookups:
    """Reads entries with a connection that is open.

    :param own: The table.
    :param task_run: Which task asks, by column; an entry of its own is known as such.
    """

    def __init__(self, own: OwnTable, task_run: Mapping[str, object]) -> None:
        self._own = own
        self._columns = own.table.columns
        self._task_run = task_run

    def column(self, name: str) -> ColumnElement[Any]:
        """A column to read, of nothing where the table lacks it."""
        column = self._columns[name]
        return null() if name in self._own.missing else column

    @property
    def is_of_task(self) -> list[ColumnElement[bool]]:
        """The conditions that the task wrote an entry, whichever try of it."""
        return [self._columns[name] == self._task_run[name] for name in TASK]

    def entries(self, connection: Connection, rows: Iterable[Row]) -> dict[Key, list[Entry]]:
        """All entries of the rows' keys, oldest first."""
        found: dict[Key, list[Entry]] = {}
        columns = self._columns
        # As a number: not every database can select a condition.
        of_this_task = case((and_(*self.is_of_task), 1), else_=0) if self._task_run["dag_id"] else literal(0)
        wanted = [
            columns.site_slug,
            columns.refund_key,
            *(self.column(name).label(name) for name in READ),
            of_this_task,
        ]
        for site, of_site in groupby(sorted(rows, key=_site), key=_site):
            keys = [row.refund_key for row in of_site]
            query = select(*wanted).where(columns.site_slug == site, columns.refund_key.in_(keys))
            for site_slug, refund_key, *values in connection.execute(query):
                found.setdefault((site_slug, refund_key), []).append(entry_of(values))
        for entries in found.values():
            entries.sort(key=lambda entry: entry.entry_id)
        return found

    def orders(self, connection: Connection, slugs: Mapping[str, AbstractSet[str]]) -> dict[Key, list[Taken]]:
        """What Talkable has taken, or may have, of orders; each refund once.

        :param slugs: The orders' slugs by site.
        """
        columns = self._columns
        wanted = ("refund_key", "event", "refund_subtotal", "order_subtotal")
        found: dict[Key, dict[str, Taken]] = {}
        for site, of_site in slugs.items():
            query = (
                select(columns.origin_slug, *(self.column(name).label(name) for name in wanted))
                .where(
                    columns.site_slug == site,
                    columns.origin_slug.in_(sorted(of_site)),
                    OF_OUTCOMES,
                    columns.event.in_((*_TAKEN, Outcome.UNCONFIRMED.value)),
                )
                .order_by(columns.entry_id)
            )
            for slug, key, event, amount, whole in connection.execute(query):
                taken = Taken(key, Outcome(event), exact(amount), exact(whole))
                found.setdefault((site, slug), {})[key] = taken
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
