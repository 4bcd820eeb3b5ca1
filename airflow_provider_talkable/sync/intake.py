"""Which of a snapshot's rows are to be sent, and which of them now."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from airflow_provider_talkable.client.lanes import Lane
from airflow_provider_talkable.protocol.errors import TalkableError
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.columns import Key
from airflow_provider_talkable.sync.decisions import Decision, Note, Send, Skip, decide
from airflow_provider_talkable.sync.entries import History
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.records import Records
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.snapshot import Snapshot

_LOOK_UP = 500  # keys in one statement

_CONTESTED = "Not tried: another run of the sync is sending this partial refund"


class Intake:
    """Decides on rows by what the ledger knows, and chooses those whose turn it is.

    :param snapshot: The rows.
    :param ledger: The ledger, opened.
    :param records: What is told of rows that are not sent.
    :param resend: Outcomes to try again although they are settled or held.
    :param resend_keys: Refunds to send again whatever holds them, unless Talkable has them.
    :param void_referral: Whether referrals are voided.
    :param most_parts: How many partial refunds may be without their outcome in the ledger at a time: a kill
        leaves these in doubt.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        ledger: Ledger,
        records: Records,
        *,
        resend: AbstractSet[Outcome],
        resend_keys: AbstractSet[str],
        void_referral: bool,
        most_parts: int,
    ) -> None:
        self.is_read = False
        """Whether all rows are decided on."""
        self.is_held = False
        """Whether nothing can be sent before the next answer."""
        self.is_full = False
        """Whether partial refunds wait, since as many as may be are under way."""
        self._snapshot = snapshot
        self._ledger = ledger
        self._records = records
        self._resend = resend
        self._resend_keys = resend_keys
        self._void_referral = void_referral
        self._undecided: deque[Row] = deque()
        self._decided: deque[Row] = deque()
        self._most_parts = most_parts
        self._parts_under_way = 0
        self._orders_under_way: set[Key] = set()

    def __len__(self) -> int:
        """How many rows wait for their turn."""
        return len(self._decided)

    def decide(self) -> None:
        """Look the next rows up in the ledger; those to be sent wait for their turn."""
        if not self._undecided:
            self._undecided.extend(self._snapshot.take(_LOOK_UP))
        self.is_read = not self._undecided
        histories = self._ledger.histories(self._undecided)
        while self._undecided:
            row = self._undecided.popleft()
            history = histories.get((row.site_slug, row.refund_key), History())
            match self._decision(row, history):
                case Send():
                    self._decided.append(row)
                    if earlier := history.doubt or history.standing:
                        self._records.repeated(row, earlier)
                case Note(outcome, message, doubt):
                    self._records.note(row, outcome, message, after=doubt.entry_id if doubt else None)
                case Skip(entry, hidden_by):
                    if hidden_by:
                        self._records.restate(row, entry, after=hidden_by.entry_id)
                    self._records.skip(row, entry)

    def next_batch(self, size: int, *, ending: TalkableError | None, closed: Mapping[str, Lane]) -> list[Row]:
        """Rows to send now, less those that no longer make sense to send.

        Refunds of one order go out one after the other: what Talkable counts after each can then be compared
        with what was sent.

        :param ending: Why nothing more is sent at all, if so.
        :param closed: The lanes of sites to which nothing more is sent.
        """
        batch: list[Row] = []
        waiting: list[Row] = []
        behind: set[Key] = set()
        while self._decided and len(batch) < size and len(waiting) < _LOOK_UP:
            row = self._decided.popleft()
            lane = closed.get(row.site_slug)
            if reason := ending or (lane and lane.closed):
                self._leave(row, reason, is_throttled=not ending and bool(lane and lane.is_out_of_patience))
            elif (order := (row.site_slug, row.origin_slug)) in self._orders_under_way or order in behind:
                waiting.append(row)
            elif not row.is_whole and self._parts_under_way >= self._most_parts:
                waiting.append(row)
                behind.add(order)
            else:
                self._orders_under_way.add(order)
                self._parts_under_way += not row.is_whole
                batch.append(row)
        self._decided.extendleft(reversed(waiting))
        self.is_full = bool(behind)
        self.is_held = bool(waiting) and not batch and not behind
        return batch

    def take_back(self, batch: Iterable[Row]) -> None:
        """Rows that were chosen and not handed over wait again."""
        for row in batch:
            self.is_answered(row)
        self._decided.extendleft(batch)

    def is_answered(self, row: Row) -> None:
        """Let the next refund of the order have its turn."""
        self._parts_under_way -= not row.is_whole
        self._orders_under_way.discard((row.site_slug, row.origin_slug))

    def without_contested(self, batch: Sequence[Row], submitted: Sequence[str]) -> list[Row]:
        """Those that no other run has come to since they were decided on.

        A second ``submitted`` is seen by at least one of two runs, for each writes its own before it
        looks for the other's: at most one of them sends, and a partial refund is sent at most once.

        :param submitted: The ids of the entries that this run has written of them.
        :raises LedgerError: if the ledger does not show those.
        """
        own = {entry_id: row for row, entry_id in zip(batch, submitted, strict=True) if not row.is_whole}
        histories = self._ledger.histories(list(own.values()), beside=own.keys())
        kept = []
        for row, entry_id in zip(batch, submitted, strict=True):
            history = histories.get((row.site_slug, row.refund_key), History())
            decision = self._decision(row, history)
            if not isinstance(decision, Send):
                self.is_answered(row)
            match decision:
                case Send():
                    kept.append(row)
                case Skip(entry) if entry.is_notice:
                    # Somebody may act on it by now.
                    last = max(entry_id, entry.entry_id)
                    self._records.note(row, Outcome.ABORTED, _CONTESTED, after=last)
                case Skip(entry):
                    self._records.give_way(row, entry, after=entry_id)
                case Note():
                    self._records.note(row, Outcome.ABORTED, _CONTESTED, after=entry_id)
        return kept

    def _leave(self, row: Row, reason: TalkableError, *, is_throttled: bool) -> None:
        if is_throttled:
            message = "Not sent: Talkable has throttled this site for too long"
            self._records.note(row, Outcome.THROTTLED, message)
        else:
            self._records.note(row, Outcome.ABORTED, f"Not tried: {reason.args[0]}")

    def _decision(self, row: Row, history: History) -> Decision:
        return decide(
            row,
            history,
            resend=self._resend,
            resend_keys=self._resend_keys,
            writer=self._ledger.writer,
            is_doubtful_site=self._records.sites.is_doubtful(row.site_slug),
            void_referral=self._void_referral,
        )
