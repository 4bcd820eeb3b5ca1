"""How what was read becomes an answer: HTML by templates, CSV, and the headers that keep a page safe."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from airflow_provider_talkable.plugin.talkable import PREFIX
from airflow_provider_talkable.protocol.people import without_people

HERE = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _moment(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if moment else "–"


def _span(span: timedelta | float | None) -> str:
    if span is None:
        return "–"
    hours = (span.total_seconds() if isinstance(span, timedelta) else span) / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h"


def _words(event: str) -> str:
    return event.replace("_", " ")


def _money(amount: Decimal) -> str:
    return f"{amount:,.2f}"


def _plain(number: float) -> str:
    return f"{number:g}"


_templates.filters |= {
    "money": _money,
    "plain": _plain,
    "moment": _moment,
    "span": _span,
    "words": _words,
    "impersonal": without_people,
}


def rendered(request: Request, name: str, **values: Any) -> HTMLResponse:
    """A template as a page; the addresses in it begin as the request's."""
    root = request.scope.get("root_path", "")
    base = root.removesuffix(PREFIX)

    def run_address(entry: Any) -> str:
        return f"{base}/dags/{quote(entry['dag_id'], safe='')}/runs/{quote(entry['run_id'], safe='')}"

    def dag_address(dag_id: str) -> str:
        return f"{base}/dags/{quote(dag_id, safe='')}"

    common = {"root": root, "run_address": run_address, "dag_address": dag_address, "problem": None}
    content = _templates.get_template(name).render(common | values)
    return HTMLResponse(content, headers=HEADERS)


def csv_file(rows: list[dict[str, Any]], name: str) -> Response:
    """Refunds as a file to download, without people's data and formulas."""
    columns = ("site_slug", "refund_key", "origin_slug", "refund_subtotal", "refunded_at", "event",
               "is_late", "error_message", "logged_at")  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(without_people(row[column])) for column in columns])
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return Response(text.getvalue(), media_type="text/csv", headers=HEADERS | headers)


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
