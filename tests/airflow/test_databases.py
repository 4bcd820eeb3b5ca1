"""A query and a ledger go through a connection as it was set up, on a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_talkable.hooks.databases import connect_of, engine_of
from airflow_provider_talkable.protocol.errors import TalkableError
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.query import rows_of

Connecting = Callable[..., str]


@pytest.fixture
def connecting(postgres: URL, monkeypatch: pytest.MonkeyPatch) -> Connecting:
    """Makes a connection with the extra given."""

    def make(**extra: str) -> str:
        connection = {
            "conn_type": "postgres",
            "host": postgres.query.get("host", postgres.host),
            "login": postgres.username,
            "schema": postgres.database,
            "extra": extra,
        }
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(connection))
        return "shop"

    return make


def test_the_drivers_options_hold_for_query_and_ledger(
    connecting: Connecting, postgres: URL, engines: Callable[[URL], Engine]
) -> None:
    with engines(postgres).begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA shop CREATE TABLE refunds (order_number TEXT)")
        connection.exec_driver_sql("INSERT INTO shop.refunds VALUES ('A')")
    conn_id = connecting(options="-c search_path=shop")
    rows = rows_of(connect_of(conn_id), "SELECT order_number FROM refunds", site_slug="my-store")
    assert [row.origin_slug for row in rows] == ["A"]
    with ExitStack() as opened:
        Ledger(engine_of(conn_id, opened)).open()
    with engines(postgres).connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT schemaname FROM pg_tables WHERE tablename = 'talkable_refund_ledger'"
        )
        assert found.scalar() == "shop"


@pytest.mark.parametrize("cursor", ["dictcursor", "namedtuplecursor"])
def test_the_connections_class_of_cursor_changes_nothing(connecting: Connecting, cursor: str) -> None:
    conn_id = connecting(cursor=cursor)
    rows = rows_of(connect_of(conn_id), "SELECT 'A' AS order_number", site_slug="my-store")
    assert [row.origin_slug for row in rows] == ["A"]
    with ExitStack() as opened:
        ledger = Ledger(engine_of(conn_id, opened))
        ledger.open()
        assert ledger.open(create=False)


def test_a_query_commits_nothing(connecting: Connecting, postgres: URL, engines: Any) -> None:
    with engines(postgres).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE refunds (order_number TEXT)")
    with closing(connect_of(connecting())()) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO refunds VALUES ('A')")
    with engines(postgres).connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM refunds").scalar() == 0


def test_what_the_connection_says_of_tls_is_kept(connecting: Connecting) -> None:
    """The server has no TLS, and a socket none either: so the driver says of what it cannot do."""
    conn_id = connecting(sslmode="nonsense")
    with pytest.raises(TalkableError, match='invalid sslmode value: "nonsense"'):
        list(rows_of(connect_of(conn_id), "SELECT 1 AS order_number", site_slug="my-store"))
    with ExitStack() as opened, pytest.raises(TalkableError, match="sslmode"):
        Ledger(engine_of(conn_id, opened)).open()
