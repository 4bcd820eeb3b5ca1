"""Where the links of a task's page lead, and that each operator has them."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from airflow import __version__

from airflow_provider_talkable.links.talkable import TalkableLedgerLink, TalkableSiteLink
from airflow_provider_talkable.operators.reconcile import TalkableRefundReconcileOperator
from airflow_provider_talkable.operators.referral import TalkableReferralOperator
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.sensors.referral import TalkableReferralSensor
from airflow_provider_talkable.transfers.sql_to_talkable import SqlToTalkableRefundOperator
from tests.airflow.task import TaskInstance

SITE, LEDGER = "Talkable", "Ledger query"


@pytest.mark.parametrize(
    ("operator", "names"),
    [
        (SqlToTalkableRefundOperator, [SITE, LEDGER]),
        (TalkableRefundOperator, [SITE, LEDGER]),
        (TalkableRefundReconcileOperator, [SITE]),
        (TalkableReferralOperator, [SITE]),
        (TalkableReferralSensor, [SITE]),
    ],
)
def test_each_operator_names_its_links(operator: Any, names: list[str]) -> None:
    assert [link.name for link in operator.operator_extra_links] == names


@pytest.mark.parametrize(("site_slug", "path"), [("my-store", "my-store"), ("my store/1", "my%20store%2F1")])
def test_a_site_is_one_segment_of_the_path(site_slug: str, path: str) -> None:
    ti = TaskInstance()
    context: Any = {"ti": ti}
    TalkableSiteLink().push(context, site_slug)
    assert ti.links == {"TalkableSiteLink": f"https://admin.talkable.com/sites/{path}"}


def test_without_a_site_or_a_ledger_there_is_no_link() -> None:
    ti = TaskInstance()
    context: Any = {"ti": ti}
    TalkableSiteLink().push(context, None)
    TalkableLedgerLink().push(context, None)
    assert ti.links == {"TalkableSiteLink": "", "TalkableLedgerLink": ""}
    assert ti.xcom == {}


@pytest.mark.parametrize("map_index", [-1, 3])
def test_the_ledgers_link_leads_to_the_tasks_xcoms(map_index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    section = "WEBSERVER" if __version__ < "3" else "API"
    monkeypatch.setenv(f"AIRFLOW__{section}__BASE_URL", "https://airflow.example/team/")
    ti: Any = TaskInstance("sync")
    ti.run_id, ti.map_index = "scheduled__2026-01-01T00:00:00+00:00", map_index
    context: Any = {"ti": ti}
    TalkableLedgerLink().push(context, "SELECT 1")
    assert ti.xcom == {"ledger_query": "SELECT 1"}
    url = urlsplit(ti.links["TalkableLedgerLink"])
    if __version__ < "3":
        assert url.path == "/team/dags/shop/grid"
        mapped = {"map_index": "3"} if map_index == 3 else {}
        expected = {"dag_run_id": ti.run_id, "task_id": "sync", "tab": "xcom", **mapped}
        assert dict(parse_qsl(url.query)) == expected
    else:
        run = "scheduled__2026-01-01T00%3A00%3A00%2B00%3A00"
        mapped_path = "/mapped/3" if map_index == 3 else ""
        assert url.path == f"/team/dags/shop/runs/{run}/tasks/sync{mapped_path}/xcom"
