"""The asset of a site's refunds: ``talkable://<site_slug>/refunds``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote

from airflow.providers.common.compat.sdk import Asset

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset

_PATH = "/refunds"
_FORM = "talkable://<site_slug>/refunds, e.g. talkable://my-store/refunds"


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Normalise an asset's URI; ``talkable://my-store`` means the site's refunds too.

    :raises ValueError: if it names no site, or anything but its refunds.
    """
    if not uri.netloc or ":" in uri.netloc:
        raise ValueError(f"Asset URI {uri.geturl()!r}: names no Talkable site; give {_FORM}")
    if uri.path.rstrip("/") not in ("", _PATH) or uri.query:
        raise ValueError(f"Asset URI {uri.geturl()!r}: a Talkable site has refunds only; give {_FORM}")
    return uri._replace(path=_PATH)


def create_asset(*, site_slug: str, extra: dict[str, Any] | None = None) -> Asset:
    """Make the asset of a site's refunds.

    :param site_slug: The Talkable site id.
    :param extra: What Airflow keeps with the asset.
    """
    return Asset(uri=f"talkable://{quote(site_slug, safe='')}{_PATH}", extra=extra or {})


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> Dataset:  # noqa: ARG001
    """Give the asset the name that it has in the lineage of a sync to Talkable's own host."""
    from urllib.parse import unquote, urlsplit

    from airflow_provider_talkable.client.config import DEFAULT_HOST
    from airflow_provider_talkable.lineage import dataset

    return dataset(DEFAULT_HOST, unquote(urlsplit(asset.uri).netloc))
