"""Waiting, outside of any worker, for a referral to be approved or voided."""

from __future__ import annotations

from typing import Any

from airflow_provider_talkable.hooks.talkable import TalkableAsyncHook
from airflow_provider_talkable.protocol.errors import TalkablePersonNotFound
from airflow_provider_talkable.protocol.referrals import awaited_referral
from airflow_provider_talkable.triggers._asking import AskingTrigger


class TalkableReferralTrigger(AskingTrigger):
    """Fires once the referral of a friend's order has one of some statuses, or never will.

    It asks for the friend's referrals, which changes nothing. It may be restarted anywhere at any time.

    :param talkable_conn_id: The Talkable connection.
    :param site_slug: The Talkable site id.
    :param poll_interval: Seconds before each question.
    :param person: The friend's e-mail address, phone number, customer id or user name.
    :param origin_id: Talkable's ``id`` of the order; ``None`` if the friend has one referral only.
    :param statuses: The statuses.
    """

    def __init__(
        self,
        talkable_conn_id: str,
        site_slug: str,
        poll_interval: float,
        *,
        person: str,
        origin_id: str | None,
        statuses: list[str],
    ) -> None:
        super().__init__(talkable_conn_id, site_slug, poll_interval)
        self.person = person
        self.origin_id = origin_id
        self.statuses = statuses

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class and its arguments."""
        path, arguments = super().serialize()
        more = {"person": self.person, "origin_id": self.origin_id, "statuses": self.statuses}
        return path, arguments | more

    async def is_over(self, hook: TalkableAsyncHook) -> bool:
        """Look at the referral; one that the friend does not have yet may come."""
        try:
            referrals = await hook.referrals_as_friend(self.person)
        except TalkablePersonNotFound:
            return False
        return awaited_referral(referrals, origin_id=self.origin_id, statuses=self.statuses) is not None
