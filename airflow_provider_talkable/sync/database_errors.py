"""What an error of a database, or of its driver, says. Pure rules."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

# What a column's character set lacks, to MySQL and MariaDB: conversion impossible, and three of comparing.
_MYSQL_CHARACTERS = frozenset({3988, 1267, 1270, 1271})
_DATA_EXCEPTION = "22"  # the class of SQLSTATE


def is_of_a_value(error: BaseException) -> bool:
    """Whether it is a value that the database or its driver refuses; with another one it may do it."""
    # Drivers refuse what they cannot encode or decode in Python's own words.
    if isinstance(error, UnicodeError | OverflowError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return False
    cause = error.orig if isinstance(error, DBAPIError) else error
    number = cause.args[0] if cause is not None and cause.args else None
    return (
        # As PEP 249 has every driver name it.
        any(kind.__name__ == "DataError" for kind in type(cause).__mro__)
        or state_of(error).startswith(_DATA_EXCEPTION)
        or (isinstance(number, int) and number in _MYSQL_CHARACTERS)
        # So SQLite says it of a text.
        or "Could not decode" in str(cause)
    )


def state_of(error: BaseException) -> str:
    """The SQLSTATE that the database gives; empty: it gives none, or it is an error of the driver."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or "")


def is_gone(error: BaseException) -> bool:
    """Whether the database cannot be reached, so that it is worth trying again."""
    # A server that ends without a word is no operational error to psycopg2, but SQLAlchemy knows it.
    return not is_of_a_value(error) and (
        isinstance(error, OperationalError | InterfaceError)
        or (isinstance(error, DBAPIError) and error.connection_invalidated)
    )


def short(error: BaseException | None) -> str:
    """Without the statement and its parameters, which SQLAlchemy's message goes on with."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, UnicodeEncodeError):
        # Where in the statement it is changes from one to the next.
        return f"{cause.encoding} has no character {cause.object[cause.start]!a}"
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
