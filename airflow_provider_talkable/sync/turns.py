"""How much a sync takes on in a turn, and how long it then waits for answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from airflow_provider_talkable.client.concurrent import Sender
from airflow_provider_talkable.sync.intake import Intake
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.progress import Progress
from airflow_provider_talkable.sync.statement_sizes import batch_size, is_slow, parts_at_a_time

_PARTS_TICK = 0.04  # seconds between two writings of partial refunds that wait for their turn
_TICK = 0.25  # seconds after which finished refunds are recorded whatever their number
_LONGEST_TICK = 2.0  # the same where the ledger is slow: a task that is stopped does not wait for longer


class Turns:
    """The turns of one sync: in each it decides, hands over and records a little.

    :param ledger: The ledger: how long it takes to write decides.
    :param intake: What is to be sent.
    :param sender: What is under way.
    :param progress: How fast it goes.
    :param max_in_flight: How many requests may be under way.
    :param longest_sending: For how long a refund may be on its way, if so many partial ones may wait.
    """

    def __init__(
        self,
        ledger: Ledger,
        intake: Intake,
        sender: Sender[Any, Any, Any],
        progress: Progress,
        max_in_flight: int,
        longest_sending: Callable[[int], timedelta],
    ) -> None:
        self.size = 0
        """How many refunds of a site are handed over in this turn."""
        self._ledger = ledger
        self._intake = intake
        self._sender = sender
        self._progress = progress
        self._max_in_flight = max_in_flight
        self._longest_sending = longest_sending
        self._began = 0.0

    def begin(self) -> None:
        """Find out how much this one takes on."""
        self._began = time.monotonic()
        append_seconds, in_flight = self._ledger.append_seconds, self._max_in_flight
        self.size = batch_size(
            in_flight,
            self._progress.sending_rate,
            append_seconds,
            before=self.size,
            left=self._sender.unfinished,
        )
        parts = parts_at_a_time(in_flight, self._sender.client.lanes.fastest, append_seconds)
        self._intake.most_parts = parts
        self._ledger.longest_sending = self._longest_sending(parts)

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
        seconds = self._ledger.append_seconds
        if is_slow(seconds):
            # It is asked for as many at once as may be in doubt: those under way make room first.
            if intake.parts_under_way and not is_fed:
                until = min(until, max(0, outstanding - intake.parts_under_way))
            return until, min(seconds, _LONGEST_TICK)
        if is_fed or not intake.is_full:
            return until, _TICK
        # A fast one is not asked for each refund alone.
        until = min(until, max(0, outstanding - max(1, self._max_in_flight * 3 // 4)))
        return until, max(0.0, self._began + _PARTS_TICK - time.monotonic())
