"""What it costs that each partial refund has a connection of its own."""

from __future__ import annotations

import sys
import time
from decimal import Decimal

from airflow_provider_talkable.client.concurrent import send_many
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.refund import Refund
from benchmarks.servers import KEY, free_port, process, wait_for

IN_FLIGHT = 32
DISTANCES = (0, 100)  # milliseconds


def rates(milliseconds: int, runs: int) -> tuple[list[float], list[float]]:
    """Full and partial refunds per second, of a server at that distance, in turns."""
    full, partial = [], []
    count = 2_000 if milliseconds == 0 else 640
    port = free_port()
    with process([sys.executable, "-m", "benchmarks.distant", str(port), str(milliseconds / 1000)]):
        wait_for(port)
        for _ in range(runs):
            full.append(_rate(port, count, None))
            partial.append(_rate(port, count, Decimal(5)))
    return full, partial


def _rate(port: int, count: int, subtotal: Decimal | None) -> float:
    config = ClientConfig.parse(host=f"http://127.0.0.1:{port}", api_key=KEY)
    refunds = [Refund("my-store", f"order-{number}", refund_subtotal=subtotal) for number in range(count)]
    pace = Pace(max_in_flight=IN_FLIGHT, initial_rate=None)
    started = time.perf_counter()
    taken = sum(
        result.outcome.is_success
        for result in send_many(config, RetryPolicy(), pace, RefundOperation(), refunds)
    )
    assert taken == count, f"{taken} of {count} were taken"
    return count / (time.perf_counter() - started)
