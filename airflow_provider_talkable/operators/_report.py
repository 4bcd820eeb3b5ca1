"""Telling the log what became of each of several requests, and failing the task if it has to."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from airflow_provider_talkable.protocol.errors import TalkableError, printable
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


def report(what: str, results: Results, fail_on: AbstractSet[str]) -> None:
    """Log the counts by outcome and the first of the losses, without the addresses that Talkable names.

    :param what: What the results are of, e.g. ``refunds``.
    :param fail_on: The outcomes that fail the task.
    :raises TalkableError: if an outcome is among them: the class that fits, if one fits all that failed.
        Its ``retry_after`` is the longest of theirs.
    """
    failures = [result for result in results if result.outcome in fail_on]
    log.info("%s: %s", what.capitalize(), _tally(results) or "none")
    losses = [result for result in results if not result.outcome.is_success]
    level = logging.ERROR if failures else logging.WARNING
    for result in losses[:_SHOWN_LOSSES]:
        reason = without_people(result.error_message)
        log.log(level, "%s: %s: %s", printable(result.origin_slug), result.outcome, reason)
    if len(losses) > _SHOWN_LOSSES:
        log.log(level, "… and %d more", len(losses) - _SHOWN_LOSSES)
    if len(results) == 1 and failures:
        if failures[0].error:
            failures[0].error.args = tuple(map(without_people, failures[0].error.args))
        failures[0].raise_for_outcome()
    if failures:
        # What a ledger says of an earlier try comes without its error.
        kinds = {type(result.error) if result.error else TalkableError for result in failures}
        kind = kinds.pop() if len(kinds) == 1 else TalkableError
        error = kind(
            f"{len(failures)} of {len(results)} {what} failed ({_tally(failures)}); "
            "the reason of each is in XCom under 'results'"
        )
        pauses = [result.error.retry_after or 0 for result in failures if result.error]
        error.retry_after = max(pauses, default=0) or None
        raise error


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
