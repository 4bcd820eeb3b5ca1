"""A query's rows on local disk, so that the warehouse is let go before the first request."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from airflow_provider_talkable.protocol.errors import TalkableError
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.settled import TEXT_OF_ROW

_TABLE = """
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, site_slug TEXT, refund_key TEXT, origin_slug TEXT, refunded_at TEXT,
    refund_subtotal TEXT, order_subtotal TEXT, problem TEXT, message TEXT, email TEXT, currency TEXT,
    copies INTEGER DEFAULT 1
)"""
# To a UNIQUE of SQL each NULL is another one.
_CONTENT = """site_slug, refund_key, origin_slug, ifnull(refunded_at, ''), ifnull(refund_subtotal, ''),
    ifnull(order_subtotal, ''), ifnull(message, '')"""
_INDEX = f"CREATE UNIQUE INDEX contents ON rows ({_CONTENT})"
_ADD = f"""
INSERT INTO rows (
    site_slug, refund_key, origin_slug, refunded_at, refund_subtotal, order_subtotal, problem, message, email,
    currency)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT ({_CONTENT}) DO UPDATE SET copies = copies + 1"""  # noqa: S608 - two constants
_COUNT = "SELECT count(*), coalesce(sum(copies), 0), json_group_array(DISTINCT site_slug) FROM rows"
_SITES_OF_A_KEY = "SELECT DISTINCT site_slug FROM rows WHERE refund_key = ? ORDER BY site_slug"
_CONFLICTS = """
CREATE TABLE conflicts (site_slug, refund_key, rows, PRIMARY KEY (site_slug, refund_key)) WITHOUT ROWID"""
_FIND_CONFLICTS = """
INSERT INTO conflicts
SELECT site_slug, refund_key, sum(copies) FROM rows GROUP BY site_slug, refund_key HAVING count(*) > 1"""
_AHEAD = """
SELECT json_group_array(DISTINCT refund_key)
FROM (SELECT refund_key FROM rows WHERE number > ?{of_site} ORDER BY number LIMIT ?)"""
# As one text: Python gives other threads a turn with each row that SQLite returns, and gets its own back
# only after milliseconds when they are busy sending.
_READ = f"""
WITH said AS MATERIALIZED (SELECT key, value FROM json_each(?)),
ahead AS (
    SELECT rows.*, conflicts.rows AS differing, said.key IS NOT NULL AS is_known,
        said.value IS ({TEXT_OF_ROW}) AND problem IS NULL AND conflicts.rows IS NULL AS is_settled
    FROM rows LEFT JOIN conflicts USING (site_slug, refund_key) LEFT JOIN said ON said.key = refund_key
    WHERE number > ?{{of_site}} ORDER BY number LIMIT ?
)
SELECT json_group_array(json_array(
    is_known, site_slug, refund_key, origin_slug, refunded_at, refund_subtotal, order_subtotal, problem,
    message, email, currency, differing)) FILTER (WHERE NOT is_settled), total(is_settled), max(number)
FROM ahead"""  # noqa: S608 - a constant
_BY_SITE = "CREATE INDEX by_site ON rows (site_slug, number)"


@dataclass(frozen=True, slots=True)
class NextRows:
    """Some of a snapshot's rows.

    :param rows: Those that are not plainly settled.
    :param known: Those of them that the ledger may have an entry of.
    :param settled: How many others there were.
    :param is_end: Whether all had been taken before.
    """

    rows: list[Row]
    known: list[Row]
    settled: int
    is_end: bool


class Snapshot:
    """Rows in the order of the query, equal ones once, in a private file that is gone with the process.

    Rows that have one key and differ are each a ``conflict``: nobody can say which of them is meant. Memory
    does not grow with the number of rows.
    """

    def __init__(self) -> None:
        # Without a name it is a file in the directory for temporary files, deleted while it is open.
        self._database = sqlite3.connect("", isolation_level=None)
        # Nothing here has to survive anything.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        for statement in (_TABLE, _INDEX, _CONFLICTS):
            self._database.execute(statement)
        self._taken: dict[str | None, int] = {}
        self.rows = 0
        """How many rows the query gave."""
        self.refunds = 0
        """How many of them differ."""
        self.sites: list[str] = []
        """The sites they are of."""
        self.queues: list[str | None] = [None]
        """What :meth:`take` takes rows of: each site's own, or all where there is one."""

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._database.close()

    def fill(self, rows: Iterable[Row]) -> None:
        """Write all rows down.

        :raises TalkableError: if the disk is full.
        """
        with _explained():
            self._database.execute("BEGIN")
            self._database.executemany(_ADD, map(_written, rows))
            self._database.execute(_FIND_CONFLICTS)
            self._database.execute("COMMIT")
            [(self.refunds, self.rows, sites)] = self._database.execute(_COUNT)
            slugs = json.loads(sites)
            self.sites = sorted(filter(None, slugs))
            if len(slugs) > 1:
                self.queues = sorted(slugs)
                self._database.execute(_BY_SITE)

    def sites_of(self, refund_keys: Iterable[str]) -> dict[str, list[str]]:
        """The sites that have a refund of each of these keys; none, where no row has it."""
        with _explained():
            found: dict[str, list[str]] = {key: [] for key in refund_keys}
            for key, sites in found.items():
                sites += (site for (site,) in self._database.execute(_SITES_OF_A_KEY, (key,)))
            return found

    def keys_ahead(self, count: int, site_slug: str | None = None) -> str:
        """The keys of the next rows, as a list in JSON; nothing when all were taken.

        :param count: How many.
        :param site_slug: Of which site; ``None``: of any.
        """
        query, given = self._of_site(_AHEAD, site_slug)
        with _explained():
            [(keys,)] = self._database.execute(query, (*given, count))
            return "" if keys == "[]" else str(keys)

    def take(self, count: int, site_slug: str | None = None) -> list[Row]:
        """The next rows, at most ``count``; none when all were taken.

        :param site_slug: Of which site; ``None``: of any.
        """
        return self.take_unsettled(count, site_slug, None).rows

    def take_unsettled(self, count: int, site_slug: str | None, said: str | None) -> NextRows:
        """The next rows, without those that are plainly settled.

        :param count: How many are looked at.
        :param site_slug: Of which site; ``None``: of any.
        :param said: What the ledger says of these rows' keys, as :meth:`.Ledger.newest` has it; ``None``: it
            was not asked.
        """
        query, given = self._of_site(_READ, site_slug)
        with _explained():
            [(rows, settled, last)] = self._database.execute(query, (said or "{}", *given, count))
        self._taken[site_slug] = last or self._taken.get(site_slug, 0)
        read: list[Row] = []
        known: list[Row] = []
        for is_known, *values in json.loads(rows):
            read.append(_read(*values))
            if is_known or said is None:
                known.append(read[-1])
        return NextRows(read, known, int(settled), is_end=last is None)

    def _of_site(self, query: str, site_slug: str | None) -> tuple[str, tuple[Any, ...]]:
        of_site = () if site_slug is None else (site_slug,)
        taken = self._taken.get(site_slug, 0)
        return query.format(of_site=" AND site_slug = ?" if of_site else ""), (taken, *of_site)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise TalkableError(
            f"The query's rows could not be kept on local disk ({error}); "
            "make room where temporary files go, or set TMPDIR to where there is room"
        ) from error


def _written(row: Row) -> tuple[str | None, ...]:
    return (
        row.site_slug,
        row.refund_key,
        row.origin_slug,
        None if row.refunded_at is None else row.refunded_at.isoformat(timespec="microseconds"),
        None if row.refund_subtotal is None else str(row.refund_subtotal),
        None if row.order_subtotal is None else str(row.order_subtotal),
        row.problem,
        row.message,
        row.email,
        row.currency,
    )


def _read(
    site_slug: str,
    refund_key: str,
    origin_slug: str,
    refunded_at: str | None,
    subtotal: str | None,
    order_subtotal: str | None,
    problem: str | None,
    message: str | None,
    email: str | None,
    currency: str | None,
    differing: int | None,
) -> Row:
    if differing:
        problem = Outcome.CONFLICT
        message = (
            f"{differing} rows of the query have this refund_key and differ, so none was sent; "
            "give each refund a refund_key of its own"
        )
    return Row(
        site_slug,
        refund_key,
        origin_slug,
        datetime.fromisoformat(refunded_at) if refunded_at else None,
        None if subtotal is None else Decimal(subtotal),
        None if order_subtotal is None else Decimal(order_subtotal),
        Outcome(problem) if problem else None,
        message,
        email,
        currency,
    )
