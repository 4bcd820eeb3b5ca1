"""The result of a sync, for XCom and for the last lines of the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from airflow_provider_talkable.protocol.errors import printable
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.values import in_digits
from airflow_provider_talkable.sync.entries import OPEN
from airflow_provider_talkable.sync.rows import Row
from airflow_provider_talkable.sync.tallies import SiteTally

SHOWN = 20
"""So many failures, and so many late refunds, are named."""

# Nothing was sent, and the reason is the same for many.
_NOT_TRIED = (Outcome.ABORTED, Outcome.THROTTLED)
_FAILURES = tuple(one for one in Outcome if not one.is_success and one not in _NOT_TRIED)


@dataclass(slots=True)
class Summary:
    """The result of a sync. ``rows`` is the sum of ``duplicates``, ``skipped`` and all ``outcomes``.

    :param rows: Rows that the query gave.
    :param duplicates: Rows that say again what another one says of the same refund.
    :param skipped: Refunds that an earlier run had settled: nothing was sent.
    :param outcomes: What happened to the others, by outcome. In a preview ``to_send`` stands for
        those that would be sent.
    :param sent: Refunds that Talkable was asked for and looked at.
    :param requests: HTTP requests for them, repeated and throttled ones included.
    :param lookups: HTTP requests for referrals that Talkable did not name by itself.
    :param throttled_requests: Requests of either kind that were answered 429.
    :param seconds: How long it took, less the time it was deferred.
    :param rate: Refunds sent per second.
    :param referred: Refunds whose answer named a referral.
    :param rewarded: Refunds of whole orders whose advocate had been paid already: they were late.
    :param referral_unknown: Refunds of whole orders of which Talkable did not say whether they were in time.
    :param counted_otherwise: Refunds after which Talkable counts another amount of the order as refunded
        than was sent in all.
    :param voids: What happened to voiding referrals, by outcome.
    :param late: The first twenty of those that ``rewarded`` counts.
    :param failures: The first twenty refunds that failed, with the reason.
    :param not_tried: How many were ``aborted`` or ``throttled``, by reason; nothing was sent for them.
    :param site_problems: What is wrong with whole sites, by site: its refunds cannot be settled.
    :param unmatched_keys: The keys that ``resend_keys`` names and no row has.
    :param stopped: Why the run stopped before its end.
    :param ledger_seconds: How long it waited for the ledger's database.
    :param open: Refunds that are still to reach Talkable, or may be there already: ``failed``, ``throttled``,
        ``aborted``, and ``unconfirmed`` ones of earlier runs too.
    :param oldest_open: The earliest ``refunded_at`` of those.
    :param alerts: What the task's thresholds warn of, a sentence each.
    :param sites: What happened to each site's refunds; it is not pushed to XCom.
    :param ledger_created: Whether there was no ledger before: then none of the refunds was known.
    """

    rows: int = 0
    duplicates: int = 0
    skipped: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    requests: int = 0
    lookups: int = 0
    throttled_requests: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    referred: int = 0
    rewarded: int = 0
    referral_unknown: int = 0
    counted_otherwise: int = 0
    voids: Counter[str] = field(default_factory=Counter)
    late: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    not_tried: Counter[str] = field(default_factory=Counter)
    site_problems: dict[str, str] = field(default_factory=dict)
    unmatched_keys: list[str] = field(default_factory=list)
    stopped: str | None = None
    ledger_created: bool = False
    ledger_seconds: float = 0.0
    alerts: list[str] = field(default_factory=list)
    sites: dict[str, SiteTally] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many refunds have an outcome."""
        return self.skipped + self.outcomes.total()

    @property
    def open(self) -> int:
        """How many refunds are open."""
        return sum(site.open for site in self.sites.values())

    @property
    def oldest_open(self) -> datetime | None:
        """The earliest ``refunded_at`` of those that are open."""
        return min((site.oldest_open for site in self.sites.values() if site.oldest_open), default=None)

    def site(self, site_slug: str) -> SiteTally:
        """What happened to a site's refunds."""
        tally = self.sites.get(site_slug)
        if tally is None:
            tally = self.sites[site_slug] = SiteTally()
        return tally

    def count(
        self,
        row: Row,
        outcome: str,
        message: str | None = None,
        *,
        is_referred: bool = False,
        late: bool | None = False,
        is_counted_otherwise: bool = False,
        void_outcome: str | None = None,
        answered_at: datetime | None = None,
    ) -> None:
        """Count what happened to a refund.

        :param is_referred: Whether its referral is known.
        :param late: Whether it is late; ``None``: unknown.
        :param is_counted_otherwise: Whether Talkable counts another amount than was sent.
        :param void_outcome: What happened to voiding its referral, if that was tried.
        :param answered_at: When that was known; default: now.
        """
        self.outcomes[outcome] += 1
        site = self.site(row.site_slug)
        site.outcomes[outcome] += 1
        site.count_delay(outcome, row.refunded_at, answered_at or datetime.now(UTC))
        if outcome in OPEN:
            site.count_open(row.refunded_at)
        self.counted_otherwise += is_counted_otherwise
        if void_outcome:
            self.voids[str(void_outcome)] += 1
        if outcome in (Outcome.REFUNDED, Outcome.ALREADY_REFUNDED):
            # Of what was refunded before, its referral is seldom told.
            self.referral_unknown += late is None and outcome == Outcome.REFUNDED
            self.referred += is_referred
            self.rewarded += late is True
            site.late += late is True
            if late and len(self.late) < SHOWN:
                self.late.append(named(row))
        elif outcome in _NOT_TRIED:
            self.not_tried[message or ""] += 1
        elif outcome in _FAILURES and len(self.failures) < SHOWN:
            self.failures.append({**named(row), "outcome": str(outcome), "error_message": message or ""})

    def as_dict(self) -> dict[str, Any]:
        """The JSON-safe form."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sites"} | {
            "open": self.open,
            "oldest_open": self.oldest_open and self.oldest_open.isoformat(),
            "outcomes": dict(self.outcomes.most_common()),
            "voids": dict(self.voids.most_common()),
            "not_tried": dict(self.not_tried.most_common(SHOWN)),
            "seconds": round(self.seconds, 3),
            "ledger_seconds": round(self.ledger_seconds, 3),
            "rate": round(self.rate, 1),
        }

    def warnings(self) -> Iterator[str]:
        """What somebody should look at: what thresholds warn of, then a line for each refund."""
        yield from self.alerts
        for failure in self.failures:
            yield f"{described(failure)}: {failure['outcome']}: {failure['error_message']}"
        failed = sum(self.outcomes[outcome] for outcome in _FAILURES)
        if failed > len(self.failures):
            yield f"… and {failed - len(self.failures)} more; the ledger has each"
        for reason, count in self.not_tried.most_common(SHOWN):
            yield f"Left for the next run: {count} refunds: {reason}"
        for refund in self.late:
            yield f"{described(refund)}: too late, the advocate had been paid"
        if self.rewarded > len(self.late):
            yield f"… and {self.rewarded - len(self.late)} more that were too late"
        for key in self.unmatched_keys:
            yield f"resend_keys: no row has {key!r}; nothing was sent for it"
        yield from self.site_problems.values()

    def lines(self) -> Iterator[str]:
        """What the log ends with."""
        yield (
            f"Refunds: {self.tally()}; {self.skipped} settled before, {self.duplicates} duplicates; "
            f"{self.rows} rows in all"
        )
        took = f"Sent {self.sent} in {self.seconds:.1f} s ({self.rate:.1f}/s), {self.requests} requests"
        if self.lookups:
            took += f" and {self.lookups} for referrals"
        yield f"{took}, {self.throttled_requests} of them throttled (429)"
        yield from self._timeliness()
        if self.ledger_created:
            yield "The ledger was made in this run: it knew of no refund that was sent before"

    def tally(self) -> str:
        """The counts by outcome, in words."""
        return (
            ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common()) or "nothing new"
        )

    def _timeliness(self) -> Iterator[str]:
        if self.referred:
            late = f"{self.rewarded} of {self.referred} referred orders"
            yield f"Too late, the advocate had been paid: {late}"
        if self.referral_unknown:
            yield f"Of {self.referral_unknown} refunds Talkable did not say whether they were in time"
        if self.counted_otherwise:
            yield f"Talkable counts another amount than was sent: {self.counted_otherwise} refunds"
        if self.voids:
            voids = ", ".join(f"{count} {outcome}" for outcome, count in self.voids.most_common())
            yield f"Referrals voided: {voids}"


def named(row: Row) -> dict[str, Any]:
    """A refund by what people know it by, JSON-safe."""
    amount = row.refund_subtotal
    return {
        "site_slug": row.site_slug,
        "refund_key": row.refund_key,
        "origin_slug": row.origin_slug,
        "refund_subtotal": None if amount is None else in_digits(amount),
    }


def described(refund: Mapping[str, Any]) -> str:
    """A refund in a line of the log: which order, how much of it, at which site.

    :param refund: As :func:`named` gives it.
    """
    amount, slug = refund["refund_subtotal"], refund["origin_slug"] or refund["refund_key"]
    part = "the whole order" if amount is None else f"{amount} of it"
    return f"{printable(slug)} ({part}, site {printable(refund['site_slug'])})"
