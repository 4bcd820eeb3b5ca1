"""What of a summary is worth a message, and the few lines that fit into one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_talkable.protocol.errors import printable
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.people import without_people
from airflow_provider_talkable.sync.summary import Summary

_NAMED = 3


def alerts_of(
    summary: Summary, *, warn_late: int | None, warn_open_after: timedelta | None, now: datetime | None = None
) -> Iterator[str]:
    """What a sync's thresholds warn of, a sentence each.

    :param warn_late: More late refunds than this are worth a warning; ``None``: none are.
    :param warn_open_after: So is an open refund that was refunded longer ago; ``None``: none is.
    :param now: The time; default: the present.
    """
    if warn_late is not None and summary.rewarded > warn_late:
        yield f"Late refunds: {summary.rewarded}, more than warn_late={warn_late}"
    oldest, moment = summary.oldest_open, now or datetime.now(UTC)
    if warn_open_after is not None and oldest and moment - oldest > warn_open_after:
        yield (
            f"Open refunds: {summary.open}, the oldest refunded at {oldest.astimezone(UTC):%Y-%m-%d %H:%M} "
            f"UTC, longer ago than warn_open_after={warn_open_after}"
        )


def alert_text(summary: Mapping[str, Any] | None) -> str:
    """The result of a sync, in at most ten lines of plain text, for Slack, an e-mail or any other notifier.

    :param summary: The summary, as the sync pushes it to XCom under the key ``summary``; ``None``: it failed
        before there was one.
    """
    if summary is None:
        return "Talkable refunds: the sync failed before it read the refunds; its log says why"
    outcomes: Mapping[str, int] = summary["outcomes"]
    failed = sum(count for name, count in outcomes.items() if not _is_success(name))
    tally = ", ".join(f"{count} {name}" for name, count in outcomes.items()) or "nothing new"
    lines = [f"Talkable refunds: {tally}; {summary['skipped']} settled before"]
    if failed:
        lines.append(f"Talkable does not have, or may not have, {failed} refunds")
    if summary.get("rewarded"):
        lines.append(f"{summary['rewarded']} late: the advocate had been paid")
    lines += [_line(alert) for alert in summary.get("alerts", ())]
    if summary.get("stopped"):
        lines.append(f"The sync stopped early: {_line(summary['stopped'])}")
    for failure in summary.get("failures", ())[:_NAMED]:
        slug = failure["origin_slug"] or failure["refund_key"]
        lines.append(f"- {printable(slug)}: {failure['outcome']}: {_line(failure['error_message'])}")
    if failed > _NAMED:
        lines.append("The tab 'Talkable refunds' of the task and the ledger have each")
    return "\n".join(lines)


def _is_success(name: str) -> bool:
    return name in (Outcome.REFUNDED, Outcome.ALREADY_REFUNDED)


def _line(text: object) -> str:
    line = " ".join(str(without_people(str(text))).split())
    return line if len(line) <= 200 else f"{line[:199]}…"
