"""Where the commands print, and how they end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

from airflow_provider_talkable.protocol.errors import InvalidRefund, TalkableError, printable

FAILED = 1
"""The exit status where something is not refunded, or a connection cannot be used."""
_MISUSED = 2


@contextmanager
def results_only() -> Iterator[TextIO]:
    """Give standard output for results alone, and end in an exit status where an error is foreseen.

    Airflow logs to standard output: what anything else writes there goes to standard error from here on.
    """
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # As Airflow's own commands about connections do: else 3.1 and later leave the database out.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"

    from airflow.providers.common.compat.sdk import AirflowException

    with out:
        try:
            yield out
        except InvalidRefund as error:
            misuse(str(error))
        except (TalkableError, AirflowException) as error:
            print(error, file=sys.stderr)
            sys.exit(FAILED)


def misuse(message: str) -> NoReturn:
    """End, because an argument is wrong."""
    print(message, file=sys.stderr)
    sys.exit(_MISUSED)


def print_rows(out: TextIO, rows: Sequence[dict[str, Any]], output: str) -> None:
    """Print rows as a table or as JSON."""
    if output == "json":
        print_json(out, rows)
    else:
        print_table(out, rows)


def print_json(out: TextIO, content: object) -> None:
    """Print JSON, for programs."""
    print(json.dumps(content, indent=2), file=out)


def print_table(out: TextIO, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table, for people."""
    from airflow.cli.simple_table import AirflowConsole

    # What came from a shop or from Talkable is no markup.
    console = AirflowConsole(file=out, markup=False, emoji=False, highlight=False)
    console.print_as_table([{name: _cell(value) for name, value in row.items()} for row in rows])


def _cell(value: object) -> str:
    return "" if value is None else printable(str(value))
