"""Which of a snapshot's rows are to be sent, and which of them now."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from airflow_provider_talkable.client.lanes import Lane
from airflow_provider_talkable.protocol.errors import TalkableError
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.columns import Key
from airflow_provider_talkable.sync.decisions import Decision, Note, Send, Skip, decide
from airflow_provider_talkable.sync.entries import NOTHING_HAPPENED, History
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.records import Records
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.snapshot import Snapshot

_MOST_WAITING = 500  # rows of a site that are passed over for those behind them

_CONTESTED = "Not tried: another run of the sync is sending this partial refund"


class SiteQueue:
    """The rows of one site that wait for something.

    :param site_slug: The site; ``None`` if it is the only one.
    """

    def __init__(self, site_slug: str | None) -> None:
        self.site_slug = site_slug
        self.is_read = False
        """Whether all of them are decided on."""
        self.undecided: deque[Row] = deque()
        self.known: list[Row] = []
        """Those of them that the ledger may have an entry of."""
        self.decided: deque[Row] = deque()
        self.under_way = 0
        """How many of them are without their outcome yet."""
        self.parts_under_way = 0


class Intake:
    """Decides on rows by what the ledger knows, and chooses those whose turn it is.

    :param snapshot: The rows.
    :param ledger: The ledger, opened.
    :param records: What is recorded of rows that are not sent.
    :param resend: Outcomes to try again although they are settled or held.
    :param resend_keys: Refunds to send again whatever holds them, unless Talkable has them.
    :param void_referral: Whether referrals are voided.
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
    ) -> None:
        self.is_held = False
        """Whether nothing can be sent before the next answer."""
        self.is_full = False
        """Whether partial refunds wait, since as many as may be are under way."""
        self.parked: set[str] = set()
        """The sites whose rows another run goes on with."""
        self._snapshot = snapshot
        self._ledger = ledger
        self._records = records
        self._resend = resend
        self._resend_keys = resend_keys
        self._void_referral = void_referral
        self.most_parts = 1
        """How many partial refunds may be without their outcome in the ledger at a time."""
        self.parts_under_way = 0
        """How many are."""
        self._orders_under_way: set[Key] = set()
        self._left_before: dict[Key, str] = {}
        self._queues = deque(SiteQueue(slug) for slug in snapshot.queues)
        self._queue_of = {queue.site_slug: queue for queue in self._queues}

    @property
    def is_empty(self) -> bool:
        """Whether no row is left to be sent in this run."""
        return not self._open_queues()

    @property
    def has_several_sites(self) -> bool:
        """Whether there are rows of several sites left."""
        return len(self._open_queues()) > 1

    def decide(self, size: int) -> None:
        """Look the next rows up in the ledger; those to be sent wait for their turn.

        :param size: How many may wait for each site.
        """
        short = [queue for queue in self._open_queues() if not queue.is_read and len(queue.decided) < size]
        for queue in short:
            if not queue.undecided:
                self._read(queue, max(1, self._ledger.keys_at_a_time // len(short)))
        histories, refused = self._ledger.look_up([row for queue in short for row in queue.known])
        for queue in short:
            queue.known = []
            while queue.undecided:
                row = queue.undecided.popleft()
                key = (row.site_slug, row.refund_key)
                if key in refused:
                    self._records.refuse(row, refused[key])
                else:
                    self._decide_on(queue, row, histories.get(key, History()))

    def _read(self, queue: SiteQueue, count: int) -> None:
        """Take the next rows of a site, but those that are plainly settled."""
        said = None
        if not self._records.is_asked_for_each:
            keys = self._snapshot.keys_ahead(count, queue.site_slug)
            site_slug = queue.site_slug or next(iter(self._snapshot.sites), "")
            said = self._ledger.newest(site_slug, keys) if keys else None
        found = self._snapshot.take_unsettled(count, queue.site_slug, said)
        self._records.skip_settled(found.settled)
        queue.undecided.extend(found.rows)
        queue.known, queue.is_read = found.known, found.is_end

    def _decide_on(self, queue: SiteQueue, row: Row, history: History) -> None:
        match self._decision(row, history):
            case Send():
                queue.decided.append(row)
                if history.newest and history.newest.event in NOTHING_HAPPENED:
                    self._left_before[row.site_slug, row.refund_key] = history.newest.event
                if earlier := history.doubt or history.decisive:
                    self._records.repeated(row, earlier)
            case Note(outcome, message, doubt):
                self._records.note(row, outcome, message, after=doubt.entry_id if doubt else None)
            case Skip(entry, hidden_by):
                if hidden_by:
                    self._records.restate(row, entry, after=hidden_by.entry_id)
                self._records.skip(row, entry)

    def next_batch(self, size: int, *, ending: TalkableError | None, closed: Mapping[str, Lane]) -> list[Row]:
        """Rows to send now, less those that no longer make sense to send.

        Each site has its share, whatever holds up the others. Refunds of one order go out one after the
        other: what Talkable counts after each can then be compared with what was sent.

        :param size: How many rows of a site are handed over at a time.
        :param ending: Why nothing more is sent at all, if so.
        :param closed: The lanes of sites to which nothing more is sent.
        """
        queues = self._open_queues()
        parts = self.most_parts // (sum(queue.site_slug not in closed for queue in queues) or 1)
        batch: list[Row] = []
        waiting = 0
        self.is_full = False
        for queue in queues:
            if ending or queue.under_way <= size:
                batch += self._next_of(queue, size, max(1, parts), ending, closed)
                waiting += len(queue.decided)
        # Where there are more sites than places for parts, each comes first now and then.
        self._queues.rotate(-1)
        self.is_held = bool(waiting) and not batch and not self.is_full
        return batch

    def _next_of(
        self,
        queue: SiteQueue,
        size: int,
        parts: int,
        ending: TalkableError | None,
        closed: Mapping[str, Lane],
    ) -> list[Row]:
        batch: list[Row] = []
        waiting: list[Row] = []
        behind: set[Key] = set()
        while queue.decided and len(batch) < size and len(waiting) < _MOST_WAITING:
            row = queue.decided.popleft()
            lane = closed.get(row.site_slug)
            if reason := ending or (lane and lane.closed):
                self._leave(row, reason, is_throttled=not ending and bool(lane and lane.is_out_of_patience))
            elif (order := (row.site_slug, row.origin_slug)) in self._orders_under_way or order in behind:
                waiting.append(row)
            elif not row.is_whole and (
                queue.parts_under_way >= parts or self.parts_under_way >= self.most_parts
            ):
                waiting.append(row)
                behind.add(order)
            else:
                self._orders_under_way.add(order)
                # What is submitted has a word of its own to come.
                self._left_before.pop((row.site_slug, row.refund_key), None)
                queue.under_way += 1
                queue.parts_under_way += not row.is_whole
                self.parts_under_way += not row.is_whole
                batch.append(row)
        queue.decided.extendleft(reversed(waiting))
        self.is_full |= bool(behind)
        return batch

    def _open_queues(self) -> list[SiteQueue]:
        return [
            queue
            for queue in self._queues
            if not (queue.is_read and not queue.decided) and not self._is_parked(queue)
        ]

    def _is_parked(self, queue: SiteQueue) -> bool:
        return bool(self.parked) and (queue.site_slug is None or queue.site_slug in self.parked)

    def _queue(self, row: Row) -> SiteQueue:
        return self._queue_of.get(row.site_slug) or self._queue_of[None]

    def take_back(self, batch: Sequence[Row]) -> None:
        """Rows that were chosen and not handed over wait again."""
        for row in reversed(batch):
            self.is_answered(row)
            self._queue(row).decided.appendleft(row)

    def is_answered(self, row: Row) -> None:
        """Let the next refund of the order have its turn."""
        queue = self._queue(row)
        queue.under_way -= 1
        queue.parts_under_way -= not row.is_whole
        self.parts_under_way -= not row.is_whole
        self._orders_under_way.discard((row.site_slug, row.origin_slug))

    def without_contested(self, batch: Sequence[Row], submitted: Sequence[str]) -> list[Row]:
        """Those that no other run has claimed since the decision.

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
        outcome, message = Outcome.ABORTED, f"Not tried: {reason.args[0]}"
        if is_throttled:
            outcome = Outcome.THROTTLED
            message = "Not sent: Talkable has throttled this site for too long"
        is_known = self._left_before.pop((row.site_slug, row.refund_key), None) == outcome
        self._records.note(row, outcome, message, is_known=is_known)

    def _decision(self, row: Row, history: History) -> Decision:
        decisive = history.decisive
        is_unknown = decisive is not None and decisive.event == Outcome.NOT_FOUND
        return decide(
            row,
            history,
            resend=self._resend,
            resend_keys=self._resend_keys,
            writer=self._ledger.writer,
            is_doubtful_site=is_unknown and self._records.sites.is_doubtful(row.site_slug),
            void_referral=self._void_referral,
        )
