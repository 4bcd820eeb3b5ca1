"""Refunds are settled on Talkable's own words: a page in its place settles none, a denied site ends alone."""

from __future__ import annotations

from collections import Counter

import pytest

from airflow_provider_talkable import TalkableProtocolError
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.sandbox import Canned
from tests.shop import Shop

HTML = {"Content-Type": "text/html", "Server": "nginx"}
ONE_BY_ONE = Pace(max_in_flight=1, initial_rate=None)
BY_SITE = "SELECT refund_key AS site_slug, origin_slug FROM refunds ORDER BY number"


@pytest.mark.parametrize(
    "answer",
    [
        Canned(404, b"<html>404 Not Found</html>", HTML),
        Canned(404, b'{"message": "no Route matched"}'),
        Canned(404),
    ],
    ids=["nginx", "gateway", "empty"],
)
def test_a_404_of_somebody_else_settles_nothing(shop: Shop, answer: Canned) -> None:
    shop.order("A", "B")
    shop.refund("A", ("b1", "B", None, 10))
    shop.sandbox.dials.next(answer, answer)
    summary = shop.sync()
    assert summary.outcomes == {"failed": 2}
    for failure in summary.failures:
        assert f"{shop.sandbox.url} answered HTTP 404" in failure["error_message"]
    assert shop.sync().outcomes == {"refunded": 2}
    assert (shop.times_refunded("A"), shop.times_refunded("B")) == (1, 1)


def test_a_host_with_the_path_of_the_api_settles_nothing_and_stops(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(30)]
    shop.order(*slugs)
    shop.refund(*slugs)
    url = shop.sandbox.url
    shop.sandbox.url += "/api/v2"
    summary = shop.sync(pace=ONE_BY_ONE)
    assert summary.outcomes == {"failed": 20, "aborted": 10}
    problem = summary.site_problems["my-store"]
    assert f"{url}/api/v2 answered HTTP 404" in problem
    assert "without /api/v2" in problem
    shop.sandbox.url = url
    assert shop.sync().outcomes == {"refunded": 30}


def test_a_firewall_that_blocks_one_order_stops_no_other(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(200)]
    shop.order(*slugs)
    shop.refund(*slugs)
    shop.sandbox.dials.next(*[None] * 20, Canned(403, b"<html>Blocked</html>", HTML))
    summary = shop.sync(pace=ONE_BY_ONE)
    assert summary.outcomes == {"refunded": 199, "failed": 1}
    [failure] = summary.failures
    assert failure["origin_slug"] == "order-20"
    assert "HTTP 403 with 20 bytes of text/html from nginx" in failure["error_message"]


def test_a_denied_site_ends_alone_and_is_named(shop: Shop) -> None:
    shop.order(*[f"mine-{n}" for n in range(20)])
    shop.refund(
        *[
            (site, f"{name}-{n}")
            for n in range(20)
            for site, name in (("my-store", "mine"), ("foreign", "theirs"))
        ]
    )
    summary = shop.sync(sql=BY_SITE, pace=ONE_BY_ONE)
    assert summary.outcomes == {"refunded": 20, "aborted": 20}
    assert Counter(slug.split("-")[0] for slug in shop.sent) == {"mine": 20, "theirs": 1}
    assert summary.stopped is None
    assert summary.site_problems == {
        "foreign": "site foreign ended at order theirs-0: Talkable denied access "
        "(Access denied to site foreign); check that the API key belongs to this site_slug"
    }


def test_what_ends_a_site_of_foreign_answers_is_no_rejection(shop: Shop) -> None:
    slugs = [f"order-{n}" for n in range(8)]
    shop.order(*slugs)
    shop.refund(*slugs)
    shop.sandbox.dials.next(*[Canned(404, b"x" * n, HTML) for n in range(1, 9)])
    summary = shop.sync(pace=ONE_BY_ONE, abort_after=5)
    assert summary.outcomes == {"failed": 5, "aborted": 3}
    [problem] = shop.syncs[-1]._sender.client.refusing_sites.values()
    assert isinstance(problem, TalkableProtocolError)
