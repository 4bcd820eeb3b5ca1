"""Refunds for Talkable, from Airflow.

Errors, outcomes and the values that carry them can be imported from here. They are loaded when
they are first asked for: Airflow imports this package in every process, most of which never refund.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_talkable.protocol.errors import (
        InvalidConnection,
        InvalidRefund,
        LedgerError,
        LedgerLost,
        TalkableAccessDenied,
        TalkableAlreadyRefunded,
        TalkableAuthError,
        TalkableConnectionError,
        TalkableError,
        TalkableNotCounted,
        TalkableOriginNotFound,
        TalkablePersonNotFound,
        TalkableProtocolError,
        TalkableReferralFinal,
        TalkableRejected,
        TalkableServerError,
        TalkableThrottled,
    )
    from airflow_provider_talkable.protocol.outcomes import Outcome
    from airflow_provider_talkable.protocol.referrals import (
        ReferralOutcome,
        ReferralResult,
        ReferralStatus,
        ReferralUpdate,
    )
    from airflow_provider_talkable.protocol.refund import Refund
    from airflow_provider_talkable.protocol.results import RefundResult

    __version__: str

__all__ = [
    "InvalidConnection",
    "InvalidRefund",
    "LedgerError",
    "LedgerLost",
    "Outcome",
    "ReferralOutcome",
    "ReferralResult",
    "ReferralStatus",
    "ReferralUpdate",
    "Refund",
    "RefundResult",
    "TalkableAccessDenied",
    "TalkableAlreadyRefunded",
    "TalkableAuthError",
    "TalkableConnectionError",
    "TalkableError",
    "TalkableNotCounted",
    "TalkableOriginNotFound",
    "TalkablePersonNotFound",
    "TalkableProtocolError",
    "TalkableReferralFinal",
    "TalkableRejected",
    "TalkableServerError",
    "TalkableThrottled",
    "__version__",
]

_HOMES = {
    "Outcome": "outcomes",
    "ReferralOutcome": "referrals",
    "ReferralResult": "referrals",
    "ReferralStatus": "referrals",
    "ReferralUpdate": "referrals",
    "Refund": "refund",
    "RefundResult": "results",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        return import_module("importlib.metadata").version("airflow-provider-talkable")
    return getattr(import_module(f"{__name__}.protocol.{_HOMES.get(name, 'errors')}"), name)
