"""A lane for each site: how fast it goes, and what closes it; and what stops all lanes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from airflow_provider_talkable.client.pacing import Pacer
from airflow_provider_talkable.protocol.errors import (
    TalkableAccessDenied,
    TalkableError,
    TalkableThrottled,
    printable,
)


class Lane:
    """The way to one site: open, throttled for some time, or closed for a reason.

    It belongs to one event loop; another thread may read it.

    :param pacer: The site's pace; ``None``: its requests are not paced.
    :param patience: Seconds after which a site that answers with nothing but 429 closes its lane.
    """

    def __init__(self, pacer: Pacer | None, patience: float) -> None:
        self.pacer = pacer
        self.closed: TalkableError | None = None
        """Why nothing more is sent to the site, if so: the first reason counts."""
        self._patience = patience
        self._throttled_since: float | None = None
        self._queue = asyncio.Lock()

    @property
    def is_out_of_patience(self) -> bool:
        """Whether it is closed because the site was throttled for too long."""
        return isinstance(self.closed, TalkableThrottled)

    async def take_place(self, wait: Callable[[float], Awaitable[None]], go_on: Callable[[], None]) -> None:
        """Wait until the pace lets the next request through.

        :param wait: Waits for some seconds.
        :param go_on: Raises what ends the waiting, if something does.
        """
        go_on()
        if self.pacer is None or (not self._queue.locked() and self.pacer.seconds_to_wait() <= 0):
            return
        # One at a time, in the order of asking: who asks again after a 429 does not overtake.
        async with self._queue:
            while (seconds := self.pacer.seconds_to_wait()) > 0:
                await wait(seconds)
                go_on()

    @property
    def throttled_for(self) -> float | None:
        """Seconds for which the site has answered nothing but 429, if so."""
        since = self._throttled_since
        return None if since is None else self.clock() - since

    def clock(self) -> float:
        """Seconds, as the pace counts them; any number where there is none."""
        return self.pacer.clock() if self.pacer else 0.0

    def answered(self, sent_at: float) -> None:
        """An answer other than 429 came.

        :param sent_at: When its request was sent, by :meth:`clock`.
        """
        self._throttled_since = None
        if self.pacer:
            self.pacer.accepted(sent_at)

    def failed(self, sent_at: float, error: TalkableError) -> None:
        """No answer came, a 429, or another one that is no success."""
        if isinstance(error, TalkableThrottled):
            self._throttled(sent_at, error.retry_after)
        elif error.http_status is not None:
            self.answered(sent_at)

    def _throttled(self, sent_at: float, retry_after: float | None) -> None:
        if self.pacer is None:
            return
        self.pacer.throttled(sent_at, retry_after)
        now = self.pacer.clock()
        if self._throttled_since is None:
            self._throttled_since = now
        seconds = max(now - self._throttled_since, retry_after or 0)
        if seconds > self._patience and (self.closed is None or self.is_out_of_patience):
            self.closed = TalkableThrottled(
                f"Talkable lets nothing through for {seconds:.0f} s (429); "
                "run it again later, or give it more throttle_patience",
                http_status=429,
                retry_after=self.pacer.pause,
            )


class Lanes:
    """The lanes of one client.

    :param new_pacer: Makes the pacer of each lane; ``None``: requests are not paced.
    :param patience: Each lane's.
    """

    def __init__(self, new_pacer: Callable[[], Pacer] | None, patience: float) -> None:
        self.stopped: TalkableError | None = None
        """Why nothing more is sent to any site, if so."""
        self._new_pacer = new_pacer
        self._patience = patience
        self._lanes: dict[str, Lane] = {}

    def of(self, site_slug: str) -> Lane:
        """A site's lane."""
        lane = self._lanes.get(site_slug)
        if lane is None:
            pacer = self._new_pacer() if self._new_pacer else None
            lane = self._lanes[site_slug] = Lane(pacer, self._patience)
        return lane

    @property
    def closed(self) -> dict[str, Lane]:
        """Those of sites to which nothing more is sent."""
        return {site: lane for site, lane in list(self._lanes.items()) if lane.closed}

    @property
    def throttled(self) -> dict[str, Lane]:
        """Those of sites that answer nothing but 429."""
        return {site: lane for site, lane in list(self._lanes.items()) if lane.throttled_for is not None}

    @property
    def learned_rates(self) -> dict[str, float]:
        """Requests per second that each site was found to take; only of sites that answered 429."""
        lanes = list(self._lanes.items())
        return {site: rate for site, lane in lanes if lane.pacer and (rate := lane.pacer.learned_rate)}

    def ending_of(self, site_slug: str) -> TalkableError | None:
        """Why nothing more is sent to a site, if so."""
        return self.stopped or self.of(site_slug).closed

    def deny(self, site_slug: str, origin_slug: str, error: TalkableError) -> None:
        """Close the lane of a site to which Talkable denies the key.

        :param origin_slug: The order that met it.
        """
        lane = self.of(site_slug)
        lane.closed = lane.closed or TalkableAccessDenied(
            f"site {printable(site_slug)} ended at order {printable(origin_slug)}: {error.args[0]}",
            http_status=error.http_status,
        )
