"""The server that takes each refund at once, for granian."""

from __future__ import annotations

from typing import Any

from benchmarks.servers import answer_of


async def answer(scope: Any, protocol: Any) -> None:
    """Answer one request."""
    await protocol()  # the body, which has to be read
    protocol.response_str(200, [("content-type", "application/json")], answer_of(scope.path))
