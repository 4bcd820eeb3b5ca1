"""How pages read the ledger: what a user may see, and within a time limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy import Table, bindparam, false, or_
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.sql import ColumnElement

from airflow_provider_talkable.protocol.errors import TalkableError
from airflow_provider_talkable.sync.columns import exact, in_utc
from airflow_provider_talkable.sync.ledger import Ledger

T = TypeVar("T")

SECONDS = 10.0
"""How long a page's question may keep the database busy."""
CLOCKS_DIFFER = timedelta(days=1)
"""How far the clocks of the machines that write may be apart."""

_WORK_MEM = "128MB"
_LIST = 500  # Oracle takes 1,000


@dataclass(frozen=True, slots=True)
class Visible:
    """Whose entries may be shown.

    :param dag_ids: Those that these DAGs have written.
    :param by_hand: Those that no DAG has written as well.
    """

    dag_ids: frozenset[str]
    by_hand: bool = False

    def condition(self, table: Table) -> ColumnElement[bool]:
        """The condition that an entry may be shown."""
        dag_id = table.columns.dag_id
        ids = sorted(self.dag_ids)
        # As literals and in short lists: there may be more DAGs than a statement takes parameters.
        shown = [
            dag_id.in_(bindparam(None, ids[first : first + _LIST], expanding=True, literal_execute=True))
            for first in range(0, len(ids), _LIST)
        ]
        return or_(false(), *shown, *([dag_id.is_(None)] if self.by_hand else []))


class TooMuch(TalkableError):
    """The database took too long to answer a page."""


def bounded(ledger: Ledger, reading: Callable[[Connection, Table], T]) -> T:
    """Read from the ledger's table, for at most :data:`SECONDS` where the database has a limit for it.

    :raises TooMuch: if it takes longer.
    :raises LedgerError: if the database does not let it.
    """
    # A page says at once that the database is gone, and nobody waits for it.
    ledger.hurry()

    def read(connection: Connection, table: Table) -> T:
        with _time_limit(connection):
            return reading(connection, table)

    return ledger.read(read)


def readable(pairs: Any) -> dict[str, Any]:
    """Columns and values as a dictionary: moments in UTC, amounts as exact decimals."""
    values = dict(pairs)
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = in_utc(value)
        elif name in ("refund_subtotal", "order_subtotal", "reward_amount"):
            values[name] = exact(value)
    return values


@contextmanager
def _time_limit(connection: Connection) -> Iterator[None]:
    """Let the database itself give up after :data:`SECONDS`, where it can."""
    began, name = monotonic(), connection.dialect.name
    raw: Any = getattr(connection.connection, "dbapi_connection", None) or connection.connection
    if name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(SECONDS * 1000)}")
        # By default it sorts on disk whatever is larger than 4 MB; this saves a third of a page's time.
        connection.exec_driver_sql(f"SET LOCAL work_mem = '{_WORK_MEM}'")
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
