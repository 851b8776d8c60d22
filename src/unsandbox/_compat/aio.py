"""How the async client waits, cleans up, and keeps what belongs to its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import IO, Any, Generic, Protocol, TypeVar

from unsandbox._compat.common import NOTHING, Nothing, in_time, joined

__all__ = [
    "NOTHING",
    "Closeable",
    "Interrupted",
    "ItemSource",
    "Lock",
    "OneTimeCode",
    "Source",
    "Stdin",
    "closing",
    "finish",
    "gather",
    "in_thread",
    "maybe_await",
    "owner",
    "read_all",
    "shared",
    "sleep",
]

T = TypeVar("T")

OneTimeCode = str | Callable[[str], str | Awaitable[str]]
"""A one-time code, or what returns it (awaited where it must be) when it is called with the challenge's id."""

Interrupted = asyncio.CancelledError
"""What breaks into a wait from outside."""

Lock = asyncio.Lock
sleep = asyncio.sleep
in_thread = asyncio.to_thread
owner = asyncio.get_running_loop
"""What a client belongs to: the running event loop."""

Stdin = str | bytes | IO[str] | IO[bytes] | Iterable[str | bytes] | AsyncIterable[str | bytes]
"""Standard input for a program: text, bytes, a file object, or what yields pieces."""

Source = Iterable[T] | AsyncIterable[T]
"""Where items come from."""

_finishing: set[asyncio.Task[Any]] = set()


class Closeable(Protocol):
    """What can be kept for a loop."""

    async def close(self) -> None:
        """Release what it holds."""


async def read_all(data: Stdin | None, seconds: float | None = None) -> str | bytes | None:
    """Return standard input in one piece.

    Args:
        data: The standard input.
        seconds: How long to wait for it at most; the thread that reads a file may go on for longer.

    Raises:
        TimeoutError: It had not ended in time.
    """
    if data is None or isinstance(data, str | bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    async with asyncio.timeout(seconds):
        if hasattr(data, "read"):
            content: str | bytes = await asyncio.to_thread(data.read)
            return content
        if isinstance(data, AsyncIterable):
            return joined([piece async for piece in data])
    return joined(in_time(data, seconds))


class ItemSource(Generic[T]):
    """Gives the items of an iterable, plain or async, one by one; `NOTHING` when there is none, or none yet.

    Args:
        items: The iterable.
    """

    def __init__(self, items: Source[T]) -> None:
        self._plain = None if isinstance(items, AsyncIterable) else iter(items)
        self._async = aiter(items) if isinstance(items, AsyncIterable) else None
        self._coming: asyncio.Task[T] | None = None
        self.exhausted = False

    @property
    def ready(self) -> bool:
        """Whether the next pull will not have to wait, as far as can be known."""
        return self._async is None or (self._coming is not None and self._coming.done())

    async def pull(self, *, patient: bool) -> T | Nothing:
        """Return the next item.

        Args:
            patient: Whether to wait for it; otherwise `NOTHING` is returned when it is not there yet.
        """
        try:
            if self._plain is not None:
                return next(self._plain)
            if self._async is None or self.exhausted:
                return NOTHING
            if self._coming is None:
                self._coming = asyncio.ensure_future(anext(self._async))
            await asyncio.wait({self._coming}, timeout=None if patient else 0)
            if not self._coming.done():
                return NOTHING
            coming, self._coming = self._coming, None
            return coming.result()
        except (StopIteration, StopAsyncIteration):
            self.exhausted = True
            return NOTHING

    async def close(self) -> None:
        """Let go of an item that is still awaited."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})


async def gather(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Make several calls at once and return their results; when one fails, the others are broken off."""
    if len(calls) == 1:
        return [await calls[0]()]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(call)) for call in calls]
    except BaseExceptionGroup as failed:
        error = failed.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise error  # As the sync twin does: callers know nothing of the group.


async def _awaited(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


async def maybe_await(value: T | Awaitable[T]) -> T:
    """Return what a caller's function returned, after awaiting it if it was an async one."""
    return await value if inspect.isawaitable(value) else value


async def finish(work: Callable[[], Awaitable[T]], seconds: float) -> T | None:
    """Do some clean-up although the current task may have been cancelled, but not for long.

    Args:
        work: Starts the clean-up.
        seconds: How long to wait for it at most. A second cancellation ends the waiting at once.

    Returns:
        Its result; None when it failed or was not done in time.

    Raises:
        CancelledError: The task was cancelled meanwhile.
    """

    async def run() -> T:
        return await work()

    loop = asyncio.get_running_loop()
    task = loop.create_task(run())
    # The loop holds tasks weakly only.
    _finishing.add(task)
    task.add_done_callback(_let_go)
    current = asyncio.current_task()
    patience = 1 if current is not None and current.cancelling() else 2
    ends = loop.time() + seconds
    interrupted = False
    while not task.done() and patience and (left := ends - loop.time()) > 0:
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError:
            interrupted = True
            patience -= 1
    if not task.done():
        task.cancel()
    failed = not task.done() or task.cancelled() or task.exception() is not None
    if interrupted:
        # It was meant for the caller, who must not go on as if there had been none.
        raise asyncio.CancelledError
    return None if failed else task.result()


def _let_go(task: asyncio.Task[Any]) -> None:
    """Forget a clean-up; its failure, which may come when nobody waits any more, is no news to anybody."""
    _finishing.discard(task)
    if not task.cancelled():
        task.exception()


class _PerThread(threading.local):
    """A thread runs one loop at a time, so no lock is needed, and none can be left behind by a fork."""

    def __init__(self) -> None:
        self.loops: dict[asyncio.AbstractEventLoop, _Kept] = {}


class _Kept:
    def __init__(self) -> None:
        self.items: dict[Any, Closeable] = {}
        self.closer = self._close_with_the_loop()

    async def _close_with_the_loop(self) -> AsyncGenerator[None, None]:
        # An async generator that was started in a loop is closed by that loop's `shutdown_asyncgens`, which
        # `asyncio.run` calls at its end: the only hook there is to be told that a loop ends.
        try:
            yield
        finally:
            _threads.loops.pop(asyncio.get_running_loop(), None)
            while self.items:
                _, item = self.items.popitem()
                await item.close()


_threads = _PerThread()


async def shared(key: Any, make: Callable[[], T]) -> T:
    """Return what was made for this key in the running loop; it is closed when the loop ends.

    Args:
        key: Anything hashable.
        make: Makes it, without waiting, when there is none yet. What it makes must be `Closeable`.
    """
    loop = asyncio.get_running_loop()
    kept = _threads.loops.get(loop)
    if kept is None:
        for other in [other for other in _threads.loops if other.is_closed()]:
            del _threads.loops[other]
        kept = _threads.loops[loop] = _Kept()
        await anext(kept.closer)
    item = kept.items.get(key)
    if item is None:
        item = kept.items[key] = make()  # type: ignore[assignment]
    return item  # type: ignore[return-value]


closing = contextlib.aclosing
"""Closes an async generator at the end of a block."""
