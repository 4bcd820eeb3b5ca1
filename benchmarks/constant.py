"""The server that always gives the same answer, for granian."""

from __future__ import annotations

from typing import Any

from benchmarks.servers import ANSWER


async def answer(_scope: Any, protocol: Any) -> None:
    """Answer one request."""
    await protocol()  # the body, which has to be read
    protocol.response_str(200, [("content-type", "application/json")], ANSWER)
