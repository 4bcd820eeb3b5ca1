"""The plugin. Every process of Airflow's imports this; the pages are imported by the first who opens one."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow import __version__
from airflow.providers.common.compat.sdk import AirflowPlugin, conf

PREFIX = "/talkable"
"""Where the pages are, below the API server's address."""
_AIRFLOW = tuple(int(part) for part in __version__.split(".")[:2])
HAS_COMMANDS = _AIRFLOW >= (3, 2)
"""Whether this Airflow has ``airflow talkable``."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The pages, as an ASGI application."""
    from airflow_provider_talkable.plugin.pages import pages

    await pages(scope, receive, send)


def _external_views() -> list[dict[str, Any]]:
    base = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    task = f"{base}{PREFIX}/task/{{DAG_ID}}/{{TASK_ID}}/{{RUN_ID}}?map_index={{MAP_INDEX}}"
    return [
        {
            "name": "Talkable",
            "href": f"{base}{PREFIX}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "talkable",
        },
        {
            "name": "Talkable refunds",
            "href": task,
            "destination": "task_instance",
            "url_route": "talkable_refunds",
        },
    ]


class TalkablePlugin(AirflowPlugin):
    """Adds the pages to Airflow 3.1 and later; to an earlier one, which shows no such pages, nothing."""

    name = "talkable"
    _shows_pages = _AIRFLOW >= (3, 1)
    fastapi_apps = [{"app": app, "url_prefix": PREFIX, "name": "Talkable"}] if _shows_pages else []
    external_views = _external_views() if _shows_pages else []
