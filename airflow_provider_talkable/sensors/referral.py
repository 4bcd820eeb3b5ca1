"""The sensor that waits for a referral to be approved or voided."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import BaseSensorOperator, PokeReturnValue, conf

from airflow_provider_talkable.links.talkable import TalkableSiteLink
from airflow_provider_talkable.operators._rendered import TextTemplateOperator, as_list_or_one
from airflow_provider_talkable.operators._report import plain_errors
from airflow_provider_talkable.protocol.errors import (
    InvalidRefund,
    TalkableError,
    TalkablePersonNotFound,
    TalkableThrottled,
)
from airflow_provider_talkable.protocol.people import without_people
from airflow_provider_talkable.protocol.referrals import FINAL, awaited_referral, status_of
from airflow_provider_talkable.protocol.values import is_nothing, text_of_id

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_talkable.hooks.talkable import TalkableHook

log = logging.getLogger(__name__)


class TalkableReferralSensor(TextTemplateOperator, BaseSensorOperator):
    """Waits until the referral of a friend's order has one of some statuses, and pushes it to XCom.

    Talkable shows a referral only among those of the friend, the person who bought, so the friend has to
    be named; where a friend may have several referrals, the order has to be named too, by Talkable's own
    ``id`` of it. The results of a refund with ``fetch_referral=True`` have both: the referral's
    ``friend_person.email`` and ``referred_origin_id``.

    A friend or a referral that Talkable does not know yet is waited for, and so is Talkable while it
    throttles or fails.

    :param person: The friend, as Talkable knows them: an e-mail address, a phone number with its ``+`` and
        country code, a customer id or a user name; templated.
    :param origin_id: Talkable's ``id`` of the order; templated. Default: the friend's only referral.
    :param statuses: The statuses to wait for; templated. Default: ``approved`` and ``voided``, the final
        ones.
    :param site_slug: The Talkable site id; templated. Default: the connection's.
    :param talkable_conn_id: The Talkable connection; templated.
    :param redact_people: Leave names, e-mail addresses, phone numbers and IP addresses out of XCom.
    :param deferrable: Free the worker slot while waiting; default: what Airflow is configured to.
    :raises InvalidRefund: if ``person``, ``origin_id`` or ``statuses`` hold none; nothing was sent then.
        Also if the friend has several referrals and ``origin_id`` does not say which.
    :raises TalkableReferralFinal: if the referral has a final status that is not waited for.
    :raises TalkableError: the subclass that says what else went wrong.
    """

    template_fields: Sequence[str] = ("person", "origin_id", "statuses", "site_slug", "talkable_conn_id")
    ui_color = "#e9f5ef"
    operator_extra_links = (TalkableSiteLink(),)

    def __init__(
        self,
        *,
        person: str,
        origin_id: str | int | None = None,
        statuses: Sequence[str] | str = FINAL,
        site_slug: str | None = None,
        talkable_conn_id: str = "talkable_default",
        redact_people: bool = False,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.person = person
        self.origin_id = origin_id
        self.statuses = statuses
        self.site_slug = site_slug
        self.talkable_conn_id = talkable_conn_id
        self.redact_people = redact_people
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False)
            if deferrable is None
            else deferrable
        )

    @plain_errors
    def execute(self, context: Context) -> Any:
        """Look once, then wait: here, or in a trigger."""
        TalkableSiteLink().push(context, self._hook().site_slug)
        if not self.deferrable:
            return super().execute(context)
        return self.look_again(context, deadline=time.time() + self.timeout)

    @plain_errors
    def look_again(self, context: Context, event: Any = None, *, deadline: float) -> Any:  # noqa: ARG002
        """Look, and wait in a trigger if there is something to wait for.

        :param deadline: When the sensor's timeout is over, in seconds since 1970.
        """
        found = self.poke(context)
        if not found:
            self._defer(deadline)
        return found.xcom_value

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002
        """Look once."""
        origin_id, statuses = self._origin_id(), self._statuses()
        try:
            referrals = self._hook().referrals_as_friend(self._person())
        except TalkableError as error:
            if not (error.retryable or isinstance(error, (TalkablePersonNotFound, TalkableThrottled))):
                raise
            log.warning("%s; waiting", without_people(str(error)))
            return PokeReturnValue(False)
        referral = awaited_referral(referrals, origin_id=origin_id, statuses=statuses)
        if referral is None:
            log.info("Not %s yet", " or ".join(statuses))
            return PokeReturnValue(False)
        log.info("Referral %s is %s", referral.get("id"), referral.get("status"))
        return PokeReturnValue(True, without_people(referral) if self.redact_people else referral)

    def _defer(self, deadline: float) -> NoReturn:
        from airflow_provider_talkable.hooks.talkable import required_site
        from airflow_provider_talkable.triggers.referral import TalkableReferralTrigger

        self.defer(
            trigger=TalkableReferralTrigger(
                self.talkable_conn_id,
                required_site(self._hook().site_slug),
                self.poke_interval,
                person=self._person(),
                origin_id=self._origin_id(),
                statuses=self._statuses(),
            ),
            method_name=self.look_again.__name__,
            kwargs={"deadline": deadline},
            timeout=timedelta(seconds=max(1.0, deadline - time.time())),
        )

    def _hook(self) -> TalkableHook:
        from airflow_provider_talkable.hooks.talkable import TalkableHook

        return TalkableHook(
            self.talkable_conn_id, site_slug=self.site_slug or None, max_attempts=1, throttle_patience=0
        )

    def _person(self) -> str:
        person = text_of_id("person", self.person).strip()
        if is_nothing(person):
            raise InvalidRefund.of(
                "person",
                self.person,
                "is nobody; give the friend's e-mail address, phone number, customer id or user name",
            )
        return person

    def _origin_id(self) -> str | None:
        if self.origin_id is None:
            return None
        text = text_of_id("origin_id", self.origin_id).strip()
        if not (text.isascii() and text.isdecimal()):
            raise InvalidRefund.of(
                "origin_id",
                self.origin_id,
                "is no id of Talkable's, which are whole numbers; a template or an XCom gave nothing, or "
                "this is the shop's order number",
            )
        return text

    def _statuses(self) -> list[str]:
        given = as_list_or_one("statuses", self.statuses)
        statuses = [status_of(item).value for item in (given if isinstance(given, list) else [given])]
        if not statuses:
            raise InvalidRefund.of("statuses", self.statuses, "is empty; give those to wait for")
        return statuses
