"""What OpenLineage gets. Imported only where the OpenLineage provider asks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.openlineage.facet import (
    Dataset,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    RunFacet,
)
from airflow.providers.common.compat.sdk import BaseHook
from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.sqlparser import get_openlineage_facets_with_sql
from attrs import define

if TYPE_CHECKING:
    from airflow_provider_talkable.sync.summary import Summary

log = logging.getLogger(__name__)

FACET = "talkable_refunds"


@define
class TalkableRefundsRunFacet(RunFacet):
    """The numbers of a sync's summary, which has their meaning; neither orders nor people."""

    rows: int
    duplicates: int
    skipped: int
    outcomes: dict[str, int]
    sent: int
    requests: int
    lookups: int
    throttledRequests: int  # noqa: N815
    seconds: float
    rate: float
    referred: int
    rewarded: int
    referralUnknown: int  # noqa: N815
    countedOtherwise: int  # noqa: N815
    voids: dict[str, int]


def dataset(base_url: str, site_slug: str) -> Dataset:
    """A site's refunds at Talkable: ``talkable://<host>`` and ``<site_slug>.refunds``."""
    return Dataset(namespace=f"talkable://{urlsplit(base_url).netloc}", name=f"{site_slug}.refunds")


def of_refunds(base_url: str, site_slugs: Iterable[str]) -> OperatorLineage[Any, Any]:
    """The lineage of a task that sends refunds to these sites."""
    return OperatorLineage(outputs=[dataset(base_url, site) for site in site_slugs])


def of_sync(
    base_url: str, site_slugs: Iterable[str], *, sql: str, sql_conn_id: str, summary: Summary | None
) -> OperatorLineage[Any, Any]:
    """The lineage of a sync, with the tables that its query reads and how many refunds each site took."""
    sites = list(site_slugs)
    lineage = of_refunds(base_url, sites)
    if summary:
        lineage.outputs = [
            _counted(dataset(base_url, site), summary.site(site).outcomes["refunded"]) for site in sites
        ]
        numbers = summary.as_dict()
        lineage.run_facets[FACET] = TalkableRefundsRunFacet(
            throttledRequests=numbers["throttled_requests"],
            referralUnknown=numbers["referral_unknown"],
            countedOtherwise=numbers["counted_otherwise"],
            **{name: numbers[name] for name in _SAME_NAME},
        )
    try:
        query = _of_query(sql, sql_conn_id)
    except Exception as error:  # noqa: BLE001 - some hooks ask the database, which may be gone by now
        log.warning("The tables of the query are unknown to OpenLineage: %s", error)
        return lineage
    return lineage.merge(query) if query else lineage


def _counted(plain: Dataset, rows: int) -> OutputDataset:
    statistics = OutputStatisticsOutputDatasetFacet(rowCount=rows)
    return OutputDataset(plain.namespace, plain.name, outputFacets={"outputStatistics": statistics})


def _of_query(sql: str, conn_id: str) -> OperatorLineage[Any, Any] | None:
    hook: Any = BaseHook.get_hook(conn_id)
    # The parser knows no placeholders of Python's.
    sql = re.sub(r"%\((\w+)\)s", r":\1", sql).replace("%s", "NULL").replace("%%", "%")
    return get_openlineage_facets_with_sql(
        hook=hook, sql=sql, conn_id=conn_id, database=None, use_connection=False
    )


_SAME_NAME = (
    "rows",
    "duplicates",
    "skipped",
    "outcomes",
    "sent",
    "requests",
    "lookups",
    "seconds",
    "rate",
    "referred",
    "rewarded",
    "voids",
)
