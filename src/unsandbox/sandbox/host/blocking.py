"""Blocking work in threads: a separate pool for long work, and calls that end before their caller does."""

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
    """Run work in a thread whose duration depends on a tenant's data or a remote server.

    The pool of `asyncio.to_thread` has only four threads more than the machine has processors: half a dozen
    snapshots would block the logs and request bodies of all tenants.
    """
    # One pool per process, because its threads do not exist in a forked child.
    pool = _pools.get(os.getpid())
    if pool is None:
        pool = _pools[os.getpid()] = ThreadPoolExecutor(_LONG_AT_ONCE, thread_name_prefix="unsandbox-long")
    call = functools.partial(work, *arguments)
    try:
        running = asyncio.get_running_loop().run_in_executor(pool, call)
    except RuntimeError:
        # The interpreter is shutting down; the default executor of the embedded engine's loop still works.
        running = asyncio.get_running_loop().run_in_executor(None, call)
    return await running


async def run_to_end(work: Callable[[], _T], *, on_cancel: Callable[[], None] | None = None) -> _T:
    """Run blocking work in a thread; the work has ended when this returns or raises, also after cancellation.

    With `run_long` alone, the thread would continue after a cancellation and use objects that the caller is
    already cleaning up.

    Args:
        work: The blocking function.
        on_cancel: Called on the event loop when the caller is cancelled, to make the work end early.
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
