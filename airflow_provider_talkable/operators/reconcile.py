"""The operator that compares a warehouse's refunds with the ledger and with Talkable."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_talkable.links.talkable import TalkableSiteLink
from airflow_provider_talkable.operators._report import BY_SITE, name_map_index, plain_errors
from airflow_provider_talkable.operators._warehouse import WarehouseOperator, task_run
from airflow_provider_talkable.protocol.errors import LedgerError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_talkable.hooks.talkable import TalkableHook
    from airflow_provider_talkable.sync.reconcile import Asking, ReconcileSummary

log = logging.getLogger(__name__)


class TalkableRefundReconcileOperator(WarehouseOperator):
    """Compares the refunds that should be with Talkable with the ledger and, on request, with Talkable.

    The query says which refunds, and of which period: it has the columns of the sync's query, and may
    have ``email`` (who bought) and ``currency`` (of the shop). What can be wrong with a refund:

    - ``missing``: the ledger does not know it, or Talkable shows its referral as pending or flagged still.
    - ``unsettled``: the ledger does not know what happened to it.
    - ``refused``: it makes no refund, or Talkable rejected it or has not counted it.
    - ``different``: Talkable received another amount, date or order, or counts another amount.
    - ``rewarded``: the whole order was refunded, and its advocate has been paid.

    An order that Talkable never saw is in order: nobody is rewarded for it.

    Each discrepancy becomes a row of a table, in which a retry replaces what the try before it wrote. A
    summary is pushed to XCom, as ``return_value`` if the task succeeds and under the key ``summary``
    also if it fails for what it found or could not ask.

    :param ask_talkable: Ask Talkable for the referrals of who bought, for each settled refund of a whole
        order that may belong to one. Needs the column ``email``. Only this finds what was rewarded
        after the refund, and what the rewards were.
    :param report_table: The table of discrepancies, beside the ledger, quoted as it is; made if missing.
    :param max_discrepancies: The task fails if there are more; ``None``: it does not.
    :param max_rewards: The task fails if the advocates of refunded orders were paid more, in any one
        currency; ``None``: it does not. Needs ``ask_talkable``.
    :param max_unknown: The task fails if Talkable was asked, and of more refunds it is not known whether
        they are in order; ``None``: it does not.
    :param kwargs: ``sql``, ``sql_conn_id``, ``parameters``, ``site_slug``, ``talkable_conn_id``,
        ``ledger_conn_id``, ``ledger_table``, ``ledger_schema``, ``throttle_patience``, ``outage_patience``,
        ``max_attempts``, ``max_in_flight``, ``initial_rate``, ``max_rate``: see
        :class:`~airflow_provider_talkable.transfers.sql_to_talkable.SqlToTalkableRefundOperator`.
    :raises InvalidRefund: if the query's columns are not those of a refund.
    :raises LedgerError: if there is no ledger, or it or the report cannot be used.
    :raises AirflowFailException: at the end, if there is more wrong than is allowed: a retry finds the same.
    :raises TalkableError: if Talkable left a question without an answer: the subclass that says why.
    """

    template_fields: Sequence[str] = (*WarehouseOperator.template_fields, "report_table")
    operator_extra_links = (TalkableSiteLink(),)

    def __init__(
        self,
        *,
        ask_talkable: bool = False,
        report_table: str = "talkable_refund_discrepancies",
        max_discrepancies: int | None = 0,
        max_rewards: float | None = None,
        max_unknown: int | None = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (
            ("max_discrepancies", max_discrepancies),
            ("max_rewards", max_rewards),
            ("max_unknown", max_unknown),
        ):
            if value is not None and value < 0:
                raise ValueError(f"{name}={value!r}: give 0 or more, or None")
        if max_rewards is not None and not ask_talkable:
            raise ValueError(f"max_rewards={max_rewards!r}: needs ask_talkable=True, which finds the rewards")
        self.ask_talkable = ask_talkable
        self.report_table = report_table
        self.max_discrepancies = max_discrepancies
        self.max_rewards = max_rewards
        self.max_unknown = max_unknown

    @plain_errors
    def execute(self, context: Context) -> dict[str, Any]:
        """Compare, write the report, push the summary, and fail if too much is wrong."""
        from airflow_provider_talkable.sync.reconcile import Reconciliation, Report
        from airflow_provider_talkable.sync.rows import REPORT_COLUMNS
        from airflow_provider_talkable.sync.snapshot import Snapshot

        name_map_index(context, BY_SITE)
        hook = self._hook()
        # Whatever is wrong with the connections shows before the warehouse is asked for rows.
        asking = self._asking(hook) if self.ask_talkable else None
        TalkableSiteLink().push(context, hook.site_slug)
        with ExitStack() as opened:
            ledgers = self._ledgers(opened)
            ledger = self._ledger(ledgers, context)
            if not ledger.open(create=False):
                raise LedgerError(
                    f"There is no ledger {ledger.name}; the sync makes it: check ledger_table, "
                    "ledger_schema and ledger_conn_id"
                )
            report = Report(
                ledgers,
                table=self.report_table,
                schema=self.ledger_schema or None,
                task_run=task_run(context),
            )
            report.open()
            snapshot = opened.enter_context(Snapshot())
            rows = self._rows(
                hook.site_slug,
                more=REPORT_COLUMNS,
                needs=("email",) if self.ask_talkable else (),
            )
            snapshot.fill(rows)
            reconciliation = Reconciliation(snapshot, ledger, report, asking)
            failure = reconciliation.run()
        summary = reconciliation.summary
        context["ti"].xcom_push(key="summary", value=summary.as_dict())
        for line in summary.lines():
            log.info("%s", line)
        if failure:
            # What is known is in the report; a retry asks again.
            raise failure
        self._judge(summary)
        return summary.as_dict()

    def _asking(self, hook: TalkableHook) -> Asking:
        from airflow_provider_talkable.client.concurrent import Sender
        from airflow_provider_talkable.client.operations import FriendOperation

        return Sender(hook.get_conn().config, hook.policy, hook.pace, FriendOperation())

    def _judge(self, summary: ReconcileSummary) -> None:
        wrong = summary.discrepancies.total()
        if self.max_discrepancies is not None and wrong > self.max_discrepancies:
            tally = ", ".join(f"{count} {kind}" for kind, count in summary.discrepancies.most_common())
            raise AirflowFailException(
                f"{wrong} discrepancies among {summary.refunds} refunds ({tally}), more than "
                f"max_discrepancies={self.max_discrepancies} allows; the table {self.report_table} has them"
            )
        if self.max_unknown is not None and summary.unknown > self.max_unknown:
            raise AirflowFailException(
                f"{summary.unknown} refunds could not be checked, more than "
                f"max_unknown={self.max_unknown} allows; give each row its email, and sync with "
                "void_referral=True or fetch_referral=True"
            )
        for currency, amount in summary.rewards.items():
            if self.max_rewards is not None and amount > Decimal(str(self.max_rewards)):
                raise AirflowFailException(
                    f"Advocates of refunded orders were paid {amount:.2f} {currency}, more than max_rewards="
                    f"{self.max_rewards:g} allows; the table {self.report_table} has them"
                )
