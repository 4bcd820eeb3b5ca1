"""Find old or literary words where users read, and say what to write instead: ``make lint``."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
READ = ("*.md", "docs/**/*.md", "airflow_provider_talkable/**/*.html")
# Of Python code the texts are read: docstrings, log lines, errors.
CODE = ("airflow_provider_talkable/**/*.py", "example_dags/*.py", "benchmarks/*.py", "scripts/demo.py")
# What does not belong, and what to say instead.
INSTEAD = {
    r"mend(s|ed|ing)?": "fix",
    r"lest": "so that … not",
    r"(hear|hears|heard|hearing) of": "know, learn, receive",
    r"errands?": "request, call",
    r"whither": "where",
    r"told": "is notified, gets, is known; 'unless set otherwise'",
    r"(tell|tells|told) apart": "distinguish",
    r"(come|comes|came|coming) to": "reach, find, result in",
    r"(come|comes|came) too late": "is late; reached Talkable after the reward was paid",
    r"made good": "recovered, caught up on",
    r"frees (its|a) (worker )?slot": "releases the worker slot",
    r"too late to save": "after the reward was paid",
    r"so many \w+ at most": "maximum number of",
    r"behind its back": "from outside",
    r"anew": "again",
    r"bec[ao]mes? of": "what happens to, the outcome of",
    r"thereof|therein|whereof|whosoever": "a pronoun of today",
}
_WORDS = re.compile("|".join(rf"(?P<w{n}>\b(?:{word})\b)" for n, word in enumerate(INSTEAD)), re.IGNORECASE)


def findings(text: str) -> list[tuple[int, str, str]]:
    """Each word that does not belong: its line, itself, what to say instead; also over a line's end."""
    found = []
    for match in _WORDS.finditer(re.sub(r"\n(?! *\n)", " ", text)):
        name = match.lastgroup or ""
        line = text.count("\n", 0, match.start()) + 1
        found.append((line, match.group(), list(INSTEAD.values())[int(name[1:])]))
    return found


def findings_in_code(source: str) -> list[tuple[int, str, str]]:
    """The same in the texts of Python code."""
    texts = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [
        (node.lineno + line - 1, word, instead)
        for node in texts
        if isinstance(node.value, str)
        for line, word, instead in findings(node.value)
    ]


def main() -> int:
    """Print what is found; 1 if anything is."""
    bad = []
    for patterns, find in ((READ, findings), (CODE, findings_in_code)):
        for path in sorted({path for pattern in patterns for path in ROOT.glob(pattern)}):
            if "_build" not in path.parts:
                bad += [(path, *one) for one in find(path.read_text())]
    for path, line, word, instead in bad:
        print(f"{path.relative_to(ROOT)}:{line}: {word!r}: say {instead}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
