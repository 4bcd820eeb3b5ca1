"""Airflow's pages, as the tests use them, and a look through all that they get and show."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, expect

from tests.airflow.deployment import Deployment
from tests.conftest import KEY

WRONG_KEY = "w7ongQ2zKx9TtRvB4p"


def holds_a_key(text: str) -> bool:
    """Whether a key is in there, as it is or as HTTP's basic scheme writes it."""
    keys = (KEY, WRONG_KEY)
    return any(key in text or base64.b64encode(key.encode()).decode() in text for key in keys)


def assert_no_key_was_shown(har: Path) -> None:
    """Nothing that the pages asked for or got held a key, but for the forms that were sent with one."""
    entries: list[dict[str, Any]] = json.loads(har.read_text())["log"]["entries"]
    assert entries
    for entry in entries:
        request = entry["request"]
        if request["method"] in ("POST", "PATCH") and "/api/v2/connections" in request["url"]:
            request.pop("postData", None)
        assert not holds_a_key(json.dumps(entry)), request["url"]


@contextmanager
def new_page(browser: Browser, deployment: Deployment, har: Path) -> Iterator[Page]:
    """A page of a new profile, whose traffic and console are looked through for keys in the end."""
    expect.set_options(timeout=60_000)
    console: list[str] = []
    context = browser.new_context(
        base_url=f"http://127.0.0.1:{deployment.port}",
        viewport={"width": 1240, "height": 930},
        color_scheme="light",
        locale="en-US",
        timezone_id="UTC",
        record_har_path=har,
        record_har_content="embed",
    )
    context.set_default_timeout(60_000)
    context.on("console", lambda message: console.append(message.text))
    page = context.new_page()
    try:
        yield page
        assert not holds_a_key(page.content())
    finally:
        context.close()
    assert not holds_a_key("\n".join(console))
    assert_no_key_was_shown(har)


@dataclass
class Form:
    """The form of a connection."""

    page: Page

    def open(self, connection_id: str) -> None:
        """Begin a new connection of the type Talkable."""
        self.page.goto("/connections")
        self.page.get_by_role("button", name="Add Connection").click()
        self.dialog.get_by_role("textbox", name="Connection ID").fill(connection_id)
        self.dialog.get_by_role("combobox", name="Connection Type").click()
        self.page.get_by_role("option", name="Talkable", exact=True).click()

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def field(self, label: str) -> Locator:
        """One of the provider's own fields, with its label and description."""
        return self.dialog.get_by_role("group").filter(has=self.page.get_by_text(label, exact=True))

    def fill(self, *, key: str, url: str, site_slug: str = "my-store") -> None:
        to = urlsplit(url)
        self.dialog.get_by_label("Host", exact=True).fill(f"{to.scheme}://{to.hostname}")
        self.dialog.get_by_label("API key", exact=True).fill(key)
        if to.port:
            self.dialog.get_by_label("Port", exact=True).fill(str(to.port))
        self.show_extra_fields()
        self.field("Site slug").get_by_role("textbox").fill(site_slug)

    def show_extra_fields(self) -> None:
        self.dialog.get_by_role("button", name="Extra Fields", exact=True).click()

    def save(self) -> None:
        self.dialog.get_by_role("button", name="Save").click()
        self.dialog.wait_for(state="hidden")


def screenshot(page: Page, name: str, *, height: int) -> None:
    """Keep a picture of the page for the documentation, if the environment names a folder for it."""
    folder = os.environ.get("UI_SCREENSHOTS")
    if folder and page.viewport_size:
        page.set_viewport_size({"width": page.viewport_size["width"], "height": height})
        page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled", scale="css")
