"""Work that continues without a caller, and work that a cancelled caller must not interrupt."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

LARGE_BYTES = 1 << 18
_LARGE_AT_ONCE = 2
_pools: dict[int, ThreadPoolExecutor] = {}


class Background:
    """Tasks without a waiting caller, which end at the latest when the engine stops."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run work as a task, and keep a reference until it has ended."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self) -> None:
        """Wait for all of them."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """Cancel all of them and wait for their ends."""
        for task in self._tasks:
            task.cancel()
        await self.finish()


async def run_uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Await work to its end even if the caller is cancelled, so that it is never left incomplete."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def run_large(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Call a function that reads or writes `size` bytes: at once when they are few, else in one of two threads.

    Other requests go on meanwhile, and no more than two such calls take memory at a time.
    """
    if size <= LARGE_BYTES:
        return work(*arguments)
    # By process: the threads of a pool do not exist in a forked child.
    pool = _pools.get(os.getpid())
    if pool is None:
        pool = _pools[os.getpid()] = ThreadPoolExecutor(_LARGE_AT_ONCE, thread_name_prefix="unsandbox-large")
    return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(work, *arguments))
