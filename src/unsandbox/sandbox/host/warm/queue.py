"""Warm sandboxes of one kind, and how many of them there shall be."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from unsandbox.sandbox.host.warm.sandbox import WarmSandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """How many warm sandboxes of one kind there are, and when they are made.

    Attributes:
        least: Their number when there is little to do.
        most: Upper bound when there is much to do.
        making_at_once: How many are made at the same time.
        rest_s: After this time one less is kept.
        rest_after_last_job: Whether that time begins with the last job, else with the last change.
        jobs_wait: Whether a job waits for the next one when none is ready.
        keeps_spare: Whether one more is kept as soon as the last one is taken, else when a job found none.
        refill_after_s: How long after one was taken another is made: the job that took it has the processors.
        hurry_after_s: The same when less than half of them are left.
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
    """Sandboxes of one kind.

    Attributes:
        kind: What waits in them.
        policy: How many there are.
        target: How many shall be ready now.
        ready: Those that are ready for a job.
        making: Those on their way to be ready.
        waiters: Jobs that wait for the next one.
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
        """Begin with the least."""
        self.target = self.policy.least

    def pop(self) -> WarmSandbox | None:
        """Take one that is ready; None when there is none."""
        while self.ready:
            sandbox = self.ready.popleft()
            if sandbox.ready:
                return sandbox
        return None

    def put(self, sandbox: WarmSandbox) -> None:
        """Give one that is ready to a job that waits, or keep it for the next."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(sandbox)
                return
        self.ready.append(sandbox)

    def forget(self, sandbox: WarmSandbox) -> None:
        """One is gone."""
        self.making.discard(sandbox)
        with contextlib.suppress(ValueError):
            self.ready.remove(sandbox)

    def waited_for(self) -> bool:
        """Whether a job waits for the next one."""
        return any(not waiter.done() for waiter in self.waiters)

    def missing(self) -> int:
        """Return how many are to be made now."""
        waiting = sum(not waiter.done() for waiter in self.waiters)
        missing = self.target + waiting - len(self.ready) - len(self.making)
        return max(0, min(missing, self.policy.making_at_once - len(self.making)))

    def answer_waiters(self) -> None:
        """Tell the jobs that wait that none comes."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def empty(self) -> None:
        """Let go of all: of those that are being made when they are ready."""
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
        """Keep one more from now on."""
        self.target = min(self.policy.most, self.target + 1)

    def shrink(self) -> None:
        """Keep one less, unless it is the least."""
        self._resting = None
        self.target = max(self.policy.least, self.target - 1)
        while len(self.ready) > self.target:
            self.ready.popleft().dismiss()

    def shrink_later(self, loop: asyncio.AbstractEventLoop, shrink: Callable[[], None], *, again: bool) -> None:
        """Call `shrink` when no job has needed so many for a while; `again`: count from now."""
        if again and self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self._resting is None and self.target > self.policy.least:
            self._resting = loop.call_later(self.policy.rest_s, shrink)

    def refill_soon(self, loop: asyncio.AbstractEventLoop, refill: Callable[[], None], *, missed: bool) -> None:
        """Call `refill` when the job that took one has been sent; `missed`: there was none for it."""
        if missed:
            self.cancel_refill()
        if self._refilling is None:
            policy = self.policy
            delay = policy.refill_after_s if 2 * len(self.ready) >= self.target else policy.hurry_after_s
            self._refilling = loop.call_later(0.0 if missed else delay, refill)

    def cancel_refill(self) -> None:
        """It is being refilled, or shall not be."""
        if self._refilling is not None:
            self._refilling.cancel()
            self._refilling = None
