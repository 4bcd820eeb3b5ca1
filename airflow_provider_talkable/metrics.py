"""What Airflow's metrics say of a sync, by StatsD or OpenTelemetry, as Airflow is set."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import Stats

if TYPE_CHECKING:
    from airflow_provider_talkable.sync.summary import Summary

log = logging.getLogger(__name__)


def emit(summary: Summary, *, dag_id: str, task_id: str) -> None:
    """Count the outcomes of a try of a sync; a failure to do so is only logged.

    :param summary: The sync's summary at its end.
    :param dag_id: The tag ``dag_id``.
    :param task_id: The tag ``task_id``.
    """
    tags = {"dag_id": dag_id, "task_id": task_id}
    counters = {
        **{f"refunds.{outcome}": count for outcome, count in summary.outcomes.items()},
        "refunds.settled_before": summary.skipped,
        "refunds.late": summary.rewarded,
        "requests": summary.requests + summary.lookups,
        "requests.throttled": summary.throttled_requests,
    }
    try:
        for name, count in counters.items():
            Stats.incr(f"talkable.{name}", count, tags=tags)
        Stats.gauge("talkable.rate", summary.rate, tags=tags)
        Stats.timing("talkable.duration", timedelta(seconds=summary.seconds), tags=tags)
    except Exception as error:  # noqa: BLE001 - whatever a metrics backend raises, the refunds were sent
        log.warning("The metrics of this sync were not sent: %s", error)
