"""A map whose requests come slowly hands out what is done meanwhile; cancelled, it leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from unsandbox import AsyncClient


async def test_outcomes_do_not_wait_for_the_next_request() -> None:
    handed_out = asyncio.Event()

    async def slowly() -> AsyncIterator[tuple[str, str]]:
        yield ("bash", "echo first")
        await handed_out.wait()
        yield ("bash", "echo second")

    async with AsyncClient.local() as client:
        heard = []
        async with asyncio.timeout(20):
            async for item in client.map(slowly()):
                heard.append(item.result().stdout)
                handed_out.set()
    assert heard == ["first\n", "second\n"]


async def test_a_map_that_is_cancelled_at_any_moment_leaves_no_job_running() -> None:
    async with AsyncClient.local() as client:

        async def work() -> None:
            async for _ in client.map([("bash", "sleep 60")] * 40, concurrency=20):
                pass

        for step in range(8):
            task = asyncio.create_task(work())
            await asyncio.sleep(0.02 * step)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        left = [job for job in (await client.list_jobs()).jobs if job.status in ("pending", "running")]
        assert left == []
