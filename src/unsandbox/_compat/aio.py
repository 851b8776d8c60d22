"""The async client's waiting, clean-up, and resources that belong to its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import IO, Any, Generic, Protocol, TypeVar

from unsandbox._compat.common import NOTHING, Nothing, in_time, joined
from unsandbox.errors import ClientStateError, UnsandboxError

__all__ = [
    "NOTHING",
    "CleanUps",
    "Closeable",
    "Interrupted",
    "ItemSource",
    "Keeper",
    "Lock",
    "OneTimeCode",
    "Source",
    "Stdin",
    "Work",
    "closing",
    "current_loop",
    "gather",
    "in_thread",
    "maybe_await",
    "read_all",
    "shared",
    "sleep",
]

T = TypeVar("T")

OneTimeCode = str | Callable[[str], str | Awaitable[str]]
"""A one-time code, or a function (plain or async) that takes the challenge's id and returns the code."""

Work = Callable[..., Awaitable[T]]
"""A function whose result is awaited."""

Interrupted = asyncio.CancelledError
"""Exceptions that interrupt a wait from outside."""

Lock = asyncio.Lock
sleep = asyncio.sleep
in_thread = asyncio.to_thread
Stdin = str | bytes | IO[str] | IO[bytes] | Iterable[str | bytes] | AsyncIterable[str | bytes]
"""Standard input for a program: text, bytes, a file object, or an iterable of pieces."""

Source = Iterable[T] | AsyncIterable[T]
"""The source of items."""


class Closeable(Protocol):
    """A resource that can be kept for a loop."""

    async def close(self) -> None:
        """Release its resources."""


def current_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop, to which a client belongs.

    Raises:
        ClientStateError: None of asyncio runs here.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        advice = "use the sync client, or run this in `asyncio.run`"
        if "trio" in sys.modules:
            advice = "under trio, run the sync client in a thread (`trio.to_thread.run_sync`)"
        raise ClientStateError(f"no event loop of asyncio runs here: {advice}") from None


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
    """Returns the items of an iterable, plain or async, one by one; `NOTHING` if there is none, or none yet.

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
        """Whether the next pull will probably not have to wait."""
        return self._async is None or (self._coming is not None and self._coming.done())

    async def pull(self, *, patient: bool) -> T | Nothing:
        """Return the next item.

        Args:
            patient: Whether to wait for it; otherwise return `NOTHING` if it is not available yet.
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
        """Stop waiting for a pending item."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})


class Keeper:
    """Repeats some work in the background until it is stopped, or the object that does it is gone.

    Args:
        work: A method. Its errors are ignored: the next time may succeed.
        seconds: Time between two calls.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        self._task = current_loop().create_task(_repeated(weakref.WeakMethod(work), seconds))

    def stop(self) -> None:
        """Stop it; also called by the work itself."""
        if self._task is not asyncio.current_task():
            self._task.cancel()


async def _repeated(reference: weakref.WeakMethod[Callable[[], Awaitable[None]]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        work = reference()
        if work is None:
            return
        with contextlib.suppress(UnsandboxError):
            await work()
        del work


async def gather(calls: Sequence[Work[T]]) -> list[T]:
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


async def _awaited(call: Work[T]) -> T:
    return await call()


async def maybe_await(value: T | Awaitable[T]) -> T:
    """Return the result of a caller's function, after awaiting it if the function was async."""
    return await value if inspect.isawaitable(value) else value


class CleanUps:
    """The clean-ups of a client on the server. Each one is a separate task.

    A cancelled caller waits for its clean-up, as `asyncio.timeout` and `Task.cancel` allow. A cancel scope of
    anyio cancels every await of its task again: the caller then leaves at once, and the clean-up continues.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def count(self) -> int:
        """How many are under way."""
        return len(self._tasks)

    async def run(self, work: Work[T], seconds: float) -> T | None:
        """Do some clean-up although the current task may have been cancelled.

        Args:
            work: Starts it. May be called twice, when the event loop ends meanwhile.
            seconds: How long it may take. A second cancellation ends the waiting for it at once.

        Returns:
            Its result; None when it failed or was not done in time.

        Raises:
            CancelledError: The task was cancelled meanwhile.
        """
        task = current_loop().create_task(_to_its_end(work, seconds))
        # The loop holds tasks weakly only.
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        current = asyncio.current_task()
        patience = 1 if current is not None and current.cancelling() else 2
        interrupted = False
        while not task.done() and patience:
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                interrupted = True
                patience -= 1
        if interrupted:
            # The cancellation was meant for the caller, which must not continue as if there had been none.
            raise asyncio.CancelledError
        return None if task.cancelled() or task.exception() is not None else task.result()

    async def close(self, shut: Work[None]) -> None:
        """Wait for all clean-ups, then close the connections, in a separate task.

        Args:
            shut: Closes the connections. Calls that break by that may begin further clean-ups.
        """
        task = current_loop().create_task(_to_its_end(lambda: self._close(shut), None))
        _closing.add(task)
        task.add_done_callback(_closing.discard)
        await asyncio.shield(task)

    async def _close(self, shut: Work[None]) -> None:
        for _ in range(2):
            while self._tasks:
                await asyncio.wait(self._tasks)
            await shut()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # The caller has left: retrieve the exception, so that asyncio does not log it.


_closing: set[asyncio.Task[Any]] = set()


async def _to_its_end(work: Work[T], seconds: float | None) -> T:
    """Await some work for a number of seconds, even though the event loop ends.

    `asyncio.run` cancels all tasks at its end, and waits for them.
    """
    loop = asyncio.get_running_loop()
    ends = None if seconds is None else loop.time() + seconds
    try:
        async with asyncio.timeout_at(ends):
            return await work()
    except asyncio.CancelledError:
        async with asyncio.timeout_at(ends):
            return await work()


class _PerThread(threading.local):
    """The resources of each thread's loops. No lock is needed, and so none can be held during a fork."""

    def __init__(self) -> None:
        self.loops: dict[asyncio.AbstractEventLoop, _Kept] = {}


class _Kept:
    def __init__(self) -> None:
        self.items: dict[Any, Closeable] = {}
        self.closer = self._close_with_the_loop()

    async def _close_with_the_loop(self) -> AsyncGenerator[None, None]:
        # An async generator that was started in a loop is closed by that loop's `shutdown_asyncgens`, which
        # `asyncio.run` calls this at its end; it is the only hook for the end of a loop.
        try:
            yield
        finally:
            _threads.loops.pop(asyncio.get_running_loop(), None)
            while self.items:
                _, item = self.items.popitem()
                await item.close()


_threads = _PerThread()


async def shared(key: Any, make: Callable[[], T]) -> T:
    """Return the resource for this key in the running loop; it is closed when the loop ends.

    Args:
        key: Anything hashable.
        make: Creates it without waiting, if there is none yet. The result must be `Closeable`.
    """
    loop = current_loop()
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
