"""A list of refunds through the ledger, with a result for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.errors import TalkableError
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.columns import Key
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.run import RefundSync, Rules
from airflow_provider_talkable.sync.snapshot import Snapshot


class RefundList:
    """Refunds what the ledger does not say is settled, and has a result for every one, in the order given.

    :param rows: The refunds, and the results of what is none.
    :param ledger: The ledger, opened.
    :param config: Where to and with which key.
    :param policy: How long a request is worth trying.
    :param pace: How many at once, and how fast.
    :param fetch_referral: As :class:`Rules` has it.
    :param void_referral: As :class:`Rules` has it.
    :param reason_to_stop: As :class:`RefundSync` has it.
    """

    def __init__(
        self,
        rows: Sequence[Row | RefundResult],
        ledger: Ledger,
        config: ClientConfig,
        *,
        policy: RetryPolicy,
        pace: Pace,
        fetch_referral: bool = False,
        void_referral: bool = False,
        reason_to_stop: Callable[[], str | None] | None = None,
    ) -> None:
        self._rows = rows
        self._results: dict[Key, RefundResult] = {}
        self._snapshot = Snapshot()
        self._sync = RefundSync(
            self._snapshot,
            ledger,
            config,
            policy=policy,
            pace=pace,
            # All of a list is tried, however it fails.
            rules=Rules(abort_after=sys.maxsize, fetch_referral=fetch_referral, void_referral=void_referral),
            on_result=self._keep,
            reason_to_stop=reason_to_stop,
        )

    @property
    def sites(self) -> list[str]:
        """The sites that they are of."""
        return list(dict.fromkeys(row.site_slug for row in self._rows if isinstance(row, Row)))

    def stop(self, reason: str) -> None:
        """Send nothing more; may be called from a signal handler."""
        self._sync.stop(reason)

    def send(self) -> None:
        """Send what is not settled.

        :raises TalkableError: what stopped it before its end, or is wrong with a whole site.
        """
        with self._snapshot:
            self._snapshot.fill(row for row in self._rows if isinstance(row, Row))
            if error := self._sync.run():
                raise error

    def results(self) -> list[RefundResult]:
        """A result for each refund, in order; of what was settled before, what the ledger knows of it."""
        return [row if isinstance(row, RefundResult) else self._result(row) for row in self._rows]

    def _keep(self, row: Row, result: RefundResult) -> None:
        self._results[row.site_slug, row.refund_key] = result

    def _result(self, row: Row) -> RefundResult:
        if result := self._results.get((row.site_slug, row.refund_key)):
            return result
        return RefundResult.not_tried(row.refund, TalkableError("the task was stopped first"))
