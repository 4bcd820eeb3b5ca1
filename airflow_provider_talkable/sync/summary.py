"""What a sync came to, for XCom and for the last lines of the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from airflow_provider_talkable.protocol.errors import printable
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.sync.rows import Row

SHOWN_FAILURES = 20


@dataclass(slots=True)
class Summary:
    """What a sync came to. ``rows`` is the sum of ``duplicates``, ``skipped`` and all ``outcomes``.

    :param rows: Rows that the query gave.
    :param duplicates: Rows that say again what another one says of the same refund.
    :param skipped: Refunds that an earlier run had settled: nothing was sent.
    :param outcomes: What became of the others, by outcome. In a preview ``to_send`` stands for
        those that would be sent.
    :param sent: Refunds that Talkable was asked for and looked at.
    :param requests: HTTP requests for them, repeated and throttled ones included.
    :param lookups: HTTP requests for referrals that Talkable did not name by itself.
    :param throttled_requests: Requests of either kind that were answered 429.
    :param seconds: How long it took, less the time it was deferred.
    :param rate: Refunds sent per second.
    :param referred: Refunds whose answer named a referral.
    :param rewarded: Refunds of whole orders whose advocate had been paid already: they came too late.
    :param referral_unknown: Refunds of whole orders of which Talkable did not say whether they were in time.
    :param counted_otherwise: Refunds after which Talkable counts another amount of the order as refunded
        than was sent in all.
    :param voids: What became of voiding referrals, by outcome.
    :param failures: The first twenty refunds that failed, with the reason.
    :param site_problems: What is wrong with whole sites, by site: its refunds cannot be settled.
    :param unmatched_keys: The keys that ``resend_keys`` names and no row has.
    :param stopped: Why the run stopped before its end.
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
    failures: list[dict[str, str]] = field(default_factory=list)
    site_problems: dict[str, str] = field(default_factory=dict)
    unmatched_keys: list[str] = field(default_factory=list)
    stopped: str | None = None
    ledger_created: bool = False

    @property
    def done(self) -> int:
        """How many refunds have come to something."""
        return self.skipped + self.outcomes.total()

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
    ) -> None:
        """Count what became of a refund.

        :param is_referred: Whether its referral is known.
        :param late: Whether it came too late; ``None``: it cannot be told.
        :param is_counted_otherwise: Whether Talkable counts another amount than was sent.
        :param void_outcome: What became of voiding its referral, if that was tried.
        """
        self.outcomes[outcome] += 1
        self.counted_otherwise += is_counted_otherwise
        if void_outcome:
            self.voids[str(void_outcome)] += 1
        if outcome in (Outcome.REFUNDED, Outcome.ALREADY_REFUNDED):
            # Of what was refunded before, its referral is seldom told.
            self.referral_unknown += late is None and outcome == Outcome.REFUNDED
            self.referred += is_referred
            self.rewarded += late is True
        elif len(self.failures) < SHOWN_FAILURES:
            self.failures.append(
                {
                    "site_slug": row.site_slug,
                    "refund_key": row.refund_key,
                    "origin_slug": row.origin_slug,
                    "outcome": str(outcome),
                    "error_message": message or "",
                }
            )

    def as_dict(self) -> dict[str, Any]:
        """The JSON-safe form."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {
            "outcomes": dict(self.outcomes.most_common()),
            "voids": dict(self.voids.most_common()),
            "seconds": round(self.seconds, 3),
            "rate": round(self.rate, 1),
        }

    def lines(self) -> list[str]:
        """What the log ends with."""
        came_to = f"Refunds: {self.tally()}; {self.skipped} settled before, {self.duplicates} duplicates"
        took = f"Sent {self.sent} in {self.seconds:.1f} s ({self.rate:.1f}/s), {self.requests} requests"
        if self.lookups:
            took += f" and {self.lookups} for referrals"
        failures = (
            f"{printable(f['origin_slug'] or f['refund_key'])}: {f['outcome']}: {f['error_message']}"
            for f in self.failures
        )
        return [
            f"{came_to}; {self.rows} rows in all",
            f"{took}, {self.throttled_requests} of them throttled (429)",
            *self._timeliness(),
            *(
                ["The ledger was made in this run: it knew of no refund that was sent before"]
                * self.ledger_created
            ),
            *self.site_problems.values(),
            *(f"resend_keys: no row has {key!r}; nothing was sent for it" for key in self.unmatched_keys),
            *failures,
        ]

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
