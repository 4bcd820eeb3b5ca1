"""Voiding the referral of an order that was refunded in whole, which is Talkable's own advice for returns."""

from __future__ import annotations

import logging
from dataclasses import replace

from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient
from airflow_provider_talkable.protocol.errors import TalkableAuthError, TalkableError, TalkableReferralFinal
from airflow_provider_talkable.protocol.referrals import (
    FINAL,
    JsonObject,
    ReferralOutcome,
    ReferralStatus,
    ReferralUpdate,
)
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult

log = logging.getLogger(__name__)


class Voids:
    """Sets referrals to ``voided``. Whatever happens to that, the refund's outcome stays.

    :param client: What sends.
    """

    def __init__(self, client: AsyncTalkableClient) -> None:
        self._client = client
        self._refused: dict[str, TalkableError] = {}

    async def complete(self, refund: Refund, result: RefundResult) -> RefundResult:
        """Void the referral of a whole refund that Talkable has, and add to its result what came of it."""
        if not (result.is_whole and result.outcome.is_success):
            return result
        if result.tells_referral and (known := _nothing_to_do(result.referral)):
            return replace(result, void_outcome=known)
        if refund.site_slug in self._refused:
            return replace(result, void_outcome=ReferralOutcome.ABORTED)
        update = ReferralUpdate(refund.site_slug, refund.origin_slug, ReferralStatus.VOIDED)
        try:
            referral = await self._client.update_referral(update)
        except TalkableReferralFinal as error:
            return _told(result, {"status": error.status}, ReferralOutcome.CONFLICT)
        except TalkableAuthError as error:
            # The key may be good for refunds and not for this: then it is of no use to ask again.
            log.warning("Site %s: referrals cannot be voided: %s", refund.site_slug, error)
            self._refused[refund.site_slug] = error
            return replace(result, void_outcome=ReferralOutcome.ABORTED)
        except TalkableError as error:
            if self._client.stopped:
                return replace(result, void_outcome=ReferralOutcome.ABORTED)
            log.warning("The referral of %s is not voided: %s", refund.origin_slug, error)
            return replace(result, void_outcome=ReferralOutcome(error.outcome))
        if referral is None:
            return replace(
                result, referral=None, tells_referral=True, void_outcome=ReferralOutcome.NO_REFERRAL
            )
        return _told(result, referral, ReferralOutcome.UPDATED)


def _nothing_to_do(referral: JsonObject | None) -> ReferralOutcome | None:
    """What a request to void would end in, where the refund's own answer says it."""
    if referral is None:
        return ReferralOutcome.NO_REFERRAL
    if referral.get("status") not in FINAL:
        return None
    is_voided = referral["status"] == ReferralStatus.VOIDED
    return ReferralOutcome.UPDATED if is_voided else ReferralOutcome.CONFLICT


def _told(result: RefundResult, referral: JsonObject, outcome: ReferralOutcome) -> RefundResult:
    known = {**(result.referral or {}), **referral}
    return replace(result, referral=known, tells_referral=True, void_outcome=outcome)
