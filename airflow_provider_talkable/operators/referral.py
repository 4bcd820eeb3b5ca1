"""The operator that approves or voids referrals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_talkable.links.talkable import TalkableSiteLink
from airflow_provider_talkable.operators._ignored import IGNORED, ignored
from airflow_provider_talkable.operators._rendered import TextTemplateOperator, as_list_or_one
from airflow_provider_talkable.operators._report import BY_ORDER, name_map_index, plain_errors, report
from airflow_provider_talkable.operators._supervision import STOPPED_FROM_OUTSIDE, Supervision
from airflow_provider_talkable.protocol.errors import InvalidRefund, TalkableError
from airflow_provider_talkable.protocol.referrals import (
    ReferralOutcome,
    ReferralResult,
    ReferralUpdate,
    status_of,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class TalkableReferralOperator(TextTemplateOperator):
    """Sets the status of the referral behind one order, or behind each of a list.

    Made for sites whose referrals are approved by hand: ``voided`` keeps the advocate from being
    rewarded, ``approved`` has them rewarded. Both are final. A referral that has the status already is a
    success, and so is an order that belongs to no referral: orders need not be filtered.

    All of a list is tried before the task fails. The results are in XCom either way: as
    ``return_value`` if the task succeeds, under the key ``results`` also if outcomes fail it. One slug
    gives one dictionary, a list gives a list in the same order::

        {"origin_slug", "outcome", "referral", "error_message"}

    :param origin_slug: An order number, ``event_category:event_number``, or a list of those; templated,
        and takes what XCom or Jinja gives: a value, a list, or a list's text (JSON or Python).
    :param status: ``approved`` or ``voided``, or ``pending``, ``flagged``, ``blocked``; templated.
    :param site_slug: The Talkable site id; default: the connection's.
    :param talkable_conn_id: The Talkable connection.
    :param ignore: Outcomes that do not fail the task, one or several of ``not_found``, ``conflict`` (the
        opposite final status), ``rejected``, ``invalid``, ``throttled``, ``failed``, ``aborted``; all others
        of these do. ``()`` ignores none.
    :param redact_people: Leave names, e-mail addresses, phone numbers and IP addresses out of XCom.
    :param throttle_patience: Seconds to wait while Talkable answers a site with nothing but 429.
    :param max_in_flight: Requests under way at a time.
    :param max_rate: Requests per second never to exceed, for each site.
    :raises InvalidRefund: if what rendered is no slug and no list, or no status; nothing was sent then.
    :raises TalkableReferralFinal: if a referral has the opposite final status.
    :raises TalkableError: after everything was tried, if an outcome is neither a success nor among
        ``ignore``: the class that fits, if one fits all that failed. Whatever is ignored, if Talkable knows
        none of 50 and more orders.
    """

    template_fields: Sequence[str] = ("origin_slug", "status", "site_slug", "talkable_conn_id")
    ui_color = "#e9f5ef"
    operator_extra_links = (TalkableSiteLink(),)

    def __init__(
        self,
        *,
        origin_slug: Any,
        status: str,
        site_slug: str | None = None,
        talkable_conn_id: str = "talkable_default",
        ignore: Iterable[ReferralOutcome | str] = IGNORED,
        redact_people: bool = False,
        throttle_patience: float = 300.0,
        max_in_flight: int = 16,
        max_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.origin_slug = origin_slug
        self.status = status
        self.site_slug = site_slug
        self.talkable_conn_id = talkable_conn_id
        self.ignore = ignored(ReferralOutcome, ignore)
        self.redact_people = redact_people
        self.throttle_patience = throttle_patience
        self.max_in_flight = max_in_flight
        self.max_rate = max_rate
        self._stop_asked: str | None = None

    @plain_errors
    def execute(self, context: Context) -> dict[str, Any] | list[dict[str, Any]]:
        """Set the statuses, push the results, and fail if an outcome calls for it."""
        from airflow_provider_talkable.hooks.talkable import TalkableHook

        supervision = Supervision(context)
        name_map_index(context, BY_ORDER)
        hook = TalkableHook(
            self.talkable_conn_id,
            site_slug=self.site_slug or None,
            throttle_patience=self.throttle_patience,
            max_in_flight=self.max_in_flight,
            max_rate=self.max_rate,
        )
        status, site = status_of(self.status), hook.site_slug
        TalkableSiteLink().push(context, site)
        given = as_list_or_one("origin_slug", self.origin_slug)
        is_list = isinstance(given, list)
        slugs = given if isinstance(given, list) else [given]
        updates = [_update(slug, status, site) for slug in slugs]
        valid = (update for update in updates if isinstance(update, ReferralUpdate))
        answers: list[ReferralResult] = []
        try:
            answers.extend(
                hook.update_referrals(
                    valid, reason_to_stop=lambda: self._stop_asked or supervision.reason_to_stop()
                )
            )
        finally:
            # Whatever ends it, a timeout of Airflow's included, what was learned is kept.
            results = _in_order(updates, answers)
            shown = [(r.redacted() if self.redact_people else r).as_dict() for r in results]
            pushed = shown if is_list else shown[0]
            if not supervision.is_gone:
                with supervision.reporting():
                    context["ti"].xcom_push(key="results", value=pushed)
        supervision.raise_if_lost()
        report("referrals", results, self.ignore)
        return pushed

    def on_kill(self) -> None:
        """Let what is on the wire end, and send nothing more."""
        self._stop_asked = STOPPED_FROM_OUTSIDE


def _in_order(
    updates: Iterable[ReferralUpdate | ReferralResult], answers: Iterable[ReferralResult]
) -> list[ReferralResult]:
    """A result for each, also for those that were not sent."""
    sent = iter(answers)
    unsent = TalkableError("the task was stopped")
    return [
        next(sent, None) or ReferralResult.not_tried(one, unsent) if isinstance(one, ReferralUpdate) else one
        for one in updates
    ]


def _update(slug: object, status: str, site: str | None) -> ReferralUpdate | ReferralResult:
    """Validate a slug; one that names no order has its result already."""
    try:
        return ReferralUpdate.parse(slug, status=status, site_slug=site)
    except InvalidRefund as error:
        return ReferralResult.invalid(slug, error)
