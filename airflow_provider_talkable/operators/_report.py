"""Telling the log what happened to each of several requests, and failing the task if it has to."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from airflow_provider_talkable.operators._ignored import IGNORE_ADVICE
from airflow_provider_talkable.protocol.errors import TalkableError, TalkableOriginNotFound, printable
from airflow_provider_talkable.protocol.outcomes import SUSPICIOUS, Outcome
from airflow_provider_talkable.protocol.people import without_people
from airflow_provider_talkable.protocol.referrals import ReferralResult
from airflow_provider_talkable.protocol.results import RefundResult

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

_SHOWN_LOSSES = 20

Results = Sequence[RefundResult | ReferralResult]

# How a mapped task instance is named in Airflow's pages. What comes from a shop is a value in them.
BY_SITE = "{{ task.site_slug or task.talkable_conn_id }}"
BY_ORDER = "{{ (task.origin_slug or task.site_slug or task.talkable_conn_id) | string | truncate(100) }}"

Execute = TypeVar("Execute", bound=Callable[..., Any])


def plain_errors(execute: Execute) -> Execute:
    """Let an operator's method raise expected errors without the frames that they came through.

    Airflow logs the frames before the message, and dozens of them put it off the screen. Who needs them finds
    them at DEBUG.
    """

    @wraps(execute)
    def executing(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except TalkableError as error:
            log.debug("Where the error comes from", exc_info=True)
            raise error.with_traceback(None) from None

    return cast("Execute", executing)


def report(what: str, results: Results, ignore: AbstractSet[str]) -> None:
    """Log the counts by outcome and the first of the losses, without the addresses that Talkable names.

    :param what: What the results are of, e.g. ``refunds``.
    :param ignore: The outcomes that do not fail the task.
    :raises TalkableError: if an outcome is neither a success nor among them: the class that fits, if one
        fits all that failed. Its ``retry_after`` is the longest of theirs. Whatever is ignored, if Talkable
        knows none of many orders.
    """
    losses = [result for result in results if not result.outcome.is_success]
    failures = [result for result in losses if result.outcome not in ignore]
    log.info("%s: %s", what.capitalize(), _tally(results) or "none")
    level = logging.ERROR if failures else logging.WARNING
    for result in losses[:_SHOWN_LOSSES]:
        reason = without_people(result.error_message)
        log.log(level, "%s: %s: %s", printable(result.origin_slug), result.outcome, reason)
    if len(losses) > _SHOWN_LOSSES:
        log.log(level, "… and %d more", len(losses) - _SHOWN_LOSSES)
    if len(results) == 1 and failures:
        _raise_for_the_only(failures[0])
    if failures:
        raise _error_of_several(what, results, failures)
    _raise_for_unknown_orders(what, results)


def _raise_for_the_only(failure: RefundResult | ReferralResult) -> None:
    if error := failure.error:
        error.args = tuple(map(without_people, error.args))
        if failure.outcome == Outcome.NOT_FOUND:
            error.args = (f"{error.args[0]} (not_found: {IGNORE_ADVICE})", *error.args[1:])
    failure.raise_for_outcome()


def _error_of_several(what: str, results: Results, failures: Results) -> TalkableError:
    # What a ledger says of an earlier try comes without its error.
    kinds = {type(result.error) if result.error else TalkableError for result in failures}
    kind = kinds.pop() if len(kinds) == 1 else TalkableError
    is_unknown = any(result.outcome == Outcome.NOT_FOUND for result in failures)
    error = kind(
        f"{len(failures)} of {len(results)} {what} failed ({_tally(failures)}); "
        "the reason of each is in XCom under 'results'"
        + (f"; not_found: {IGNORE_ADVICE}" if is_unknown else "")
    )
    pauses = [result.error.retry_after or 0 for result in failures if result.error]
    error.retry_after = max(pauses, default=0) or None
    return error


def _raise_for_unknown_orders(what: str, results: Results) -> None:
    """Fail a list of which Talkable knows nothing: it is no list of this site's orders."""
    if any(result.outcome != Outcome.NOT_FOUND for result in results):
        return
    unknown = len({result.origin_slug for result in results})
    if unknown >= SUSPICIOUS:
        raise TalkableOriginNotFound(
            f"Talkable knows none of the {unknown} orders of these {what}: are these the order numbers that "
            "Talkable knows, is this the site?"
        )


def _tally(results: Results) -> str:
    counts = Counter(result.outcome for result in results)
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())


def name_map_index(context: Context, template: str) -> None:
    """Name a mapped task instance, unless the DAG's author has.

    :param template: A Jinja template over the context.
    """
    map_index = context["ti"].map_index
    if map_index is not None and map_index >= 0 and not context.get("map_index_template"):
        context["map_index_template"] = template
