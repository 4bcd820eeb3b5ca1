"""Waiting, outside of any worker, for Talkable to let a site through again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_talkable.hooks.talkable import TalkableAsyncHook
from airflow_provider_talkable.protocol.errors import TalkableError, TalkableThrottled


class TalkableThrottleTrigger(BaseTrigger):
    """Fires once a site is not throttled any more.

    It asks for the site's campaigns, which changes nothing and counts towards the same limit. It keeps
    nothing, so it may be restarted anywhere at any time.

    :param talkable_conn_id: The Talkable connection.
    :param site_slug: The Talkable site id.
    :param poll_interval: Seconds between two questions.
    """

    def __init__(self, talkable_conn_id: str, site_slug: str, poll_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.talkable_conn_id = talkable_conn_id
        self.site_slug = site_slug
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class and its arguments."""
        return (
            f"{__name__}.{type(self).__name__}",
            {
                "talkable_conn_id": self.talkable_conn_id,
                "site_slug": self.site_slug,
                "poll_interval": self.poll_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask until the answer is not 429. What else is wrong is for the task to find out and tell."""
        hook = TalkableAsyncHook(self.talkable_conn_id, max_attempts=1, throttle_patience=0)
        while True:
            await asyncio.sleep(self.poll_interval)
            try:
                await hook.campaigns(self.site_slug)
            except TalkableThrottled:
                continue
            except TalkableError as error:
                if error.retryable:
                    self.log.warning("%s; asking again in %g s", error, self.poll_interval)
                    continue
            yield TriggerEvent({"site_slug": self.site_slug})  # type: ignore[no-untyped-call]
            return
