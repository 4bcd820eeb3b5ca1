"""The synchronous client: the asynchronous one, behind calls that wait."""

from __future__ import annotations

import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient
from airflow_provider_talkable.client.background import BackgroundLoop
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.referrals import JsonObject, ReferralUpdate
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult

T = TypeVar("T")


class TalkableClient:
    """Sends requests to one Talkable host, each call waiting for its answer, over kept-alive connections.

    They are sent by an :class:`AsyncTalkableClient` in a thread of its own, which starts with the first
    call: what the network does to a request has the same consequences in both.

    :param config: Where to and with which key.
    :param policy: How long a request is worth trying.
    :param sleep: What waits between attempts; takes seconds.
    """

    def __init__(
        self,
        config: ClientConfig,
        policy: RetryPolicy | None = None,
        *,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.config = config
        self._policy = policy
        self._sleep = sleep
        self._opened: _Opened | None = None

    def __enter__(self) -> TalkableClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def refund(self, refund: Refund) -> RefundResult:
        """Send one refund and say what happened to it; an error becomes its outcome.

        ``POST /api/v2/origins/<origin_slug>/refund`` in Talkable's API v2 documentation. A full
        refund is sent again after a failure that leaves open whether Talkable acted, since
        Talkable refuses the second one; a partial one is not.
        """
        return self._run(lambda client: client.refund(refund))

    def update_referral(self, update: ReferralUpdate) -> JsonObject | None:
        """Set the status of an origin's referral: ``PUT /api/v2/origins/<origin_slug>/referral``.

        :return: The referral; ``None`` where the origin belongs to none.
        :raises TalkableReferralFinal: if it has the opposite final status.
        :raises TalkableError: the one that fits what else went wrong.
        """
        return self._run(lambda client: client.update_referral(update))

    def referrals_as_friend(self, site_slug: str, person: str) -> list[JsonObject]:
        """The referrals in which a person is the friend:
        ``GET /api/v2/people/<person_slug>/referrals_as_friend``; changes nothing.

        :param person: The friend's e-mail address, phone number (E.164), customer id or user name.
        :raises TalkablePersonNotFound: if Talkable does not know that person.
        :raises TalkableError: the one that fits what else went wrong.
        """
        return self._run(lambda client: client.referrals_as_friend(site_slug, person))

    def campaigns(self, site_slug: str) -> list[JsonObject]:
        """The site's campaigns, from ``GET /api/v2/campaigns``; changes nothing.

        :raises TalkableError: the one that fits what went wrong.
        """
        return self._run(lambda client: client.campaigns(site_slug))

    def _run(self, call: Callable[[AsyncTalkableClient], Coroutine[Any, Any, T]]) -> T:
        opened = self._opened
        # A process that was forked has the object, and not the thread.
        if opened is None or opened.process != os.getpid():
            opened = self._opened = _Opened(self.config, self._policy, _awaitable(self._sleep))
        return opened.loop.run(call(opened.client))


class _Opened:
    """An asynchronous client on its loop; both end with this object."""

    def __init__(
        self,
        config: ClientConfig,
        policy: RetryPolicy | None,
        sleep: Callable[[float], Awaitable[None]] | None,
    ) -> None:
        self.process = os.getpid()
        self.loop = BackgroundLoop()
        self.client = AsyncTalkableClient(config, policy, sleep=sleep)
        self.close = weakref.finalize(self, _close, self.loop, self.client, self.process)
        self.loop.run(self.client.__aenter__())


def _close(loop: BackgroundLoop, client: AsyncTalkableClient, process: int) -> None:
    if process == os.getpid():
        loop.close(client.__aexit__())


def _awaitable(sleep: Callable[[float], object] | None) -> Callable[[float], Awaitable[None]] | None:
    if sleep is None:
        return None

    async def wait(seconds: float) -> None:
        sleep(seconds)

    return wait
