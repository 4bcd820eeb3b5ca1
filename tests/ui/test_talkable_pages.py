"""The provider's own pages, inside Airflow's, in the browser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is in the development packages")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, FrameLocator, Page, expect

from tests.airflow.conftest import migrated as migrated
from tests.plugin.conftest import SCRIPT, Server
from tests.plugin.conftest import server as server

RUN = quote("run:1+a", safe="")
PAGES = {
    "menu page": "/talkable/",
    "search": "/talkable/refund?q=order-d",
    "search of one in doubt": "/talkable/refund?q=order-e",
    "search of nothing": "/talkable/refund?q=nothing",
    "tab": f"/talkable/task/shop/sync/{RUN}",
    "tab, late": f"/talkable/task/shop/sync/{RUN}?show=late",
}
every_page = pytest.mark.parametrize("path", PAGES.values(), ids=PAGES)
Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, server: Server) -> Iterator[Open]:
    """Opens a path in a new profile, signed in as a user; a script that runs from an order fails the test."""
    contexts = []
    alerts: list[str] = []

    def alert(dialog: Dialog) -> None:
        alerts.append(dialog.message)
        dialog.dismiss()

    def open_page(path: str, user: str = "finance", *, width: int = 1240, scheme: str = "light") -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 930},
            color_scheme=scheme,  # type: ignore[arg-type]
            locale="en-US",
        )
        contexts.append(context)
        context.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        context.add_cookies([{"name": "_token", "value": server.tokens[user], "url": server.url}])
        page = context.new_page()
        page.on("dialog", alert)
        page.goto(f"{server.url}{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not alerts


def frame_of(page: Page) -> FrameLocator:
    return page.frame_locator("iframe[src*='talkable']")


@contextmanager
def picture(page: Page, name: str) -> Iterator[None]:
    """Keep a picture, if the environment names a folder for it."""
    yield
    if folder := os.environ.get("UI_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled", scale="css")


def test_the_menu_page_stands_in_airflow_and_leads_to_the_run(opened: Open) -> None:
    page = opened("/plugin/talkable")
    shown = frame_of(page)
    expect(shown.locator("#refunds")).to_have_text("65")
    expect(shown.locator("#open")).to_have_text("1")
    expect(shown.locator("svg").first).to_be_visible()
    shown.get_by_role("link", name="shop").click()
    # Airflow itself goes there, and not the frame.
    page.wait_for_url("**/dags/shop/runs/**")


def test_another_ledger_is_chosen(opened: Open, server: Server) -> None:
    page = opened("/plugin/talkable")
    shown = frame_of(page)
    shown.get_by_label("Ledger").select_option("shop_warehouse:history")
    shown.get_by_role("button", name="Show").click()
    with picture(page, "talkable"):
        expect(shown.locator("#refunds")).to_have_text(str(sum(server.history.values())))
        refused = server.history["not_found"] + server.history["rejected"]
        expect(shown.locator("#refused")).to_have_text(str(refused))


def test_a_refund_in_doubt_shows_what_settles_it(opened: Open) -> None:
    page = opened("/plugin/talkable")
    shown = frame_of(page)
    shown.get_by_label("Order number or refund key").fill("order-e")
    shown.get_by_label("Order number or refund key").press("Enter")
    with picture(page, "talkable-refund"):
        expect(shown.get_by_text("ledger settle --ledger-conn-id shop_warehouse")).to_be_visible()
    shown.get_by_role("link", name="Answer in Airflow: settle").click()
    page.wait_for_url("**/dags/settle")


def test_the_search_shows_text_whatever_is_in_it(opened: Open) -> None:
    page = opened("/plugin/talkable")
    shown = frame_of(page)
    shown.get_by_label("Order number or refund key").fill(SCRIPT)
    shown.get_by_label("Order number or refund key").press("Enter")
    expect(shown.get_by_text(SCRIPT, exact=True).first).to_be_visible()
    expect(shown.locator("img")).to_have_count(0)


def test_the_tab_of_a_task_instance(opened: Open) -> None:
    page = opened(f"/dags/shop/runs/{RUN}/tasks/sync")
    page.get_by_role("link", name="Talkable refunds").click()
    shown = frame_of(page)
    with picture(page, "talkable-task"):
        expect(shown.locator("#outcome-rejected")).to_have_text("60")
    shown.get_by_role("link", name="Next").click()
    expect(shown.get_by_text("Page 2")).to_be_visible()
    with page.expect_download() as download:
        shown.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "shop-sync-failed.csv"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 400])
@every_page
def test_axe_finds_nothing_that_hinders_people(opened: Open, path: str, width: int, scheme: str) -> None:
    page = opened(path, width=width, scheme=scheme)
    for summary in page.locator("summary").all():
        summary.click()
    found = Axe().run(page)
    assert found.response["passes"]
    assert not found.response["violations"], found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@every_page
def test_a_narrow_page_is_not_wider_than_the_screen(opened: Open, path: str, scheme: str) -> None:
    page = opened(path, width=400, scheme=scheme)
    expect(page.locator("h1")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_everything_can_be_reached_by_keyboard(opened: Open) -> None:
    page = opened("/talkable/")
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"SELECT", "BUTTON", "INPUT", "A", "SUMMARY"} <= reached


def test_a_search_and_a_table_need_no_mouse(opened: Open) -> None:
    page = opened("/talkable/")
    table = page.get_by_role("region", name="Refunds by day")
    expect(table).to_be_hidden()
    tab_to(page, "SUMMARY")
    page.keyboard.press("Enter")
    expect(table).to_be_visible()
    page.reload()
    tab_to(page, "INPUT")
    page.keyboard.type("order-d")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="d", exact=True)).to_be_visible()


def tab_to(page: Page, tag: str) -> None:
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == tag:
            return
    raise AssertionError(f"No {tag} takes the focus")
