"""Memory that large results took, given back to the machine.

The C library keeps freed memory for later, and small objects between large ones keep it from shrinking: after
four jobs with 20 MB of output, a server stayed 430 MB larger.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import weakref

_AFTER_S = 1.0
_pending: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def trim_soon() -> None:
    """Give freed memory back in a second, in a thread; many calls are one. Without glibc, do nothing."""
    loop = asyncio.get_running_loop()
    if loop not in _pending:
        _pending.add(loop)
        loop.call_later(_AFTER_S, _begin, loop)


def _begin(loop: asyncio.AbstractEventLoop) -> None:
    _pending.discard(loop)
    with contextlib.suppress(RuntimeError):  # The loop is about to end.
        loop.run_in_executor(None, _trim)


def _trim() -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
