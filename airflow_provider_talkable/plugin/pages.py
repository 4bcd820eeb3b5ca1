"""The pages: what is asked, and what is shown. Imported by the API server only."""

from __future__ import annotations

import csv
import io
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from airflow_provider_talkable.plugin import tasks
from airflow_provider_talkable.plugin.access import MayReadTask, User, visible_to
from airflow_provider_talkable.plugin.charts import HEIGHT, WIDTH, stacked_bars
from airflow_provider_talkable.plugin.ledgers import LedgerName, approval_delay, configured
from airflow_provider_talkable.plugin.talkable import PREFIX
from airflow_provider_talkable.protocol.errors import TalkableError
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.people import without_people
from airflow_provider_talkable.sync import activity as reading
from airflow_provider_talkable.sync.entries import HAS_IT, SUBMITTED, Settlement

PERIODS = (7, 30, 90)
"""The periods to choose from, in days."""
ROWS = 50
"""How many refunds a page of a list shows."""
CSV_ROWS = 10_000
"""How many refunds a file has at most."""

_HERE = Path(__file__).parent
_STATIC = {"page.css": "text/css", "page.js": "text/javascript"}
_EVENTS = (*(outcome.value for outcome in Outcome), SUBMITTED, *(event.value for event in Settlement))
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

pages = FastAPI(title="Talkable", docs_url=None, redoc_url=None, openapi_url=None)


def _moment(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if moment else "–"


def _span(span: timedelta | float | None) -> str:
    if span is None:
        return "–"
    hours = (span.total_seconds() if isinstance(span, timedelta) else span) / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h"


def _words(event: str) -> str:
    return event.replace("_", " ")


_templates.filters |= {"moment": _moment, "span": _span, "words": _words, "impersonal": without_people}


def _show(request: Request, name: str, **values: Any) -> HTMLResponse:
    root = request.scope.get("root_path", "")
    base = root.removesuffix(PREFIX)

    def run_address(entry: Any) -> str:
        return f"{base}/dags/{quote(entry['dag_id'], safe='')}/runs/{quote(entry['run_id'], safe='')}"

    common = {"root": root, "run_address": run_address, "problem": None}
    content = _templates.get_template(name).render(common | values)
    return HTMLResponse(content, headers=_HEADERS)


def _chosen(text: str | None) -> tuple[list[LedgerName], LedgerName | None]:
    """The ledgers to choose from, and the one chosen: nobody opens one that is not named."""
    known = configured()
    if text:
        for ledger in known:
            if str(ledger) == text:
                return known, ledger
        raise HTTPException(404, "No such ledger")
    return known, known[0] if known else None


@pages.get("/")
def overview(
    request: Request,
    user: User,
    ledger: str | None = None,
    site: str | None = None,
    days: Annotated[int, Query(ge=1, le=366)] = 30,
) -> Response:
    """What became of the refunds of the last days."""
    known, chosen = _chosen(ledger)
    visible = visible_to(user, chosen)
    shown: dict[str, Any] = {
        "ledgers": known,
        "ledger": chosen,
        "site": site or "",
        "sites": [],
        "days": days,
        "periods": PERIODS,
        "activity": None,
    }
    if chosen:
        try:
            with chosen.opened() as opened:
                shown["sites"] = reading.sites(opened, visible)
                found = reading.activity(opened, visible, days=days, site_slug=site or None)
            shown |= {"activity": found} | _figures(found)
        except TalkableError as error:
            shown["problem"] = str(error)
    return _show(request, "overview.html", **shown)


def _figures(found: reading.Activity) -> dict[str, Any]:
    series = [event for event in _EVENTS if found.events[event]]
    weeks: Counter[str] = Counter()
    for day in found.days:
        weeks[f"{day - timedelta(days=day.weekday()):%Y-%m-%d}"] += found.late[day]
    last = found.last
    return {
        "series": series,
        "bars": stacked_bars([(f"{day:%Y-%m-%d}", counts) for day, counts in found.days.items()], series),
        "late_bars": stacked_bars([(week, {"late": count}) for week, count in weeks.items()], ["late"]),
        "weeks": weeks,
        "size": (WIDTH, HEIGHT),
        "open_events": sorted(found.open_since.items(), key=lambda item: item[1]),
        "approval": approval_delay(),
        "last": last,
        "last_task": last
        and tasks.find(
            last["dag_id"],
            last["run_id"],
            last["task_id"],
            -1 if last["map_index"] is None else last["map_index"],
        ),
    }


@pages.get("/refund")
def refund(
    request: Request,
    user: User,
    q: Annotated[str, Query(max_length=2000)] = "",
    ledger: str | None = None,
) -> Response:
    """The history of each refund of an order."""
    known, chosen = _chosen(ledger)
    visible = visible_to(user, chosen)
    asked, problem = q.strip(), None
    refunds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    if chosen and asked:
        try:
            with chosen.opened() as opened:
                for entry in reading.history(opened, visible, asked):
                    refunds.setdefault((entry["site_slug"], entry["refund_key"]), []).append(entry)
        except TalkableError as error:
            problem = str(error)
    return _show(
        request,
        "refund.html",
        ledgers=known,
        ledger=chosen,
        q=asked,
        refunds=refunds,
        open_events=reading.OPEN,
        problem=problem,
    )


@pages.get("/task/{dag_id}/{task_id}/{run_id:path}", dependencies=[MayReadTask])
def task(
    request: Request,
    dag_id: str,
    task_id: str,
    run_id: str,
    map_index: str = "",
    show: str = "failed",
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
    file: str = "",
) -> Response:
    """What a task has done so far, and the refunds that need attention."""
    index = int(map_index) if map_index.lstrip("-").isdigit() else -1
    found = tasks.find(dag_id, run_id, task_id, index)
    if found is None:
        raise HTTPException(404, "No such task instance")
    problem, rows = None, []
    limit = CSV_ROWS if file == "csv" else ROWS
    if found.ledger:
        try:
            with found.ledger.opened() as opened:
                rows = reading.entries_of_task(
                    opened,
                    found.entries,
                    events=None if show in ("failed", "late") else [show],
                    is_late=show == "late",
                    offset=0 if file == "csv" else ROWS * (page - 1),
                    limit=limit if file == "csv" else limit + 1,
                )
        except TalkableError as error:
            problem = str(error)
    if file == "csv":
        return _csv(rows, f"{dag_id}-{task_id}-{show}.csv")
    return _show(
        request,
        "task.html",
        task=found,
        rows=rows[:ROWS],
        show=show,
        page=page,
        has_more=len(rows) > ROWS,
        choices=("failed", "late", *(outcome.value for outcome in Outcome)),
        successes=HAS_IT,
        map_index=index,
        problem=problem,
    )


def _csv(rows: list[dict[str, Any]], name: str) -> Response:
    columns = ("site_slug", "refund_key", "origin_slug", "refund_subtotal", "refunded_at", "event",
               "is_late", "error_message", "logged_at")  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(without_people(row[column])) for column in columns])
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return Response(text.getvalue(), media_type="text/csv", headers=_HEADERS | headers)


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


@pages.get("/static/{name}")
def static(name: str, user: User) -> Response:  # noqa: ARG001 - who is not signed in gets nothing
    """The style sheet and the script."""
    if name not in _STATIC:
        raise HTTPException(404, "Not found")
    content = (_HERE / "static" / name).read_text()
    return Response(content, media_type=_STATIC[name], headers=_HEADERS)
