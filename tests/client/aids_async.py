"""What the shared tests of both clients do differently: here with tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp

LIBRARY_ERROR = aiohttp.ClientError
in_thread = asyncio.to_thread


async def gather(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Make all calls at once and return their results."""
    return list(await asyncio.gather(*(call() for call in calls)))


class answering:  # noqa: N801 - used as a function
    """Something to ask for one-time codes: gives those it was made with, one after another."""

    def __init__(self, *codes: str | None) -> None:
        self._codes = list(codes)

    @property
    def left(self) -> int:
        return len(self._codes)

    async def __call__(self, challenge_id: str) -> Any:
        return self._codes.pop(0)


async def pieces(*items: Any) -> AsyncIterator[Any]:
    """Yield items."""
    for item in items:
        yield item


async def endless(item: Any) -> AsyncIterator[Any]:
    """Yield an item again and again, with a pause in which others may run."""
    while True:
        yield item
        await asyncio.sleep(0.01)


def noting(heard: list[Any]) -> Callable[[Any], Awaitable[None]]:
    """Return an async function that notes what it is called with."""

    async def note(event: Any) -> None:
        heard.append(event)

    return note
