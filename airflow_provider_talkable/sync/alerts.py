"""A summary in the few lines that fit into a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_talkable.protocol.errors import printable
from airflow_provider_talkable.protocol.outcomes import Outcome
from airflow_provider_talkable.protocol.people import without_people

_NAMED = 3


def alert_text(summary: Mapping[str, Any]) -> str:
    """The result of a sync, in at most eight lines of plain text, for Slack, an e-mail or any other notifier.

    :param summary: The summary, as the sync pushes it to XCom under the key ``summary``.
    """
    outcomes: Mapping[str, int] = summary["outcomes"]
    failed = sum(count for name, count in outcomes.items() if not _is_success(name))
    tally = ", ".join(f"{count} {name}" for name, count in outcomes.items()) or "nothing new"
    lines = [f"Talkable refunds: {tally}; {summary['skipped']} settled before"]
    if failed:
        lines.append(f"Talkable does not have, or may not have, {failed} refunds")
    if summary.get("rewarded"):
        lines.append(f"{summary['rewarded']} late: the advocate had been paid")
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
