"""The pool of warm sandboxes of a backend: they are up and ready, serve one job each, and are replaced.

The pool decides how many there are, proves their isolation before it serves, and gives up for a while when none
can be made. A `WarmSource` of the backend makes them and hands jobs to them.
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
"""After this number of sandboxes in a row that could not be made, the pool gives up for a while."""
_REST_S = 60.0
"""How long it rests then the first time; twice as long each time that nothing has changed."""
_LONGEST_REST_S = 3600.0


class PoolState(enum.Enum):
    """The life of a pool."""

    STARTING = "starting"
    """No sandbox has proved its isolation yet: no job is served."""
    SERVING = "serving"
    RESTING = "resting"
    """Too many sandboxes could not be made: there are none, and nothing is made for a while."""
    CLOSED = "closed"
    """The backend is closed, or a sandbox has broken a promise of isolation: no job is served any more."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """A warm sandbox that is about to be asked for.

    Attributes:
        sandbox: The sandbox.
        request: What the launcher must know.
        descriptors: The descriptors that go with it.
    """

    sandbox: WarmSandbox
    request: Start | PrepareWarm
    descriptors: list[int]


class JobMessage(Protocol):
    """A job in the form in which warm sandboxes take it."""

    def send(self, sandbox: WarmSandbox) -> None:
        """Send the job to a sandbox, whose program runs from now on.

        Raises:
            OSError: The sandbox has ended while it was warm.
        """

    def watch(
        self, sandbox: WarmSandbox, sink: OutputSink | None, on_over: Callable[[SandboxJob], None]
    ) -> WarmJob:
        """Return the job that runs in the sandbox; what the program says meanwhile waits in its streams."""


class WarmSource(Protocol):
    """Makes the warm sandboxes of one backend."""

    @property
    def name(self) -> str:
        """Name of the backend, for the log."""

    @property
    def policies(self) -> Mapping[int, QueuePolicy]:
        """How many of each kind there are; the first kind takes any job that suits the pool."""

    @property
    def news_s(self) -> float:
        """How long to wait until it is known why a sandbox could not be made."""

    async def open(self, pool: WarmPool) -> None:
        """Get ready to make sandboxes; again after `rest`."""

    def rest(self) -> None:
        """Let go of what is only needed to make sandboxes."""

    def suits(self, spec: SandboxSpec) -> bool:
        """Whether a job can run in a warm sandbox."""

    def kind_of(self, spec: SandboxSpec) -> int | None:
        """Return the kind of sandbox that is best for a job; None for the first kind."""

    def message(self, spec: SandboxSpec) -> JobMessage:
        """Return a job in the form in which warm sandboxes take it."""

    def make(
        self, kind: int, slot: Slot, sent: DescriptorStack, events: WarmEvents, *, urgent: bool
    ) -> WarmStart | None:
        """Open what a new sandbox needs; return None when none can be made just now.

        Args:
            kind: Its kind.
            slot: Its place.
            sent: Gets its descriptors, which are closed when the launcher has its copies.
            events: Are told what becomes of it.
            urgent: Whether a job waits for it.

        Raises:
            OSError: There is no room for it.
        """

    def became_ready(self, sandbox: WarmSandbox) -> None:
        """A sandbox is ready for a job."""

    def gone(self, sandbox: WarmSandbox) -> None:
        """No process of a sandbox is left."""

    def knows_why(self, sandbox: WarmSandbox, error: str | None) -> bool:
        """Whether it is known, and counted already, why a sandbox could not be made."""

    async def prove(self, start: Starter) -> None:
        """Have a sandbox look around, and judge what it saw.

        Raises:
            BrokenIsolation: A promise of isolation is not kept.
            SandboxError: The probe did not run to its end.
        """


Starter = Callable[[SandboxSpec, OutputSink | None], Awaitable[SandboxJob]]


@dataclass(frozen=True, slots=True)
class WarmEvents:
    """What a warm sandbox tells its pool.

    Attributes:
        ready: It is ready for a job.
        over: No process of it is left; with the reason, when there is one.
    """

    ready: Callable[[WarmSandbox], None]
    over: Callable[[WarmSandbox, str | None], None]


class WarmPool:
    """Hands out warm sandboxes; belongs to one open backend.

    Args:
        source: Makes them.
        host: What the sandboxes of the backend share.
    """

    def __init__(self, source: WarmSource, host: HostResources) -> None:
        self.source = source
        self._host = host
        self.queues = {kind: WarmQueue(kind, policy) for kind, policy in source.policies.items()}
        self._any = next(iter(self.queues.values()))
        self.jobs: set[SandboxJob] = set()
        """The jobs that run in its sandboxes."""
        self.state = PoolState.STARTING
        self._proof: asyncio.Task[None] | None = None
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
        """Begin to fill the pool; it serves as soon as a sandbox of it has proved its isolation."""
        await self.source.open(self)
        for queue in self.queues.values():
            self.refill(queue)

    # Jobs

    async def start(self, spec: SandboxSpec, sink: OutputSink | None) -> WarmJob | None:
        """Start a job in a warm sandbox; None when it needs one of its own.

        Args:
            spec: A validated specification.
            sink: See `JobStarter.start`.
        """
        if not self._at_work() or not self.source.suits(spec):
            return None
        if self.state is PoolState.STARTING:
            if self._any.target == 0:
                # The pool begins with the first job.
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
                # Nobody would look after it.
                sandbox.kill()
                raise
            jobs.add(job)
            return job
        return None

    def _take(self, queue: WarmQueue) -> WarmSandbox | None:
        """Return a sandbox that is ready; its queue is filled again when its job has been sent."""
        sandbox = queue.pop()
        if sandbox is None or (queue.policy.keeps_spare and not queue.ready):
            queue.grow()
        self._shrink_later(queue, again=queue.policy.rest_after_last_job)
        queue.refill_soon(self._loop, partial(self.refill, queue), missed=sandbox is None)
        return sandbox

    async def _take_any(self, proof: bool) -> WarmSandbox | None:
        """Return a sandbox for any job, the next one that is made if need be; the proof is no job."""
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
        """Make as many as are missing, a few at a time; by default of the first kind."""
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
        """Begin to make one; False when there is no room for it."""
        try:
            slot = self._host.slots.take()
        except SandboxError:
            # As many live as may; a job that waits gets the same words on the way without a pool.
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
        # Not in the task itself: one that is cancelled before its first step never runs.
        sent.close()
        if asking.cancelled():
            sandbox.ended(Ending(None, error="the pool was closed"))

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # What becomes of them

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
        if sandbox.dismissed or sandbox.job is not None or not self._at_work():
            return
        if unmade and not self.source.knows_why(sandbox, error):
            self._loop.call_later(self.source.news_s, self._not_made, queue, sandbox, error)
        else:
            self.refill(queue)

    def _not_made(self, queue: WarmQueue, sandbox: WarmSandbox, error: str | None) -> None:
        if not self.source.knows_why(sandbox, error):
            self.failed(error or "it ended before it was ready")
        self.refill(queue)

    # Proving, giving up and coming back

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
            self._let_go(PoolState.CLOSED)
        except SandboxError as error:
            self._give_up(str(error))
        else:
            if self.state is PoolState.STARTING:
                self.state, self._rest_s = PoolState.SERVING, _REST_S
        finally:
            for left in jobs:
                left.cancel()

    def failed(self, why: str) -> None:
        """Something could not be made; after some failures in a row the pool gives up for a while."""
        if not self._at_work():
            return
        logger.warning("a warm %s sandbox could not be created: %s", self.source.name, why)
        self._failures += 1
        if self._failures >= _FAILURES:
            self._give_up(why)

    def _give_up(self, why: str) -> None:
        """For a while every job gets a sandbox of its own, which is slower and no less isolated."""
        if self._at_work():
            logger.error(
                "the pool of warm %s sandboxes is off for %g s: %s", self.source.name, self._rest_s, why
            )
            self._let_go(PoolState.RESTING)
            self._again = self._loop.call_later(self._rest_s, self._try_again)
            self._rest_s = min(_LONGEST_REST_S, 2 * self._rest_s)

    def _try_again(self) -> None:
        """Begin anew, with a new proof; the first failure is enough to give up again."""
        self._again = None
        self.state, self._failures = PoolState.STARTING, _FAILURES - 1
        self._run(self.open())

    def _let_go(self, state: PoolState) -> None:
        """Change to a state in which nothing is made, and keep no sandbox and no slot."""
        self.state = state
        if self._proof is not None and self._proof is not asyncio.current_task():
            self._proof.cancel()
        self._proof = None
        for queue in self.queues.values():
            queue.empty()
        self.source.rest()

    async def close(self) -> None:
        """Let go of every warm sandbox; jobs that run in some go on."""
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
