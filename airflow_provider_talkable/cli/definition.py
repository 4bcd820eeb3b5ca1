"""What the command line looks like, said once for Airflow's and for our own.

Every command of Airflow's loads this, so it imports nothing that only a Talkable command needs.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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

    def function(self, group: str | None = None) -> Callable[[argparse.Namespace], None]:
        """What runs it; of a command in a group the function's name begins with the group's."""
        return partial(_run, f"{group}_{self.name}" if group else self.name)


@dataclass(frozen=True)
class _Group:
    """Commands with a name in common."""

    name: str
    help: str
    commands: Sequence[_Command]


def get_talkable_cli_commands() -> list[CLICommand]:
    """The commands as Airflow 3.2 and later want them, for ``airflow talkable``."""
    from airflow.cli.cli_config import ActionCommand, GroupCommand

    def action(command: _Command, group: str | None = None) -> ActionCommand:
        return ActionCommand(
            name=command.name,
            help=command.help,
            description=command.description,
            func=command.function(group),
            args=_airflow_args(command),
        )

    subcommands = [
        GroupCommand(entry.name, entry.help, [action(command, entry.name) for command in entry.commands])
        if isinstance(entry, _Group)
        else action(entry)
        for entry in _COMMANDS
    ]
    return [GroupCommand(name="talkable", help=_DESCRIPTION, subcommands=subcommands)]


def get_parser() -> argparse.ArgumentParser:
    """The same commands, for ``python -m airflow_provider_talkable`` on any Airflow."""
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_talkable", description=_DESCRIPTION)
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for entry in _COMMANDS:
        if isinstance(entry, _Group):
            group = subparsers.add_parser(entry.name, help=entry.help, description=entry.help)
            of_group = group.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
            for command in entry.commands:
                _add(of_group, command, entry.name)
        else:
            _add(subparsers, entry)
    return parser


def _add(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    command: _Command,
    group: str | None = None,
) -> None:
    subparser = subparsers.add_parser(command.name, help=command.help, description=command.description)
    command.add_arguments(subparser)
    subparser.set_defaults(func=command.function(group))


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
    parser.add_argument(
        "--order-subtotal",
        help="the order's whole subtotal: a part that reaches it refunds the whole order",
    )
    parser.add_argument(
        "--refund-key",
        help="the refund's own id in the ledger, for one order only (default: the order)",
    )
    parser.add_argument(
        "--preview", action="store_true", help="send nothing and write nothing: print what would be sent"
    )
    _table_arguments(
        parser, "write what is done into the ledger in this connection's database, and heed what is there"
    )
    _output_argument(parser)


def _summary_arguments(parser: TakesArguments) -> None:
    _ledger_arguments(parser)
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
        help="maximum number of failures to show, the newest first; all are counted (default: %(default)s)",
    )
    _output_argument(parser)


def _show_arguments(parser: TakesArguments) -> None:
    parser.add_argument("key_or_order", help="a refund key, or an order's origin slug")
    _ledger_arguments(parser)
    parser.add_argument("--site-slug", help="the refunds of this Talkable site id (default: of all)")
    _output_argument(parser)


def _settle_arguments(parser: TakesArguments) -> None:
    parser.add_argument("--refund-key", required=True, help="the refund's own id")
    parser.add_argument("--site-slug", help="its Talkable site id, where several sites have the key")
    parser.add_argument(
        "--as",
        dest="settle_as",
        required=True,
        choices=("refunded", "not_refunded"),
        help="what you found in Talkable: refunded settles it, not_refunded lets the next sync send it",
    )
    parser.add_argument("--note", required=True, help="why: what you saw, and where")
    _ledger_arguments(parser)


def _compact_arguments(parser: TakesArguments) -> None:
    parser.add_argument(
        "--before",
        required=True,
        type=_days,
        help="keep all entries that are younger than this many days, e.g. 90d",
    )
    parser.add_argument("--preview", action="store_true", help="delete nothing: count what would be deleted")
    _ledger_arguments(parser)
    _output_argument(parser)


def _ledger_arguments(parser: TakesArguments) -> None:
    _table_arguments(parser, "the connection of the database that the ledger lies in", is_required=True)


def _table_arguments(parser: TakesArguments, about: str, *, is_required: bool = False) -> None:
    parser.add_argument("--ledger-conn-id", required=is_required, help=about)
    parser.add_argument(
        "--ledger-table", default="talkable_refund_ledger", help="the ledger's table (default: %(default)s)"
    )
    parser.add_argument("--ledger-schema", help="the table's schema (default: the connection's)")


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
            f"{text!r} is not a date and time; give ISO 8601, e.g. 2026-10-01 or 2026-10-01T00:00:00+02:00"
        ) from None


def _days(text: str) -> timedelta:
    days = re.fullmatch(r"\s*([0-9]{1,5})d\s*", text)
    if days is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days; give e.g. 90d")
    return timedelta(days=int(days[1]))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; give 0 or more")
    return int(text)


_COMMANDS: tuple[_Command | _Group, ...] = (
    _Command(
        "refund",
        "Refund orders at Talkable",
        "Refund orders at Talkable, and print what happened to each; it is kept where a ledger is named.",
        _refund_arguments,
    ),
    _Group(
        "ledger",
        "Ask a sync's ledger what happened to refunds, settle those in doubt, delete old entries",
        (
            _Command(
                "summary",
                "Count what happened to refunds, and show what failed",
                "Count the refunds in a sync's ledger by what happened to them last, and show what failed. "
                "It only reads.",
                _summary_arguments,
            ),
            _Command(
                "show",
                "Show the history of a refund",
                "Show all that a sync's ledger has about a refund and the other parts of its order, newest "
                "last. It only reads.",
                _show_arguments,
            ),
            _Command(
                "settle",
                "Settle a refund that you have looked up in Talkable",
                "Write into a sync's ledger whether Talkable has a refund that you have looked up there. It "
                "sends nothing.",
                _settle_arguments,
            ),
            _Command(
                "compact",
                "Delete old entries that nothing needs any more",
                "Delete from a sync's ledger the old entries that later ones supersede. Each refund keeps "
                "what says how it stands and what is in doubt. Syncs may run at the same time.",
                _compact_arguments,
            ),
        ),
    ),
    _Command("sandbox", "Run a local Talkable", sandbox.DESCRIPTION, sandbox.add_arguments),
)
