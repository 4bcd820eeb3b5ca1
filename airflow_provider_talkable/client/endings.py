"""What ends the sending before its end: of everything, or of one site."""

from __future__ import annotations

from airflow_provider_talkable.protocol.errors import TalkableAccessDenied, TalkableError, printable


class Endings:
    """Why nothing more is sent, to any site or to one; the first reason counts."""

    def __init__(self) -> None:
        self.of_all: TalkableError | None = None
        self.of_sites: dict[str, TalkableError] = {}

    def of(self, site_slug: str) -> TalkableError | None:
        """Why nothing more is sent to a site, if so."""
        return self.of_all or self.of_sites.get(site_slug)

    def deny(self, site_slug: str, origin_slug: str, error: TalkableError) -> None:
        """End a site whose requests Talkable denies.

        :param origin_slug: The order that met it.
        """
        reason = TalkableAccessDenied(
            f"site {printable(site_slug)} ended at order {printable(origin_slug)}: {error.args[0]}",
            http_status=error.http_status,
        )
        self.of_sites.setdefault(site_slug, reason)
