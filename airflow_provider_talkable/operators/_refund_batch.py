"""The refunds of one task on their way to Talkable, without a ledger."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_provider_talkable.operators._supervision import Supervision
from airflow_provider_talkable.operators._task_state import KeyedRefund, TaskState
from airflow_provider_talkable.protocol.errors import TalkableConnectionError, TalkableError, interruption
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.refusals import OtherRefund, outcome_of_refusal
from airflow_provider_talkable.protocol.results import RefundResult

if TYPE_CHECKING:
    from airflow_provider_talkable.hooks.talkable import TalkableHook

log = logging.getLogger(__name__)

# Talkable has these, or may have them.
_TAKEN = (Outcome.REFUNDED, Outcome.UNCONFIRMED)


class RefundBatch:
    """Refunds on their way: equal ones are sent once, and every one ends in a result.

    :param refunds: What is to be sent, and the results of what cannot be.
    :param state: What earlier tries did.
    :param hook: Sends them.
    :param supervision: Says whether Airflow still waits for them.
    :param fetch_referral: As :meth:`TalkableHook.refund_many` has it.
    :param void_referral: As :meth:`TalkableHook.refund_many` has it.
    """

    def __init__(
        self,
        refunds: Sequence[KeyedRefund | RefundResult],
        state: TaskState,
        hook: TalkableHook,
        supervision: Supervision,
        *,
        fetch_referral: bool = False,
        void_referral: bool = False,
    ) -> None:
        self._refunds = refunds
        self._state = state
        self._hook = hook
        self._supervision = supervision
        self._fetch_referral = fetch_referral
        self._void_referral = void_referral
        self._answers: dict[KeyedRefund, RefundResult] = {}
        self._on_their_way: set[KeyedRefund] = set()
        self._stop_asked: str | None = None

    def stop(self, reason: str) -> None:
        """Send nothing more; may be called from a signal handler."""
        self._stop_asked = reason

    @property
    def sites(self) -> list[str]:
        """The sites that they are of."""
        refunds = (one.refund for one in self._refunds if isinstance(one, KeyedRefund))
        return list(dict.fromkeys(refund.site_slug for refund in refunds))

    def send(self) -> None:
        """Send what no earlier try has settled.

        :raises TalkableError: if it was stopped; what was on the wire has its result then.
        """
        given = list(dict.fromkeys(r for r in self._refunds if isinstance(r, KeyedRefund)))
        self._answers = self._state.recall(given)
        if self._answers:
            log.info("Not sent again after an earlier try of this task: %d", len(self._answers))
        if pending := [refund for refund in given if refund not in self._answers]:
            results = self._hook.refund_many(
                self._send_off(pending),
                fetch_referral=self._fetch_referral,
                void_referral=self._void_referral,
                reason_to_stop=self._reason_to_stop,
            )
            # The results first: what ends them comes after the last.
            self._keep_all(zip(results, pending, strict=False))
        for refund, result in self._judged().items():
            self._keep(refund, result)

    def results(self) -> list[RefundResult]:
        """A result for each refund, in order, also for those that were not sent."""
        return [r if isinstance(r, RefundResult) else self._result(r) for r in self._refunds]

    def _reason_to_stop(self) -> str | None:
        return self._stop_asked or self._supervision.reason_to_stop()

    def _keep_all(self, answers: Iterator[tuple[RefundResult, KeyedRefund]]) -> None:
        try:
            for result, refund in answers:
                self._keep(refund, result)
        except BaseException as error:
            # A timeout of Airflow's comes wherever it likes: what is on the wire is still answered.
            self.stop(interruption(error))
            with suppress(TalkableError):
                for result, refund in answers:
                    self._keep(refund, result)
            raise

    def _keep(self, refund: KeyedRefund, result: RefundResult) -> None:
        self._answers[refund] = result
        with self._supervision.reporting():
            self._state.keep(refund, result)

    def _judged(self) -> dict[KeyedRefund, RefundResult]:
        """Refusals that mean something else, now that what happened to the order's other refunds is known."""
        changed: dict[KeyedRefund, RefundResult] = {}
        orders: dict[tuple[str, str], list[KeyedRefund]] = {}
        for refund in self._answers:
            orders.setdefault((refund.refund.site_slug, refund.refund.origin_slug), []).append(refund)
        for refund, result in self._answers.items():
            if result.outcome not in (Outcome.ALREADY_REFUNDED, Outcome.NOT_COUNTED):
                continue
            others = [
                OtherRefund(not other.refund.is_partial, self._answers[other].outcome is Outcome.REFUNDED)
                for other in orders[refund.refund.site_slug, refund.refund.origin_slug]
                if other != refund and self._answers[other].outcome in _TAKEN
            ]
            outcome = outcome_of_refusal(is_whole=not refund.refund.is_partial, others=others)
            if outcome is not result.outcome:
                changed[refund] = result.refused_as(outcome)
        return changed

    def _result(self, refund: KeyedRefund) -> RefundResult:
        if refund in self._answers:
            return self._answers[refund]
        if refund in self._on_their_way:
            stopped = TalkableConnectionError("The task was stopped before the answer came")
            return RefundResult.from_error(refund.refund, stopped, attempts=1)
        return RefundResult.not_tried(refund.refund, TalkableError("the task was stopped first"))

    def _send_off(self, refunds: list[KeyedRefund]) -> Iterator[Refund]:
        for refund in refunds:
            try:
                with self._supervision.reporting():
                    self._state.will_send(refund)
            except BaseException:
                with suppress(Exception):
                    self._state.keep(refund, self._result(refund))
                raise
            if reason := self._reason_to_stop():
                self._keep(refund, RefundResult.not_tried(refund.refund, TalkableError(reason)))
                return
            self._on_their_way.add(refund)
            yield refund.refund
