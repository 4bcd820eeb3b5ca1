"""How much goes into one statement and one batch: more, where a statement takes long. Pure rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_KEYS = 500
_MOST_KEYS = 10_000
_SLOW = 0.25  # seconds, from which on a statement costs more than what is in it
_LONG = 4.0  # seconds, from which on that is no longer so
_GROWTH = 8
_LARGEST_BATCH = 500
_TIMES_LARGER = 4  # the largest batch, where appending takes long
_PARTS_AHEAD = 1.5  # times as many as may be on the wire
_STATEMENTS_IN_DOUBT = 3
MOST_PARTS = 6
"""How many partial refunds may be in doubt at most, in multiples of ``max_in_flight``."""

# What a statement takes, as each vendor documents it. Oracle counts what one list has; ClickHouse counts
# bytes, 256 KiB: so many of the longest keys.
_MOST_PARAMETERS = {
    "databricks": 255,
    "mssql": 2_000,
    "oracle": 1_000,
    "bigquery": 10_000,
    "clickhousedb": 500,
}
_MOST_PARAMETERS_ELSEWHERE = 30_000
# What a look-up has besides the keys or orders that it asks for: its site, its task, events.
_BESIDES = 12
# So many rows of one VALUES SQL Server takes.
_MOST_ROWS = 1_000
# What comes after VALUES is not counted.
_COUNTS_NO_ROWS = ("clickhousedb",)


class LookUpSize:
    """How many keys are looked up at a time: more, once a look-up takes long whatever their number.

    :param dialect: SQLAlchemy's name of the database.
    """

    def __init__(self, dialect: str) -> None:
        self._most = min(_MOST_KEYS, _most_in_a_list(dialect))
        self.keys = min(_KEYS, self._most)

    def learn(self, keys: int, seconds: float) -> None:
        """Take note of how long a look-up took."""
        if seconds > 2 * _LONG:
            self.keys = max(min(_KEYS, self._most), self.keys // 2)
        elif keys >= self.keys and _SLOW < seconds < _LONG:
            self.keys = min(self._most, self.keys * _GROWTH)


def most_parameters(dialect: str) -> int:
    """How many parameters a statement takes."""
    return _MOST_PARAMETERS.get(dialect, _MOST_PARAMETERS_ELSEWHERE)


def in_statements(dialect: str, values: Sequence[str]) -> Iterator[Sequence[str]]:
    """The values of a list that a look-up asks for, as many at a time as a statement takes."""
    most = _most_in_a_list(dialect)
    return (values[start : start + most] for start in range(0, len(values), most))


def _most_in_a_list(dialect: str) -> int:
    return most_parameters(dialect) - _BESIDES


def most_rows(dialect: str, columns: int) -> int:
    """How many rows an INSERT takes that has a parameter for each value."""
    if dialect in _COUNTS_NO_ROWS:
        return _MOST_ROWS
    return max(1, min(_MOST_ROWS, most_parameters(dialect) // columns))


def batch_size(
    max_in_flight: int, sending_rate: float, append_seconds: float, *, before: int = 0, left: int = 0
) -> int:
    """How many refunds are submitted at a time.

    It is a quarter of a second's worth, since what a crash leaves in doubt is a batch or two, or as many as
    are sent while two batches are written: then the sending does not wait for the ledger.

    :param max_in_flight: Requests under way at a time.
    :param sending_rate: Refunds per second sent of late.
    :param append_seconds: How long it takes to write a batch.
    :param before: How many the last batch had.
    :param left: How many of those that were handed over are not answered.
    """
    seconds = max(_SLOW, 2 * append_seconds)
    largest = _LARGEST_BATCH * min(_TIMES_LARGER, seconds / _SLOW)
    # Before there is a rate: as fast as such requests are.
    size = max(sending_rate, max_in_flight / _SLOW) * seconds
    if is_slow(append_seconds) and left <= before // 2:
        # The rate is the ledger's own where the last batch was sent before the next one is written.
        size = max(size, before if left else 2 * before)
    return int(min(largest, size))


def parts_at_a_time(max_in_flight: int, rate: float, append_seconds: float) -> int:
    """How many partial refunds may be without their outcome in the ledger: a kill leaves these in doubt.

    Little more than may be on the wire; with fewer the ledger would hold up the sending. Where appending is
    slow each is in doubt for three statements: another look for other runs, one at its order's other refunds,
    and the writing of its outcome. Then it is as many as are sent meanwhile, up to a limit.

    :param max_in_flight: Requests under way at a time.
    :param rate: Requests per second that a site takes at present.
    :param append_seconds: How long it takes to write a batch.
    """
    fast = int(_PARTS_AHEAD * max_in_flight)
    if not is_slow(append_seconds):
        return fast
    sent_meanwhile = _STATEMENTS_IN_DOUBT * append_seconds * min(rate, max_in_flight / _SLOW)
    return int(min(max(fast, sent_meanwhile), MOST_PARTS * max_in_flight))


def is_slow(append_seconds: float) -> bool:
    """Whether writing takes so long that few, large statements matter more than a wire that is never idle."""
    return append_seconds > _SLOW
