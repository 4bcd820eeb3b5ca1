"""A lane for each site: how fast it goes, and what closes it; and what stops all lanes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from airflow_provider_talkable.client.pacing import Pacer
from airflow_provider_talkable.protocol.errors import (
    TalkableAccessDenied,
    TalkableError,
    TalkableThrottled,
    printable,
)


class Places:
    """Shares what may be on the wire at a time among lanes: a place goes to the lane that has the fewest.

    :param count: How many requests may be on the wire.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[Lane, asyncio.Future[None]]] = []

    @property
    def has_free(self) -> bool:
        """Whether a place is to be had at once."""
        return self._free > 0

    async def take(self, lane: Lane) -> None:
        """Wait for a place."""
        if self._free > 0:
            self._free -= 1
            lane.under_way += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((lane, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(lane)
            raise

    def give_back(self, lane: Lane) -> None:
        """Let another request have the place."""
        lane.under_way -= 1
        while self._waiting:
            fewest = min(range(len(self._waiting)), key=lambda i: self._waiting[i][0].under_way)
            other, turn = self._waiting.pop(fewest)
            if not turn.done():
                other.under_way += 1
                turn.set_result(None)
                return
        self._free += 1

    def open_all(self) -> None:
        """Let everything through that waits, since nothing is sent any more."""
        self._free += len(self._waiting)
        for lane, turn in self._waiting:
            if not turn.done():
                self._free -= 1
                lane.under_way += 1
                turn.set_result(None)
        self._waiting.clear()


class Lane:
    """The way to one site: open, throttled for some time, or closed for a reason.

    It belongs to one event loop; another thread may read it.

    :param pacer: The site's pace; ``None``: its requests are not paced.
    :param patience: Seconds after which a site that answers with nothing but 429 closes its lane.
    :param places: What it shares with the other lanes; ``None``: nothing.
    """

    def __init__(self, pacer: Pacer | None, patience: float, places: Places | None = None) -> None:
        self.pacer = pacer
        self.closed: TalkableError | None = None
        """Why nothing more is sent to the site, if so: the first reason counts."""
        self.under_way = 0
        """How many of its requests are on the wire."""
        self._patience = patience
        self._places = places
        self._throttled_since: float | None = None
        self._turn = asyncio.Lock()
        self._is_over = False
        self._over: asyncio.Future[None] | None = None

    @property
    def is_out_of_patience(self) -> bool:
        """Whether it is closed because the site was throttled for too long."""
        return isinstance(self.closed, TalkableThrottled)

    async def take_place(self, go_on: Callable[[], None]) -> None:
        """Wait until the pace lets the next request through, and there is a place on the wire.

        :param go_on: Raises what ends the waiting, if something does.
        """
        go_on()
        pacer, places = self.pacer, self._places
        if pacer is None:
            return
        is_first = not self._turn.locked() and (places is None or places.has_free)
        if is_first and pacer.seconds_to_wait() <= 0:
            if places:
                await places.take(self)
            return
        # One at a time, in the order of asking: who asks again after a 429 does not overtake.
        async with self._turn:
            while (seconds := pacer.seconds_to_wait()) > 0:
                await self.wait(seconds)
                go_on()
            if places:
                await places.take(self)
                try:
                    go_on()
                except TalkableError:
                    places.give_back(self)
                    raise

    def leave_place(self) -> None:
        """The request is off the wire."""
        if self._places and self.pacer:
            self._places.give_back(self)

    async def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until the lane is closed, or all are stopped, or its patience ends."""
        if self._is_over:
            return
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
        if self._throttled_since is not None:
            seconds = min(seconds, max(0.0, self._throttled_since + self._patience - self.clock()))
        await asyncio.wait([self._over], timeout=seconds)
        if self._throttled_since is not None and self.clock() >= self._throttled_since + self._patience:
            self._lose_patience(self.clock() - self._throttled_since)

    def close(self, reason: TalkableError) -> None:
        """Send nothing more to the site."""
        self.closed = self.closed or reason
        self.end()

    def end(self) -> None:
        """Wake what sleeps."""
        self._is_over = True
        if self._over and not self._over.done():
            self._over.set_result(None)

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
        if seconds > self._patience:
            self._lose_patience(seconds)

    def _lose_patience(self, seconds: float) -> None:
        self.close(
            TalkableThrottled(
                f"Talkable lets nothing through for {seconds:.0f} s (429); "
                "run it again later, or give it more throttle_patience",
                http_status=429,
                retry_after=self.pacer.pause if self.pacer else None,
            )
        )


class Lanes:
    """The lanes of one client.

    :param new_pacer: Makes the pacer of each lane; ``None``: requests are not paced.
    :param patience: Each lane's.
    :param places: How many requests may be on the wire at a time; ``None``: as many as are awaited.
    """

    def __init__(
        self, new_pacer: Callable[[], Pacer] | None, patience: float, places: int | None = None
    ) -> None:
        self.stopped: TalkableError | None = None
        """Why nothing more is sent to any site, if so."""
        self._new_pacer = new_pacer
        self._patience = patience
        self._places = Places(places) if places else None
        self._lanes: dict[str, Lane] = {}

    def of(self, site_slug: str) -> Lane:
        """A site's lane."""
        lane = self._lanes.get(site_slug)
        if lane is None:
            pacer = self._new_pacer() if self._new_pacer else None
            lane = self._lanes[site_slug] = Lane(pacer, self._patience, self._places)
            if self.stopped:
                lane.end()
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

    @property
    def fastest(self) -> float:
        """Requests per second that the fastest lane lets through at present."""
        pacers = [lane.pacer for lane in list(self._lanes.values()) if lane.pacer and not lane.closed]
        if not pacers and self._new_pacer:
            pacers = [self._new_pacer()]
        return max((pacer.rate for pacer in pacers), default=math.inf)

    def ending_of(self, site_slug: str) -> TalkableError | None:
        """Why nothing more is sent to a site, if so."""
        return self.stopped or self.of(site_slug).closed

    def deny(self, site_slug: str, origin_slug: str, error: TalkableError) -> None:
        """Close the lane of a site to which Talkable denies the key.

        :param origin_slug: The order that met it.
        """
        reason = TalkableAccessDenied(
            f"site {printable(site_slug)} ended at order {printable(origin_slug)}: {error.args[0]}",
            http_status=error.http_status,
        )
        self.of(site_slug).close(reason)

    def stop(self, error: TalkableError) -> None:
        """Send nothing more to any site; what sleeps wakes."""
        if self.stopped is None:
            self.stopped = error
            for lane in self._lanes.values():
                lane.end()
            if self._places:
                self._places.open_all()
