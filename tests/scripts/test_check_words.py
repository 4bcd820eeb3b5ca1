"""The list of words that do not belong finds them, also over the end of a line, and nothing else."""

from __future__ import annotations

import pytest

from scripts.check_words import INSTEAD, findings, findings_in_code


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Mend it.", [(1, "Mend", "fix")]),
        ("It frees\nits slot, lest it waits", [(1, "frees its slot", None), (2, "lest", None)]),
        ("one\n\ntold", [(3, "told", None)]),
        ("a mended road, commending, the tested latest", [(1, "mended", "fix")]),
        ("Releases the worker slot until throttling ends; next check in 60 s", []),
    ],
)
def test_words_are_found_where_they_are(text: str, found: list[tuple[int, str, str | None]]) -> None:
    assert [(line, word) for line, word, _ in findings(text)] == [(line, word) for line, word, _ in found]
    for (*_, instead), (*_, said) in zip(found, findings(text), strict=True):
        assert said in INSTEAD.values()
        assert instead in (None, said)


CODE = '''"""What a sync came
to."""
lest = told = 0  # no text: "mend"
raise ValueError(f"{lest} was told apart")
'''


def test_of_code_the_texts_are_read() -> None:
    assert [(line, word) for line, word, _ in findings_in_code(CODE)] == [(1, "came to"), (4, "told")]
