"""What the command line looks like, said once for Airflow's and for our own.

Every command of Airflow's loads this, so it imports nothing that only a Talkable command needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_talkable.sandbox import arguments as sandbox
from airflow_provider_talkable.sandbox.arguments import TakesArguments

if TYPE_CHECKING:
    from airflow.cli.cli_config import Arg, CLICommand

_DESCRIPTION = "Refund orders at Talkable, ask the ledger, run a local Talkable"


@dataclass(frozen=True)
class _Command:
    """One command; the function of its name in :mod:`airflow_provider_talkable.cli.commands` runs it."""

    name: str
    help: str
    description: str
    add_arguments: Callable[[TakesArguments], None]

    @property
    def function(self) -> Callable[[argparse.Namespace], None]:
        return partial(_run, self.name)


def get_talkable_cli_commands() -> list[CLICommand]:
    """The commands as Airflow 3.2 and later want them, for ``airflow talkable``."""
    from airflow.cli.cli_config import ActionCommand, GroupCommand

    subcommands = [
        ActionCommand(
            name=command.name,
            help=command.help,
            description=command.description,
            func=command.function,
            args=_airflow_args(command),
        )
        for command in _COMMANDS
    ]
    return [GroupCommand(name="talkable", help=_DESCRIPTION, subcommands=subcommands)]


def get_parser() -> argparse.ArgumentParser:
    """The same commands, for ``python -m airflow_provider_talkable`` on any Airflow."""
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_talkable", description=_DESCRIPTION)
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.description)
        command.add_arguments(subparser)
        subparser.set_defaults(func=command.function)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command."""
    options = get_parser().parse_args(arguments)
    options.func(options)


def _run(name: str, options: argparse.Namespace) -> None:
    from airflow_provider_talkable.cli import commands

    getattr(commands, name)(options)


def _airflow_args(command: _Command) -> list[Arg]:
    from airflow.cli.cli_config import Arg

    args: list[Arg] = []

    class Collector:
        def add_argument(self, *flags: Any, **options: Any) -> None:
            args.append(Arg(flags, **options))  # type: ignore[no-untyped-call]

    command.add_arguments(Collector())
    return args


def _refund_arguments(parser: TakesArguments) -> None:
    parser.add_argument(
        "origin_slug", nargs="+", help="an order number, or event_category:event_number; several may be given"
    )
    parser.add_argument(
        "--conn-id", default="talkable_default", help="the Talkable connection (default: %(default)s)"
    )
    parser.add_argument("--site-slug", help="the Talkable site id (default: the connection's)")
    parser.add_argument("--refunded-at", help="when, in ISO 8601; without an offset it is UTC")
    parser.add_argument(
        "--refund-subtotal",
        help="the refunded part in the shop's currency, for one order only (default: the whole order)",
    )
    _output_argument(parser)


def _ledger_arguments(parser: TakesArguments) -> None:
    parser.add_argument(
        "--ledger-conn-id", required=True, help="the connection of the database that the ledger lies in"
    )
    parser.add_argument(
        "--ledger-table", default="talkable_refund_ledger", help="the ledger's table (default: %(default)s)"
    )
    parser.add_argument("--ledger-schema", help="the table's schema (default: the connection's)")
    parser.add_argument("--site-slug", help="the refunds of this Talkable site id (default: of all)")
    parser.add_argument(
        "--since",
        type=_moment,
        help="entries of this moment and later, in ISO 8601; without an offset it is UTC",
    )
    parser.add_argument("--until", type=_moment, help="entries before this moment, likewise")
    parser.add_argument(
        "--limit",
        type=_count,
        default=100,
        help="show so many failures at most, the newest; all are counted (default: %(default)s)",
    )
    _output_argument(parser)


def _output_argument(parser: TakesArguments) -> None:
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="how to print what comes of it (default: %(default)s)",
    )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
        # Also outside of what can be said in UTC.
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date and time; give ISO 8601, e.g. 2026-10-01 or 2026-10-01T00:00:00+02:00"
        ) from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number; give 0 or more")
    return int(text)


_COMMANDS = (
    _Command(
        "refund",
        "Refund orders at Talkable",
        "Refund orders at Talkable, and print what became of each. It is written into no ledger.",
        _refund_arguments,
    ),
    _Command(
        "ledger",
        "Count what became of refunds, and show what failed",
        "Count the refunds in a sync's ledger by what became of them last, and show what failed. "
        "It only reads.",
        _ledger_arguments,
    ),
    _Command("sandbox", "Run a local Talkable", sandbox.DESCRIPTION, sandbox.add_arguments),
)
