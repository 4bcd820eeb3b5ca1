"""The operator that refunds one order or many."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_talkable.links.talkable import TalkableSiteLink
from airflow_provider_talkable.operators._earlier_tries import EarlierTries
from airflow_provider_talkable.operators._rendered import as_list_or_one
from airflow_provider_talkable.operators._report import name_map_index, plain_errors, report
from airflow_provider_talkable.protocol.errors import (
    InvalidRefund,
    TalkableConnectionError,
    TalkableError,
)
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.refusals import OtherRefund, outcome_of_refusal
from airflow_provider_talkable.protocol.results import RefundResult

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_talkable.hooks.talkable import TalkableHook

log = logging.getLogger(__name__)

LOSSES = tuple(outcome for outcome in Outcome if not outcome.is_success)
"""The outcomes after which Talkable does not, or may not, have the refund."""


class TalkableRefundOperator(BaseOperator):
    """Refunds one order, or each of a list, and pushes what became of them to XCom.

    All of a list is tried before the task fails. The results are in XCom either way: as
    ``return_value`` if the task succeeds, under the key ``results`` always. One refund gives one
    dictionary, a list of refunds gives a list in the same order::

        {"origin_slug", "outcome", "referral", "origin", "late", "http_status", "error_message", "attempts",
         "void_outcome"}

    On Airflow 3.3 or newer a task retry leaves alone what an earlier try has settled; before, it sends full
    refunds again and leaves partial ones ``unconfirmed``.

    Every field of the refund is templated and takes what XCom or Jinja gives: a value, a list, or a
    list's text (JSON or Python).

    :param origin_slug: An order number, ``event_category:event_number``, or a list of those.
    :param refunds: Instead of ``origin_slug``: a mapping, or a list of mappings and slugs. The keys
        of a mapping are ``origin_slug``, or ``order_number``, or ``event_category`` with
        ``event_number``; optional ``refunded_at``, ``refund_subtotal``, ``order_subtotal`` (an amount that
        reaches it refunds the whole order), ``site_slug``.
    :param refunded_at: When the origins in ``origin_slug`` were refunded: ISO 8601 text, a datetime
        (naive is UTC) or a date.
    :param refund_subtotal: For one ``origin_slug``: the refunded part, in the shop's currency.
        ``None`` refunds the whole order.
    :param site_slug: The Talkable site id of refunds that name none; default: the connection's.
    :param talkable_conn_id: The Talkable connection.
    :param fail_on: The outcomes that fail the task; default: those that lost something.
    :param fetch_referral: Ask for the referral where Talkable answers a refund with the order alone.
    :param void_referral: Void the referral of each whole refund that Talkable has, which answers with the
        referral as well: then nothing else is asked. Whatever becomes of it, the refund's outcome stays.
    :param redact_people: Leave names, e-mail addresses, phone numbers and IP addresses out of XCom.
    :raises InvalidRefund: if what rendered is no refund and no list; nothing was sent then.
    :raises TalkableError: after everything was tried, if an outcome is among ``fail_on``: the class
        that fits, if one fits all that failed.
    """

    template_fields: Sequence[str] = (
        "origin_slug",
        "refunds",
        "refunded_at",
        "refund_subtotal",
        "site_slug",
        "talkable_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"refunds": "json"}
    ui_color = "#e9f5ef"
    operator_extra_links = (TalkableSiteLink(),)

    _base_url = ""
    _sites: Sequence[str] = ()

    def __init__(
        self,
        *,
        origin_slug: Any = None,
        refunds: Any = None,
        refunded_at: Any = None,
        refund_subtotal: Any = None,
        site_slug: str | None = None,
        talkable_conn_id: str = "talkable_default",
        fail_on: Iterable[Outcome | str] = LOSSES,
        fetch_referral: bool = False,
        void_referral: bool = False,
        redact_people: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.origin_slug = origin_slug
        self.refunds = refunds
        self.refunded_at = refunded_at
        self.refund_subtotal = refund_subtotal
        self.site_slug = site_slug
        self.talkable_conn_id = talkable_conn_id
        self.fail_on = frozenset(
            Outcome(name) for name in ([fail_on] if isinstance(fail_on, str) else fail_on)
        )
        self.fetch_referral = fetch_referral
        self.void_referral = void_referral
        self.redact_people = redact_people

    @plain_errors
    def execute(self, context: Context) -> dict[str, Any] | list[dict[str, Any]]:
        """Refund, push the results, and fail if an outcome calls for it."""
        from airflow_provider_talkable.hooks.talkable import TalkableHook

        name_map_index(
            context,
            "{{ (task.origin_slug or task.site_slug or task.talkable_conn_id) | string | truncate(100) }}",
        )
        hook = TalkableHook(self.talkable_conn_id, site_slug=self.site_slug)
        rows = self._rows()
        is_list = isinstance(rows, list)
        refunds = [self._refund(row, hook, keep=is_list) for row in (rows if is_list else [rows])]
        self._sites = list(dict.fromkeys(one.site_slug for one in refunds if isinstance(one, Refund)))
        if self._sites:
            TalkableSiteLink().push(context, self._sites[0])
            self._base_url = hook.get_conn().config.base_url
        batch = _Batch(refunds, EarlierTries(context, redact_people=self.redact_people))
        try:
            batch.send(hook, fetch_referral=self.fetch_referral, void_referral=self.void_referral)
        finally:
            # Whatever ends the sending, a timeout of Airflow's included, what was learned is kept.
            results = batch.results()
            shown = [(r.redacted() if self.redact_people else r).as_dict() for r in results]
            pushed = shown if is_list else shown[0]
            context["ti"].xcom_push(key="results", value=pushed)
        report("refunds", results, self.fail_on)
        return pushed

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:  # noqa: ARG002
        """What OpenLineage is told, of a failed task too: the sites whose refunds were sent."""
        from airflow_provider_talkable import lineage

        return lineage.of_refunds(self._base_url, self._sites)

    def _rows(self) -> Any:
        """The one row or the list of rows, checked to be one of the two."""
        if self.refunds is None and self.origin_slug is None:
            raise InvalidRefund.of(
                "origin_slug",
                None,
                "neither it nor refunds holds anything; a template or an XCom gave nothing",
            )
        if self.refunds is not None and self.origin_slug is not None:
            raise InvalidRefund.of("refunds", self.refunds, "origin_slug is set too; give one of them")
        if self.refunds is None:
            rows = as_list_or_one("origin_slug", self.origin_slug)
            if isinstance(rows, list) and self.refund_subtotal is not None:
                raise InvalidRefund.of(
                    "refund_subtotal",
                    self.refund_subtotal,
                    "goes with one origin_slug; for several, give each its own in refunds",
                )
            return rows
        for field in ("refunded_at", "refund_subtotal"):
            if getattr(self, field) is not None:
                raise InvalidRefund.of(
                    field, getattr(self, field), "goes with origin_slug; in refunds, each row has its own"
                )
        return as_list_or_one("refunds", self.refunds)

    def _refund(self, row: object, hook: TalkableHook, *, keep: bool) -> Refund | RefundResult:
        """Validate a row; one that makes no refund is kept as a result if others are tried anyway."""
        try:
            if self.refunds is not None and isinstance(row, Mapping):
                return Refund.from_row(row, site_slug=hook.site_slug)
            return Refund.parse(
                row,
                site_slug=hook.site_slug,
                refunded_at=self.refunded_at,
                refund_subtotal=self.refund_subtotal,
            )
        except InvalidRefund as error:
            if not keep:
                raise
            return RefundResult.invalid(row, error)


# Talkable has these, or may have them.
_TAKEN = (Outcome.REFUNDED, Outcome.UNCONFIRMED)


class _Batch:
    """Refunds on their way: equal ones are sent once, and every one ends in a result."""

    def __init__(self, refunds: list[Refund | RefundResult], tries: EarlierTries) -> None:
        self._refunds = refunds
        self._tries = tries
        self._answers: dict[Refund, RefundResult] = {}
        self._on_their_way: set[Refund] = set()

    def send(self, hook: TalkableHook, *, fetch_referral: bool, void_referral: bool) -> None:
        """Send what no earlier try has settled."""
        pending = []
        for refund in dict.fromkeys(r for r in self._refunds if isinstance(r, Refund)):
            if earlier := self._tries.recall(refund):
                self._answers[refund] = earlier
            else:
                pending.append(refund)
        if self._answers:
            log.info("Not sent again after an earlier try of this task: %d", len(self._answers))
        if pending:
            results = hook.refund_many(
                self._send_off(pending), fetch_referral=fetch_referral, void_referral=void_referral
            )
            for refund, result in zip(pending, results, strict=True):
                self._answers[refund] = result
                self._tries.keep(refund, result)
        for refund, result in self._judged().items():
            self._answers[refund] = result
            self._tries.keep(refund, result)

    def _judged(self) -> dict[Refund, RefundResult]:
        """Refusals that mean something else, now that what became of the order's other refunds is known."""
        changed: dict[Refund, RefundResult] = {}
        orders: dict[tuple[str, str], list[Refund]] = {}
        for refund in self._answers:
            orders.setdefault((refund.site_slug, refund.origin_slug), []).append(refund)
        for refund, result in self._answers.items():
            if result.outcome not in (Outcome.ALREADY_REFUNDED, Outcome.NOT_COUNTED):
                continue
            others = [
                OtherRefund(not other.is_partial, self._answers[other].outcome is Outcome.REFUNDED)
                for other in orders[refund.site_slug, refund.origin_slug]
                if other != refund and self._answers[other].outcome in _TAKEN
            ]
            outcome = outcome_of_refusal(is_whole=not refund.is_partial, others=others)
            if outcome is not result.outcome:
                changed[refund] = result.refused_as(outcome)
        return changed

    def results(self) -> list[RefundResult]:
        """A result for each refund, in order, also for those that were not sent."""
        return [r if isinstance(r, RefundResult) else self._result(r) for r in self._refunds]

    def _result(self, refund: Refund) -> RefundResult:
        if refund in self._answers:
            return self._answers[refund]
        if refund in self._on_their_way:
            stopped = TalkableConnectionError("The task was stopped before the answer came")
            return RefundResult.from_error(refund, stopped, attempts=1)
        return RefundResult.not_tried(refund, TalkableError("the task was stopped first"))

    def _send_off(self, refunds: list[Refund]) -> Iterator[Refund]:
        for refund in refunds:
            self._tries.will_send(refund)
            self._on_their_way.add(refund)
            yield refund
