"""What triggers of this package have in common: they ask Talkable again and again."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_talkable.hooks.talkable import TalkableAsyncHook
from airflow_provider_talkable.protocol.errors import TalkableError, TalkableThrottled


class AskingTrigger(BaseTrigger):
    """Fires once Talkable answers as is hoped for, or refuses to.

    It keeps nothing, so it may be restarted anywhere at any time. What is wrong is for the task to find
    out and tell.

    :param poll_interval: Seconds before each question.
    :param talkable_conn_id: The Talkable connection.
    :param site_slug: The Talkable site id.
    """

    def __init__(self, talkable_conn_id: str, site_slug: str, poll_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.talkable_conn_id = talkable_conn_id
        self.site_slug = site_slug
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class and its arguments."""
        return (
            f"{type(self).__module__}.{type(self).__name__}",
            {
                "talkable_conn_id": self.talkable_conn_id,
                "site_slug": self.site_slug,
                "poll_interval": self.poll_interval,
            },
        )

    @abstractmethod
    async def is_over(self, hook: TalkableAsyncHook) -> bool:
        """Ask once, and say whether there is nothing left to wait for.

        :raises TalkableError: if Talkable does not tell.
        """

    @property
    def gives_up(self) -> bool:
        """Whether it has asked for long enough; Airflow ends one that never says so."""
        return False

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask until there is nothing left to wait for."""
        hook = TalkableAsyncHook(
            self.talkable_conn_id, site_slug=self.site_slug, max_attempts=1, throttle_patience=0
        )
        is_over = False
        while not (is_over or self.gives_up):
            await asyncio.sleep(self.poll_interval)
            try:
                is_over = await self.is_over(hook)
            except TalkableError as error:
                is_over = not (error.retryable or isinstance(error, TalkableThrottled))
                if not is_over:
                    self.log.warning("%s; asking again in %g s", error, self.poll_interval)
        yield TriggerEvent({"site_slug": self.site_slug, "is_over": is_over})  # type: ignore[no-untyped-call]
