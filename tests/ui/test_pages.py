"""What a data engineer does in Airflow's pages: connect, test, sync, look."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is in the development packages")

from playwright.sync_api import Locator, Page, expect

from tests.airflow.deployment import Deployment
from tests.airflow.metadata import xcom
from tests.conftest import KEY
from tests.ui.conftest import MISSING
from tests.ui.pages import WRONG_KEY, Form, screenshot

BACKFILL = "example_talkable_sync_backfill"


def test_the_form_says_what_to_fill_in(page: Page) -> None:
    form = Form(page)
    form.open("talkable_default")
    for label, placeholder in (
        ("Host", "https://www.talkable.com"),
        ("API key", "from the Talkable dashboard; site slug: under Extra Fields"),
        ("Port", "443; the Test button needs it"),
    ):
        expect(form.dialog.get_by_label(label, exact=True)).to_have_attribute("placeholder", placeholder)
    for hidden in ("Login", "Schema", "Extra"):
        expect(form.dialog.get_by_label(hidden, exact=True)).to_have_count(0)
    expect(form.dialog.get_by_label("API key", exact=True)).to_have_attribute("type", "password")
    screenshot(page, "connection", height=930)
    form.show_extra_fields()
    for label, description in (
        ("Site slug", "Your Talkable site id, e.g. my-store"),
        ("Auth scheme", "How the API key is sent; auto tries basic, then bearer."),
        ("Timeout", "Seconds to wait to connect, and again for an answer"),
        ("CA bundle", "Path on the worker of a PEM file"),
        ("Proxy", "URL of an http or https proxy"),
    ):
        expect(form.field(label)).to_contain_text(description)
    expect(form.field("Timeout").get_by_role("spinbutton")).to_have_value("30")
    form.field("Auth scheme").get_by_role("combobox").click()
    expect(page.get_by_role("option")).to_have_text(["auto", "basic", "bearer"])


@pytest.mark.usefixtures("talkable_default")
def test_what_the_form_stores(deployment: Deployment) -> None:
    [stored] = json.loads(deployment.command("connections", "get", "talkable_default", "--output", "json"))
    assert (stored["conn_type"], stored["password"]) == ("talkable", KEY)
    assert f"{stored['host']}:{stored['port']}" == deployment.airflow.sandbox.url
    assert not stored["login"]
    extra = stored["extra_dejson"]
    # Airflow's form makes text of the number once the field has been on the screen.
    assert float(extra.pop("timeout")) == 30
    assert extra == {
        "site_slug": "my-store",
        "auth_scheme": "auto",
        "ca_bundle": None,
        "proxy": None,
    }
    columns = deployment.query("SELECT password, extra FROM connection WHERE conn_id = 'talkable_default'")
    assert KEY not in str(columns)


def press_test(page: Page, connection_id: str) -> Locator:
    """Press a connection's Test button and return where the answer shows."""
    page.goto("/connections")
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=connection_id, exact=True))
    row.get_by_role("button", name="Test Connection").click()
    return page.get_by_role("region", name="Notifications").get_by_role("status")


@pytest.mark.usefixtures("talkable_default")
def test_the_test_button_with_the_right_key(page: Page, deployment: Deployment) -> None:
    answer = press_test(page, "talkable_default")
    expect(answer).to_contain_text("Test Connection Successful")
    url = deployment.airflow.sandbox.url
    expect(answer).to_contain_text(f"{url} accepts the API key for site my-store with auth_scheme basic")


def test_the_test_button_with_a_wrong_key(page: Page, deployment: Deployment) -> None:
    form = Form(page)
    form.open("talkable_wrong_key")
    form.fill(key=WRONG_KEY, url=deployment.airflow.sandbox.url)
    form.save()
    answer = press_test(page, "talkable_wrong_key")
    expect(answer).to_contain_text("Test Connection Failed")
    expect(answer).to_contain_text("Talkable refused the API key (Invalid API key); check it")
    sent = [request["headers"] for request in deployment.airflow.sandbox.requests]
    assert WRONG_KEY in str(sent)


def test_the_test_button_without_a_port(page: Page, deployment: Deployment) -> None:
    """Airflow does not ask the provider then; the documentation and the form tell to fill in the port."""
    form = Form(page)
    form.open("talkable_without_port")
    form.fill(key=KEY, url="http://127.0.0.1")
    form.save()
    expect(press_test(page, "talkable_without_port")).to_contain_text("Bad Request")


def trigger(page: Page, *, since: str, until: str, resend: str | None = None) -> None:
    """Send the refunds of a period, by the backfill's form, and open the task when it has succeeded."""
    page.goto(f"/dags/{BACKFILL}")
    page.get_by_role("button", name="Trigger").click()
    dialog = page.get_by_role("dialog")

    def parameter(name: str) -> Locator:
        # A star marks those that are required.
        label = page.locator("label").filter(has_text=re.compile(rf"^{name}[ *]*$"))
        return dialog.get_by_role("group").filter(has=label)

    for name, description in (
        ("since", "The first day"),
        ("until", "The day after the last"),
        ("preview", "Send nothing, list what would be sent"),
        ("resend", "Outcomes to try again"),
    ):
        expect(parameter(name)).to_contain_text(description)
    # The form can be sent as it is.
    expect(dialog.get_by_role("button", name="Trigger", exact=True)).to_be_enabled()
    parameter("since").get_by_role("textbox").fill(since)
    parameter("until").get_by_role("textbox").fill(until)
    expect(parameter("preview").get_by_role("checkbox")).to_be_checked()
    # What is shown is the switch around it.
    parameter("preview").get_by_role("checkbox").locator("..").click()
    expect(parameter("preview").get_by_role("checkbox")).not_to_be_checked()
    if resend:
        parameter("resend").get_by_role("combobox").click()
        page.get_by_role("option", name=resend, exact=True).click()
    dialog.get_by_role("button", name="Trigger", exact=True).click()
    dialog.wait_for(state="hidden")


def open_finished_task(page: Page) -> None:
    """Wait until the run whose page shows is done, and open its only task."""
    row = page.get_by_role("row").filter(has_text="sync_refunds")
    # The task's own state and the run's.
    expect(page.get_by_text("Success", exact=True)).to_have_count(2, timeout=180_000)
    expect(row).to_contain_text("Success")
    row.get_by_role("link", name="sync_refunds").click()


@pytest.mark.usefixtures("talkable_default")
def test_a_sync_from_the_trigger_form_to_the_log(page: Page, deployment: Deployment) -> None:
    talkable = deployment.airflow.sandbox.talkable
    trigger(page, since="2025-12-01", until="2026-01-01")
    open_finished_task(page)
    log = page.get_by_role("code").first
    expect(log).to_contain_text("The query returned 40 rows, 40 refunds")
    expect(log).to_contain_text("Refunds: 38 refunded, 2 not_found; 0 settled before")
    expect(log).to_contain_text("Too late, the advocate had been paid: 3 of 33 referred orders")
    screenshot(page, "sync", height=600)
    held = talkable.snapshot()["my-store"]
    assert {slug for slug, origin in held.items() if origin["times_refunded"]} == {
        f"december-{number}" for number in range(40)
    } - set(MISSING)

    page.get_by_role("link", name="Rendered Templates").click()
    rendered = page.get_by_role("row").filter(has_text="parameters")
    expect(rendered).to_contain_text('"since": "2025-12-01"')

    page.get_by_role("link", name="Storage").click()
    page.get_by_role("link", name="XCom").click()
    page.get_by_role("button", name="Expand all extra JSON").click()
    for key in ("summary", "return_value"):
        cell = page.get_by_role("cell", name=key, exact=True)
        (summary,) = xcom(deployment.metadata, key, dag_id="example_talkable_sync_backfill")
        assert summary["outcomes"]["not_found"] == 2
        # PostgreSQL keeps a document's shortest names first, and the first lines are shown.
        expect(page.get_by_role("row").filter(has=cell)).to_contain_text('"origin_slug": "december-3"')

    for slug in MISSING:
        talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100})
    trigger(page, since="2025-12-01", until="2026-01-01", resend="not_found")
    open_finished_task(page)
    expect(log).to_contain_text("Refunds: 2 refunded; 38 settled before")
    assert {talkable.snapshot()["my-store"][slug]["times_refunded"] for slug in MISSING} == {1}

    files = [path for path in deployment.airflow.home.rglob("*") if path.is_file()]
    assert any(b"38 settled before" in path.read_bytes() for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.usefixtures("talkable_default")
def test_the_links_lead_to_talkable_and_to_the_ledger(page: Page) -> None:
    trigger(page, since="2026-01-01", until="2026-02-01")
    open_finished_task(page)
    page.get_by_role("link", name="Details", exact=True).click()
    site = page.get_by_role("link", name="Talkable", exact=True)
    # It is Talkable's own page: what it leads to is not looked at.
    expect(site).to_have_attribute("href", "https://admin.talkable.com/sites/my-store")
    page.get_by_role("link", name="Ledger query", exact=True).click()
    query = page.get_by_role("row").filter(has_text="ledger_query")
    expect(query).to_contain_text("talkable_refund_ledger")
