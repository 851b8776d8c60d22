"""Blocking work in threads: long work apart from short, and none left running behind its caller."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")
_LONG_AT_ONCE = 32
_pools: dict[int, ThreadPoolExecutor] = {}


async def run_long(work: Callable[..., _T], *arguments: Any) -> _T:
    """Run something in a thread that takes as long as a tenant's data or a far server makes it take.

    `asyncio.to_thread` has four threads more than the machine has processors: half a dozen snapshots would
    hold up the logs and bodies of all tenants.
    """
    # By process: the threads of a pool do not exist in a forked child.
    pool = _pools.get(os.getpid())
    if pool is None:
        pool = _pools[os.getpid()] = ThreadPoolExecutor(_LONG_AT_ONCE, thread_name_prefix="unsandbox-long")
    call = functools.partial(work, *arguments)
    try:
        running = asyncio.get_running_loop().run_in_executor(pool, call)
    except RuntimeError:
        # The interpreter is ending; the embedded engine's loop has threads that outlive the pools.
        running = asyncio.get_running_loop().run_in_executor(None, call)
    return await running


async def run_to_end(work: Callable[[], _T], *, on_cancel: Callable[[], None] | None = None) -> _T:
    """Run something that blocks in a thread; it has ended when this returns or raises, also when cancelled.

    `run_long` alone lets a cancelled caller go while the thread works on, and on things that the
    caller then tidies away.

    Args:
        work: What blocks.
        on_cancel: Called, on the event loop, when the caller is cancelled: to bring the work to its end.
    """
    task = asyncio.ensure_future(run_long(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        with contextlib.suppress(Exception):
            await task
        raise
