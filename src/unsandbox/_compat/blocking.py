"""How the sync client waits, cleans up, and keeps what belongs to its process."""

from __future__ import annotations

import atexit
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import IO, Any, ParamSpec, Protocol, TypeVar

from unsandbox._compat.common import joined

__all__ = [
    "Closeable",
    "Interrupted",
    "Lock",
    "OneTimeCode",
    "Stdin",
    "closing",
    "collected",
    "finish",
    "in_thread",
    "owner",
    "shared",
    "sleep",
    "whether_awaited",
]

P = ParamSpec("P")
T = TypeVar("T")

OneTimeCode = str | Callable[[str], str]
"""A one-time code, or what returns it when it is called with the challenge's id."""

Interrupted = KeyboardInterrupt
"""What breaks into a wait from outside."""

Lock = contextlib.nullcontext[None]
"""Nothing: what tasks must not do twice at once, threads may, and a lock could be held at a fork for ever."""

sleep = time.sleep

Stdin = str | bytes | IO[str] | IO[bytes] | Iterable[str | bytes]
"""Standard input for a program: text, bytes, a file object, or what yields pieces."""

_kept: dict[Any, Closeable] = {}


class Closeable(Protocol):
    """What can be kept for a process."""

    def close(self) -> None:
        """Release what it holds."""


def in_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that blocks: here, just call it."""
    return work(*args, **kwargs)


def collected(data: Stdin | None) -> str | bytes | None:
    """Return standard input in one piece."""
    if data is None or isinstance(data, str | bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    if hasattr(data, "read"):
        content: str | bytes = data.read()
        return content
    return joined(data)


def whether_awaited(value: T) -> T:
    """Return what a caller's function returned: here it is never awaited."""
    return value


def owner() -> object:
    """Return what a client belongs to: nothing; any thread may use it."""
    return None


def finish(work: Callable[[], T], seconds: float) -> T | None:  # noqa: ARG001 - the async twin needs it
    """Do some clean-up; its requests carry their own time limit.

    Returns:
        Its result; None when it failed or was broken off by a second Ctrl-C.
    """
    with contextlib.suppress(Exception, KeyboardInterrupt):
        return work()
    return None


def shared(key: Any, make: Callable[[], T]) -> T:
    """Return what was made for this key in this process; it is closed when the process ends.

    Args:
        key: Anything hashable.
        make: Makes it, without waiting, when there is none yet. What it makes must be `Closeable`.
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
