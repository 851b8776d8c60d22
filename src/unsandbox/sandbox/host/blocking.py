"""Blocking work in threads that is never left running behind the back of whoever asked for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def run_to_end(work: Callable[[], _T], *, on_cancel: Callable[[], None] | None = None) -> _T:
    """Run something that blocks in a thread; it has ended when this returns or raises, also when cancelled.

    `asyncio.to_thread` alone lets a cancelled caller go while the thread works on, and on things that the
    caller then tidies away.

    Args:
        work: What blocks.
        on_cancel: Called, on the event loop, when the caller is cancelled: to bring the work to its end.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        with contextlib.suppress(Exception):
            await task
        raise
