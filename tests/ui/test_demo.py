"""The pages after the sync of ``make demo UI=1``, which failed: they show what its ledger says."""

from __future__ import annotations

import csv
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is in the development packages")

from playwright.sync_api import Browser, Page, expect

from airflow_provider_talkable.sync.entries import HAS_IT, OPEN
from tests.ui.test_talkable_pages import frame_of

# Where the picture of a page that fails is kept.
pytestmark = pytest.mark.usefixtures("tmp_path")
SCRIPT = Path(__file__).parents[2] / "scripts" / "demo_ui.py"
NEWEST = """
SELECT * FROM talkable_refund_ledger entry WHERE NOT EXISTS (
  SELECT 1 FROM talkable_refund_ledger later WHERE later.refund_key = entry.refund_key
  AND later.entry_id > entry.entry_id) ORDER BY entry_id
"""


class Demo:
    """Airflow as the script has started it."""

    def __init__(self, home: Path, said: str) -> None:
        self._ledger = home / ".demo" / "ui" / "warehouse.sqlite"
        self.menu, self.task, _ = re.findall(r"http://\S+", said)

    def ask(self, statement: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(f"file:{self._ledger}?mode=ro", uri=True)) as ledger:
            ledger.row_factory = sqlite3.Row
            return [dict(row) for row in ledger.execute(statement)]

    def keys(self, *events: str) -> list[str]:
        """The refunds whose newest entry is one of these."""
        return [entry["refund_key"] for entry in self.ask(NEWEST) if entry["event"] in events]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    # What it makes lies beside the folder that it is in.
    home = tmp_path_factory.mktemp("demo")
    script = home / "scripts" / SCRIPT.name
    script.parent.mkdir()
    shutil.copy(SCRIPT, script)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            said = ""
            while "Ctrl-C ends it" not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            yield Demo(home, said)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    expect.set_options(timeout=60_000)
    context = browser.new_context(viewport={"width": 1440, "height": 930}, locale="en-US")
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


def test_the_menu_page_counts_what_the_ledger_has(page: Page, demo: Demo) -> None:
    newest = demo.ask(NEWEST)
    page.goto(demo.menu)
    shown = frame_of(page)
    expect(shown.locator("#refunds")).to_have_text(str(len(newest)))
    expect(shown.locator("#open")).to_have_text(str(len(demo.keys(*OPEN))))
    events = {entry["event"] for entry in newest}
    assert {"refunded", "not_found", "unconfirmed"} <= events
    expect(shown.locator("#refused")).to_have_text(str(len(demo.keys(*(events - HAS_IT - OPEN)))))
    late = [
        entry
        for entry in newest
        if entry["event"] in HAS_IT and entry["reward_paid"] and entry["refund_subtotal"] is None
    ]
    assert late
    expect(shown.locator("#late")).to_have_text(str(len(late)))


def test_the_search_tells_the_history_that_the_ledger_has(page: Page, demo: Demo) -> None:
    order = next(entry["origin_slug"] for entry in demo.ask(NEWEST) if entry["event"] == "unconfirmed")
    page.goto(demo.menu)
    shown = frame_of(page)
    shown.get_by_label("Order number or refund key").fill(order)
    shown.get_by_label("Order number or refund key").press("Enter")
    of_order = f"SELECT event FROM talkable_refund_ledger WHERE origin_slug = '{order}' ORDER BY entry_id"
    entries = demo.ask(of_order)
    steps = shown.locator(".timeline li")
    expect(steps).to_have_count(len(entries))
    for number, entry in enumerate(entries):
        expect(steps.nth(number).locator("strong")).to_have_text(entry["event"].replace("_", " "))


def test_the_tab_lists_what_the_ledger_has(page: Page, demo: Demo) -> None:
    page.goto(demo.task)
    page.get_by_role("link", name="Talkable refunds").click()
    shown = frame_of(page)
    for event in ("refunded", "not_found", "unconfirmed"):
        expect(shown.locator(f"#outcome-{event}")).to_have_text(str(len(demo.keys(event))))
    shown.get_by_label("Show").select_option("not_found")
    shown.get_by_role("button", name="Show").click()
    expect(shown.get_by_role("table").locator("tbody tr")).to_have_count(len(demo.keys("not_found")))
    with page.expect_download() as download:
        shown.get_by_role("button", name="CSV").click()
    with Path(download.value.path()).open(newline="") as file:
        assert sorted(row["refund_key"] for row in csv.DictReader(file)) == sorted(demo.keys("not_found"))
