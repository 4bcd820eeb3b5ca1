"""What operators have in common that read refunds from a warehouse and look into the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_talkable.hooks.databases import connect_of, engine_of
from airflow_provider_talkable.operators._rendered import TextTemplateOperator, from_text

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from sqlalchemy.engine import Engine

    from airflow_provider_talkable.hooks.talkable import TalkableHook
    from airflow_provider_talkable.sync.ledger import Ledger, TaskRun
    from airflow_provider_talkable.sync.rows import Row


class WarehouseOperator(TextTemplateOperator):
    """Reads refunds with a query and has a ledger of them.

    :param sql: One statement in the warehouse's own SQL, or the name of a ``.sql`` file.
    :param sql_conn_id: The warehouse: a connection of any type whose provider has a SQL hook.
    :param parameters: Values for the query's placeholders, in the style of the warehouse's driver: a mapping
        or a sequence, or its text (JSON or Python). What a template stands for is text.
    :param site_slug: The Talkable site id of rows that name none; default: the connection's.
    :param talkable_conn_id: The Talkable connection.
    :param ledger_conn_id: Where the ledger lies; default: in the warehouse.
    :param ledger_table: The ledger's table, quoted as it is; made if it is missing.
    :param ledger_schema: Its schema, quoted as it is; default: the connection's.
    :param throttle_patience: Seconds to wait while Talkable answers a site with nothing but 429.
    :param outage_patience: Seconds to wait while the host does not answer at all, before the rest is left.
    :param max_attempts: How many times a request is sent before its failure stands.
    :param max_in_flight: Requests under way at a time.
    :param initial_rate: Requests per second to begin with, for each site, doubled each second until
        Talkable first answers 429; ``None``: unpaced until then.
    :param max_rate: Requests per second never to exceed, for each site.
    """

    template_fields: Sequence[str] = (
        "sql",
        "parameters",
        "sql_conn_id",
        "talkable_conn_id",
        "site_slug",
        "ledger_conn_id",
        "ledger_table",
        "ledger_schema",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql", "parameters": "json"}
    ui_color = "#e9f5ef"

    def __init__(
        self,
        *,
        sql: str,
        sql_conn_id: str,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        site_slug: str | None = None,
        talkable_conn_id: str = "talkable_default",
        ledger_conn_id: str | None = None,
        ledger_table: str = "talkable_refund_ledger",
        ledger_schema: str | None = None,
        throttle_patience: float = 300.0,
        outage_patience: float = 60.0,
        max_attempts: int = 5,
        max_in_flight: int = 16,
        initial_rate: float | None = 5.0,
        max_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.parameters = parameters
        self.site_slug = site_slug
        self.talkable_conn_id = talkable_conn_id
        self.ledger_conn_id = ledger_conn_id
        self.ledger_table = ledger_table
        self.ledger_schema = ledger_schema
        self.throttle_patience = throttle_patience
        self.outage_patience = outage_patience
        self.max_attempts = max_attempts
        self.max_in_flight = max_in_flight
        self.initial_rate = initial_rate
        self.max_rate = max_rate

    def _hook(self) -> TalkableHook:
        from airflow_provider_talkable.hooks.talkable import TalkableHook

        return TalkableHook(
            self.talkable_conn_id,
            site_slug=self.site_slug or None,
            max_attempts=self.max_attempts,
            throttle_patience=self.throttle_patience,
            outage_patience=self.outage_patience,
            max_in_flight=self.max_in_flight,
            initial_rate=self.initial_rate,
            max_rate=self.max_rate,
        )

    def _rows(self, site_slug: str | None, **reading: Any) -> Iterator[Row]:
        """The query's rows, read as they come through the connection's own hook."""
        from airflow_provider_talkable.sync.query import rows_of

        parameters: Any = from_text("parameters", self.parameters)
        return rows_of(
            connect_of(self.sql_conn_id), self.sql, parameters or None, site_slug=site_slug, **reading
        )

    def _ledgers(self, opened: ExitStack) -> Engine:
        """The database of the ledger, which may be the warehouse."""
        return engine_of(self.ledger_conn_id or self.sql_conn_id, opened)

    def _ledger(self, engine: Engine, context: Context, writer: str | None = None) -> Ledger:
        from airflow_provider_talkable.sync.ledger import Ledger

        return Ledger(
            engine,
            table=self.ledger_table,
            schema=self.ledger_schema or None,
            task_run=task_run(context),
            writer=writer,
        )


def task_run(context: Context) -> TaskRun:
    """Which run of which task this is, as it is kept in tables."""
    from airflow_provider_talkable.sync.ledger import TaskRun

    ti = context["ti"]
    return TaskRun(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number)
