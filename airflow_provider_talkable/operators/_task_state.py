"""What earlier tries of this task did, so that a retry does not do it again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from airflow_provider_talkable.protocol.errors import TalkableConnectionError
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.protocol.wire import refund_request

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_SUBMITTED = "submitted"


class TaskState:
    """Remembers across the tries of one task instance what became of each refund.

    Airflow clears XCom before a retry. From 3.3 on its task state store survives, and a refund that
    Talkable has, or may have, is not sent again. Before 3.3 nothing survives: a full refund is sent
    again, which Talkable answers with "already refunded", and a partial one, which it might
    count twice, becomes ``unconfirmed`` without being sent.

    :param context: The task's context.
    :param redact_people: Keep no people's data in the store.
    """

    def __init__(self, context: Context, *, redact_people: bool) -> None:
        self._store = context.get("task_state_store")
        self._is_retry = context["ti"].try_number > 1
        self._redact_people = redact_people

    def recall(self, refund: Refund) -> RefundResult | None:
        """The result of an earlier try, or ``None`` if the refund is to be sent."""
        if not self._is_retry:
            return None
        if self._store is None:
            return _in_doubt(refund) if refund.is_partial else None
        kept = self._store.get(_key(refund))
        if kept == _SUBMITTED:
            return _in_doubt(refund)
        return RefundResult.from_dict(kept) if isinstance(kept, dict) else None

    def will_send(self, refund: Refund) -> None:
        """Note that a refund is about to be sent, if a crash from here on leaves it in doubt."""
        if self._store is not None and refund.is_partial:
            self._store.set(_key(refund), _SUBMITTED)

    def keep(self, refund: Refund, result: RefundResult) -> None:
        """Note what became of a refund."""
        if self._store is None:
            return
        if result.outcome.is_success or result.outcome is Outcome.NOT_COUNTED:
            kept = result.redacted() if self._redact_people else result
            self._store.set(_key(refund), kept.as_dict())
        elif refund.is_partial and result.outcome is not Outcome.UNCONFIRMED:
            self._store.delete(_key(refund))


def _in_doubt(refund: Refund) -> RefundResult:
    error = TalkableConnectionError("An earlier try of this task may have sent it")
    return RefundResult.from_error(refund, error, attempts=0)


def _key(refund: Refund) -> str:
    request = refund_request(refund)
    digest = hashlib.sha256(request.path.encode() + (request.body or b"")).hexdigest()
    return f"talkable_refund_{digest}"
