"""The asset of a site's refunds, as Airflow itself reads its URI."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_talkable.assets.talkable import convert_asset_to_openlineage, create_asset


@pytest.mark.parametrize(
    "uri",
    [
        "talkable://my-store/refunds",
        "talkable://my-store/refunds/",
        "talkable://my-store",
        "talkable://my-store/",
    ],
)
def test_a_uri_is_normalised_by_airflow(uri: str) -> None:
    assert Asset(uri).uri == "talkable://my-store/refunds"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("talkable:///refunds", "names no Talkable site"),
        ("talkable://my-store:443/refunds", "names no Talkable site"),
        ("talkable://my-store/referrals", "a Talkable site has refunds only"),
        ("talkable://my-store/refunds?day=1", "a Talkable site has refunds only"),
    ],
)
def test_another_uri_is_refused_and_says_what_to_give(uri: str, message: str) -> None:
    # Airflow 2 warns, and a warning is an error here.
    with pytest.raises((ValueError, UserWarning), match=f"{message}; give talkable://<site_slug>/refunds"):
        Asset(uri)


def test_it_is_made_from_a_site() -> None:
    asset = create_asset(site_slug="my-store", extra={"owner": "shop"})
    assert (asset.uri, asset.extra) == ("talkable://my-store/refunds", {"owner": "shop"})
    assert create_asset(site_slug="my store").uri == "talkable://my%20store/refunds"


def test_in_lineage_it_is_what_a_sync_writes_to() -> None:
    dataset = convert_asset_to_openlineage(create_asset(site_slug="my store"), None)
    assert (dataset.namespace, dataset.name) == ("talkable://www.talkable.com", "my store.refunds")
