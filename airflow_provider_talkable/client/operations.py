"""What can be sent in numbers: refunds, changes of referrals, and questions for friends' referrals."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Protocol, TypeVar

from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient
from airflow_provider_talkable.client.friends import Friends
from airflow_provider_talkable.client.voids import Voids
from airflow_provider_talkable.protocol.errors import (
    TalkableError,
)
from airflow_provider_talkable.protocol.referrals import (
    JsonObject,
    ReferralOutcome,
    ReferralResult,
    ReferralUpdate,
)
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult

log = logging.getLogger(__name__)

R = TypeVar("R", contravariant=True)
S = TypeVar("S", covariant=True)


class Operation(Protocol[R, S]):
    """A kind of request, and what its results are, whatever ends it."""

    async def run(self, client: AsyncTalkableClient, request: R, /) -> S:
        """Send a request; an error becomes a result. One that ends all others stops the client."""

    def site_of(self, request: R, /) -> str:
        """The site that a request is for."""

    def not_tried(self, request: R, error: TalkableError, /) -> S:
        """The result of a request that was not sent because an error stopped the run before it."""


class RefundOperation:
    """Refunds.

    :param fetch_referral: Ask for the referral where the answer carries the origin instead, and for what was
        paid where voiding finds that it is too late.
    :param void_referral: Void the referral of whole refunds that Talkable has, which tells of it as well.
    """

    def __init__(self, *, fetch_referral: bool = False, void_referral: bool = False) -> None:
        self._fetch_referral = fetch_referral
        self._void_referral = void_referral
        self._voids: Voids | None = None
        self._friends: Friends | None = None

    async def run(self, client: AsyncTalkableClient, request: Refund) -> RefundResult:
        """Refund, and complete the answer; with a key that is refused no other request can succeed."""
        result = await client.refund(request)
        if result.error is not None:
            client.end_for(result.error, request.site_slug, request.origin_slug)
        if self._void_referral:
            self._voids = self._voids or Voids(client)
            result = await self._voids.complete(request, result)
        if not self._fetch_referral or result.origin is None or not _is_to_be_fetched(result):
            return result
        self._friends = self._friends or Friends(client)
        try:
            referral = await self._friends.referral_of(
                request.site_slug, result.origin, since=time.monotonic()
            )
        except TalkableError as error:
            # Its refund is with Talkable all the same.
            log.debug("The referral of %s is unknown: %s", request.origin_slug, error)
            return result
        if referral is None and result.void_outcome:
            return result
        return replace(result, referral=referral, tells_referral=True)

    def site_of(self, request: Refund) -> str:
        """Its own."""
        return request.site_slug

    def not_tried(self, request: Refund, error: TalkableError) -> RefundResult:
        """It is ``aborted``."""
        return RefundResult.not_tried(request, error)


def _is_to_be_fetched(result: RefundResult) -> bool:
    if result.void_outcome:
        # Talkable refuses to void what it has approved, and does not say what it has paid.
        return result.void_outcome is ReferralOutcome.CONFLICT and result.late is True
    return not result.tells_referral


class ReferralOperation:
    """Changes of referrals' statuses."""

    async def run(self, client: AsyncTalkableClient, request: ReferralUpdate) -> ReferralResult:
        """Change one."""
        try:
            return ReferralResult.from_answer(request, await client.update_referral(request))
        except TalkableError as error:
            client.end_for(error, request.site_slug, request.origin_slug)
            return ReferralResult.from_error(request.origin_slug, error)

    def site_of(self, request: ReferralUpdate) -> str:
        """Its own."""
        return request.site_slug

    def not_tried(self, request: ReferralUpdate, error: TalkableError) -> ReferralResult:
        """It is ``aborted``."""
        return ReferralResult.not_tried(request, error)


class FriendOperation:
    """Questions, by site and e-mail address, for the referrals of a friend."""

    def __init__(self) -> None:
        self._friends: Friends | None = None

    async def run(
        self, client: AsyncTalkableClient, request: tuple[str, str]
    ) -> list[JsonObject] | TalkableError:
        """Ask."""
        self._friends = self._friends or Friends(client)
        try:
            return await self._friends.referrals(*request)
        except TalkableError as error:
            return error

    def site_of(self, request: tuple[str, str]) -> str:
        """Its own."""
        return request[0]

    def not_tried(self, _request: tuple[str, str], error: TalkableError) -> TalkableError:
        """It is not answered."""
        return error
