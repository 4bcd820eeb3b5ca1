"""What was broken and what it ended in, collected by the tests and written to RESULTS.md."""

from __future__ import annotations

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conftest import (
    engines,
    postgres,
    postgres_in,
    postgres_server,
    postgres_shop,
    sandboxes,
    shared_folder,
    shop,
    sqlite,
    used_databases,
)

__all__ = [
    "engines",
    "postgres",
    "postgres_in",
    "postgres_server",
    "postgres_shop",
    "sandboxes",
    "shared_folder",
    "shop",
    "sqlite",
    "used_databases",
]

RESULTS = Path(__file__).with_name("RESULTS.md")
REQUESTS = pytest.StashKey[dict[tuple[str, str], dict[str, set[str]]]]()
TABLES = pytest.StashKey[dict[str, list[tuple[str, ...]]]]()
CELLS = pytest.StashKey[list[int]]()

COLUMNS = (
    "full refund, once or twice",
    "full refund, for good",
    "partial refund, once or twice",
    "partial refund, for good",
)
HEADINGS = {
    "Surroundings": ("broken", "how often", "ended in"),
    "Airflow": ("broken", "how often", "ended in"),
}

RecordRequest = Callable[[str, str, str, str], None]
Record = Callable[..., None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REQUESTS] = {}
    config.stash[CELLS] = []
    config.stash[TABLES] = {}


@pytest.fixture
def record_request(pytestconfig: pytest.Config) -> RecordRequest:
    """Notes what a refund ended in: the moment, the kind of failure, the column, the end."""

    def note(moment: str, kind: str, column: str, end: str) -> None:
        row = pytestconfig.stash[REQUESTS].setdefault((moment, kind), {})
        row.setdefault(column, set()).add(end)
        pytestconfig.stash[CELLS].append(1)

    return note


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Record:
    """Adds a line to a table."""

    def note(table: str, *cells: object) -> None:
        pytestconfig.stash[TABLES].setdefault(table, []).append(tuple(map(str, cells)))

    return note


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    stash = session.config.stash
    # A page about a part of it would replace one about all of it.
    if exitstatus == 0 and stash[REQUESTS] and all(name in stash[TABLES] for name in HEADINGS):
        RESULTS.write_text(_page(session.config))


def _page(config: pytest.Config) -> str:
    from airflow import __version__

    requests, tables = config.stash[REQUESTS], config.stash[TABLES]
    now = datetime.now(UTC)
    return "\n".join(
        [
            "# What was broken, and what it ended in",
            "",
            (
                f"Written by `python -m pytest faults` on {now:%Y-%m-%d} with Python "
                f"{platform.python_version()} and Airflow {__version__} on {_system()}. Everything below was "
                "checked row by row: what the ledger or the result says of a refund against how often the "
                "sandbox, which stands in for Talkable, has taken it."
            ),
            "",
            "## Requests",
            "",
            (
                f"{len(config.stash[CELLS])} cells: each failure below, once, twice in a row and for good, "
                "to a full and to a partial refund, through the sync with its ledger and through the "
                'synchronous client. "Then" is the run after the failure has ended; ×1 is how often Talkable '
                "has taken it in the end."
            ),
            "",
            *_table(
                ("moment", "failure", *COLUMNS),
                [
                    (*of, *(" or ".join(sorted(ends.get(column, {""}))) for column in COLUMNS))
                    for of, ends in requests.items()
                ],
            ),
            "429, 401 and what somebody else refuses come before Talkable acts, by what they mean.",
            "",
            *(line for name, rows in sorted(tables.items(), reverse=True) for line in _part(name, rows)),
        ]
    )


def _part(name: str, rows: list[tuple[str, ...]]) -> list[str]:
    return [f"## {name}", "", *_table(HEADINGS[name], rows)]


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [_line(heading), _line(("---",) * len(heading)), *map(_line, rows), ""]


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _system() -> str:
    return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release().split('-')[0]}"
