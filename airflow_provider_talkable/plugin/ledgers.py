"""Which ledgers the pages show: those that Airflow's configuration names, and the one that a task used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from airflow.providers.common.compat.sdk import conf

from airflow_provider_talkable.hooks.ledger import TalkableLedgerHook
from airflow_provider_talkable.sync.ledger import DEFAULT_TABLE, Ledger


@dataclass(frozen=True, slots=True)
class LedgerName:
    """Where a ledger lies.

    :param conn_id: The connection of its database.
    :param table: Its table.
    :param schema: The table's schema; ``None``: the connection's.
    """

    conn_id: str
    table: str = DEFAULT_TABLE
    schema: str | None = None

    def __str__(self) -> str:
        table = f"{self.schema}.{self.table}" if self.schema else self.table
        return self.conn_id if table == DEFAULT_TABLE else f"{self.conn_id}:{table}"

    @classmethod
    def parse(cls, text: str) -> LedgerName:
        """Read ``conn_id``, ``conn_id:table`` or ``conn_id:schema.table``."""
        conn_id, _, rest = text.strip().partition(":")
        schema, _, table = rest.rpartition(".")
        return cls(conn_id, table or DEFAULT_TABLE, schema or None)

    @classmethod
    def of_task(cls, fields: Mapping[str, Any]) -> LedgerName | None:
        """The one that a task used, by its rendered fields; ``None``: it has none."""
        conn_id = fields.get("ledger_conn_id") or fields.get("sql_conn_id")
        if not conn_id or "ledger_table" not in fields:
            return None
        return cls(str(conn_id), str(fields["ledger_table"]), fields.get("ledger_schema") or None)

    @contextmanager
    def opened(self) -> Iterator[Ledger]:
        """The ledger, until its connections are closed.

        :raises LedgerError: if there is none, or the database does not let it.
        """
        hook = TalkableLedgerHook(self.conn_id, ledger_table=self.table, ledger_schema=self.schema)
        with hook.opened() as ledger:
            yield ledger


def configured() -> list[LedgerName]:
    """The ledgers of ``[talkable] ledgers``."""
    names = conf.get("talkable", "ledgers", fallback="") or ""
    return [LedgerName.parse(name) for name in names.split(",") if name.strip()]


def approval_delay() -> float | None:
    """How many days the shop lets pass before Talkable approves a referral; ``None``: it is not said."""
    days = conf.get("talkable", "approval_delay_days", fallback="") or ""
    return float(days) if str(days).strip() else None


def settling_dag() -> str:
    """The DAG that asks a person about refunds in doubt; empty: none is named."""
    return str(conf.get("talkable", "settle_dag_id", fallback="") or "").strip()
