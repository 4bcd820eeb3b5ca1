"""What the person on call sees of a sync's log without scrolling: what happened, and what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is in the development packages")

from playwright.sync_api import Page, expect

from airflow_provider_talkable.sandbox import Canned, Dials, Sandbox
from tests.airflow.deployment import Deployment
from tests.conftest import KEY
from tests.ui.pages import screenshot

BACKFILL = "example_talkable_sync_backfill"


@dataclass(frozen=True)
class Case:
    """How a sync is made to end, and what is to be seen of it."""

    seen: tuple[str, ...]
    break_it: Callable[[Sandbox], object] = lambda _: None
    preview: bool = False
    state: str = "failed"


def refuse(sandbox: Sandbox) -> None:
    sandbox.api_key = "another-api-key"


def throttle(sandbox: Sandbox) -> None:
    # More than the patience, which is not waited for then.
    sandbox.dials.next(*[Canned(429, headers={"Retry-After": "400"})] * 1_000)


def go_down(sandbox: Sandbox) -> None:
    sandbox.dials = Dials(errors=1)


CASES = {
    "preview": Case(
        ("Would send: december-9 (25.5 of it, site my-store)", "Preview: nothing was sent"),
        preview=True,
        state="success",
    ),
    "wrong-key": Case(("Talkable refused the API key (Invalid API key); check it",), refuse),
    "throttled": Case(("40 of 40 refunds failed (40 throttled: ",), throttle),
    "outage": Case(("Talkable has not answered for 60 s: run it again once it does",), go_down),
    "success": Case((" refunded, 2 not_found", "Too late, the advocate had been paid"), state="success"),
}


@pytest.mark.usefixtures("talkable_default")
@pytest.mark.parametrize("name", CASES)
def test_reason_and_remedy_show_without_scrolling(page: Page, deployment: Deployment, name: str) -> None:
    case, sandbox = CASES[name], deployment.airflow.sandbox
    try:
        case.break_it(sandbox)
        conf = {"since": "2025-12-01", "until": "2026-01-01", "preview": case.preview}
        deployment.command("dags", "unpause", BACKFILL)
        deployment.command("dags", "trigger", BACKFILL, "--run-id", name, "--conf", json.dumps(conf))
        deadline = time.monotonic() + 240
        query = f"SELECT state FROM dag_run WHERE run_id = '{name}'"
        while (found := deployment.query(query)) not in ([("success",)], [("failed",)]):
            assert time.monotonic() < deadline, f"{found}\n{deployment.all_logs()}"
            time.sleep(0.3)
        assert found == [(case.state,)], deployment.all_logs()
    finally:
        sandbox.api_key, sandbox.dials = KEY, Dials()
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"/dags/{BACKFILL}/runs/{name}/tasks/sync_refunds")
    log = page.get_by_role("code").first
    expect(log).to_contain_text(case.seen[0])
    screenshot(page, f"log-{name}", height=900)
    for words in case.seen:
        expect(page.get_by_text(words).last).to_be_in_viewport()
