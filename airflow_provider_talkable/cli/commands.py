"""What the commands do."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, TextIO

from airflow_provider_talkable.cli import refunding
from airflow_provider_talkable.cli.output import (
    FAILED,
    misuse,
    print_json,
    print_rows,
    print_table,
    results_only,
)
from airflow_provider_talkable.protocol.errors import InvalidRefund
from airflow_provider_talkable.protocol.results import RefundResult

if TYPE_CHECKING:
    from airflow_provider_talkable.hooks.ledger import TalkableLedgerHook
    from airflow_provider_talkable.sync.overview import Overview


def refund(options: argparse.Namespace) -> None:
    """Refund orders, print what happened to each, and exit with 1 unless Talkable has them all."""
    with results_only() as out:
        from airflow_provider_talkable.hooks.talkable import TalkableHook

        hook = TalkableHook(options.conn_id, site_slug=options.site_slug)
        refunds = refunding.refunds_of(options, hook)
        rows = refunding.rows_of(options, refunds)
        if options.preview:
            if options.ledger_conn_id:
                with _ledger(options).opened() as ledger:
                    print_rows(out, refunding.preview(ledger, rows), options.output)
            else:
                print_rows(out, refunding.preview(None, rows), options.output)
            return
        if options.ledger_conn_id:
            from airflow_provider_talkable.sync.entries import HAS_IT

            with _ledger(options).opened(to_write=True) as ledger:
                shown = refunding.send_through(hook, ledger, rows)
            print_rows(out, shown, options.output)
            if not all(row["outcome"] in HAS_IT for row in shown):
                sys.exit(FAILED)
            return
        results = refunding.send(hook, refunds)
        if options.output == "json":
            print_json(out, [result.as_dict() for result in results])
        else:
            print_table(out, [_row(result) for result in results])
        if not all(result.outcome.is_success for result in results):
            sys.exit(FAILED)


def ledger_summary(options: argparse.Namespace) -> None:
    """Print how the refunds of a period stand."""
    if options.since and options.until and options.since >= options.until:
        misuse(f"--until={options.until.isoformat()}: is not after --since={options.since.isoformat()}")
    with results_only() as out, _ledger(options).opened() as ledger:
        from airflow_provider_talkable.sync.overview import Period, overview_of

        period = Period(options.site_slug, options.since, options.until)
        overview = overview_of(ledger, period, limit=options.limit)
        if options.output == "json":
            print_json(out, _as_dict(overview))
        else:
            _print_overview(out, overview)


def ledger_show(options: argparse.Namespace) -> None:
    """Print all that the ledger has about a refund and the other parts of its order, newest last."""
    with results_only() as out:
        entries = _ledger(options).entries(options.key_or_order, options.site_slug)
        if not entries:
            raise InvalidRefund.of(
                "key_or_order", options.key_or_order, "the ledger has no refund of this key or order"
            )
        if options.output == "json":
            print_json(out, entries)
        else:
            print_table(out, [_shown(entry) for entry in entries])


def ledger_settle(options: argparse.Namespace) -> None:
    """Append to the ledger what was found in Talkable."""
    with results_only() as out:
        from airflow.utils.platform import getuser

        _ledger(options).settle(
            options.refund_key,
            options.settle_as,
            by=getuser(),
            note=options.note,
            site_slug=options.site_slug,
        )
        next_step = (
            "no run sends it again"
            if options.settle_as == "refunded"
            else "the next sync whose query returns it sends it"
        )
        print(f"Settled as {options.settle_as}: {options.refund_key}; {next_step}", file=out)


def ledger_compact(options: argparse.Namespace) -> None:
    """Delete old entries that nothing needs any more, and print how many."""
    with results_only() as out:
        done = _ledger(options).compact(options.before, preview=options.preview)
        if options.output == "json":
            print_json(out, done)
            return
        if done["events"]:
            print_table(out, [{"event": event, "entries": count} for event, count in done["events"].items()])
        verb = "PREVIEW: would delete" if options.preview else "Deleted"
        print(
            f"{verb} {done['entries']} entries of {done['refunds']} refunds, written before {done['before']}",
            file=out,
        )


def sandbox(options: argparse.Namespace) -> None:
    """Run a local Talkable until it is interrupted."""
    from airflow_provider_talkable.sandbox.__main__ import run

    run(options)


def _ledger(options: argparse.Namespace) -> TalkableLedgerHook:
    from airflow_provider_talkable.hooks.ledger import TalkableLedgerHook

    return TalkableLedgerHook(
        options.ledger_conn_id, ledger_table=options.ledger_table, ledger_schema=options.ledger_schema
    )


def _row(result: RefundResult) -> dict[str, Any]:
    return {
        "origin_slug": result.origin_slug,
        "outcome": result.outcome.value,
        "http_status": result.http_status,
        "late": result.late,
        "error_message": result.error_message,
    }


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    """The columns of an entry that fit beside each other."""
    run = ".".join(filter(None, (entry["dag_id"], entry["task_id"], entry["run_id"])))
    return {
        "logged_at": entry["logged_at"],
        "site_slug": entry["site_slug"],
        "refund_key": entry["refund_key"],
        "origin_slug": entry["origin_slug"],
        "refund_subtotal": entry["refund_subtotal"] or "whole order",
        "event": entry["event"],
        "by": entry["settled_by"] or run,
        "why": entry["settled_note"] or entry["error_message"],
    }


def _as_dict(overview: Overview) -> dict[str, Any]:
    return {
        "refunds": overview.refunds,
        "events": overview.events,
        "rewarded": overview.rewarded,
        "failed": overview.failed,
        "failures": [
            failure | {"logged_at": failure["logged_at"].isoformat()} for failure in overview.failures
        ],
    }


def _print_overview(out: TextIO, overview: Overview) -> None:
    print_table(out, [{"event": event, "refunds": count} for event, count in overview.events.items()])
    print(f"Refunds: {overview.refunds}, of which {overview.failed} failed", file=out)
    print(f"Too late, the advocate had been paid: {overview.rewarded}\n", file=out)
    if overview.failures:
        print_table(out, _as_dict(overview)["failures"])
        if overview.failed > len(overview.failures):
            print(f"The newest {len(overview.failures)} of {overview.failed} failures; see --limit", file=out)
