"""Requests that wait for something, and whose clients may leave meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

_LOOK_S = 1.0
Connected = Callable[[], bool]
"""A function that returns whether the client of a request is still connected."""


async def wait_until(
    ready: Callable[[], bool],
    changed: Callable[[], Awaitable[object]],
    seconds: float,
    connected: Connected,
) -> None:
    """Wait until something is ready, for some time, while its client is there."""
    ends = time.monotonic() + seconds
    while not ready() and (left := ends - time.monotonic()) > 0 and connected():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(left, _LOOK_S)):
                await changed()
