"""What OpenLineage gets. Imported only where the OpenLineage provider asks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.openlineage.facet import (
    ColumnLineageDatasetFacet,
    Dataset,
    Fields,
    InputField,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    RunFacet,
)
from airflow.providers.common.compat.sdk import BaseHook
from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.sqlparser import get_openlineage_facets_with_sql
from attrs import define
from openlineage.common.sql import SqlMeta, parse

from airflow_provider_talkable.sync.rows import ROW_COLUMNS

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
        query, columns = _of_query(sql, sql_conn_id)
    except Exception as error:  # noqa: BLE001 - some hooks ask the database, which may be gone by now
        log.warning("The tables of the query are unknown to OpenLineage: %s", error)
        return lineage
    for output in lineage.outputs if columns else ():
        output.facets = {**(output.facets or {}), "columnLineage": columns}
    return lineage.merge(query) if query else lineage


def _counted(plain: Dataset, rows: int) -> OutputDataset:
    statistics = OutputStatisticsOutputDatasetFacet(rowCount=rows)
    return OutputDataset(plain.namespace, plain.name, outputFacets={"outputStatistics": statistics})


def _of_query(
    sql: str, conn_id: str
) -> tuple[OperatorLineage[Any, Any] | None, ColumnLineageDatasetFacet | None]:
    """The tables that a query reads, and which of their columns become which column of a refund."""
    hook: Any = BaseHook.get_hook(conn_id)
    # The parser knows no placeholders of Python's.
    sql = re.sub(r"%\((\w+)\)s", r":\1", sql).replace("%s", "NULL").replace("%%", "%")
    lineage = get_openlineage_facets_with_sql(
        hook=hook, sql=sql, conn_id=conn_id, database=None, use_connection=False
    )
    if not (lineage and lineage.inputs):
        return lineage, None
    dialect = hook.get_openlineage_database_dialect(hook.get_connection(conn_id))
    return lineage, _columns(parse([sql], dialect=dialect), lineage.inputs)


def _columns(parsed: SqlMeta | None, tables: Sequence[Dataset]) -> ColumnLineageDatasetFacet | None:
    """What the query's columns are made of; those that are no refund's are left out."""
    fields = {}
    for column in parsed.column_lineage if parsed else ():
        made_of = [
            InputField(namespace=table.namespace, name=table.name, field=source.name)
            for source in column.lineage
            if source.origin and (table := _table(source.origin.qualified_name, tables))
        ]
        if made_of and (name := column.descendant.name.lower()) in ROW_COLUMNS:
            fields[name] = Fields(inputFields=made_of, transformationType="", transformationDescription="")
    return ColumnLineageDatasetFacet(fields=fields) if fields else None


def _table(name: str, tables: Sequence[Dataset]) -> Dataset | None:
    """The one table of the query that has this name, which may lack its database and schema."""
    parts = name.lower().split(".")
    found = [table for table in tables if table.name.lower().split(".")[-len(parts) :] == parts]
    return found[0] if len(found) == 1 else None


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
