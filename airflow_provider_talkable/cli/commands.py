"""What the commands do."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from airflow_provider_talkable.protocol.errors import (
    InvalidRefund,
    LedgerError,
    TalkableConnectionError,
    TalkableError,
    printable,
)
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult

if TYPE_CHECKING:
    from airflow_provider_talkable.hooks.talkable import TalkableHook
    from airflow_provider_talkable.sync.standing import Standing

_FAILED = 1
_MISUSED = 2


def refund(options: argparse.Namespace) -> None:
    """Refund orders, print what became of each, and exit with 1 unless Talkable has them all."""
    with _results_only() as out:
        from airflow_provider_talkable.hooks.talkable import TalkableHook

        hook = TalkableHook(options.conn_id, site_slug=options.site_slug)
        refunds = _refunds(options, hook)
        results = _send(hook, refunds)
        if options.output == "json":
            _print_json(out, [result.as_dict() for result in results])
        else:
            _print_table(out, [_row(result) for result in results])
        if not all(result.outcome.is_success for result in results):
            sys.exit(_FAILED)


def ledger(options: argparse.Namespace) -> None:
    """Print how the refunds of a period stand."""
    if options.since and options.until and options.since >= options.until:
        _misuse(f"--until={options.until.isoformat()}: is not after --since={options.since.isoformat()}")
    with _results_only() as out, ExitStack() as opened:
        from airflow_provider_talkable.operators._warehouse import engine_of
        from airflow_provider_talkable.sync.ledger import Ledger
        from airflow_provider_talkable.sync.standing import Period, standing

        read = Ledger(
            engine_of(options.ledger_conn_id, opened),
            table=options.ledger_table,
            schema=options.ledger_schema,
        )
        if not read.open(create=False):
            raise LedgerError(
                f"There is no ledger {read.name} in {options.ledger_conn_id}; the sync makes it: check "
                "--ledger-conn-id, --ledger-table and --ledger-schema"
            )
        period = Period(options.site_slug, options.since, options.until)
        stands = standing(read, period, limit=options.limit)
        if options.output == "json":
            _print_json(out, _as_dict(stands))
        else:
            _print_standing(out, stands)


def sandbox(options: argparse.Namespace) -> None:
    """Run a local Talkable until it is interrupted."""
    from airflow_provider_talkable.sandbox.__main__ import run

    run(options)


def _refunds(options: argparse.Namespace, hook: TalkableHook) -> list[Refund]:
    """All that is to be refunded, each once, or nothing."""
    if len(options.origin_slug) > 1 and options.refund_subtotal is not None:
        _misuse(f"--refund-subtotal={options.refund_subtotal}: goes with one order; refund each by itself")
    site_slug = hook.site_slug
    try:
        return list(
            dict.fromkeys(
                Refund.parse(
                    slug,
                    site_slug=site_slug,
                    refunded_at=options.refunded_at,
                    refund_subtotal=options.refund_subtotal,
                )
                for slug in options.origin_slug
            )
        )
    except InvalidRefund as error:
        _misuse(str(error))


def _send(hook: TalkableHook, refunds: Sequence[Refund]) -> list[RefundResult]:
    """What became of each, also if it is interrupted."""
    results: list[RefundResult] = []
    waiting = iter(refunds)
    try:
        for result in hook.refund_many(waiting):
            results.append(result)  # noqa: PERF402 - what came before an interruption is kept
    except KeyboardInterrupt:
        stopped = TalkableConnectionError("It was interrupted before the answer came")
        not_sent = [RefundResult.not_tried(refund, TalkableError("it was interrupted")) for refund in waiting]
        sent = refunds[len(results) : len(refunds) - len(not_sent)]
        results += [RefundResult.from_error(refund, stopped, attempts=1) for refund in sent]
        results += not_sent
    return results


@contextmanager
def _results_only() -> Iterator[TextIO]:
    """Give standard output for results alone, and end in an exit status where an error is foreseen.

    Airflow logs to standard output: what anything else writes there goes to standard error from here on.
    """
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # As Airflow's own commands about connections do: else 3.1 and later leave the database out.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"

    from airflow.providers.common.compat.sdk import AirflowException

    with out:
        try:
            yield out
        except (TalkableError, AirflowException) as error:
            print(error, file=sys.stderr)
            sys.exit(_FAILED)


def _misuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(_MISUSED)


def _row(result: RefundResult) -> dict[str, Any]:
    return {
        "origin_slug": result.origin_slug,
        "outcome": result.outcome.value,
        "http_status": result.http_status,
        "late": result.late,
        "error_message": result.error_message,
    }


def _as_dict(stands: Standing) -> dict[str, Any]:
    return {
        "refunds": stands.refunds,
        "events": stands.events,
        "rewarded": stands.rewarded,
        "failed": stands.failed,
        "failures": [
            failure | {"logged_at": failure["logged_at"].isoformat()} for failure in stands.failures
        ],
    }


def _print_standing(out: TextIO, stands: Standing) -> None:
    _print_table(out, [{"event": event, "refunds": count} for event, count in stands.events.items()])
    print(f"Refunds: {stands.refunds}, of which {stands.failed} failed", file=out)
    print(f"Too late, the advocate had been paid: {stands.rewarded}\n", file=out)
    if stands.failures:
        _print_table(out, _as_dict(stands)["failures"])
        if stands.failed > len(stands.failures):
            print(f"The newest {len(stands.failures)} of {stands.failed} failures; see --limit", file=out)


def _print_json(out: TextIO, content: object) -> None:
    print(json.dumps(content, indent=2), file=out)


def _print_table(out: TextIO, rows: Sequence[dict[str, Any]]) -> None:
    from airflow.cli.simple_table import AirflowConsole

    # What came from a shop or from Talkable is no markup.
    console = AirflowConsole(file=out, markup=False, emoji=False, highlight=False)
    console.print_as_table([{name: _cell(value) for name, value in row.items()} for row in rows])


def _cell(value: object) -> str:
    return "" if value is None else printable(str(value))
