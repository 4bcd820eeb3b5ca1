"""Asking for the referral behind an origin, where a refund is answered with the origin alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient
from airflow_provider_talkable.protocol.errors import (
    TalkableAuthError,
    TalkableError,
    TalkablePersonNotFound,
)
from airflow_provider_talkable.protocol.referrals import FINAL, JsonObject, referral_of_origin

log = logging.getLogger(__name__)

_REMEMBERED = 1000  # friends: enough for refunds of one friend that lie close together


@dataclass(slots=True)
class _Friend:
    referrals: list[JsonObject] = field(default_factory=list)
    asked_at: float = float("-inf")
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Friends:
    """The referrals of friends, asked for no more often than needed. It belongs to one event loop.

    :param client: What asks.
    """

    def __init__(self, client: AsyncTalkableClient) -> None:
        self._client = client
        self._friends: OrderedDict[tuple[str, str], _Friend] = OrderedDict()
        self._refused: dict[str, TalkableError] = {}

    async def referral_of(self, site_slug: str, origin: JsonObject, *, since: float) -> JsonObject | None:
        """The referral that an origin belongs to, if it belongs to one.

        :param origin: Talkable's origin, with its ``id`` and the friend's ``email`` or ``customer_id``.
        :param since: When the origin was last changed, in seconds of :func:`time.monotonic`: an answer
            from before will do only if it says what cannot change any more.
        :raises TalkableError: if Talkable does not tell.
        """
        person = _person_of(origin)
        if person is None or origin.get("id") is None:
            raise TalkableError("the origin comes without its own id, or the friend's e-mail address or id")
        origin_id = origin["id"]
        friend = self._friend(site_slug, person)
        # One question at a time: who waits here is often answered by what another one has asked.
        async with friend.asking:
            if friend.asked_at < since:
                known = referral_of_origin(friend.referrals, origin_id)
                if friend.asked_at < 0 or not (known is None or _is_over(known)):
                    await self._ask(friend, site_slug, person)
        return referral_of_origin(friend.referrals, origin_id)

    async def referrals(self, site_slug: str, person: str) -> list[JsonObject]:
        """All referrals of a friend, while nothing is being changed.

        :raises TalkableError: if Talkable does not tell.
        """
        friend = self._friend(site_slug, person)
        async with friend.asking:
            if friend.asked_at < 0:
                await self._ask(friend, site_slug, person)
        return friend.referrals

    async def _ask(self, friend: _Friend, site_slug: str, person: str) -> None:
        if refused := self._refused.get(site_slug):
            raise refused
        asked_at = time.monotonic()
        try:
            friend.referrals = await self._client.referrals_as_friend(site_slug, person)
        except TalkablePersonNotFound:
            friend.referrals = []
        except TalkableAuthError as error:
            # The key may be good for refunds and not for this: then it is of no use to ask again.
            log.warning("Site %s: referrals cannot be asked for: %s", site_slug, error)
            self._refused[site_slug] = error
            raise
        friend.asked_at = asked_at

    def _friend(self, site_slug: str, person: str) -> _Friend:
        friend = self._friends.setdefault((site_slug, person), _Friend())
        if len(self._friends) > _REMEMBERED:
            self._friends.popitem(last=False)
        return friend


def _person_of(origin: JsonObject) -> str | None:
    """Whatever Talkable takes for the friend in a path."""
    for name in ("email", "customer_id"):
        person = origin.get(name)
        if isinstance(person, str | int) and not isinstance(person, bool) and str(person).strip():
            return str(person)
    return None


def _is_over(referral: JsonObject) -> bool:
    """Whether nothing of it can change any more."""
    return referral.get("status") in FINAL
