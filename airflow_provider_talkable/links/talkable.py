"""Links from a task's page to Talkable and to the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from airflow import __version__
from airflow.providers.common.compat.sdk import BaseOperatorLink, conf

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class _PushedLink(BaseOperatorLink):
    """A link that the task pushes to XCom as soon as it knows it: it is there while the task still runs."""

    @property
    def xcom_key(self) -> str:
        """Where it is in XCom."""
        return f"_link_{type(self).__name__}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002
        """What the task pushed; empty if it pushed nothing."""
        from airflow.providers.common.compat.sdk import XCom

        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""

    def _push(self, context: Context, url: str) -> None:
        # Also where there is none: Airflow logs an error for an XCom that is missing.
        context["ti"].xcom_push(key=self.xcom_key, value=url)


class TalkableSiteLink(_PushedLink):
    """To the site's own page in Talkable's dashboard."""

    name = "Talkable"

    def push(self, context: Context, site_slug: str | None) -> None:
        """Make the link known.

        :param site_slug: The Talkable site id; without one there is no link.
        """
        # As Talkable's integration guides write it.
        page = f"https://admin.talkable.com/sites/{quote(site_slug, safe='')}" if site_slug else ""
        self._push(context, page)


class TalkableLedgerLink(_PushedLink):
    """To the statement that selects this run's entries of the ledger, among the task's XComs."""

    name = "Ledger query"

    def push(self, context: Context, query: str | None) -> None:
        """Push the statement under the key ``ledger_query``, and the link to where it is shown.

        :param query: The statement, in the SQL of the ledger's database; without one there is no link.
        """
        if query:
            context["ti"].xcom_push(key="ledger_query", value=query)
        self._push(context, _xcom_page(context["ti"]) if query else "")


def _xcom_page(ti: Any) -> str:
    """The page with the task's XComs; relative to the page it is on where Airflow 3 knows no address."""
    if __version__.startswith("2."):
        query: Mapping[str, Any] = {"dag_run_id": ti.run_id, "task_id": ti.task_id, "tab": "xcom"}
        if ti.map_index >= 0:
            query = {**query, "map_index": ti.map_index}
        base = conf.get("webserver", "base_url")
        return f"{base.rstrip('/')}/dags/{quote(ti.dag_id)}/grid?{urlencode(query)}"
    base = conf.get("api", "base_url", fallback="") or ""
    mapped = f"/mapped/{ti.map_index}" if ti.map_index is not None and ti.map_index >= 0 else ""
    run = f"/dags/{quote(ti.dag_id)}/runs/{quote(ti.run_id, safe='')}"
    return f"{base.rstrip('/')}{run}/tasks/{quote(ti.task_id)}{mapped}/xcom"
