"""Pacing against a limit that nobody publishes: how much of it is used, how much is refused, who gets what.

    python -m benchmarks.pacing URL WORKER SECONDS

is one worker, which knows nothing of others; it prints what it sent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from airflow_provider_talkable.client.concurrent import Sender
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.operations import RefundOperation
from airflow_provider_talkable.client.pacing import Pace
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.protocol.results import RefundResult
from benchmarks.servers import KEY, sandbox

LIMITS = (5, 50, 300)
WORKERS = (1, 4)
WARM_UP = 10  # seconds that are not counted: the limit is found in them
MEASURED = 30


@dataclass(frozen=True, slots=True)
class Paced:
    """What some workers got out of a limit.

    :param used: Refunds per second, as a share of the limit.
    :param refused: The share of requests that were answered 429.
    :param fairness: Jain's index of the workers' refunds: 1 where all have the same.
    """

    used: float
    refused: float
    fairness: float


def a_round() -> dict[tuple[int, int], Paced]:
    """All limits with all numbers of workers, at the same time, each with a sandbox of its own."""
    with ExitStack() as running:
        workers = {
            (limit, count): start_workers(running.enter_context(sandbox("--rate-limit", str(limit))), count)
            for limit in LIMITS
            for count in WORKERS
        }
        return {key: _read(key[0], processes) for key, processes in workers.items()}


def start_workers(url: str, count: int) -> list[subprocess.Popen[str]]:
    """Independent workers on one site."""
    command = [sys.executable, "-m", "benchmarks.pacing", url]
    return [
        subprocess.Popen([*command, str(number), str(WARM_UP + MEASURED)], stdout=subprocess.PIPE, text=True)
        for number in range(count)
    ]


def _read(limit: int, processes: list[subprocess.Popen[str]]) -> Paced:
    printed = [json.loads(process.communicate()[0]) for process in processes]
    taken = [each["requests"] - each["throttled"] for each in printed]
    requests = sum(each["requests"] for each in printed)
    return Paced(
        used=sum(taken) / MEASURED / limit,
        refused=1 - sum(taken) / requests,
        fairness=sum(taken) ** 2 / (len(taken) * sum(n * n for n in taken)),
    )


def work(url: str, name: str, seconds: float) -> None:
    """Send refunds of orders that Talkable does not know, which it counts as it does all others."""
    config = ClientConfig.parse(host=url, api_key=KEY)
    with Sender[int, Refund, RefundResult](config, RetryPolicy(), Pace(), RefundOperation()) as sender:
        began = time.monotonic()
        before = (0, 0)
        number = 0
        while (now := time.monotonic() - began) < seconds:
            if now < WARM_UP:
                before = sender.client.requests["POST"], sender.client.throttled
            ahead = range(number, number + 64 - sender.unfinished)
            sender.put((n, Refund("my-store", f"order-{name}-{n}")) for n in ahead)
            number = ahead.stop
            sender.take(until=32, timeout=0.05)
        after = sender.client.requests["POST"], sender.client.throttled
    print(json.dumps({"requests": after[0] - before[0], "throttled": after[1] - before[1]}))


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], float(sys.argv[3]))
