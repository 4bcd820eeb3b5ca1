"""The asynchronous client, on aiohttp: many requests to one host at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from tenacity import AsyncRetrying

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.failures import StoppedUnsent
from airflow_provider_talkable.client.lanes import Lane, Lanes
from airflow_provider_talkable.client.outage import Outage
from airflow_provider_talkable.client.pacing import Pacer
from airflow_provider_talkable.client.retries import Attempts, RetryPolicy
from airflow_provider_talkable.client.transport import Transport
from airflow_provider_talkable.protocol.answers import (
    Response,
    read_campaigns,
    read_referral_update,
    read_referrals,
)
from airflow_provider_talkable.protocol.errors import (
    TalkableAccessDenied,
    TalkableAuthError,
    TalkableError,
    TalkableThrottled,
)
from airflow_provider_talkable.protocol.origins import read_refund_of
from airflow_provider_talkable.protocol.referrals import (
    JsonObject,
    ReferralUpdate,
)
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.protocol.wire import (
    Request,
    campaigns_request,
    referrals_as_friend_request,
    refund_request,
    update_referral_request,
)

T = TypeVar("T")


class AsyncTalkableClient:
    """Sends requests to one Talkable host over kept-alive connections, as many as are awaited at once.

    It belongs to one event loop and is used as an asynchronous context manager.

    :param config: Where to and with which key.
    :param policy: How long a request is worth trying. Its patience is each site's as well: once a
        site has answered nothing but 429 for so long, what is left for it is not sent.
    :param new_pacer: Makes the pacer of each site; ``None``: refunds are not paced.
    :param max_in_flight: Requests on the wire at a time, shared fairly among sites; ``None``: as many as are
        awaited.
    :param sleep: What waits between attempts; takes seconds. Default: one that :meth:`stop` ends.
    """

    def __init__(
        self,
        config: ClientConfig,
        policy: RetryPolicy | None = None,
        *,
        new_pacer: Callable[[], Pacer] | None = None,
        max_in_flight: int | None = None,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self.config = config
        self.throttled = 0
        """How many requests were answered 429."""
        self._transport = Transport(config)
        self._policy = policy or RetryPolicy()
        # Among thousands of requests, which are paced, a few always fail at first.
        self._log_level = logging.DEBUG if new_pacer else logging.WARNING
        self._sleep = sleep
        self.lanes = Lanes(new_pacer, self._policy.throttle_patience, max_in_flight)
        self.outage = Outage(max_in_flight, self._policy.outage_patience) if max_in_flight else None
        """Whether the host answers at all; of requests sent many at a time only."""
        self._probing: asyncio.Future[None] | None = None

    @property
    def requests(self) -> Counter[str]:
        """How many requests were sent, by method."""
        return self._transport.requests

    @property
    def learned_rates(self) -> dict[str, float]:
        """Requests per second that each site was found to take; only of sites that answered 429."""
        return self.lanes.learned_rates

    @property
    def exhausted_sites(self) -> dict[str, TalkableThrottled]:
        """The sites that were throttled for longer than the patience, and the error each ended in."""
        closed = {site: lane.closed for site, lane in self.lanes.closed.items()}
        return {site: error for site, error in closed.items() if isinstance(error, TalkableThrottled)}

    @property
    def stopped(self) -> TalkableError | None:
        """Why nothing more is sent, if so."""
        return self.lanes.stopped

    @property
    def refusing_sites(self) -> dict[str, TalkableError]:
        """The sites that deny the key or refuse one refund after the other, and the error each ended in."""
        closed = {site: lane.closed for site, lane in self.lanes.closed.items()}
        return {
            site: error
            for site, error in closed.items()
            if error and not isinstance(error, TalkableThrottled)
        }

    def stop(self, error: TalkableError) -> None:
        """Send nothing from now on; what waits for its place or for another attempt ends at once.

        :param error: Why. What was not tried ends in it.
        """
        self.lanes.stop(error)
        if self.outage:
            self.outage.release()

    def end_for(self, error: TalkableError, site_slug: str, origin_slug: str) -> None:
        """Send nothing more that has to end like a request that was refused.

        :param error: What it ended in: after a refused key nothing is sent, after a denied access nothing
            for its site, after anything else all goes on.
        :param origin_slug: The order that it was about.
        """
        if isinstance(error, TalkableAccessDenied):
            self.lanes.deny(site_slug, origin_slug, error)
        elif isinstance(error, TalkableAuthError):
            self.stop(error)

    def cut_short(self, error: TalkableError) -> None:
        """Stop, and end what is on the wire without waiting for its answers.

        :param error: Why, as for :meth:`stop`.
        """
        self.stop(error)
        self._transport.stop()

    async def __aenter__(self) -> AsyncTalkableClient:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._probing:
            self._probing.cancel()
        await self._transport.__aexit__()

    async def refund(self, refund: Refund) -> RefundResult:
        """Send one refund and say what happened to it; an error becomes its outcome.

        Like :meth:`TalkableClient.refund`, and paced.
        """
        request = refund_request(refund)
        attempts = self._attempts(request)
        read = partial(read_refund_of, refund)
        try:
            response, answer = await self._send(request, read, attempts, site_slug=refund.site_slug)
        except TalkableError as error:
            is_unsent = attempts.count == 1 and isinstance(error, StoppedUnsent)
            is_stopped = attempts.count == 0 and error is self.lanes.ending_of(refund.site_slug)
            if is_unsent or (is_stopped and not isinstance(error, TalkableThrottled)):
                return RefundResult.not_tried(refund, (is_unsent and self.stopped) or error)
            return RefundResult.from_error(refund, error, attempts=attempts.count)
        return RefundResult.from_answer(refund, answer, http_status=response.status, attempts=attempts.count)

    async def update_referral(self, update: ReferralUpdate) -> JsonObject | None:
        """Set the status of an origin's referral; like :meth:`TalkableClient.update_referral`, and paced."""
        read = partial(read_referral_update, asked=update.status)
        return await self._ask(update_referral_request(update), read, update.site_slug)

    async def referrals_as_friend(self, site_slug: str, person: str) -> list[JsonObject]:
        """A friend's referrals; like :meth:`TalkableClient.referrals_as_friend`, and paced."""
        return await self._ask(referrals_as_friend_request(site_slug, person), read_referrals, site_slug)

    async def campaigns(self, site_slug: str) -> list[JsonObject]:
        """The site's campaigns, from ``GET /api/v2/campaigns``; changes nothing.

        :raises TalkableError: the one that fits what went wrong.
        """
        return await self._ask(campaigns_request(site_slug), read_campaigns, site_slug)

    async def _ask(self, request: Request, read: Callable[[Response], T], site_slug: str) -> T:
        return (await self._send(request, read, self._attempts(request), site_slug=site_slug))[1]

    def _attempts(self, request: Request) -> Attempts:
        return Attempts(self._policy, request, log_level=self._log_level)

    async def _send(
        self, request: Request, read: Callable[[Response], T], attempts: Attempts, *, site_slug: str
    ) -> tuple[Response, T]:
        lane = self.lanes.of(site_slug)

        def go_on() -> None:
            attempts.go_on_unless(self.lanes.stopped or lane.closed)

        async def attempt() -> tuple[Response, T]:
            await self._take_place(lane, go_on)
            try:
                attempts.count += 1
                return await self._exchange(request, read, lane, site_slug)
            finally:
                lane.leave_place()

        # Most requests succeed at once, and tenacity costs as much as sending one: it is brought in
        # when the first attempt has failed, and is told of that as if it had made it.
        try:
            return await attempt()
        except TalkableError as error:
            if not attempts.may_repeat(error):
                raise
            failures = [error]

        async def attempt_again() -> tuple[Response, T]:
            if failures:
                raise failures.pop()
            return await attempt()

        return await AsyncRetrying(sleep=self._sleep or lane.wait, **attempts.for_tenacity)(attempt_again)

    async def _take_place(self, lane: Lane, go_on: Callable[[], None]) -> None:
        """Wait until the lane lets a request through, and the host answers."""
        await lane.take_place(go_on)
        goes_first = False
        while self.outage and self.outage.since is not None and not goes_first:
            lane.leave_place()
            goes_first = await self.outage.wait(go_on)
            await lane.take_place(go_on)

    async def _exchange(
        self, request: Request, read: Callable[[Response], T], lane: Lane, site_slug: str
    ) -> tuple[Response, T]:
        """Exchange once, and let the site's lane know what came of it."""
        sent_at = lane.clock()
        try:
            answered = await self._exchange_by_either(request, partial(self._read, read))
        except TalkableError as error:
            self.throttled += isinstance(error, TalkableThrottled)
            lane.failed(sent_at, error)
            if self.outage and self.outage.failed(error):
                self._probing = asyncio.ensure_future(self._probe(site_slug))
            raise
        lane.answered(sent_at)
        if self.outage:
            self.outage.answered()
        return answered

    async def _probe(self, site_slug: str) -> None:
        """Ask for a site's campaigns until the host answers, or stop."""

        async def ask() -> None:
            read = partial(self._read, read_campaigns)
            await self._transport.exchange(campaigns_request(site_slug), read, self.config.key_scheme.current)

        if self.outage and (error := await self.outage.probe(ask)):
            self.stop(error)

    async def _exchange_by_either(
        self, request: Request, read: Callable[[Response], T]
    ) -> tuple[Response, T]:
        """Exchange once, and once more by the other scheme if there is one and the key was refused."""
        keys = self.config.key_scheme
        scheme = keys.current
        try:
            return await self._transport.exchange(request, read, scheme)
        except TalkableError as error:
            other = keys.other_after(error.http_status, scheme)
            if other is None or self.stopped:
                raise
        try:
            answered = await self._transport.exchange(request, read, other)
        except TalkableError as error:
            keys.learn(error.http_status, other, of=self.config.base_url)
            raise
        keys.learn(answered[0].status, other, of=self.config.base_url)
        return answered

    def _read(self, read: Callable[[Response], T], response: Response) -> T:
        """Read an answer as it came, and take the key out of what is passed on of it."""
        redaction = self.config.redaction
        try:
            answer = read(response)
        except TalkableError as error:
            error.args = (redaction.text(str(error.args[0])),)
            raise
        return redaction.value(answer) if redaction.is_suspect(response.body) else answer
