"""``python -m airflow_provider_talkable.sandbox``"""

from __future__ import annotations

import argparse
import asyncio
import signal
from dataclasses import fields

from airflow_provider_talkable.protocol.wire import AuthScheme
from airflow_provider_talkable.sandbox.arguments import DESCRIPTION, add_arguments
from airflow_provider_talkable.sandbox.faults import Dials
from airflow_provider_talkable.sandbox.server import Sandbox


def main(arguments: list[str] | None = None) -> None:
    """Run the sandbox until it is interrupted."""
    run(_parser().parse_args(arguments))


def run(options: argparse.Namespace) -> None:
    """Run the sandbox with the options that its command line has, until it is interrupted."""
    sandbox = Sandbox(
        api_key=options.api_key,
        site_slugs=tuple(options.site or ["my-store"]),
        auth_schemes=tuple(AuthScheme) if options.auth == "both" else (AuthScheme(options.auth),),
        generation=options.generation,
        reward_after=options.reward_after,
        second_refund=options.second_refund,
        dials=Dials(**{f.name: getattr(options, f.name) for f in fields(Dials) if f.init}),
        host=options.host,
        port=options.port,
    )
    asyncio.run(_serve(sandbox))


async def _serve(sandbox: Sandbox) -> None:
    ended = asyncio.Event()
    # A process manager ends it with SIGTERM, a person with Ctrl-C; both are a normal end, and neither
    # is to interrupt an answer that is just being given.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await sandbox.start()
    print(f"Talkable sandbox: {sandbox.url}  sites: {', '.join(sandbox.talkable.sites)}")
    print(f"State: {sandbox.url}/_sandbox/state  requests: {sandbox.url}/_sandbox/requests", flush=True)
    try:
        await ended.wait()
    finally:
        await sandbox.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_talkable.sandbox", description=DESCRIPTION
    )
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
