"""The README and the pages: their blocks, commands and tables."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def pages() -> dict[str, str]:
    """The text of each page, by its path from the root."""
    paths = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return {
        path.relative_to(ROOT).as_posix(): path.read_text() for path in paths if "_build" not in path.parts
    }


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and text of each block of a page; Sphinx's directives are none."""
    return _BLOCK.findall(text)


def block(page: str, language: str, containing: str) -> str:
    """The one block of a page that has these words. Call it with literals, in the test that runs the block.

    :param page: The page's path from the root.
    :param language: What its fence says, e.g. ``python``.
    :param containing: Words that no other block of the page in this language has.
    """
    [found] = [text for kind, text in blocks(pages()[page]) if kind == language and containing in text]
    return found


def commands(block: str) -> list[str]:
    """The commands of a console block, continued lines joined."""
    # A quoted JSON goes over two lines as it is.
    return re.findall(r"(?:[^\n']|'[^']*')+", block.replace("\\\n", " "))


def table(page: str, beginning: str) -> list[list[str]]:
    """The rows, without heading, of the one table of a page whose first row begins so."""
    found = re.findall(r"(?:^\|.*\n)+", pages()[page], re.MULTILINE)
    tables = [
        [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()[2:]]
        for table in found
    ]
    [rows] = [rows for rows in tables if rows[0][0].startswith(beginning)]
    return rows
