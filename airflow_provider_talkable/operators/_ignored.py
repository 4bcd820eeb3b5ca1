"""Which outcomes fail a task, and which ones it ignores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.referrals import ReferralOutcome

Kind = TypeVar("Kind", Outcome, ReferralOutcome)

IGNORED = (Outcome.NOT_FOUND.value,)
"""What an operator ignores by default: most shops have orders that Talkable never saw."""

IGNORE_ADVICE = "add it to ignore if that is normal"


def losses(kind: type[Kind]) -> tuple[Kind, ...]:
    """The outcomes that fail a task unless it ignores them: all that are no success."""
    return tuple(outcome for outcome in kind if not outcome.is_success)


def ignored(kind: type[Kind], given: Iterable[str] | str) -> frozenset[Kind]:
    """Read what an operator's ``ignore`` names.

    :param kind: The outcomes that its results have.
    :param given: Some of :func:`losses`, or one.
    :raises ValueError: if it names anything else.
    """
    names = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    known = losses(kind)
    for name in names:
        if name not in known:
            raise ValueError(f"ignore={name!r}: give some of {', '.join(sorted(known))}, or () for none")
    return frozenset(map(kind, names))
