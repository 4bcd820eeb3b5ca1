"""Waiting, outside of any worker, for Talkable to let a site through again."""

from __future__ import annotations

from airflow_provider_talkable.hooks.talkable import TalkableAsyncHook
from airflow_provider_talkable.triggers._asking import AskingTrigger


class TalkableThrottleTrigger(AskingTrigger):
    """Fires once a site is not throttled any more.

    It asks for the site's campaigns, which changes nothing and counts towards the same limit. It may be
    restarted anywhere at any time.

    :param talkable_conn_id: The Talkable connection.
    :param site_slug: The Talkable site id.
    :param poll_interval: Seconds before each question.
    """

    async def is_over(self, hook: TalkableAsyncHook) -> bool:
        """Any answer will do but 429."""
        await hook.campaigns()
        return True
