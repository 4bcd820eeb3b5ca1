"""1,221 rows of a shop's refunds, with whatever databases disagree about; 421 in `make check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.conftest import sized


@dataclass(frozen=True)
class Refunded:
    """A row of the query, and what happens to it."""

    key: str
    order: str
    at: str
    """In UTC."""
    subtotal: str | None = None
    event: str = "refunded"


def refunds() -> list[Refunded]:
    """The same rows each time."""
    rows = list(_rows())
    assert len(rows) == sized(1000) + 221
    return rows


def _rows() -> Iterator[Refunded]:
    noon = "2025-11-02 12:00:00.000"
    for number in range(sized(1000)):
        yield Refunded(f"R{number}", f"O{number}", noon)
    for number in range(60):
        yield Refunded(f"emoji-😀-{number}", f"O-😀-{number}", noon)
    for number in range(20):
        # Keys that a collation takes for equal.
        yield Refunded(f"case-{number}", f"lower-{number}", noon)
        yield Refunded(f"CASE-{number}", f"upper-{number}", noon)
        yield Refunded(f"é-{number}", f"accent-{number}", noon)
        yield Refunded(f"e-{number}", f"plain-{number}", noon)
    for number in range(20):
        yield Refunded(f"space-{number}", f"bare-{number}", noon, "5.25")
        # What ends with a space is no key; one that a database takes for the other would be a conflict.
        yield Refunded(f"space-{number} ", f"padded-{number}", noon, "5.25", "invalid")
    for number in range(20):
        # Only milliseconds tell them apart.
        yield Refunded(f"ms-{number}", f"ms-{number}", f"2025-11-02 12:00:00.{number:03}", "7.5")
    # In Berlin it is half past two twice in that night.
    yield Refunded("night-1", "night-1", "2025-10-26 00:30:00.000")
    yield Refunded("night-2", "night-2", "2025-10-26 01:30:00.000")
    for number in range(16):
        yield Refunded(f"bad-{number}", f"bad-{number}", noon, "-5" if number % 2 else "a lot", "invalid")
    # Two rows of one key that differ: nobody can say which is meant.
    yield Refunded("twice", "twice-a", noon, event="conflict")
    yield Refunded("twice", "twice-b", noon, event="conflict")
    yield Refunded("unknown", "never-seen", noon, event="not_found")
