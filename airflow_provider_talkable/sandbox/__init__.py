"""A local Talkable: the documented API over real HTTP, with state, and with faults on demand.

Talkable has no test environment; every call to the real host changes real rewards. This is for
demos, for tests, and for trying a DAG::

    python -m airflow_provider_talkable.sandbox --port 8765

or inside a test::

    with Sandbox(generation="seed") as sandbox:
        sandbox.talkable.create_purchase("my-store", {"order_number": "B00K2EOONI"})
        ...

Its names are loaded when they are first asked for: every command of Airflow's shows the sandbox's
options, and only the sandbox needs an HTTP server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_talkable.sandbox.faults import (
        Canned,
        Closed,
        Dials,
        Dripped,
        Fault,
        Reset,
        Truncated,
        Twice,
    )
    from airflow_provider_talkable.sandbox.server import Sandbox
    from airflow_provider_talkable.sandbox.talkable import Generation, Refusal, Talkable

__all__ = [
    "Canned",
    "Closed",
    "Dials",
    "Dripped",
    "Fault",
    "Generation",
    "Refusal",
    "Reset",
    "Sandbox",
    "Talkable",
    "Truncated",
    "Twice",
]

_HOMES = {"Sandbox": "server", "Generation": "talkable", "Refusal": "talkable", "Talkable": "talkable"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'faults')}"), name)
