"""The warm sandboxes of one kind, and the policy for their number."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from unsandbox.sandbox.host.warm.sandbox import WarmSandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """The number of warm sandboxes of one kind, and when they are created.

    Attributes:
        least: Number under low load.
        most: Maximum number under high load.
        making_at_once: Number of sandboxes that may be created at the same time.
        rest_s: After this time without need, the target falls by one.
        rest_after_last_job: Whether that time starts with the last job; otherwise with the last change.
        jobs_wait: Whether a job waits for the next sandbox if none is ready.
        keeps_spare: Whether the target rises when the last sandbox is taken; otherwise when a job found none.
        refill_after_s: Delay between a job and its replacement, so that the job has the processors.
        hurry_after_s: The same when less than half of the sandboxes are left.
    """

    least: int
    most: int
    making_at_once: int
    rest_s: float
    rest_after_last_job: bool = False
    jobs_wait: bool = False
    keeps_spare: bool = False
    refill_after_s: float = 0.0
    hurry_after_s: float = 0.0


@dataclass(eq=False)
class WarmQueue:
    """The warm sandboxes of one kind.

    Attributes:
        kind: The kind, which is the interpreter that waits in them.
        policy: The policy for their number.
        target: The number that should be ready now.
        ready: Sandboxes that are ready for a job.
        making: Sandboxes that are being created.
        waiters: Jobs that wait for the next sandbox.
    """

    kind: int
    policy: QueuePolicy
    target: int = 0
    ready: deque[WarmSandbox] = field(default_factory=deque)
    making: set[WarmSandbox] = field(default_factory=set)
    waiters: deque[asyncio.Future[WarmSandbox | None]] = field(default_factory=deque)
    _resting: asyncio.TimerHandle | None = None
    _refilling: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        """Start with the least number."""
        self.target = self.policy.least

    def pop(self) -> WarmSandbox | None:
        """Remove and return a ready sandbox; None if there is none."""
        while self.ready:
            sandbox = self.ready.popleft()
            if sandbox.ready:
                return sandbox
        return None

    def put(self, sandbox: WarmSandbox) -> None:
        """Give a ready sandbox to a waiting job, or keep it for the next job."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(sandbox)
                return
        self.ready.append(sandbox)

    def forget(self, sandbox: WarmSandbox) -> None:
        """Remove a sandbox that has ended."""
        self.making.discard(sandbox)
        with contextlib.suppress(ValueError):
            self.ready.remove(sandbox)

    def waited_for(self) -> bool:
        """Return whether a job waits for the next sandbox."""
        return any(not waiter.done() for waiter in self.waiters)

    def missing(self) -> int:
        """Return the number of sandboxes to create now."""
        waiting = sum(not waiter.done() for waiter in self.waiters)
        missing = self.target + waiting - len(self.ready) - len(self.making)
        return max(0, min(missing, self.policy.making_at_once - len(self.making)))

    def answer_waiters(self) -> None:
        """Tell the waiting jobs that no sandbox will come."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def empty(self) -> None:
        """Dismiss all sandboxes, including those that are being created."""
        self.cancel_refill()
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        self.answer_waiters()
        self.target = self.policy.least
        while self.ready:
            self.ready.popleft().dismiss()
        for sandbox in self.making:
            sandbox.dismiss()

    # How many

    def grow(self) -> None:
        """Raise the target by one."""
        self.target = min(self.policy.most, self.target + 1)

    def shrink(self) -> None:
        """Lower the target by one, but not below the least number."""
        self._resting = None
        self.target = max(self.policy.least, self.target - 1)
        while len(self.ready) > self.target:
            self.ready.popleft().dismiss()

    def shrink_later(self, loop: asyncio.AbstractEventLoop, shrink: Callable[[], None], *, again: bool) -> None:
        """Call `shrink` after the policy's time; `again` restarts the time now."""
        if again and self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self._resting is None and self.target > self.policy.least:
            self._resting = loop.call_later(self.policy.rest_s, shrink)

    def refill_soon(self, loop: asyncio.AbstractEventLoop, refill: Callable[[], None], *, missed: bool) -> None:
        """Call `refill` after the policy's delay, or at once if the job found no sandbox (`missed`)."""
        if missed:
            self.cancel_refill()
        if self._refilling is None:
            policy = self.policy
            delay = policy.refill_after_s if 2 * len(self.ready) >= self.target else policy.hurry_after_s
            self._refilling = loop.call_later(0.0 if missed else delay, refill)

    def cancel_refill(self) -> None:
        """Cancel a scheduled refill."""
        if self._refilling is not None:
            self._refilling.cancel()
            self._refilling = None
