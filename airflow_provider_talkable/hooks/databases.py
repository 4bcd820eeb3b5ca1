"""The databases of Airflow's connections: to be read as they were set up, or by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_talkable.protocol.errors import TalkableError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection
    from sqlalchemy.engine import Engine

_BIGQUERY = (
    "airflow.providers.google.cloud.hooks.bigquery",
    "BigQueryHook",
    "gcp_conn_id",
    {"use_legacy_sql": False},
)
# Types of connection whose own hook speaks no SQL, or not today's: the one that does, what it calls the
# connection, and what else it is given.
_SQL_HOOKS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "databricks": (
        "airflow.providers.databricks.hooks.databricks_sql",
        "DatabricksSqlHook",
        "databricks_conn_id",
        {},
    ),
    "gcpbigquery": _BIGQUERY,
    "google_cloud_platform": _BIGQUERY,
}


def connect_of(conn_id: str) -> Callable[[], Any]:
    """What opens connections to a database as its hook does, with all that the connection says.

    :param conn_id: A connection of any type whose provider has a hook for SQL.
    :return: A function that returns a connection of the driver (PEP 249), which commits nothing by itself
        where the driver can do without.
    :raises TalkableError: if it is not an SQL database.
    """
    connection = BaseHook.get_connection(conn_id)
    _sql_hook(connection)

    def connect() -> Any:
        # A hook of its own: some keep their connection, also one that is closed.
        hook = _sql_hook(connection)
        if hook.conn_type == "gcpbigquery":
            # What the hook itself has for a cursor gives moments as numbers and amounts as text.
            client = hook.get_client(project_id=hook.project_id, location=hook.location)
            return import_module("google.cloud.bigquery.dbapi").connect(client)
        opened = hook.get_conn()
        if hook.supports_autocommit:
            hook.set_autocommit(opened, autocommit=False)
        return opened

    return connect


def engine_of(conn_id: str, opened: ExitStack) -> Engine:
    """The engine of a connection's database, which connects as the connection's hook does.

    :param opened: Closes the engine's connections.
    :raises TalkableError: if it is not an SQL database.
    """
    hook = _sql_hook(BaseHook.get_connection(conn_id))
    creating = _CREATING.get(hook.conn_type)
    more = {"engine_kwargs": {"creator": partial(creating, hook)}} if creating else {}
    engine: Engine = hook.get_sqlalchemy_engine(**more)
    opened.callback(engine.dispose)
    return engine


def _postgres(hook: Any) -> Any:
    connection = hook.get_conn()
    # Whatever class of cursor the connection says, SQLAlchemy reads plain rows.
    if type(connection).__module__.startswith("psycopg2"):
        connection.cursor_factory = import_module("psycopg2.extensions").cursor
    else:
        connection.row_factory = import_module("psycopg.rows").tuple_row
    return connection


def _duckdb(hook: Any) -> Any:
    return import_module("duckdb_engine").ConnectionWrapper(hook.get_conn())


# Where the URL of the hook's engine lacks what the connection says to the driver: the way through the hook.
_CREATING: dict[str, Callable[[Any], Any]] = {"postgres": _postgres, "duckdb": _duckdb}


def _sql_hook(connection: Connection) -> Any:
    if connection.conn_type in _SQL_HOOKS:
        module, name, conn_name_attr, more = _SQL_HOOKS[connection.conn_type]
        return getattr(import_module(module), name)(**{conn_name_attr: connection.conn_id}, **more)
    hook = connection.get_hook()  # type: ignore[no-untyped-call,unused-ignore]
    if not hasattr(hook, "get_sqlalchemy_engine"):
        raise TalkableError(
            f"Connection {connection.conn_id!r} is not an SQL database ({type(hook).__name__}); give one "
            "whose hook is a DbApiHook, of the type postgres, mysql, snowflake, gcpbigquery or databricks "
            "for instance"
        )
    return hook
