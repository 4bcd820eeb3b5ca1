"""What happened to refunds, for the ledger and for the summary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

from airflow_provider_talkable.protocol.answers import counted_subtotal_of
from airflow_provider_talkable.protocol.errors import LedgerError, LedgerValueError, printable
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.people import without_people
from airflow_provider_talkable.protocol.results import RefundResult
from airflow_provider_talkable.sync.columns import Key, Values, row_of, simpler
from airflow_provider_talkable.sync.decisions import Note, Send, Skip, decide
from airflow_provider_talkable.sync.entries import OPEN, Entry, History, counts_otherwise
from airflow_provider_talkable.sync.ledger import Ledger
from airflow_provider_talkable.sync.orders import Taken, judged, others_than, sent_in_all
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.sites import Sites
from airflow_provider_talkable.sync.summary import Summary
from airflow_provider_talkable.sync.unkeepable import variants

log = logging.getLogger(__name__)

_NOT_TRIED = (Outcome.THROTTLED, Outcome.ABORTED)


class Records:
    """Counts what happens to each refund, and keeps its entry until the ledger has it.

    :param ledger: The ledger, opened.
    :param summary: What to count in.
    :param on_result: Called with each row that has a result, or had it before.
    """

    def __init__(
        self,
        ledger: Ledger,
        summary: Summary,
        on_result: Callable[[Row, RefundResult], None] | None = None,
    ) -> None:
        self.sites = Sites(ledger)
        self.resumed: set[str] = set()
        """The sites that another run goes on with: it counts what this one has not tried."""
        self._ledger = ledger
        self._summary = summary
        self.is_asked_for_each = on_result is not None
        """Whether somebody waits for the result of each refund, settled ones included."""
        self._on_result = on_result or (lambda _row, _result: None)
        self._repeated: dict[Key, Entry] = {}
        self._unrecorded: list[Values] = []
        self._to_be_resumed: list[tuple[Row, RefundResult]] = []

    def write(self, further: Sequence[Values] = ()) -> dict[str, str]:
        """Append to the ledger what it does not know yet.

        :param further: More entries.
        :return: Those of them that its database cannot keep, by their ids, and why.
        """
        refused: Mapping[str, str] = {}
        try:
            self._ledger.append([*self._unrecorded, *further])
        except LedgerValueError as error:
            refused = error.refused
        # Until something of them is kept they are not forgotten.
        self._unrecorded = [entry for entry in self._unrecorded if entry["entry_id"] in refused]
        while self._unrecorded:
            entry = self._unrecorded[-1]
            self._write_what_can_be_kept(entry, refused[entry["entry_id"]])
            self._unrecorded.pop()
        return {
            entry["entry_id"]: refused[entry["entry_id"]] for entry in further if entry["entry_id"] in refused
        }

    def _write_what_can_be_kept(self, entry: Values, reason: str) -> None:
        """Write of an entry that the database cannot keep what it can: of what was sent, the outcome."""
        log.warning(
            "The ledger %s cannot keep all that is known of %s (%s): %s, %s",
            self._ledger.name,
            printable(entry["refund_key"]),
            reason,
            entry["event"],
            entry["error_message"],
        )
        for less in simpler(entry):
            with suppress(LedgerValueError):
                self._ledger.append([less])
                return
        if entry["attempts"]:
            raise LedgerError(
                f"The ledger {self._ledger.name} cannot keep what happened to a refund ({reason})"
            )
        self._keep_as_invalid(row_of(entry), reason)

    def refuse(self, row: Row, reason: str) -> None:
        """Note a row that the ledger's database cannot keep, so that it is not sent.

        :param reason: The database's own words.
        :raises LedgerError: if it cannot keep even that.
        """
        kept = self._keep_as_invalid(row, reason)
        if isinstance(kept, Entry):
            self.skip(row, kept)
        else:
            self._count(row, RefundResult(row.origin_slug, kept.outcome, error_message=kept.message))

    def _keep_as_invalid(self, row: Row, reason: str) -> Entry | Note:
        """Write that a row cannot be kept, unless the ledger says so already."""
        for variant in variants(row, reason):
            with suppress(LedgerValueError):
                known = self._ledger.histories([variant])
                history = known.get((variant.site_slug, variant.refund_key), History())
                match decide(variant, history):
                    case Skip(entry):
                        return entry
                    case Note(outcome, message) as note:
                        result = RefundResult(variant.origin_slug, outcome, error_message=message)
                        self._ledger.append([self._ledger.outcome(variant, result)])
                        return note
                    case Send():  # pragma: no cover - each variant has a problem
                        raise AssertionError(variant)
        raise LedgerError(f"The ledger {self._ledger.name} cannot keep anything of a refund ({reason})")

    def repeated(self, row: Row, earlier: Entry) -> None:
        """Note that a refund is to be sent of which the ledger has an entry."""
        self._repeated[row.site_slug, row.refund_key] = earlier

    def restate(self, row: Row, entry: Entry, *, after: str) -> None:
        """Tell the ledger again what settled a refund, where a newer entry hides it."""
        self._unrecorded.append(self._ledger.restated(row, entry, after=after))

    def skip(self, row: Row, entry: Entry) -> None:
        """Count a refund that is settled; one that this task has settled before counts as its own."""
        self._on_result(row, entry.result)
        if not entry.is_of_this_task:
            self._summary.skipped += 1
            if entry.event in OPEN:
                self._summary.site(row.site_slug).count_open(row.refunded_at)
            return
        self.sites.count(row.site_slug, entry.event)
        self._summary.count(
            row,
            entry.event,
            entry.error_message,
            is_referred=entry.referral_status is not None,
            late=entry.late,
            is_counted_otherwise=entry.is_counted_otherwise,
            void_outcome=entry.void_outcome,
            answered_at=entry.written_at,
        )

    def skip_settled(self, count: int) -> None:
        """Count refunds that are plainly settled, by other tasks than this."""
        self._summary.skipped += count

    def give_way(self, row: Row, entry: Entry, *, after: str) -> None:
        """Note that another run has settled a refund since this one has decided to send it."""
        self._on_result(row, entry.result)
        self.restate(row, entry, after=after)
        self._summary.skipped += 1

    def note(
        self, row: Row, outcome: Outcome, message: str, *, after: str | None = None, is_known: bool = False
    ) -> None:
        """Note what happens to a refund that is not sent.

        :param after: The id of an entry that this is about.
        :param is_known: Whether it is what the ledger says already: then it is counted and not written.
        """
        result = RefundResult(row.origin_slug, outcome, error_message=message)
        if not is_known:
            self._unrecorded.append(self._ledger.outcome(row, result, after=after))
        self._count(row, result)

    def keep_all(self, answers: Sequence[tuple[Row, RefundResult]]) -> None:
        """Note what happened to refunds that were handed over."""
        orders = self._orders_of(answers)
        for row, result in answers:
            others = others_than(row, orders.get((row.site_slug, row.origin_slug), ()))
            own = self._repeated.pop((row.site_slug, row.refund_key), None)
            self._keep(row, judged(row, result, own, others), others)

    def resume_nothing(self) -> None:
        """There is no other run then that counts what was to be resumed."""
        self.resumed.clear()
        for row, result in self._to_be_resumed:
            if result.outcome is Outcome.FAILED:
                self._unrecorded.append(self._ledger.outcome(row, result))
            self._count(row, result)
        self._to_be_resumed.clear()

    def log_what_the_ledger_lacks(self) -> None:
        """Without a ledger the log is the only place left to say what happened to a refund."""
        for entry in self._unrecorded:
            log.error(
                "Not in the ledger: site %s, refund_key %s, origin %s: %s",
                entry["site_slug"],
                printable(entry["refund_key"]),
                printable(entry["origin_slug"]),
                entry["event"],
            )

    def keep_unjudged(self, answers: Iterable[tuple[Row, RefundResult]]) -> None:
        """The same where the ledger cannot be asked for other refunds of the orders."""
        for row, result in answers:
            self._keep(row, result, ())

    def _orders_of(self, answers: Sequence[tuple[Row, RefundResult]]) -> dict[Key, list[Taken]]:
        """What the ledger knows of the orders whose other refunds decide what an answer says."""
        rows = [row for row, result in answers if _concerns_others(row, result)]
        if not rows:
            return {}
        try:
            # The query is to see what was learned before.
            self.write()
            return self._ledger.orders(rows)
        except LedgerError:
            self.keep_unjudged(answers)
            raise

    def _keep(self, row: Row, result: RefundResult, others: Sequence[Taken]) -> None:
        """Note what happened to a refund that was handed over."""
        if result.error_message:
            result = replace(result, error_message=without_people(result.error_message))
        is_resumed = row.site_slug in self.resumed
        if is_resumed and result.outcome is Outcome.FAILED and row.is_whole:
            # It stays submitted, and whole, so that the run that goes on sends it again.
            self._to_be_resumed.append((row, result))
            return
        told = sent_in_all(row, result, others) if result.outcome.is_success else None
        self._unrecorded.append(self._ledger.outcome(row, result, sent_subtotal=told))
        self._summary.sent += result.attempts > 0
        if is_resumed and result.outcome in _NOT_TRIED:
            self._to_be_resumed.append((row, result))
        else:
            self._count(row, result, told)

    def _count(self, row: Row, result: RefundResult, told: Decimal | None = None) -> None:
        self._on_result(row, result)
        self.sites.count(row.site_slug, result.outcome)
        self._summary.count(
            row,
            result.outcome,
            result.error_message,
            is_referred=bool(result.referral),
            late=result.late,
            is_counted_otherwise=_is_counted_otherwise(row, result, told),
            void_outcome=result.void_outcome,
        )


def _is_counted_otherwise(row: Row, result: RefundResult, told: Decimal | None) -> bool:
    counted, partially = counted_subtotal_of(result.origin)
    return (row.is_whole and bool(partially)) or counts_otherwise(counted, told)


def _concerns_others(row: Row, result: RefundResult) -> bool:
    """Whether what an answer says depends on other refunds of its order."""
    if result.outcome.is_success and not row.is_whole:
        return True
    return result.outcome in (Outcome.ALREADY_REFUNDED, Outcome.NOT_COUNTED)
