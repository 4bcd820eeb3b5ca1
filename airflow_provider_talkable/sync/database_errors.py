"""What an error of a database, or of its driver, says. Pure rules."""

from __future__ import annotations

import re

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

# What a column's character set lacks, to MySQL and MariaDB: conversion impossible, and three of comparing.
_MYSQL_CHARACTERS = frozenset({3988, 1267, 1270, 1271})
_DATA_EXCEPTION = "22"  # the class of SQLSTATE
_ORACLE_TOO_LONG = frozenset({12899, 1461})

_STATE = re.compile("[0-9A-Z]{5}")
_NO_STATE_OF_ITS_OWN = "HY000"
# Of the connection, transactions undone, a lack of resources, a lock, an operator's command, the system's
# errors, ODBC's timeouts.
_GONE_STATES = ("08", "40", "53", "55P03", "57", "58", "HYT")
_GONE_IN_SQLITE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PROTOCOL")
_MYSQL_CLIENT = range(2000, 2100)  # what its client library says when it reaches no server
_GONE_NUMBERS = frozenset(
    {
        # MySQL and MariaDB: too many connections, shutdown, network, locks, deadlocks, killed, replaced.
        *(1040, 1053, 1152, 1153, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1317, 1836, 1927, 4031),
        # SQL Server and Azure SQL: network, failover, too busy.
        *(10053, 10054, 10060, 10928, 10929, 20002, 20003, 20004, 20006, 20009, 40197, 40501, 40613, 49918),
        # Oracle: killed, locked, deadlock, starting or stopping, the network, the listener.
        *(
            28,
            54,
            60,
            1012,
            1033,
            1034,
            1089,
            1090,
            3113,
            3114,
            3135,
            12153,
            12170,
            12514,
            12528,
            12541,
            12547,
        ),
        # HTTP, as BigQuery has it.
        *(429, 500, 502, 503, 504),
    }
)
_MISSING_STATES = frozenset({"42P01", "3F000", "42S02", "02000"})
# MySQL's table and database, SQL Server's, Oracle's, ClickHouse's, HTTP's.
_MISSING_NUMBERS = frozenset({1146, 1049, 208, 942, 60, 404})
_MISSING_WORDS = re.compile(r"no such table|does(?: not|n't) exist|not.found|unknown table", re.IGNORECASE)


def is_of_a_value(error: BaseException) -> bool:
    """Whether it is a value that the database or its driver refuses; with another one it may do it."""
    # Drivers refuse what they cannot encode or decode in Python's own words.
    if isinstance(error, UnicodeError | OverflowError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return False
    cause = error.orig if isinstance(error, DBAPIError) else error
    number = _number(cause)
    return (
        # As PEP 249 has every driver name it.
        any(kind.__name__ == "DataError" for kind in type(cause).__mro__)
        or state_of(error).startswith(_DATA_EXCEPTION)
        or number in _MYSQL_CHARACTERS
        or number in _ORACLE_TOO_LONG
        # So SQLite says it of a text.
        or "Could not decode" in str(cause)
    )


def state_of(error: BaseException) -> str:
    """The SQLSTATE that the database gives; empty: it gives none, or it is an error of the driver."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    first = _first(cause)
    # redshift_connector has the server's fields in a dictionary, pyodbc has it before the message.
    given = first.get("C") if isinstance(first, dict) else first
    is_state = isinstance(given, str) and _STATE.fullmatch(given)
    return str(
        getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or (given if is_state else "")
    )


def is_gone(error: BaseException) -> bool:
    """Whether the database cannot be reached or is busy, so that it is worth trying again."""
    if is_of_a_value(error) or not isinstance(error, DBAPIError):
        return False
    # A server that ends without a word is no operational error to psycopg2, but SQLAlchemy knows it.
    if error.connection_invalidated:
        return True
    if name := getattr(error.orig, "sqlite_errorname", ""):
        return str(name).startswith(_GONE_IN_SQLITE)
    if (state := state_of(error)) and state != _NO_STATE_OF_ITS_OWN:
        return state.startswith(_GONE_STATES)
    if number := _number(error.orig):
        return number in _GONE_NUMBERS or number in _MYSQL_CLIENT
    # Without a code there is the class alone, as where there is no connection yet.
    return isinstance(error, OperationalError | InterfaceError)


def is_missing_table(error: BaseException) -> bool:
    """Whether the table is not there, or its schema is not."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return False
    if (state := state_of(error)) and state != _NO_STATE_OF_ITS_OWN:
        return state in _MISSING_STATES
    if number := _number(error.orig):
        return number in _MISSING_NUMBERS
    # A database that is not there says so in the same words, but to whoever connects.
    is_sqlite = hasattr(error.orig, "sqlite_errorname")
    return (is_sqlite or not isinstance(error, OperationalError | InterfaceError)) and bool(
        _MISSING_WORDS.search(str(error.orig))
    )


def _first(cause: BaseException | None) -> object:
    return cause.args[0] if cause is not None and cause.args else None


def _number(cause: BaseException | None) -> int | None:
    """The number that the database gives its error, or HTTP gives it."""
    first = _first(cause)
    numbers = (getattr(cause, "errno", None), first, getattr(first, "code", None))
    return next((number for number in numbers if isinstance(number, int) and number > 0), None)


def short(error: BaseException | None) -> str:
    """Without the statement and its parameters, which SQLAlchemy's message goes on with."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, UnicodeEncodeError):
        # Where in the statement it is changes from one to the next.
        return f"{cause.encoding} has no character {cause.object[cause.start]!a}"
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
