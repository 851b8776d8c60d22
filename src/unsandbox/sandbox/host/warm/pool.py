"""The pool of warm sandboxes of a backend: each is ready to run, serves one job, and is replaced.

The pool decides how many sandboxes exist, proves their isolation before it serves jobs, and rests for a while
when none can be created. The backend's `WarmSource` creates the sandboxes and sends jobs to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.host.descriptors import DescriptorStack
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.probe import BrokenIsolation
from unsandbox.sandbox.host.resources import HostResources
from unsandbox.sandbox.host.running_job import SandboxJob
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.host.warm.queue import QueuePolicy, WarmQueue
from unsandbox.sandbox.host.warm.sandbox import WarmJob, WarmSandbox
from unsandbox.sandbox.launcher.messages import PrepareWarm, Start
from unsandbox.sandbox.spec import OutputSink, SandboxSpec

logger = logging.getLogger("unsandbox.sandbox")

_FAILURES = 3
"""The pool rests after this number of failed creations in a row."""
_REST_S = 60.0
"""The duration of the first rest. It doubles each time the pool fails again."""
_LONGEST_REST_S = 3600.0


class PoolState(enum.Enum):
    """The state of a pool."""

    STARTING = "starting"
    """No sandbox has passed the probe yet; jobs are not served."""
    SERVING = "serving"
    RESTING = "resting"
    """Too many creations failed: the pool has no sandboxes and creates none for a while."""
    CLOSED = "closed"
    """The backend is closed, or the probe found broken isolation; the pool never serves again."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """A warm sandbox that is about to be requested.

    Attributes:
        sandbox: The sandbox.
        request: The request to the launcher.
        descriptors: The descriptors to send with it.
    """

    sandbox: WarmSandbox
    request: Start | PrepareWarm
    descriptors: list[int]


class JobMessage(Protocol):
    """A job, encoded for warm sandboxes."""

    def send(self, sandbox: WarmSandbox) -> None:
        """Send the job to a sandbox, which starts the program at once.

        Raises:
            OSError: The sandbox has ended in the meantime.
        """

    def watch(
        self, sandbox: WarmSandbox, sink: OutputSink | None, on_over: Callable[[SandboxJob], None]
    ) -> WarmJob:
        """Return the job that runs in the sandbox; output that was written before is not lost."""


class WarmSource(Protocol):
    """Creates the warm sandboxes of one backend."""

    @property
    def name(self) -> str:
        """Name of the backend, for the log."""

    @property
    def policies(self) -> Mapping[int, QueuePolicy]:
        """The policy of each kind of sandbox; the first kind takes any job that suits the pool."""

    @property
    def news_s(self) -> float:
        """Seconds to wait until the reason of a failed creation is known."""

    async def open(self, pool: WarmPool) -> None:
        """Prepare to create sandboxes; called again after `rest`."""

    def rest(self) -> None:
        """Release the resources that only the creation of sandboxes needs."""

    def suits(self, spec: SandboxSpec) -> bool:
        """Return whether a job can run in a warm sandbox."""

    def kind_of(self, spec: SandboxSpec) -> int | None:
        """Return the kind of sandbox that is best for a job; None for the first kind."""

    def message(self, spec: SandboxSpec) -> JobMessage:
        """Return a job, encoded for warm sandboxes."""

    def make(
        self, kind: int, slot: Slot, sent: DescriptorStack, events: WarmEvents, *, urgent: bool
    ) -> WarmStart | None:
        """Open the files and streams of a new sandbox; return None if none can be created at the moment.

        Args:
            kind: Its kind.
            slot: Its slot.
            sent: Receives its descriptors, which are closed when the launcher has copies.
            events: The pool's callbacks.
            urgent: Whether a job waits for it.

        Raises:
            OSError: The disk is full, or too many files are open.
        """

    def became_ready(self, sandbox: WarmSandbox) -> None:
        """Note that a sandbox is ready for a job."""

    def gone(self, sandbox: WarmSandbox) -> None:
        """Note that no process of a sandbox is left."""

    def knows_why(self, sandbox: WarmSandbox, error: str | None) -> bool:
        """Return whether the reason of a failed creation is known, and counted already."""

    async def prove(self, start: Starter) -> None:
        """Run the backend's probe in a warm sandbox and check its findings.

        Raises:
            BrokenIsolation: The isolation is incomplete.
            SandboxError: The probe did not finish.
        """


Starter = Callable[[SandboxSpec, OutputSink | None], Awaitable[SandboxJob]]


@dataclass(frozen=True, slots=True)
class WarmEvents:
    """Callbacks of a warm sandbox to its pool.

    Attributes:
        ready: The sandbox is ready for a job.
        over: No process of the sandbox is left; the second argument is the error, if any.
    """

    ready: Callable[[WarmSandbox], None]
    over: Callable[[WarmSandbox, str | None], None]


class WarmPool:
    """The warm sandboxes of one open backend.

    Args:
        source: Creates the sandboxes.
        host: The resources of the backend.
    """

    def __init__(self, source: WarmSource, host: HostResources) -> None:
        self.source = source
        self._host = host
        self.queues = {kind: WarmQueue(kind, policy) for kind, policy in source.policies.items()}
        self._any = next(iter(self.queues.values()))
        self.jobs: set[SandboxJob] = set()
        """The jobs that run in warm sandboxes."""
        self.state = PoolState.STARTING
        self._proof: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self.problem = ""
        """The reason why it rests or is closed."""
        self._failures = 0
        self._rest_s = _REST_S
        self._again: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """Number of sandboxes that are ready for any job."""
        return len(self._any.ready)

    async def open(self) -> None:
        """Begin to fill the pool; it serves jobs as soon as one of its sandboxes has passed the probe."""
        await self.source.open(self)
        for queue in self.queues.values():
            self.refill(queue)

    # Jobs

    async def start(self, spec: SandboxSpec, sink: OutputSink | None) -> WarmJob | None:
        """Start a job in a warm sandbox; return None if the job has to run cold.

        Args:
            spec: A validated specification.
            sink: See `JobStarter.start`.
        """
        if not self._at_work() or not self.source.suits(spec):
            return None
        if self.state is PoolState.STARTING:
            if self._any.target == 0:
                # A pool without initial sandboxes starts with the first job.
                self._any.grow()
                self.refill(self._any)
            return None
        return await self._start(spec, sink, self.jobs)

    async def _start(
        self, spec: SandboxSpec, sink: OutputSink | None, jobs: set[SandboxJob], *, proof: bool = False
    ) -> WarmJob | None:
        message = self.source.message(spec)
        kind = self.source.kind_of(spec)
        special = None if kind is None else self.queues[kind]
        while (sandbox := (special and self._take(special)) or await self._take_any(proof)) is not None:
            try:
                message.send(sandbox)
            except OSError as error:
                sandbox.discard()
                logger.debug("a warm sandbox was lost: %s", error)
                continue
            try:
                job = message.watch(sandbox, sink, jobs.discard)
            except BaseException:
                # No job object would watch it.
                sandbox.kill()
                raise
            jobs.add(job)
            return job
        return None

    def _take(self, queue: WarmQueue) -> WarmSandbox | None:
        """Return a ready sandbox, or None; the queue is refilled after the job has been sent."""
        sandbox = queue.pop()
        if sandbox is None or (queue.policy.keeps_spare and not queue.ready):
            queue.grow()
        self._shrink_later(queue, again=queue.policy.rest_after_last_job)
        queue.refill_soon(self._loop, partial(self.refill, queue), missed=sandbox is None)
        return sandbox

    async def _take_any(self, proof: bool) -> WarmSandbox | None:
        """Return a sandbox for any job, if need be the next one that becomes ready.

        The probe does not count as a job.
        """
        queue = self._any
        sandbox = queue.pop() if proof else self._take(queue)
        if sandbox is not None or not (proof or queue.policy.jobs_wait):
            return sandbox
        waiter: asyncio.Future[WarmSandbox | None] = self._loop.create_future()
        queue.waiters.append(waiter)
        self.refill(queue)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (late := waiter.result()) is not None:
                self._on_ready(queue, late)
            raise

    # Making

    def _at_work(self) -> bool:
        return self.state in (PoolState.STARTING, PoolState.SERVING)

    def refill(self, queue: WarmQueue | None = None) -> None:
        """Create the missing sandboxes of a queue, a few at a time; by default those of the first kind."""
        queue = queue or self._any
        queue.cancel_refill()
        if not self._at_work():
            return
        if self.state is PoolState.STARTING and self._proof is None and queue.target:
            self._proof = self._run(self._prove())
        self._shrink_later(queue)
        for _ in range(queue.missing()):
            if not self._make(queue):
                return

    def _make(self, queue: WarmQueue) -> bool:
        """Begin to create a sandbox; return False if that is not possible now."""
        try:
            slot = self._host.slots.take()
        except SandboxError:
            # All slots are in use; a waiting job gets the same error when it tries to run cold.
            queue.answer_waiters()
            return False
        events = WarmEvents(partial(self._on_ready, queue), partial(self._on_over, queue))
        with DescriptorStack() as sent, slot:
            try:
                start = self.source.make(queue.kind, slot, sent, events, urgent=queue.waited_for())
            except OSError as error:
                self.failed(str(error))
                return False
            if start is None:
                return False
            slot.keep()
            queue.making.add(start.sandbox)
            asking = self._run(self._ask(start))
            asking.add_done_callback(partial(self._asked, start.sandbox, sent.pop_all()))
        return True

    async def _ask(self, start: WarmStart) -> None:
        sandbox = start.sandbox
        try:
            sandbox.number = await self._host.control.start(sandbox, start.request, start.descriptors)
        except SandboxError as error:
            sandbox.ended(Ending(None, error=str(error)))
            return
        sandbox.group = self._host.cgroup.group_of(sandbox.number)

    @staticmethod
    def _asked(sandbox: WarmSandbox, sent: contextlib.ExitStack, asking: asyncio.Task[None]) -> None:
        # Not in the task itself, because a task that is cancelled before its first step never runs.
        sent.close()
        if asking.cancelled():
            sandbox.ended(Ending(None, error="the pool was closed"))

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Events of sandboxes

    def _on_ready(self, queue: WarmQueue, sandbox: WarmSandbox) -> None:
        queue.making.discard(sandbox)
        if not self._at_work():
            sandbox.dismiss()
            return
        self._failures = 0
        self.source.became_ready(sandbox)
        queue.put(sandbox)
        self.refill(queue)

    def _on_over(self, queue: WarmQueue, sandbox: WarmSandbox, error: str | None) -> None:
        sandbox.slot.release()
        unmade = sandbox in queue.making
        queue.forget(sandbox)
        self.source.gone(sandbox)
        if sandbox.dismissed or sandbox.used or not self._at_work():
            return
        if unmade and not self.source.knows_why(sandbox, error):
            self._loop.call_later(self.source.news_s, self._not_made, queue, sandbox, error)
        else:
            self.refill(queue)

    def _not_made(self, queue: WarmQueue, sandbox: WarmSandbox, error: str | None) -> None:
        if not self.source.knows_why(sandbox, error):
            self.failed(error or "it ended before it was ready")
        self.refill(queue)

    # Probe, rest and restart

    async def settled(self) -> PoolState:
        """Wait until the pool serves or has given up, and return its state."""
        await self._settled.wait()
        return self.state

    async def _prove(self) -> None:
        jobs: set[SandboxJob] = set()

        async def start(spec: SandboxSpec, sink: OutputSink | None) -> SandboxJob:
            job = await self._start(spec, sink, jobs, proof=True)
            if job is None:
                raise SandboxUnavailable("a warm sandbox could not be created")
            return job

        try:
            await self.source.prove(start)
        except BrokenIsolation as error:
            logger.error(  # noqa: TRY400 - the message says it all
                "the pool of warm %s sandboxes is off: %s", self.source.name, error
            )
            self.problem = str(error)
            self._let_go(PoolState.CLOSED)
        except SandboxError as error:
            self._give_up(str(error))
        else:
            if self.state is PoolState.STARTING:
                self.state, self._rest_s = PoolState.SERVING, _REST_S
                self._settled.set()
        finally:
            for left in jobs:
                left.cancel()

    def failed(self, why: str) -> None:
        """Count a failed creation; after some failures in a row the pool rests."""
        if not self._at_work():
            return
        logger.warning("a warm %s sandbox could not be created: %s", self.source.name, why)
        self._failures += 1
        if self._failures >= _FAILURES:
            self._give_up(why)

    def _give_up(self, why: str) -> None:
        """Rest: for a while every job runs cold, which is slower and equally isolated."""
        if self._at_work():
            logger.error(
                "the pool of warm %s sandboxes is off for %g s: %s", self.source.name, self._rest_s, why
            )
            self.problem = why
            self._let_go(PoolState.RESTING)
            self._again = self._loop.call_later(self._rest_s, self._try_again)
            self._rest_s = min(_LONGEST_REST_S, 2 * self._rest_s)

    def _try_again(self) -> None:
        """Start again with a new probe; after a single failure the pool rests again."""
        self._again = None
        self.state, self._failures = PoolState.STARTING, _FAILURES - 1
        self._settled.clear()
        self._run(self.open())

    def _let_go(self, state: PoolState) -> None:
        """Change to a state without sandboxes, and release every sandbox and slot."""
        self.state = state
        self._settled.set()
        if self._proof is not None and self._proof is not asyncio.current_task():
            self._proof.cancel()
        self._proof = None
        for queue in self.queues.values():
            queue.empty()
        self.source.rest()

    async def close(self) -> None:
        """Close every warm sandbox that has no job; running jobs continue."""
        if self._again is not None:
            self._again.cancel()
        self._let_go(PoolState.CLOSED)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # How many

    def _shrink_later(self, queue: WarmQueue, *, again: bool = False) -> None:
        queue.shrink_later(self._loop, partial(self._shrink, queue), again=again)

    def _shrink(self, queue: WarmQueue) -> None:
        queue.shrink()
        self._shrink_later(queue)
