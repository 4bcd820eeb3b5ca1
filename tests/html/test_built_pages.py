"""The pages as they were built: ``make docs`` builds them, then runs this."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from playwright import sync_api

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BUILT = Path(__file__).parents[2] / "docs" / "_build" / "html"
PAGES = sorted(path for path in BUILT.rglob("*.html") if "_static" not in path.parts)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (400, 1440)


class Links(HTMLParser):
    """Where a page leads and where others may lead to in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.anchors.add(value)
            if name in ("href", "src") and value:
                self.targets.add(value)


def dead(page: Path, pages: dict[Path, Links]) -> Iterator[str]:
    """The links of a page to files or anchors that are not there; other hosts are not asked."""
    for target in pages[page].targets:
        parts = urlsplit(urljoin(page.as_uri(), target))
        path = Path(unquote(parts.path))
        if parts.scheme != "file":
            continue
        if not path.is_file() or (
            parts.fragment and path in pages and unquote(parts.fragment) not in pages[path].anchors
        ):
            yield f"{page.relative_to(BUILT)}: {target}"


def test_no_link_is_dead() -> None:
    pages = {page: Links(page) for page in PAGES}
    assert len(pages) > 20
    # What a search or the theme makes when it runs has no anchor yet.
    assert [link for page in PAGES for link in dead(page, pages) if not link.endswith("#")] == []


def test_each_block_has_a_button_to_copy_it() -> None:
    assert "copybutton.js" in (BUILT / "quickstart.html").read_text()
    assert (BUILT / "_static" / "copybutton.js").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed; where pages are released from, it is")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways(browser: Browser, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    wide = []
    for path in PAGES:
        page.goto(path.as_uri(), wait_until="domcontentloaded", timeout=120_000)
        found = page.evaluate("document.documentElement.scrollWidth")
        if found > width:
            wide.append((str(path.relative_to(BUILT)), found))
    assert wide == []
