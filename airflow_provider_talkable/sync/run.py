"""The refund sync: a query's rows, through the ledger, to Talkable."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from airflow_provider_talkable.client.concurrent import GRACE, Sender
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.errands import RefundErrand
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.answers import counted_subtotal_of
from airflow_provider_talkable.protocol.errors import (
    LedgerError,
    TalkableError,
    TalkableProtocolError,
    TalkableRejected,
    printable,
)
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.people import without_people
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.decisions import (
    Decision,
    Entry,
    History,
    Note,
    Send,
    Skip,
    counts_otherwise,
    decide,
)
from airflow_provider_talkable.sync.ledger import Key, Ledger, Values
from airflow_provider_talkable.sync.orders import Taken, judged, others_than, sent_in_all
from airflow_provider_talkable.sync.progress import Progress
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.sites import Sites
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.summary import Summary

log = logging.getLogger(__name__)

_LOOK_UP = 500  # keys in one statement
_LARGEST_BATCH = 500
_TICK = 0.25  # seconds after which finished refunds are recorded whatever their number

_CONTESTED = "Not tried: another run of the sync came to this partial refund at the same time"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a sync does beyond the plain case.

    :param resend: Outcomes to try again although they are settled or held: ``not_found``,
        ``rejected``, ``unconfirmed``, ``conflict``.
    :param abort_after: Stop after so many identical refusals in a row, whether Talkable rejects them or
        somebody else answers: what is wrong with one refund is then wrong with all.
    :param fetch_referral: Ask for the referral where Talkable answers a refund with the origin alone.
    :param void_referral: Void the referral of whole refunds that Talkable has.
    :param pause_when_throttled: Stop, to be resumed, once a site is throttled for longer than the
        policy's patience. Otherwise what is left for that site becomes ``throttled``.
    """

    resend: frozenset[Outcome] = frozenset()
    abort_after: int = 20
    fetch_referral: bool = False
    void_referral: bool = False
    pause_when_throttled: bool = False


class RefundSync:
    """One sync of one snapshot.

    The thread that calls :meth:`run` talks to the ledger; another one talks to Talkable. Each
    batch is looked up in the ledger, ``submitted`` is written for what is to be sent, it is handed
    over, and outcomes are written as they come.

    :param snapshot: The rows.
    :param ledger: The ledger, opened.
    :param config: Where to and with which key.
    :param policy: How long a request is worth trying.
    :param pace: How many at once, and how fast.
    :param rules: What else to do.
    :param summary: Where a resumed run goes on counting requests and seconds.
    :param reason_to_stop: Asked while the run goes on; once it has a reason, the run ends as by :meth:`stop`.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        ledger: Ledger,
        config: ClientConfig,
        *,
        policy: RetryPolicy,
        pace: Pace,
        rules: Rules,
        summary: Summary | None = None,
        reason_to_stop: Callable[[], str | None] | None = None,
    ) -> None:
        self.summary = summary or Summary()
        self.paused_site: str | None = None
        """The site that is throttled, if the run is to be resumed later."""
        self._snapshot = snapshot
        self._ledger = ledger
        self._rules = rules
        self._reason_to_stop = reason_to_stop
        self._streak = _Streak(rules.abort_after)
        self._sender = Sender[Row, Refund, RefundResult](
            config,
            policy,
            pace,
            RefundErrand(fetch_referral=rules.fetch_referral, void_referral=rules.void_referral),
            judge=self._streak.judge,
        )
        self._sites = Sites(ledger)
        self._problems: dict[str, TalkableError] = {}
        self._orders_under_way: set[Key] = set()
        self._repeated: dict[Key, Entry] = {}
        self._max_in_flight = pace.max_in_flight
        self._progress = Progress(snapshot.refunds)
        self._stop_asked: TalkableError | None = None
        self._ending: TalkableError | None = None
        self._ended_at: float | None = None
        self._is_read = False
        self._is_held = False
        self._undecided: deque[Row] = deque()
        self._decided: deque[Row] = deque()
        self._not_handed_over: list[Row] = []
        self._unrecorded: list[Values] = []
        self._to_be_resumed: list[tuple[Row, RefundResult]] = []

    @property
    def retry_after(self) -> float | None:
        """Seconds after which a throttled site is worth asking again; ``None`` if none was to the end."""
        pauses = [error.retry_after or 0 for error in self._sender.client.exhausted_sites.values()]
        return max(pauses, default=None)

    def stop(self, reason: str) -> None:
        """Ask the run to end; may be called from a signal handler.

        Requests on the wire get ten seconds to end, the rest becomes ``aborted``.
        """
        self._stop_asked = TalkableError(reason)
        self._ledger.hurry()

    def run(self) -> TalkableError | None:
        """Send what is to be sent.

        :return: What stopped it before its end, or what is wrong with a whole site, or ``None``. The rows
            have their outcomes either way, unless it is the ledger that was lost.
        """
        started = time.monotonic()
        seconds_before = self.summary.seconds
        self.summary.rows = self._snapshot.rows
        self.summary.duplicates = self._snapshot.rows - self._snapshot.refunds
        try:
            with self._sender:
                try:
                    self._send_all()
                    if not (self._ending or self.paused_site):
                        self._problems = self._sites.problems()
                except LedgerError as error:
                    self._end_early(error)
                except BaseException as error:
                    # A timeout of Airflow's, or a signal, comes as an exception of whatever class.
                    self._end_early(TalkableError(f"the task was stopped ({type(error).__name__}: {error})"))
                    raise
                finally:
                    self._count_requests()
        finally:
            self.summary.seconds = seconds_before + time.monotonic() - started
            self.summary.rate = self.summary.sent / max(self.summary.seconds, 0.001)
            self.summary.stopped = self._ending.args[0] if self._ending else None
            self._problems |= self._sender.client.denied_sites
            self.summary.site_problems = {site: str(error.args[0]) for site, error in self._problems.items()}
        if self.paused_site:
            # A resumed run meets it again, and has the rest of the rows besides.
            return self._ending
        # Whatever outcomes are let through: something is wrong with a whole site.
        return self._ending or next(iter(self._problems.values()), None)

    def _send_all(self) -> None:
        """Decide, hand over and record, a little of each in turn, until all is done."""
        while True:
            self._look_for_reasons_to_stop()
            size = self._batch_size()
            is_paused = self.paused_site is not None
            if not is_paused and not self._is_read and len(self._decided) < size:
                self._decide()
            has_room = not is_paused and self._sender.unfinished <= size
            self._hand_over(self._next_batch(size) if has_room else [])
            self._progress.tell(self.summary)
            is_fed = is_paused or (self._is_read and not self._decided)
            if is_fed and not self._sender.outstanding:
                return
            until = 0 if is_fed else size
            if self._is_held:
                until = min(until, max(0, self._sender.unfinished - 1))
            self._keep_all(self._sender.take(until=until, timeout=_TICK))

    def _look_for_reasons_to_stop(self) -> None:
        if self._ended_at:
            if time.monotonic() > self._ended_at + GRACE:
                self._sender.cancel()
            return
        if self._stop_asked is None and self._reason_to_stop and (asked := self._reason_to_stop()):
            self.stop(asked)
        client = self._sender.client
        if reason := self._stop_asked or (None if self.paused_site else client.stopped):
            log.error("The sync stops: %s", reason.args[0])
            self._begin_to_end(reason)
        elif self._rules.pause_when_throttled and (exhausted := client.exhausted_sites):
            self._pause(next(iter(exhausted)))

    def _pause(self, site: str) -> None:
        """Begin nothing more, to be resumed once the site is not throttled."""
        if self.paused_site is None:
            self.paused_site = site
            self._sender.stop(TalkableError("the run pauses while Talkable throttles"))

    def _begin_to_end(self, reason: TalkableError) -> None:
        # There is no other run then that counts what was to be resumed.
        self.paused_site = None
        for row, result in self._to_be_resumed:
            self._count(row, result)
        self._to_be_resumed.clear()
        self._ending = reason
        self._ended_at = time.monotonic()
        self._sender.stop(reason)

    def _end_early(self, reason: TalkableError) -> None:
        """After an error: bring home what is on the wire, and note that the rest was not tried."""
        self._ledger.hurry()
        self._decided.extendleft(self._not_handed_over)
        self._begin_to_end(reason)
        try:
            self._send_all()
        except LedgerError:
            self._log_what_the_ledger_lacks()

    def _batch_size(self) -> int:
        """A quarter of a second's worth: what a crash leaves in doubt is a batch or two."""
        return int(min(_LARGEST_BATCH, max(self._max_in_flight, self._progress.sending_rate / 4)))

    def _decide(self) -> None:
        """Look the next rows up in the ledger; those to be sent wait for their turn."""
        if not self._undecided:
            self._undecided.extend(self._snapshot.take(_LOOK_UP))
        self._is_read = not self._undecided
        histories = self._ledger.histories(self._undecided)
        while self._undecided:
            row = self._undecided.popleft()
            history = histories.get((row.site_slug, row.refund_key), History())
            match self._decision(row, history):
                case Send():
                    self._decided.append(row)
                    if earlier := history.doubt or history.standing:
                        self._repeated[row.site_slug, row.refund_key] = earlier
                case Note(outcome, message, doubt):
                    self._note(row, outcome, message, after=doubt.entry_id if doubt else None)
                case Skip(entry, hidden_by):
                    if hidden_by:
                        self._unrecorded.append(self._ledger.restated(row, entry, after=hidden_by.entry_id))
                    if entry.is_of_this_task:
                        self._sites.count(row.site_slug, entry.event)
                        self.summary.count(
                            row,
                            entry.event,
                            entry.error_message,
                            is_referred=entry.referral_status is not None,
                            late=entry.late,
                            is_counted_otherwise=entry.is_counted_otherwise,
                            void_outcome=entry.void_outcome,
                        )
                    else:
                        self.summary.skipped += 1

    def _decision(self, row: Row, history: History) -> Decision:
        return decide(
            row,
            history,
            resend=self._rules.resend,
            writer=self._ledger.writer,
            is_doubtful_site=self._sites.is_doubtful(row.site_slug),
            void_referral=self._rules.void_referral,
        )

    def _next_batch(self, size: int) -> list[Row]:
        """Rows to send now, less those that no longer make sense to send.

        Refunds of one order go out one after the other: what Talkable counts after each can then be compared
        with what was sent.
        """
        batch: list[Row] = []
        waiting: list[Row] = []
        client = self._sender.client
        exhausted, denied = client.exhausted_sites, client.denied_sites
        while self._decided and len(batch) < size and len(waiting) < _LOOK_UP:
            row = self._decided.popleft()
            if self._ending:
                self._note(row, Outcome.ABORTED, f"Not tried: {self._ending.args[0]}")
            elif row.site_slug in denied:
                self._note(row, Outcome.ABORTED, f"Not tried: {denied[row.site_slug].args[0]}")
            elif row.site_slug in exhausted:
                self._note(row, Outcome.THROTTLED, "Not sent: Talkable has throttled this site for too long")
            elif (order := (row.site_slug, row.origin_slug)) in self._orders_under_way:
                waiting.append(row)
            else:
                self._orders_under_way.add(order)
                batch.append(row)
        self._decided.extendleft(reversed(waiting))
        # Then there is nothing to do before the next answer.
        self._is_held = bool(waiting) and not batch
        return batch

    def _hand_over(self, batch: list[Row]) -> None:
        """Write what has come to an outcome and what is about to be sent, then send that."""
        # Until it is handed over, an error means that it was not sent.
        self._not_handed_over = batch
        submitted = [self._ledger.submitted(row) for row in batch]
        self._ledger.append(self._unrecorded + submitted)
        self._unrecorded.clear()
        if not all(row.is_whole for row in batch):
            batch = self._without_contested(batch, submitted)
        self._sender.put((row, row.refund) for row in batch)
        self._not_handed_over = []

    def _without_contested(self, batch: list[Row], submitted: list[Values]) -> list[Row]:
        """Those that no other run has come to since they were decided on.

        A second ``submitted`` is seen by at least one of two runs, for each writes its own before it
        looks for the other's: at most one of them sends, and a partial refund is sent at most once.
        """
        partial = [row for row in batch if not row.is_whole]
        own = [entry["entry_id"] for entry in submitted]
        histories = self._ledger.histories(partial, without=frozenset(own))
        kept = []
        for row, entry_id in zip(batch, own, strict=True):
            history = histories.get((row.site_slug, row.refund_key), History())
            decision = self._decision(row, history)
            if not isinstance(decision, Send):
                self._orders_under_way.discard((row.site_slug, row.origin_slug))
            match decision:
                case Send():
                    kept.append(row)
                case Skip(entry):
                    self._unrecorded.append(self._ledger.restated(row, entry, after=entry_id))
                    self.summary.skipped += 1
                case Note():
                    self._note(row, Outcome.ABORTED, _CONTESTED, after=entry_id)
        return kept

    def _keep_all(self, answers: Sequence[tuple[Row, RefundResult]]) -> None:
        """Note what became of refunds that were handed over."""
        orders = self._orders_of(answers)
        for row, result in answers:
            self._orders_under_way.discard((row.site_slug, row.origin_slug))
            others = others_than(row, orders.get((row.site_slug, row.origin_slug), ()))
            own = self._repeated.pop((row.site_slug, row.refund_key), None)
            self._keep(row, judged(row, result, own, others), others)

    def _orders_of(self, answers: Sequence[tuple[Row, RefundResult]]) -> dict[Key, list[Taken]]:
        """What the ledger knows of the orders whose other refunds decide what an answer says."""
        rows = [row for row, result in answers if _concerns_others(row, result)]
        if not rows:
            return {}
        try:
            # The query is to see what was learned before.
            self._ledger.append(self._unrecorded)
            self._unrecorded.clear()
            return self._ledger.orders(rows)
        except LedgerError:
            for row, result in answers:
                self._keep(row, result, ())
            raise

    def _keep(self, row: Row, result: RefundResult, others: Sequence[Taken]) -> None:
        """Note what became of a refund that was handed over."""
        if result.error_message:
            result = replace(result, error_message=without_people(result.error_message))
        told = sent_in_all(row, result, others) if result.outcome.is_success else None
        self._unrecorded.append(self._ledger.outcome(row, result, sent_subtotal=told))
        self.summary.sent += result.attempts > 0
        is_throttled = result.outcome is Outcome.THROTTLED
        if is_throttled and self._rules.pause_when_throttled and not self._ending:
            self._pause(row.site_slug)
        if self.paused_site and (is_throttled or result.outcome is Outcome.ABORTED):
            self._to_be_resumed.append((row, result))
        else:
            self._count(row, result, told)

    def _count(self, row: Row, result: RefundResult, told: Decimal | None = None) -> None:
        self._sites.count(row.site_slug, result.outcome)
        self.summary.count(
            row,
            result.outcome,
            result.error_message,
            is_referred=bool(result.referral),
            late=result.late,
            is_counted_otherwise=_is_counted_otherwise(row, result, told),
            void_outcome=result.void_outcome,
        )

    def _note(self, row: Row, outcome: Outcome, message: str, *, after: str | None = None) -> None:
        """Note what becomes of a refund that is not sent."""
        result = RefundResult(row.origin_slug, outcome, error_message=message)
        self._unrecorded.append(self._ledger.outcome(row, result, after=after))
        self._count(row, result)

    def _log_what_the_ledger_lacks(self) -> None:
        """Without a ledger the log is the only place left to say what became of a refund."""
        while self._sender.outstanding:
            for row, result in self._sender.take(until=0, timeout=GRACE):
                self._keep(row, result, ())
            self._sender.cancel()
        for entry in self._unrecorded:
            log.error(
                "Not in the ledger: site %s, refund_key %s, origin %s: %s",
                entry["site_slug"],
                printable(entry["refund_key"]),
                printable(entry["origin_slug"]),
                entry["event"],
            )

    def _count_requests(self) -> None:
        client = self._sender.client
        self.summary.requests += client.requests["POST"]
        self.summary.lookups += client.requests["GET"] + client.requests["PUT"]
        self.summary.throttled_requests += client.throttled
        for site, rate in client.learned_rates.items():
            log.info("Site %s takes about %.1f requests/s", site, rate)


def _is_counted_otherwise(row: Row, result: RefundResult, told: Decimal | None) -> bool:
    counted, partially = counted_subtotal_of(result.origin)
    return (row.is_whole and bool(partially)) or counts_otherwise(counted, told)


def _concerns_others(row: Row, result: RefundResult) -> bool:
    """Whether what an answer says depends on other refunds of its order."""
    if result.outcome.is_success and not row.is_whole:
        return True
    return result.outcome in (Outcome.ALREADY_REFUNDED, Outcome.NOT_COUNTED)


class _Streak:
    """Counts identical refusals in a row: rejections, and answers that are none of Talkable's."""

    def __init__(self, abort_after: int) -> None:
        self._abort_after = abort_after
        self._refusal: str | None = None
        self._length = 0

    def judge(self, result: RefundResult) -> TalkableError | None:
        """The error that ends the run, once there are too many."""
        if result.outcome.is_success:
            self._refusal, self._length = None, 0
            return None
        refusal, kind = _refusal(result)
        if refusal is not None:
            self._length = self._length + 1 if refusal == self._refusal else 1
            self._refusal = refusal
        if self._refusal is None or self._length < self._abort_after:
            return None
        words = without_people(result.error_message)
        if kind is TalkableProtocolError:
            return TalkableProtocolError(
                f"{self._length} refunds in a row got the same answer from somebody else ({words}); fix "
                "that, then run it again",
                http_status=result.http_status,
                retryable=False,
            )
        return TalkableRejected(
            f"{self._length} refunds in a row were rejected with the same words ({words}); "
            "fix that, then run it again with resend={'rejected'}"
        )


def _refusal(result: RefundResult) -> tuple[str | None, type[TalkableError] | None]:
    """What is the same of refusals that have one cause, if it is one, and what it is."""
    if result.outcome is Outcome.REJECTED:
        return result.error_message, TalkableRejected
    error = result.error
    if isinstance(error, TalkableProtocolError) and not (error.retryable and error.may_have_acted):
        # A page's size differs with what it quotes.
        return f"HTTP {result.http_status}", TalkableProtocolError
    return None, None
