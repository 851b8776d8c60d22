"""Reports callbacks that hold the event loop: they compute or block, and every connection waits."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Self

logger = logging.getLogger("unsandbox.server.watchdog")

THRESHOLD_S = 0.1
_KEPT = 100
_FRAMES = 12


@dataclass(frozen=True, slots=True)
class Stall:
    """A time in which the event loop ran nothing else.

    Attributes:
        seconds: How long, by the clock.
        cpu_s: CPU time that the loop's thread used in it; far less where it waited, or another program ran.
        stack: Where it was, the innermost function last: file, line, function.
    """

    seconds: float
    cpu_s: float
    stack: tuple[str, ...]

    def __str__(self) -> str:
        where = " > ".join(self.stack)
        return f"{self.seconds * 1000:.0f} ms, {self.cpu_s * 1000:.0f} ms of CPU time: {where}"


class LoopWatchdog:
    """Checks from a thread, twice per threshold, that the event loop of the calling thread responds.

    A loop that does not run is not watched until it runs again.

    Args:
        threshold_s: Seconds without an answer that are a stall.
        on_stall: Called in the watching thread with every stall; by default it is logged.

    Attributes:
        count: Stalls so far.
        total_s: Their seconds together.
        stalls: The last hundred.

    Example:
        >>> async def demo() -> bool:
        ...     with LoopWatchdog(0.05, on_stall=lambda stall: None) as watchdog:
        ...         await asyncio.sleep(0.1)
        ...         time.sleep(0.2)
        ...         await asyncio.sleep(0.1)
        ...     return watchdog.count >= 1
        >>> asyncio.run(demo())
        True
    """

    def __init__(
        self, threshold_s: float = THRESHOLD_S, on_stall: Callable[[Stall], None] | None = None
    ) -> None:
        self._threshold_s = threshold_s
        self._on_stall = on_stall or _log
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.count = 0
        self.total_s = 0.0
        self.stalls: deque[Stall] = deque(maxlen=_KEPT)

    def start(self) -> None:
        """Begin to watch the running event loop."""
        target = _Watched(asyncio.get_running_loop())
        self._stopped.clear()
        self._thread = threading.Thread(
            target=self._watch, args=(target,), name="unsandbox-watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _watch(self, target: _Watched) -> None:
        while not self._stopped.wait(self._threshold_s / 2):
            if not target.runs():
                continue
            asked, cpu_before = time.monotonic(), target.cpu_s()
            try:
                answered = target.ask()
            except RuntimeError:
                return  # The loop was closed.
            if answered.wait(self._threshold_s):
                continue
            stack = target.stack()
            while target.runs() and not answered.wait(self._threshold_s):
                if self._stopped.is_set():
                    return
            if not answered.is_set():
                continue  # The loop ended, so nothing waits for it.
            stall = Stall(time.monotonic() - asked, target.cpu_s() - cpu_before, stack)
            self.count += 1
            self.total_s += stall.seconds
            self.stalls.append(stall)
            self._on_stall(stall)


class _Watched:
    """A loop and the thread that runs it, which is the one that makes this object."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._cpu_clock = time.pthread_getcpuclockid(self._thread_id)

    def runs(self) -> bool:
        """Whether the loop is running."""
        return self._loop.is_running()

    def ask(self) -> threading.Event:
        """Return an event that the loop sets when it has a turn."""
        answered = threading.Event()
        self._loop.call_soon_threadsafe(answered.set)
        return answered

    def cpu_s(self) -> float:
        """Return the CPU time of the thread."""
        return time.clock_gettime(self._cpu_clock)

    def stack(self) -> tuple[str, ...]:
        """Return where the thread is now."""
        frame: FrameType | None = sys._current_frames().get(self._thread_id)
        places: list[str] = []
        while frame is not None and len(places) < _FRAMES:
            code = frame.f_code
            name = code.co_filename.rpartition("/site-packages/")[2].rpartition("/src/")[2]
            places.append(f"{name}:{frame.f_lineno} {code.co_qualname}")
            frame = frame.f_back
        return tuple(reversed(places))


def _log(stall: Stall) -> None:
    logger.warning("the event loop was blocked for %s", stall)
