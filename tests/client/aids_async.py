"""What the shared tests of both clients do differently: here with tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

LIBRARY_ERROR = aiohttp.ClientError
in_thread = asyncio.to_thread


async def gather(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Make all calls at once and return their results."""
    return list(await asyncio.gather(*(call() for call in calls)))
