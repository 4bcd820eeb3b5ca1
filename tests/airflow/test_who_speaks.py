"""Refunds are settled on Talkable's own words by the operators and the hook too."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_talkable import TalkableAuthError, TalkableProtocolError
from airflow_provider_talkable.hooks.talkable import TalkableHook
from airflow_provider_talkable.operators.refund import TalkableRefundOperator
from airflow_provider_talkable.sandbox import Canned, Sandbox
from tests.airflow.task import LOSSES, TaskInstance
from tests.airflow.test_refund_operator import Connect
from tests.conftest import Sandboxes

HTML = {"Content-Type": "text/html", "Server": "nginx"}
PAGES = [
    Canned(404, b"<html>404 Not Found</html>", HTML),
    Canned(404, b'{"message": "no Route matched"}'),
    Canned(404),
    Canned(403, b"<html>Blocked</html>", HTML),
]


@pytest.fixture
def shop(sandboxes: Sandboxes, connect: Connect) -> Sandbox:
    """A sandbox with the purchases A to E of one site and F of another, and a connection to it."""
    sandbox = sandboxes(site_slugs=("my-store", "other"))
    for slug in "ABCDE":
        sandbox.talkable.create_purchase("my-store", {"order_number": slug, "subtotal": 100})
    sandbox.talkable.create_purchase("other", {"order_number": "F", "subtotal": 100})
    connect(sandbox)
    return sandbox


def results_of(**fields: Any) -> dict[str, str]:
    operator: Any = TalkableRefundOperator(task_id="refund", dag=DAG("refunds", schedule=None), **fields)
    context: Any = {"ti": TaskInstance("refund"), "params": {}}
    operator.render_template_fields(context)
    return {result["origin_slug"]: result["outcome"] for result in operator.execute(context)}


@pytest.mark.parametrize("page", PAGES, ids=["nginx", "gateway", "empty", "firewall"])
def test_a_page_for_one_order_fails_it_and_no_other(shop: Sandbox, page: Canned) -> None:
    shop.dials.next(page)
    results = results_of(refunds=[{"origin_slug": "A", "refund_subtotal": 5}, "B", "C"], ignore=LOSSES)
    assert sorted(results.values()) == ["failed", "refunded", "refunded"]


@pytest.mark.parametrize("page", PAGES, ids=["nginx", "gateway", "empty", "firewall"])
def test_the_hook_names_what_answered_in_talkables_place(shop: Sandbox, page: Canned) -> None:
    shop.dials.next(page)
    with pytest.raises(TalkableProtocolError, match=f"{shop.url} answered HTTP {page.status}"):
        TalkableHook().refund("A")
    assert TalkableHook().refund("A").outcome == "refunded"


def test_a_denied_site_ends_alone(shop: Sandbox) -> None:
    foreign: list[Any] = [{"origin_slug": f"X{n}", "site_slug": "foreign"} for n in range(40)]
    results = results_of(
        refunds=[*foreign, *"ABCDE", {"origin_slug": "F", "site_slug": "other"}], ignore=LOSSES
    )
    assert {slug for slug, outcome in results.items() if outcome == "refunded"} == set("ABCDEF")
    assert {outcome for slug, outcome in results.items() if slug not in "ABCDEF"} == {"aborted"}
    # Those that were under way when the first one was denied.
    assert len(shop.requests) <= 6 + 16


def test_a_refused_key_still_ends_all(sandboxes: Sandboxes, connect: Connect) -> None:
    sandbox = sandboxes()
    connect(sandbox, key="wrong-key")
    with pytest.raises(TalkableAuthError):
        results_of(refunds=[f"X{n}" for n in range(100)])
    assert len(sandbox.requests) < 100
