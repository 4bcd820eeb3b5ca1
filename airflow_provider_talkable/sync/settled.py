"""Refunds that are plainly settled, found by the databases themselves: one text each is compared.

Most rows of a sync were settled by an earlier one. For these the newest entry is ``refunded`` or
``already_refunded`` with the row's own amount, date and order, and :func:`.decisions.decide` skips them
whatever came before, since such an outcome ends all doubts. What differs by a letter is left to that.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import String, and_, case, cast, func, or_, type_coerce
from sqlalchemy.sql import ColumnElement

from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.decisions import NOT_VOIDED

DATABASES = ("postgresql", "sqlite")
"""Those that can be asked."""

TEXT_OF_ROW = "ifnull(refund_subtotal, '') || '|' || ifnull(refunded_at, '') || '|' || origin_slug"
"""What the snapshot says of a row, in its SQL: amount, date and order, as :func:`text_of_entry`."""

_PLAINLY = (Outcome.REFUNDED.value, Outcome.ALREADY_REFUNDED.value)
_NOTHING = ""  # which no row has


def text_of_entry(
    columns: Any,
    void_outcome: ColumnElement[Any],
    of_this_task: Collection[ColumnElement[bool]],
    dialect: str,
) -> ColumnElement[str]:
    """What the ledger says of the newest entry of a refund, to be compared with what the snapshot says.

    :param columns: The table's.
    :param void_outcome: That column, or nothing where the table lacks it.
    :param of_this_task: The conditions that the asking task wrote an entry; those are counted one by one.
    """
    if dialect == "postgresql":
        amount: ColumnElement[str] = cast(columns.refund_subtotal, String)
        utc = func.timezone("UTC", columns.refunded_at)
        moment: ColumnElement[str] = func.to_char(utc, 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')
    else:
        amount = func.printf("%.4f", columns.refund_subtotal)
        amount = case((columns.refund_subtotal.is_not(None), amount))
        moment = func.replace(type_coerce(columns.refunded_at, String), " ", "T") + "+00:00"
    text = func.coalesce(amount, "") + "|" + func.coalesce(moment, "") + "|" + columns.origin_slug
    is_plain = and_(
        columns.event.in_(_PLAINLY),
        # What repeats an earlier entry took none.
        columns.attempts.is_not(None),
        or_(void_outcome.is_(None), void_outcome.not_in(sorted(NOT_VOIDED))),
    )
    own = [(and_(*of_this_task), _NOTHING)] if of_this_task else []
    return case(*own, (is_plain, text), else_=_NOTHING)
