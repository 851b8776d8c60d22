"""The sync client's waiting, clean-up, and resources that belong to its process."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, Generic, ParamSpec, Protocol, TypeVar

from unsandbox._compat.common import NOTHING, Nothing, in_time, joined
from unsandbox.errors import UnsandboxError

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

P = ParamSpec("P")
T = TypeVar("T")

OneTimeCode = str | Callable[[str], str]
"""A one-time code, or a function that takes the challenge's id and returns the code."""

Work = Callable[..., T]
"""A function whose result is awaited in the async twin."""

Interrupted = KeyboardInterrupt
"""Exceptions that interrupt a wait from outside."""

Lock = contextlib.nullcontext[None]
"""No lock: threads may do at once what tasks must not, and a lock could be held during a fork."""

sleep = time.sleep

Stdin = str | bytes | IO[str] | IO[bytes] | Iterable[str | bytes]
"""Standard input for a program: text, bytes, a file object, or an iterable of pieces."""

Source = Iterable[T]
"""The source of items."""

_THREADS = 8

_kept: dict[Any, Closeable] = {}


class Closeable(Protocol):
    """A resource that can be kept for a process."""

    def close(self) -> None:
        """Release its resources."""


def in_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that blocks: here, just call it."""
    return work(*args, **kwargs)


def read_all(data: Stdin | None, seconds: float | None = None) -> str | bytes | None:
    """Return standard input in one piece.

    Args:
        data: The standard input.
        seconds: Maximum time for reading its pieces; a file is always read to its end.

    Raises:
        TimeoutError: It had not ended in time.
    """
    if data is None or isinstance(data, str | bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    if hasattr(data, "read"):
        content: str | bytes = data.read()
        return content
    return joined(in_time(data, seconds))


class ItemSource(Generic[T]):
    """Gives the items of an iterable one by one; `NOTHING` when there are no more.

    Args:
        items: The iterable.
    """

    ready = True
    """Pulls items; an iterable without a next item blocks its caller, because there is no other task here."""

    def __init__(self, items: Source[T]) -> None:
        self._items = iter(items)
        self.exhausted = False

    def pull(self, *, patient: bool) -> T | Nothing:  # noqa: ARG002 - the async twin needs it
        """Return the next item."""
        for item in self._items:
            return item
        self.exhausted = True
        return NOTHING

    def close(self) -> None:
        """Do nothing: there is never an item that is still awaited."""


class Keeper:
    """Repeats some work in a thread until it is stopped, or the object that does it is gone.

    Args:
        work: A method. Its errors are ignored: the next time may succeed.
        seconds: Time between two calls.
    """

    def __init__(self, work: Callable[[], None], seconds: float) -> None:
        self._over = threading.Event()
        arguments = (weakref.WeakMethod(work), seconds, self._over)
        threading.Thread(target=_repeat, args=arguments, name="unsandbox-keeper", daemon=True).start()

    def stop(self) -> None:
        """Stop it; also called by the work itself."""
        self._over.set()


def _repeat(reference: weakref.WeakMethod[Callable[[], None]], seconds: float, over: threading.Event) -> None:
    while not over.wait(seconds):
        work = reference()
        if work is None:
            return
        with contextlib.suppress(UnsandboxError):
            work()
        del work


def gather(calls: Sequence[Work[T]]) -> list[T]:
    """Make several calls at once, in threads, and return their results."""
    if len(calls) <= 1:
        return [call() for call in calls]
    try:
        # Imported here: a thread that outlives the main thread cannot import it, nor give it work.
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(min(len(calls), _THREADS))
        futures = [pool.submit(call) for call in calls[:1]]
    except RuntimeError:
        return [call() for call in calls]
    with pool:
        futures += [pool.submit(call) for call in calls[1:]]
        return [future.result() for future in futures]


def maybe_await(value: T) -> T:
    """Return the result of a caller's function, which is never awaited here."""
    return value


def current_loop() -> object:
    """Return the owner of a client: none, because any thread may use it."""
    return None


class CleanUps:
    """What a client still ends on the server. Here, the thread that leaves a call early does it."""

    def __init__(self) -> None:
        self.count = 0

    def run(self, work: Work[T], seconds: float) -> T | None:  # noqa: ARG002 - the async twin needs it
        """Do some clean-up; its requests carry their own time limit.

        Returns:
            Its result; None when it failed or was broken off by a second Ctrl-C.
        """
        self.count += 1
        try:
            with contextlib.suppress(Exception, KeyboardInterrupt):
                return work()
            return None
        finally:
            self.count -= 1

    def close(self, shut: Work[None]) -> None:
        """Shut the connections.

        Args:
            shut: Closes them.
        """
        shut()


def shared(key: Any, make: Callable[[], T]) -> T:
    """Return the resource for this key in this process; it is closed when the process ends.

    Args:
        key: Anything hashable.
        make: Creates it without waiting, if there is none yet. The result must be `Closeable`.
    """
    item = _kept.get(key)
    if item is None:
        # Two threads may both make one; only one is kept, and an unused one holds nothing.
        item = _kept.setdefault(key, make())  # type: ignore[arg-type]
    return item  # type: ignore[return-value]


@atexit.register
def _close_all() -> None:
    while _kept:
        _, item = _kept.popitem()
        item.close()


closing = contextlib.closing
"""Closes a generator at the end of a block."""
