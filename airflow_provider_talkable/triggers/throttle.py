"""Waiting, outside of any worker, for Talkable to let a site through again."""

from __future__ import annotations

import time
from typing import Any

from airflow_provider_talkable.hooks.talkable import TalkableAsyncHook
from airflow_provider_talkable.triggers._asking import AskingTrigger


class TalkableThrottleTrigger(AskingTrigger):
    """Fires once a site is not throttled any more, or when it gives up.

    It asks for the site's campaigns, which changes nothing and counts towards the same limit. It may be
    restarted anywhere at any time.

    :param talkable_conn_id: The Talkable connection.
    :param site_slug: The Talkable site id.
    :param poll_interval: Seconds before each question.
    :param gives_up_at: When it fires whatever Talkable answers, in seconds since 1970.
    """

    def __init__(
        self, talkable_conn_id: str, site_slug: str, poll_interval: float, *, gives_up_at: float
    ) -> None:
        super().__init__(talkable_conn_id, site_slug, poll_interval)
        self.gives_up_at = gives_up_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class and its arguments."""
        path, arguments = super().serialize()
        return path, arguments | {"gives_up_at": self.gives_up_at}

    @property
    def gives_up(self) -> bool:
        """Whether it has asked for long enough."""
        return time.time() >= self.gives_up_at

    async def is_over(self, hook: TalkableAsyncHook) -> bool:
        """Any answer will do but 429."""
        await hook.campaigns()
        return True
