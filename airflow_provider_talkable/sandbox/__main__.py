"""``python -m airflow_provider_talkable.sandbox``"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from dataclasses import fields
from pathlib import Path

from airflow_provider_talkable.protocol.wire import AuthScheme
from airflow_provider_talkable.sandbox.arguments import DESCRIPTION, add_arguments
from airflow_provider_talkable.sandbox.demo import SITE, Demo
from airflow_provider_talkable.sandbox.faults import Dials
from airflow_provider_talkable.sandbox.server import Sandbox


def main(arguments: list[str] | None = None) -> None:
    """Run the sandbox until it is interrupted."""
    run(_parser().parse_args(arguments))


def run(options: argparse.Namespace) -> None:
    """Run the sandbox with the options that its command line has, until it is interrupted."""
    demo = Demo(Path.cwd()) if options.demo else None
    if demo and options.site:
        sys.exit(f"--demo has the site {SITE} only: leave out --site")
    if demo and (path := demo.existing()):
        sys.exit(f"{path} exists: run --demo in an empty folder")
    sandbox = Sandbox(
        api_key=options.api_key,
        site_slugs=tuple(options.site or [SITE]),
        auth_schemes=tuple(AuthScheme) if options.auth == "both" else (AuthScheme(options.auth),),
        generation=options.generation,
        reward_after=options.reward_after,
        second_refund=options.second_refund,
        dials=Dials(**{f.name: getattr(options, f.name) for f in fields(Dials) if f.init}),
        host=options.host,
        port=options.port,
    )
    try:
        asyncio.run(_serve(sandbox, demo))
    except OSError as error:
        if sandbox.url:
            raise
        # What asyncio adds to the system's reason differs between versions of Python. A name that is not
        # found has a number below 0, and from Python 3.13 on another machine's address has none.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or error
        where = f"{options.host}:{options.port}"
        sys.exit(f"Cannot listen on {where}: {reason}; choose another with --host and --port")


async def _serve(sandbox: Sandbox, demo: Demo | None) -> None:
    ended = asyncio.Event()
    # A process manager ends it with SIGTERM, a person with Ctrl-C; both are a normal end, and neither
    # is to interrupt an answer that is just being given.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await sandbox.start()
    print(f"Talkable sandbox: {sandbox.url}  sites: {', '.join(sandbox.talkable.sites)}")
    print(f"State: {sandbox.url}/_sandbox/state  requests: {sandbox.url}/_sandbox/requests", flush=True)
    if demo:
        demo.make(sandbox)
        print(demo.next_steps(), flush=True)
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
