"""How much a sync takes on in a turn, and how long it then waits for answers."""

from __future__ import annotations

import time
from typing import Any

from airflow_provider_talkable.client.concurrent import Sender
from airflow_provider_talkable.sync.intake import Intake
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.progress import Progress
from airflow_provider_talkable.sync.statement_sizes import batch_size, is_slow

_PARTS_TICK = 0.04  # seconds between two writings of partial refunds that wait for their turn
_TICK = 0.25  # seconds after which finished refunds are recorded whatever their number


class Turns:
    """The turns of one sync: in each it decides, hands over and records a little.

    :param ledger: The ledger: how long it takes to write decides.
    :param intake: What is to be sent.
    :param sender: What is under way.
    :param progress: How fast it goes.
    :param max_in_flight: How many requests may be under way.
    """

    def __init__(
        self,
        ledger: Ledger,
        intake: Intake,
        sender: Sender[Any, Any, Any],
        progress: Progress,
        max_in_flight: int,
    ) -> None:
        self.size = 0
        """How many refunds of a site are handed over in this turn."""
        self._ledger = ledger
        self._intake = intake
        self._sender = sender
        self._progress = progress
        self._max_in_flight = max_in_flight
        self._began = 0.0

    def begin(self) -> None:
        """Find out how much this one takes on."""
        self._began = time.monotonic()
        self.size = batch_size(self._max_in_flight, self._progress.sending_rate, self._ledger.append_seconds)

    def wait(self, *, is_fed: bool) -> tuple[int, float]:
        """What ends it: so many unfinished refunds, or so many seconds.

        :param is_fed: Whether nothing more is to be handed over.
        """
        intake, outstanding = self._intake, self._sender.outstanding
        until = 0 if is_fed else self.size
        if intake.has_several_sites:
            until = max(0, outstanding - self.size // 2)
        if intake.is_held:
            # Then there is nothing to do before the next answer.
            until = min(until, max(0, self._sender.unfinished - 1))
        if is_fed or not intake.is_full:
            return until, _TICK
        if is_slow(self._ledger.append_seconds):
            # Then it is asked for as many at once as may be in doubt.
            return 0, self._ledger.append_seconds
        # A fast one is not asked for each refund alone.
        until = min(until, max(0, outstanding - max(1, self._max_in_flight * 3 // 4)))
        return until, max(0.0, self._began + _PARTS_TICK - time.monotonic())
