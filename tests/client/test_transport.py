"""The time that requests of the asynchronous client are given."""

from __future__ import annotations

import asyncio
import time

import pytest

from airflow_provider_talkable.client.asynchronous import AsyncTalkableClient
from airflow_provider_talkable.client.config import ClientConfig
from airflow_provider_talkable.client.retries import RetryPolicy
from airflow_provider_talkable.protocol.refund import Refund
from airflow_provider_talkable.sandbox import Sandbox
from tests.conftest import KEY

ORDER = Refund("my-store", "B00K2EOONI")


def client(sandbox: Sandbox, timeout: float) -> AsyncTalkableClient:
    config = ClientConfig.parse(host=sandbox.url, api_key=KEY, timeout=timeout)
    return AsyncTalkableClient(config, RetryPolicy(max_attempts=1))


def test_on_a_connection_that_is_kept_the_answer_has_the_timeout_once(sandbox: Sandbox) -> None:
    async def seconds() -> float:
        async with client(sandbox, 2) as talkable:
            await talkable.refund(ORDER)
            sandbox.dials.latency = 10
            started = time.monotonic()
            result = await talkable.refund(ORDER)
            assert result.error_message is not None
            assert "within 2 s" in result.error_message
            return time.monotonic() - started

    assert 2 <= asyncio.run(seconds()) < 2 * 1.9


def test_one_that_is_late_ends_alone(sandbox: Sandbox) -> None:
    async def outcomes() -> list[str]:
        async with client(sandbox, 3) as talkable:
            await talkable.refund(ORDER)
            sandbox.dials.latency = 10
            late = asyncio.ensure_future(talkable.refund(ORDER))
            await asyncio.sleep(1.5)
            sandbox.dials.latency = 1.8
            in_time = asyncio.ensure_future(talkable.refund(ORDER))
            return [(await late).outcome, (await in_time).outcome]

    assert asyncio.run(outcomes()) == ["failed", "already_refunded"]


def test_who_cancels_gets_a_cancellation_and_no_timeout(sandbox: Sandbox) -> None:
    async def cancel() -> None:
        async with client(sandbox, 30) as talkable:
            sandbox.dials.latency = 10
            request = asyncio.ensure_future(talkable.refund(ORDER))
            await asyncio.sleep(0.1)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert request.cancelled()

    asyncio.run(cancel())
