"""What the pages show, and to whom: over HTTP, from Airflow's own API server."""

from __future__ import annotations

import csv
import io
import re
from html import escape
from urllib.parse import quote

import pytest
from airflow import __version__
from sqlalchemy import create_engine

from tests.plugin.conftest import SCRIPT, Server

TASK = "/talkable/task/shop/sync/" + quote("run:1+a")
AIRFLOW = tuple(map(int, __version__.split(".")[:2]))
pytestmark = [
    pytest.mark.airflow_process,
    pytest.mark.takes_long,
    pytest.mark.skipif(
        AIRFLOW < (3, 1), reason="Airflow before 3.1 shows no pages of plugins; test_plugin.py"
    ),
]

STATIC = ["/talkable/static/page.css", "/talkable/static/page.js"]
PAGES = ["/talkable/", "/talkable/refund?q=order-a", TASK, *STATIC]

# A copy of the ledger with so many more entries that everything of its oldest day is left out; with no more
# indexes than it takes, since they take longest to fill.
MANY = """
CREATE TABLE large AS
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 450000)
SELECT * FROM history UNION ALL
SELECT oldest.* FROM numbers, (SELECT * FROM history ORDER BY logged_at, entry_id LIMIT 1) oldest
"""


def number(page: str, name: str) -> int:
    found = re.search(rf'id="{name}">(\d+)<', page)
    assert found, page
    return int(found[1])


@pytest.mark.parametrize("path", PAGES)
def test_whoever_is_not_signed_in_gets_401_and_nothing_else(server: Server, path: str) -> None:
    answer = server.get(path, user=None)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})


@pytest.mark.parametrize("path", PAGES[:3])
def test_whoever_may_read_no_dag_gets_403_and_nothing_else(server: Server, path: str) -> None:
    answer = server.get(path, user="nobody")
    assert (answer.status_code, answer.json()) == (403, {"detail": "Forbidden"})


def test_the_dag_of_a_task_has_to_be_readable(server: Server) -> None:
    assert server.get("/talkable/task/secret/sync/r", user="finance").status_code == 403
    assert server.get("/talkable/task/secret/sync/r").status_code == 404


def test_the_menu_page_counts_each_refund_once_by_its_newest_entry(server: Server) -> None:
    answer = server.get("/talkable/?days=30", user="finance")
    assert answer.status_code == 200
    page = answer.text
    assert (number(page, "refunds"), number(page, "refused"), number(page, "open"), number(page, "late")) == (
        65,
        61,
        1,
        1,
    )
    assert "6.0 h" in page
    assert 'href="/dags/shop/runs/run%3A1%2Ba"' in page
    assert "failed; 3 refunded, 1 not found, 60 rejected, 4 settled before" in page


def test_a_period_with_too_many_entries_is_shortened_and_the_page_says_so(server: Server) -> None:
    before = server.get("/talkable/?ledger=shop_warehouse:history&days=90").text
    assert 'id="shortened"' not in before
    engine = create_engine(server.warehouse)
    of_that_day = "SELECT count(*) FROM history WHERE logged_at <= (SELECT min(logged_at) FROM history)"
    with engine.begin() as connection:
        connection.exec_driver_sql(MANY)
        connection.exec_driver_sql("CREATE INDEX by_refund ON large (site_slug, refund_key, entry_id)")
        left_out = connection.exec_driver_sql(of_that_day).scalar_one()
    engine.dispose()
    page = server.get("/talkable/?ledger=shop_warehouse:large&days=90").text
    assert "There are more than 450,000 entries in the last 90 days: shown are the last 29." in page
    assert number(page, "refunds") == number(before, "refunds") - left_out


def test_who_reads_more_sees_more(server: Server) -> None:
    page = server.get("/talkable/").text
    # The other DAG's refund, and the one that somebody settled by hand.
    assert number(page, "refunds") == 67
    assert "other-store" in page
    assert "other-store" not in server.get("/talkable/", user="finance").text
    assert number(server.get("/talkable/?days=366").text, "refunds") == 68


@pytest.mark.parametrize(("asked", "is_shown"), [("hidden", False), ("order-f", False), ("order-b", True)])
def test_the_search_shows_entries_of_readable_dags_only(server: Server, asked: str, is_shown: bool) -> None:
    page = server.get(f"/talkable/refund?q={asked}", user="finance").text
    assert ('class="refund"' in page) is is_shown
    assert 'class="refund"' in server.get(f"/talkable/refund?q={asked}").text


def test_a_history_is_in_the_order_of_writing(server: Server) -> None:
    page = server.get("/talkable/refund?q=order-d", user="finance").text
    assert re.findall(r"<strong>(\w+)</strong>", page) == ["submitted", "refunded"]


def test_an_order_of_which_only_the_sending_is_known_is_found(server: Server) -> None:
    page = server.get("/talkable/refund?q=order-e", user="finance").text
    assert "Nobody knows whether Talkable has this part" in page
    # What settles it: the exact command, and the DAG that asks.
    assert (
        escape(
            "ledger settle --ledger-conn-id shop_warehouse --site-slug my-store --refund-key e --as refunded"
        )
        in page
    )
    assert 'href="/dags/settle"' in page


def test_the_menu_page_says_what_late_refunds_cost_and_how_slow_they_are(server: Server) -> None:
    page = server.get("/talkable/", user="finance").text
    assert "12.50 lost at my-store" in page
    assert "<td>my-store</td><td>1</td><td>12.50</td><td>0</td>" in page
    assert "95 %: 20.0 days; Talkable approves after 14 days" in page
    assert '<div class="warn"><dt>Delay to Talkable' in page


def test_an_order_number_is_text_whatever_is_in_it(server: Server) -> None:
    for path in (f"/talkable/refund?q={quote(SCRIPT)}", f"{TASK}?show=not_found"):
        page = server.get(path, user="finance").text
        assert escape(SCRIPT) in page
        assert "<img" not in page
        assert "who@example.com" not in page


def test_no_ledger_is_opened_that_the_configuration_does_not_name(server: Server) -> None:
    assert server.get("/talkable/?ledger=airflow_db").status_code == 404


def test_a_tasks_page_has_its_summary_and_pages_of_its_failures(server: Server) -> None:
    first = server.get(TASK, user="finance").text
    assert (number(first, "outcome-refunded"), number(first, "outcome-rejected")) == (3, 60)
    second = server.get(f"{TASK}?map_index=-1&page=2", user="finance").text
    # One not found, one submitted, sixty rejected.
    assert (first.count("<tr>"), second.count("<tr>")) == (51, 13)
    assert ">Next<" in first
    assert ">Next<" not in second


def test_a_task_lists_those_that_came_late(server: Server) -> None:
    page = server.get(f"{TASK}?show=late", user="finance").text
    assert re.findall(r'<th scope="row" class="long">([^<]+)', page) == ["order-b"]


def test_the_file_has_what_the_page_shows_and_no_formula(server: Server) -> None:
    answer = server.get(f"{TASK}?file=csv&show=rejected", user="finance")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 60
    assert {row["error_message"] for row in rows} == {"'=cmd()"}


@pytest.mark.parametrize("path", PAGES)
def test_no_page_takes_anything_from_elsewhere(server: Server, path: str) -> None:
    answer = server.get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', answer.text)


def test_airflow_shows_the_pages_in_its_menu_and_on_task_instances(server: Server) -> None:
    import requests

    headers = {"Authorization": f"Bearer {server.tokens['admin']}"}
    plugins = requests.get(f"{server.url}/api/v2/plugins", headers=headers, timeout=60).json()["plugins"]
    [plugin] = [plugin for plugin in plugins if plugin["name"] == "talkable"]
    assert [view["destination"] for view in plugin["external_views"]] == ["nav", "task_instance"]
