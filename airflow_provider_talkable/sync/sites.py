"""Whether a site's orders are known to Talkable at all: what no order of a site is found by settles none."""

from __future__ import annotations

from collections.abc import Iterable

from airflow_provider_talkable.protocol.errors import TalkableError, TalkableOriginNotFound, printable
from airflow_provider_talkable.protocol.outcomes import SUSPICIOUS, Outcome
from airflow_provider_talkable.sync.ledger import Ledger


class Sites:
    """What the ledger and this run know of each site.

    :param ledger: The ledger, opened.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._doubtful: dict[str, bool] = {}
        self._taken: set[str] = set()
        self._unknown: set[str] = set()

    def is_doubtful(self, site_slug: str) -> bool:
        """Whether an unknown order of the site is not settled: none was ever known, of many."""
        if site_slug not in self._doubtful:
            self._doubtful[site_slug] = self._unknown_orders(site_slug) >= SUSPICIOUS
        return self._doubtful[site_slug]

    def count(self, site_slug: str, outcome: str) -> None:
        """Note what happened to a refund."""
        if outcome in (Outcome.REFUNDED, Outcome.ALREADY_REFUNDED, Outcome.NOT_COUNTED):
            self._taken.add(site_slug)
        elif outcome == Outcome.NOT_FOUND:
            self._unknown.add(site_slug)

    def problems(self) -> dict[str, TalkableError]:
        """The error of each site whose orders Talkable knows none of; asked once all is written."""
        counts = {site: self._unknown_orders(site) for site in self._unknown}
        return {site: _stranger(site, count) for site, count in counts.items() if count >= SUSPICIOUS}

    def _unknown_orders(self, site_slug: str) -> int:
        """Of how many refunds the order is unknown, where no refund was ever taken."""
        if site_slug not in self._taken and self._ledger.has_taken(site_slug):
            self._taken.add(site_slug)
        return 0 if site_slug in self._taken else self._ledger.unknown_orders(site_slug)


def doubtful_sites(ledger: Ledger, site_slugs: Iterable[str]) -> frozenset[str]:
    """The sites of which an unknown order is not settled."""
    sites = Sites(ledger)
    return frozenset(filter(sites.is_doubtful, site_slugs))


def _stranger(site_slug: str, count: int) -> TalkableError:
    return TalkableOriginNotFound(
        f"Talkable knows none of {count} orders of site {printable(site_slug)}, and no refund of it was ever "
        "taken: are these the order numbers that Talkable knows, is this the site? None is settled"
    )
