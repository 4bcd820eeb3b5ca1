"""Airflow's pages in the system's own Chromium, with an Airflow, a warehouse and a sandbox behind them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import create_engine
from sqlalchemy.engine import URL

from airflow_provider_talkable.sandbox import Sandbox
from tests.airflow.conftest import EXAMPLES, LATE, Airflow
from tests.airflow.deployment import Deployment
from tests.conftest import KEY

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MISSING = ("december-7", "december-23")
"""Orders of the shop that Talkable does not know."""
LATE_ORDERS = ("december-3", "december-11", "december-30")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is in the development packages")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(PROGRAMS)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=OPTIONS)
        yield browser
        browser.close()


def fill(sandbox: Sandbox, warehouse: Path) -> None:
    """A shop with 40 refunds in December 2025 and five in January, which Talkable knows but for two."""
    engine = create_engine(URL.create("sqlite", database=str(warehouse)))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE refunds (refund_id, order_number, refunded_at, refund_subtotal, site_slug)"
        )
        months = (("december", date(2025, 12, 1), 40), ("january", date(2026, 1, 1), 5))
        for month, first, count in months:
            for number in range(count):
                slug = f"{month}-{number}"
                if slug not in MISSING:
                    order = {"order_number": slug, "subtotal": 100, "email": f"{slug}@example.com"}
                    referral = LATE if slug in LATE_ORDERS else {}
                    sandbox.talkable.create_purchase("my-store", order | {"referral": referral})
                at = f"{first + timedelta(days=number % 31)}T12:00:00+00:00"
                subtotal = 25.5 if number % 8 == 1 else None
                connection.exec_driver_sql(
                    "INSERT INTO refunds VALUES (?, ?, ?, ?, 'my-store')", (f"r-{slug}", slug, at, subtotal)
                )
    engine.dispose()


@pytest.fixture(scope="module")
def deployment(
    browser: Browser, postgres_server: Callable[[], URL], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """An Airflow with the example DAGs and no connection to Talkable, in which nobody has to log in."""
    home = tmp_path_factory.mktemp("airflow")
    with ExitStack() as opened:
        sandbox = opened.enter_context(Sandbox(api_key=KEY))
        airflow = Airflow(home, sandbox)
        fill(sandbox, home / "warehouse.sqlite")
        metadata, warehouse = (
            create_engine(url)
            for url in (
                postgres_server(),
                URL.create("sqlite", database=str(home / "warehouse.sqlite")),
            )
        )
        opened.callback(metadata.dispose)
        opened.callback(warehouse.dispose)
        variables = {
            "AIRFLOW_CONN_TALKABLE_DEFAULT": None,
            "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        }
        deployment = Deployment(airflow, metadata, warehouse, EXAMPLES, variables)
        yield opened.enter_context(deployment.running())


@pytest.fixture
def page(browser: Browser, deployment: Deployment, tmp_path: Path) -> Iterator[Page]:
    from tests.ui.pages import new_page

    with new_page(browser, deployment, tmp_path / "traffic.har") as page:
        yield page


@pytest.fixture(scope="module")
def talkable_default(
    browser: Browser, deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The connection that the example DAGs use, made in the form."""
    from tests.ui.pages import Form, new_page

    with new_page(browser, deployment, tmp_path_factory.mktemp("form") / "traffic.har") as page:
        form = Form(page)
        form.open("talkable_default")
        form.fill(key=KEY, url=deployment.airflow.sandbox.url)
        form.save()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell of a failed test what the page showed and what Airflow's components logged."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        funcargs: dict[str, Any] = item.funcargs
        page, deployment = (funcargs.get(name) for name in ("page", "deployment"))
        if page is not None and report.when == "call":
            report.sections.append((f"page {page.url}", page.locator("body").aria_snapshot()))
            picture = funcargs["tmp_path"] / "page.png"
            page.screenshot(path=picture)
            report.sections.append(("picture of the page", str(picture)))
        if deployment is not None:
            report.sections.append(("Airflow's logs", deployment.all_logs()))
    return report
