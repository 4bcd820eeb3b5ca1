"""What earlier tries of this task did, so that a later one does not do it again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_talkable.protocol.errors import TalkableConnectionError
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.protocol.wire import refund_request

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_SUBMITTED = "submitted"
_BEGUN = "talkable_begun"

_SENT_BEFORE = "An earlier try of this task may have sent it"
_FORGOTTEN = (
    "An earlier try of this task may have sent it: the task state store does not say (it is empty after "
    "clear_on_success and, from Airflow 3.4 on, after clearing; a mapped task's holds what its map_index "
    "refunded then; before Airflow 3.3 there is none); ledger_conn_id remembers"
)
_CHANGED = (
    "An earlier try of this task sent, or may have sent, another refund of this order, which is no longer "
    "among those given; if this one is a further refund, send it in a new run"
)


@dataclass(frozen=True, slots=True)
class KeyedRefund:
    """A refund, and what distinguishes it from an equal one.

    :param refund_key: The refund's own id, as text; ``None``: it has none.
    """

    refund: Refund
    refund_key: str | None = None


class TaskState:
    """Remembers across the tries of one task instance what happened to each refund.

    Airflow clears XCom before a retry; its task state store, from 3.3 on, survives. The first try leaves a
    marker there, and entries for what it sends, none of which expire. A later try sends nothing again that
    Talkable has. Where it does not find the marker, whatever has emptied the store, it leaves partial
    refunds ``unconfirmed``: Talkable might count them twice. A full refund it sends again,
    which Talkable answers with "already refunded".

    It has to be made before anything can fail that has sent nothing: a try that leaves no marker counts as
    one that may have sent.

    :param context: The task's context.
    :param given: What the task was given to refund, after rendering. A mapped task that is given something
        else than before may have been given what another task instance has sent.
    :param redact_people: Keep no people's data in the store.
    """

    def __init__(self, context: Context, given: object, *, redact_people: bool) -> None:
        self._store = context.get("task_state_store")
        self._redact_people = redact_people
        self._orders: dict[str, dict[str, Any]] = {}
        ti, dag_run = context["ti"], context.get("dag_run")
        is_mapped = ti.map_index is not None and ti.map_index >= 0
        marker = self._store.get(_BEGUN) if self._store else None
        given_now = _digest(repr(given))
        # A mapped task's upstream that was cleared may return more than before, in another order: a task
        # instance that is new may be given what another one has sent.
        may_be_moved = is_mapped and bool(getattr(dag_run, "clear_number", 0))
        self._is_first = marker is None and ti.try_number <= 1 and not may_be_moved
        self._is_complete = self._is_first or (marker is not None and (not is_mapped or marker == given_now))
        if self._is_first:
            self._set(_BEGUN, given_now)

    def recall(self, refunds: Iterable[KeyedRefund]) -> dict[KeyedRefund, RefundResult]:
        """The results of earlier tries; what has none is to be sent."""
        if self._is_first:
            return {}
        given: dict[str, list[KeyedRefund]] = {}
        for refund in refunds:
            given.setdefault(_order(refund), []).append(refund)
        recalled: dict[KeyedRefund, RefundResult] = {}
        for order, of_order in given.items():
            known = self._known(order)
            is_changed = bool(known.keys() - {_content(each) for each in of_order})
            for refund in of_order:
                if earlier := self._earlier(refund, known.get(_content(refund)), is_changed=is_changed):
                    recalled[refund] = earlier
        return recalled

    def will_send(self, refund: KeyedRefund) -> None:
        """Note that a refund is about to be sent, if a crash from here on leaves it in doubt."""
        if refund.refund.is_partial:
            self._note(refund, _SUBMITTED)

    def keep(self, refund: KeyedRefund, result: RefundResult) -> None:
        """Note what happened to a refund."""
        if result.outcome.is_success or result.outcome is Outcome.NOT_COUNTED:
            kept = result.redacted() if self._redact_people else result
            self._note(refund, kept.as_dict())
        elif refund.refund.is_partial and result.outcome is not Outcome.UNCONFIRMED:
            self._note(refund, None)

    def _earlier(self, refund: KeyedRefund, kept: object, *, is_changed: bool) -> RefundResult | None:
        if kept == _SUBMITTED:
            return _in_doubt(refund.refund, _SENT_BEFORE)
        if isinstance(kept, dict):
            return RefundResult.from_dict(kept)
        if not refund.refund.is_partial:
            return None
        if not self._is_complete:
            return _in_doubt(refund.refund, _FORGOTTEN)
        if is_changed:
            return RefundResult(refund.refund.origin_slug, Outcome.CONFLICT, error_message=_CHANGED)
        return None

    def _known(self, order: str) -> dict[str, Any]:
        if order not in self._orders:
            kept = self._store.get(order) if self._store else None
            self._orders[order] = dict(kept) if isinstance(kept, dict) else {}
        return self._orders[order]

    def _note(self, refund: KeyedRefund, value: object) -> None:
        """Replace what is known of a refund; ``None``: nothing."""
        if self._store is None:
            return
        order = _order(refund)
        known = self._orders.setdefault(order, {}) if self._is_first else self._known(order)
        before = known.get(_content(refund))
        if value is None:
            known.pop(_content(refund), None)
        else:
            known[_content(refund)] = value
        if known:
            self._set(order, known)
        elif before is not None:
            self._store.delete(order)

    def _set(self, key: str, value: Any) -> None:
        if self._store is not None:
            from airflow.sdk import NEVER_EXPIRE  # type: ignore[attr-defined]  # not in Airflow's stub

            self._store.set(key, value, retention=NEVER_EXPIRE)


def _in_doubt(refund: Refund, reason: str) -> RefundResult:
    return RefundResult.from_error(refund, TalkableConnectionError(reason), attempts=0)


def _order(refund: KeyedRefund) -> str:
    return f"talkable_order_{_digest(repr((refund.refund.site_slug, refund.refund.origin_slug)))}"


def _content(refund: KeyedRefund) -> str:
    request = refund_request(refund.refund)
    return _digest(repr((refund.refund_key, request.path, request.body)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]
