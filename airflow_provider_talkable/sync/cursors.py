"""Cursors of databases' drivers (PEP 249) that give plain rows as they come."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAME = "talkable_refunds"


def streaming_cursor(connection: Any) -> Any:
    """A cursor that leaves its rows on the server until they are fetched, where the driver has one.

    Its rows are sequences, whatever class of cursor the connection was set up with. Other drivers keep
    rows as they do by default: Snowflake's, BigQuery's and Databricks' fetch them part by part,
    ``redshift_connector`` holds all of them.

    :param connection: What the driver's ``connect`` returned.
    """
    match _driver(connection):
        case "psycopg2":
            return connection.cursor(_NAME, cursor_factory=import_module("psycopg2.extensions").cursor)
        case "psycopg":
            return connection.cursor(_NAME, row_factory=import_module("psycopg.rows").tuple_row)
        case "MySQLdb" | "pymysql" as driver:
            return connection.cursor(import_module(f"{driver}.cursors").SSCursor)
    return connection.cursor()


def knows_its_columns(cursor: Any) -> bool:
    """Whether an executed cursor has columns, which psycopg2's on the server learns with its first row."""
    return cursor.description is not None or bool(getattr(cursor, "name", None))


def columns_of(cursor: Any) -> list[str]:
    """The names of the columns; none, where they are not known."""
    return [str(column[0]) for column in cursor.description or ()]


def _driver(connection: Any) -> str:
    """The package of the connection's class, or of the class it is derived from."""
    packages = [cls.__module__.partition(".")[0] for cls in type(connection).__mro__]
    known = ("psycopg2", "psycopg", "MySQLdb", "pymysql")
    return next((package for package in packages if package in known), packages[0])
