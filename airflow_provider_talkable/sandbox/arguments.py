"""The sandbox's command line, which imports no HTTP server: every command of Airflow's loads it."""

from __future__ import annotations

import argparse
from typing import Any, Protocol

from airflow_provider_talkable.protocol.wire import AuthScheme
from airflow_provider_talkable.sandbox.talkable import Generation, SecondRefund

DESCRIPTION = "A local Talkable: the documented API over real HTTP, for demos and tests."

_SHARES = {
    "errors": "answered 502 with HTML, not acted on",
    "resets-before": "whose connection breaks before Talkable acts",
    "resets-after": "whose connection breaks after Talkable acted",
    "truncated": "whose answer breaks off in the body, after Talkable acted",
    "html": "answered 200 with an HTML page, not acted on",
    "unrouted": "answered 404 by a gateway, not acted on",
    "drips": "whose answer comes byte by byte, after Talkable acted",
    "twice": "whose answer comes twice",
    "closes": "whose connection is closed after the answer, without a word",
}


class TakesArguments(Protocol):
    """What arguments are added to, as to an :class:`argparse.ArgumentParser`."""

    def add_argument(self, *flags: Any, **options: Any) -> Any:
        """Add one; see :meth:`argparse.ArgumentParser.add_argument`."""


def add_arguments(parser: TakesArguments) -> None:
    """Add the sandbox's options."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--api-key", default="sandbox-api-key", help="the key to accept (default: %(default)s)"
    )
    parser.add_argument(
        "--site", action="append", help="a site of the key; may be repeated (default: my-store)"
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="write a shop to try into the current folder: a warehouse with refunds, a DAG that syncs them",
    )
    parser.add_argument("--auth", choices=["both", *AuthScheme], default="both", help="how to accept the key")
    parser.add_argument(
        "--generation",
        choices=list(Generation),
        default=Generation.CURRENT,
        help="answer as Talkable's documentation of 2021 (seed), as later that year (flat), or as today",
    )
    parser.add_argument(
        "--reward-after",
        type=float,
        metavar="SECONDS",
        help="approve referrals and reward their advocates when they have been pending for so long",
    )
    parser.add_argument(
        "--second-refund",
        choices=list(SecondRefund),
        default=SecondRefund.ADD,
        help="add the amount of a refund after a partial one, replace the first by it, or refuse it",
    )
    parser.add_argument(
        "--blocked",
        action="append",
        default=[],
        metavar="WORD",
        help="what a firewall blocks in paths, with a 403",
    )
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="before each answer")
    parser.add_argument(
        "--rate-limit", type=float, metavar="PER_SECOND", help="hidden limit; more get a bare 429"
    )
    parser.add_argument("--burst", type=float, metavar="N", help="what the limit lets through at once")
    for name, what in _SHARES.items():
        parser.add_argument(
            f"--{name}", type=_share, default=0.0, metavar="SHARE", help=f"share of requests, 0 to 1, {what}"
        )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="makes chance repeatable")


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError("a share lies between 0 and 1")
    return share
