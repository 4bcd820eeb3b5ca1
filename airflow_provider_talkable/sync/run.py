"""The refund sync: a query's rows, through the ledger, to Talkable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from airflow_provider_talkable.client.concurrent import GRACE, Sender
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.lanes import Lane
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.client.streaks import Streak
from airflow_provider_talkable.protocol.errors import LedgerError, TalkableError, interruption
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.columns import Values
from airflow_provider_talkable.sync.intake import Intake
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.liveness import longest_sending
from airflow_provider_talkable.sync.progress import Progress
from airflow_provider_talkable.sync.records import Records
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.snapshot import Snapshot
from airflow_provider_talkable.sync.summary import Summary
from airflow_provider_talkable.sync.turns import Turns

log = logging.getLogger(__name__)

_THROTTLED = 5.0  # seconds of nothing but 429 that are worth a line


@dataclass(frozen=True, slots=True)
class Rules:
    """What a sync does beyond the plain case.

    :param resend: Outcomes to try again although they are settled or held: ``not_found``,
        ``not_counted``, ``rejected``, ``conflict``.
    :param abort_after: Stop after so many identical refusals in a row, whether Talkable rejects them or
        somebody else answers: what is wrong with one refund is then wrong with all.
    :param fetch_referral: Ask for the referral where Talkable answers a refund with the origin alone.
    :param void_referral: Void the referral of whole refunds that Talkable has.
    :param pause_when_throttled: Stop, to be resumed, once a site is throttled for longer than the
        policy's patience. Otherwise what is left for that site becomes ``throttled``.
    :param resend_keys: Refunds to send again whatever holds them, unless Talkable has them.
    """

    resend: frozenset[Outcome] = frozenset()
    abort_after: int = 20
    fetch_referral: bool = False
    void_referral: bool = False
    pause_when_throttled: bool = False
    resend_keys: frozenset[str] = frozenset()


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
    :param on_result: Called with each row that has a result, or had it before.
    :param reason_to_stop: Asked while the run goes on; once it has a reason, the run ends as by :meth:`stop`.
    :param report: Called every half a minute with the summary so far, in the thread of :meth:`run`.
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
        on_result: Callable[[Row, RefundResult], None] | None = None,
        reason_to_stop: Callable[[], str | None] | None = None,
        report: Callable[[Summary], object] | None = None,
    ) -> None:
        self.summary = summary or Summary()
        self._carried = replace(self.summary)
        self._started = time.monotonic()
        self.paused_site: str | None = None
        """The site that is throttled, if the run is to be resumed later."""
        self.summary.ledger_created |= ledger.is_new
        self._snapshot = snapshot
        self._ledger = ledger
        self._reason_to_stop = reason_to_stop
        self._is_pausing = rules.pause_when_throttled
        self._records = Records(ledger, self.summary, on_result)
        self._intake = Intake(
            snapshot,
            ledger,
            self._records,
            resend=rules.resend,
            resend_keys=rules.resend_keys,
            void_referral=rules.void_referral,
        )
        self._sender = Sender[Row, Refund, RefundResult](
            config,
            policy,
            pace,
            RefundOperation(fetch_referral=rules.fetch_referral, void_referral=rules.void_referral),
            new_judge=lambda site_slug: Streak(site_slug, abort_after=rules.abort_after).judge,
        )
        self._progress = Progress(snapshot.refunds, report=report)
        self._turns = Turns(
            ledger,
            self._intake,
            self._sender,
            self._progress,
            pace.max_in_flight,
            lambda parts: longest_sending(config.timeout, policy, pace, waiting=parts),
        )
        self._stop_asked: TalkableError | None = None
        self._closed: Mapping[str, Lane] = {}
        self._ending: TalkableError | None = None
        self._ended_at: float | None = None
        self._not_handed_over: list[Row] = []

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
        self._started = time.monotonic()
        self.summary.rows = self._snapshot.rows
        self.summary.duplicates = self._snapshot.rows - self._snapshot.refunds
        # Of a site where nothing happened too, so that what was measured before does not stand.
        self.summary.sites = {site: self.summary.site(site) for site in self._snapshot.sites}
        problems: dict[str, TalkableError] = {}
        try:
            with self._sender:
                try:
                    self._send_all()
                    if not (self._ending or self.paused_site):
                        problems = self._records.sites.problems()
                except LedgerError as error:
                    self._end_early(error)
                except BaseException as error:
                    # A timeout of Airflow's, or a signal, comes as an exception of whatever class.
                    self._end_early(TalkableError(interruption(error)))
                    raise
        finally:
            self._measure()
            self._log_rates()
            self._add_what_is_left()
            self.summary.stopped = self._ending.args[0] if self._ending else None
            problems |= self._sender.client.refusing_sites
            self.summary.site_problems = {site: str(error.args[0]) for site, error in problems.items()}
        if self.paused_site:
            # A resumed run meets it again, and has the rest of the rows besides.
            return self._ending
        # Whatever outcomes are let through: something is wrong with a whole site.
        return self._ending or next(iter(problems.values()), None)

    def _send_all(self) -> None:
        """Decide, hand over and record, a little of each in turn, until all is done."""
        intake, turns = self._intake, self._turns
        while True:
            self._look_for_reasons_to_stop()
            turns.begin()
            is_paused = self.paused_site is not None
            if not is_paused:
                intake.decide(turns.size)
            self._hand_over([] if is_paused else self._next_batch(turns.size))
            self._measure()
            self._progress.tell(self.summary, self._waits())
            is_fed = is_paused or intake.is_empty
            if is_fed and not self._sender.outstanding:
                # Of the last batch all may have been left to another run.
                self._records.write()
                self.paused_site = self.paused_site or min(intake.parked, default=None)
                return
            until, timeout = turns.wait(is_fed=is_fed)
            self._keep_all(self._sender.take(until=until, timeout=timeout))

    def _look_for_reasons_to_stop(self) -> None:
        # Once in a turn: rows of a lane that closes between two looks would count, though its site pauses.
        self._closed = self._sender.client.lanes.closed
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
        elif self._is_pausing and not self.paused_site:
            for site, lane in self._closed.items():
                if lane.is_out_of_patience:
                    self._pause(site)
            if client.outage and client.outage.seconds is not None:
                self._pause_all()

    def _pause(self, site: str) -> None:
        """Leave what is left of a site to a run that goes on once it is not throttled."""
        self._intake.parked.add(site)
        self._records.resumed.add(site)

    def _pause_all(self) -> None:
        """Send nothing more, to be resumed once Talkable answers."""
        self.paused_site = next(iter(self._snapshot.sites), "")
        self._records.resumed.update(self._snapshot.sites)
        self._sender.stop(TalkableError("the run pauses while Talkable does not answer"))

    def _begin_to_end(self, reason: TalkableError) -> None:
        self.paused_site = None
        self._intake.parked.clear()
        self._records.resume_nothing()
        self._ending = reason
        self._ended_at = time.monotonic()
        self._sender.stop(reason)

    def _end_early(self, reason: TalkableError) -> None:
        """After an error: bring home what is on the wire, and note that the rest was not tried."""
        self._ledger.hurry()
        self._intake.take_back(self._not_handed_over)
        self._begin_to_end(reason)
        try:
            self._send_all()
        except LedgerError:
            self._log_what_the_ledger_lacks()

    def _next_batch(self, size: int) -> list[Row]:
        return self._intake.next_batch(size, ending=self._ending, closed=self._closed)

    def _hand_over(self, batch: list[Row]) -> None:
        """Write what has an outcome and what is about to be sent, then send that."""
        # Until it is handed over, an error means that it was not sent.
        self._not_handed_over = batch
        submitted = [self._ledger.submitted(row) for row in batch]
        refused = self._records.write(submitted)
        if refused:
            batch, submitted = self._without_refused(batch, submitted, refused)
        if not all(row.is_whole for row in batch):
            batch = self._intake.without_contested(batch, [entry["entry_id"] for entry in submitted])
        # Partial ones are in doubt as long as they wait for their turn.
        self._sender.put(((row, row.refund) for row in batch if not row.is_whole), first=True)
        self._sender.put((row, row.refund) for row in batch if row.is_whole)
        self._not_handed_over = []

    def _without_refused(
        self, batch: Sequence[Row], submitted: Sequence[Values], refused: Mapping[str, str]
    ) -> tuple[list[Row], list[Values]]:
        """Those that the ledger's database can keep; the others are invalid."""
        both = list(zip(batch, submitted, strict=True))
        kept = [(row, entry) for row, entry in both if entry["entry_id"] not in refused]
        self._not_handed_over = [row for row, _ in kept]
        for row, entry in both:
            if reason := refused.get(entry["entry_id"]):
                self._intake.is_answered(row)
                self._records.refuse(row, reason)
        return self._not_handed_over, [entry for _, entry in kept]

    def _keep_all(self, answers: Sequence[tuple[Row, RefundResult]]) -> None:
        """Note what happened to refunds that were handed over."""
        for row, result in answers:
            self._intake.is_answered(row)
            if result.outcome is Outcome.THROTTLED and self._is_pausing and not self._ending:
                self._pause(row.site_slug)
        self._records.keep_all(answers)

    def _log_what_the_ledger_lacks(self) -> None:
        while self._sender.outstanding:
            self._records.keep_unjudged(self._sender.take(until=0, timeout=GRACE))
            self._sender.cancel()
        self._records.log_what_the_ledger_lacks()

    def _add_what_is_left(self) -> None:
        """Add to the reason how many refunds an outage has left open."""
        client = self._sender.client
        is_outage = client.outage is not None and client.outage.seconds is not None
        if self._ending and self._ending is client.stopped and is_outage:
            left = self.summary.outcomes[Outcome.ABORTED] + self.summary.outcomes[Outcome.FAILED]
            self._ending.args = (f"{self._ending.args[0]}. {left} refunds are left for the next run",)

    def _measure(self) -> None:
        client, summary, carried = self._sender.client, self.summary, self._carried
        summary.requests = carried.requests + client.requests["POST"]
        summary.lookups = carried.lookups + client.requests["GET"] + client.requests["PUT"]
        summary.throttled_requests = carried.throttled_requests + client.throttled
        summary.ledger_seconds = carried.ledger_seconds + self._ledger.seconds
        summary.seconds = carried.seconds + time.monotonic() - self._started
        summary.rate = summary.sent / max(summary.seconds, 0.001)

    def _waits(self) -> Iterator[str]:
        """What it waits for, in words."""
        client = self._sender.client
        if client.outage and (seconds := client.outage.seconds) is not None:
            yield f"Talkable has not answered for {seconds:.0f} s; nothing is sent until it does"
        for site, lane in client.lanes.throttled.items():
            seconds = lane.throttled_for or 0
            # Near its limit a site answers 429 now and then.
            if seconds >= _THROTTLED:
                pause = lane.pacer.pause if lane.pacer else 0
                yield (
                    f"Talkable throttles site {site}: nothing but 429 for {seconds:.0f} s; "
                    f"the next request in {pause:.0f} s"
                )

    def _log_rates(self) -> None:
        for site, rate in self._sender.client.learned_rates.items():
            self.summary.site(site).learned_rate = rate
            log.info("Site %s takes about %.1f requests/s", site, rate)
