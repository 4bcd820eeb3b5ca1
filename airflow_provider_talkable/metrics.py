"""What Airflow's metrics say of a sync, by StatsD or OpenTelemetry, as Airflow is set."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import Stats

if TYPE_CHECKING:
    from airflow_provider_talkable.sync.summary import Summary
    from airflow_provider_talkable.sync.tallies import SiteTally

log = logging.getLogger(__name__)


def emit(summary: Summary, *, dag_id: str, task_id: str) -> None:
    """Count the outcomes of a try of a sync; a failure to do so is only logged.

    :param summary: The sync's summary at its end.
    :param dag_id: The tag ``dag_id``.
    :param task_id: The tag ``task_id``.
    """
    tags = {"dag_id": dag_id, "task_id": task_id}
    try:
        _emit_of_task(summary, tags)
        for site_slug, site in summary.sites.items():
            _emit_of_site(site, tags | {"site_slug": site_slug})
    except Exception as error:  # noqa: BLE001 - whatever a metrics backend raises, the refunds were sent
        log.warning("The metrics of this sync were not sent: %s", error)


def _emit_of_task(summary: Summary, tags: dict[str, str]) -> None:
    Stats.incr("talkable.refunds.settled_before", summary.skipped, tags=tags)
    Stats.incr("talkable.requests", summary.requests + summary.lookups, tags=tags)
    Stats.incr("talkable.requests.throttled", summary.throttled_requests, tags=tags)
    Stats.gauge("talkable.rate", summary.rate, tags=tags)
    Stats.timing("talkable.duration", timedelta(seconds=summary.seconds), tags=tags)
    Stats.timing("talkable.ledger.duration", timedelta(seconds=summary.ledger_seconds), tags=tags)


def _emit_of_site(site: SiteTally, tags: dict[str, str]) -> None:
    for outcome, count in site.outcomes.items():
        Stats.incr(f"talkable.refunds.{outcome}", count, tags=tags)
    Stats.incr("talkable.refunds.late", site.late, tags=tags)
    Stats.gauge("talkable.refunds.open", site.open, tags=tags)
    Stats.gauge("talkable.refunds.oldest_open", site.open_for().total_seconds(), tags=tags)
    for name, share in (("median", 0.5), ("p95", 0.95)):
        if (delay := site.delay(share)) is not None:
            Stats.gauge(f"talkable.delay.{name}", delay.total_seconds(), tags=tags)
    if site.learned_rate is not None:
        Stats.gauge("talkable.learned_rate", site.learned_rate, tags=tags)
