"""The pages: what is asked, and what is shown. Imported by the API server only."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response

from airflow_provider_talkable.plugin import tasks
from airflow_provider_talkable.plugin.access import MayReadTask, User, visible_to
from airflow_provider_talkable.plugin.charts import HEIGHT, WIDTH, stacked_bars
from airflow_provider_talkable.plugin.ledgers import LedgerName, approval_delay, configured, settling_dag
from airflow_provider_talkable.plugin.rendering import HEADERS, HERE, csv_file, rendered
from airflow_provider_talkable.plugin.talkable import HAS_COMMANDS
from airflow_provider_talkable.protocol.errors import TalkableError
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.activity import ENTRIES, Activity, activity
from airflow_provider_talkable.sync.bounded_reads import Visible
from airflow_provider_talkable.sync.entries import HAS_IT, OPEN, SUBMITTED, Settlement
from airflow_provider_talkable.sync.entry_lists import entries_of_task, history
from airflow_provider_talkable.sync.ledger import DEFAULT_TABLE

PERIODS = (7, 30, 90)
"""The periods to choose from, in days."""
ROWS = 50
"""How many refunds a page of a list shows."""
CSV_ROWS = 10_000
"""How many refunds a file has at most."""

# The first Airflow that takes commands from providers is 3.2.
COMMAND = "airflow talkable" if HAS_COMMANDS else "python -m airflow_provider_talkable"
"""What the provider's commands begin with."""

_STATIC = {"page.css": "text/css", "page.js": "text/javascript"}
_EVENTS = (*(outcome.value for outcome in Outcome), SUBMITTED, *(event.value for event in Settlement))

pages = FastAPI(title="Talkable", docs_url=None, redoc_url=None, openapi_url=None)


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
    """What happened to the refunds of the last days."""
    known, chosen = _chosen(ledger)
    visible = visible_to(user, chosen)
    shown: dict[str, Any] = {
        "ledgers": known,
        "ledger": chosen,
        "site": site or "",
        "sites": [],
        "days": days,
        "periods": PERIODS,
        "most_entries": f"{ENTRIES:,}",
        "activity": None,
    }
    if chosen:
        try:
            with chosen.opened() as opened:
                found = activity(opened, visible, days=days, site_slug=site or None)
            shown |= {"activity": found, "sites": found.sites} | _figures(found)
        except TalkableError as error:
            shown["problem"] = str(error)
    return rendered(request, "overview.html", **shown)


def _figures(found: Activity) -> dict[str, Any]:
    series = [event for event in _EVENTS if found.events[event]]
    weeks = found.late_by_week()
    late_bars = [
        (f"{week}", {"late": sum(late.refunds for late in by_site.values())})
        for week, by_site in weeks.items()
    ]
    approval, slow = approval_delay(), found.delay(0.95)
    last = found.last
    return {
        "series": series,
        "bars": stacked_bars([(f"{day}", counts) for day, counts in found.days.items()], series),
        "late_bars": stacked_bars(late_bars, ["late"]),
        "weeks": weeks,
        "late_by_site": found.late_by_site(),
        "size": (WIDTH, HEIGHT),
        "ends": (min(found.days), max(found.days)),
        "most_a_day": max(sum(counts.values()) for counts in found.days.values()),
        "most_a_week": max(counts["late"] for _, counts in late_bars),
        "open_events": sorted(found.open_since.items(), key=lambda item: item[1]),
        "approval": approval,
        "is_slow": bool(approval is not None and slow and slow > timedelta(days=approval)),
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
                for entry in history(opened, visible, asked):
                    refunds.setdefault((entry["site_slug"], entry["refund_key"]), []).append(entry)
        except TalkableError as error:
            problem = str(error)
    return rendered(
        request,
        "refund.html",
        ledgers=known,
        ledger=chosen,
        q=asked,
        refunds=refunds,
        open_events=OPEN,
        settle_command=lambda entry: _settle_command(chosen, entry),
        settling_dag=_settling_dag(visible),
        problem=problem,
    )


def _settle_command(ledger: LedgerName | None, entry: dict[str, Any]) -> str:
    """What settles a refund, to be completed by whoever has looked it up."""
    assert ledger  # noqa: S101 - there is no entry without one
    options = {"ledger-conn-id": ledger.conn_id}
    options |= {"ledger-table": ledger.table} if ledger.table != DEFAULT_TABLE else {}
    options |= {"ledger-schema": ledger.schema} if ledger.schema else {}
    options |= {"site-slug": entry["site_slug"], "refund-key": entry["refund_key"]}
    named = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in options.items())
    return f"{COMMAND} ledger settle {named} --as refunded --note 'what you saw in Talkable'"


def _settling_dag(visible: Visible) -> str | None:
    dag_id = settling_dag()
    return dag_id if dag_id in visible.dag_ids else None


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
                rows = entries_of_task(
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
        return csv_file(rows, f"{dag_id}-{task_id}-{show}.csv")
    return rendered(
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


@pages.get("/static/{name}")
def static(name: str, user: User) -> Response:  # noqa: ARG001 - who is not signed in gets nothing
    """The style sheet and the script."""
    if name not in _STATIC:
        raise HTTPException(404, "Not found")
    content = (HERE / "static" / name).read_text()
    return Response(content, media_type=_STATIC[name], headers=HEADERS)
