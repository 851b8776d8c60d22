"""Many jobs with bounded concurrency and one shared wait for all of them."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from unsandbox._async import execution
from unsandbox._async.base import type_partial
from unsandbox._async.connection import Connection
from unsandbox._compat.aio import NOTHING, ItemSource, Source, gather, maybe_await, sleep
from unsandbox._shared.bodies import encode_members
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.mapping import Mapped, Progress, Request, options_of
from unsandbox._shared.options import ExecuteOptions
from unsandbox._shared.request import Bounds, PreparedRequest
from unsandbox.errors import InvalidRequestError, NotFoundError, RateLimitError, UnsandboxError
from unsandbox.protocol import codec
from unsandbox.protocol.bounds import MAX_WAITED_JOBS
from unsandbox.protocol.endpoints.jobs import BY_NAME
from unsandbox.protocol.models import Job, JobStatus
from unsandbox.protocol.polling import LONG_POLL_S, poll_delays

_BATCH = 32
"""Requests that are sent at once."""
_HELD = 4
"""Results that may wait for their turn, as a multiple of the jobs in flight."""
_REFUSED_PAUSE_S = 0.5
_SHORT_HOLD_S = 0.25
_LOOK_EVERY_S = 0.25
"""Seconds between two looks at many jobs in flight while more of them are being started."""
_HTTP_MARGIN_S = 15.0
_MANY = 256
"""Jobs in flight above which a look costs more than it tells."""
_CANCEL_S = 0.05
"""Maximum seconds for cancelling one of many jobs; usually it takes a tenth of that."""

OnProgress = Callable[[Progress], object]
"""A function that is called with the progress; an awaitable result is awaited."""


class AsyncMap:
    """The outcomes of many requests, to be iterated over once. A block around it cancels the running jobs."""

    __module__ = "unsandbox"

    def __init__(
        self,
        connection: Connection,
        requests: Source[Request],
        concurrency: int,
        ordered: bool,
        on_progress: OnProgress | None,
        timeout: float | None,
    ) -> None:
        if concurrency < 1:
            raise InvalidRequestError("concurrency must be at least 1")
        Deadline(timeout)  # Refused now, and not with each request.
        total = len(requests) if isinstance(requests, Sized) else None
        self._outcomes = _run(
            _State(connection, ItemSource(requests), concurrency, ordered, on_progress, timeout, total)
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Mapped:
        return await self._outcomes.__anext__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop and cancel the running jobs. Further calls have no effect."""
        await self._outcomes.aclose()


@dataclass
class _Taken:
    """A request in flight; its body is built once, because its files may not be readable twice."""

    index: int
    request: Request
    encoded: PreparedRequest | None = None


@dataclass(slots=True)
class _Running:
    """A job on the server, and when it is to be given up."""

    index: int
    request: Request
    deadline: Deadline


@dataclass
class _State:
    connection: Connection
    requests: ItemSource[Request]
    concurrency: int
    ordered: bool
    on_progress: OnProgress | None
    timeout: float | None
    total: int | None
    waiting: deque[_Taken] = field(default_factory=deque)
    """Taken from the requests, and refused by the server for the time being."""
    in_flight: dict[str, _Running] = field(default_factory=dict)
    outcomes: dict[int, Mapped] = field(default_factory=dict)
    """Known, and not yet handed out."""
    taken: int = 0
    given: int = 0
    failed: int = 0
    notified: Progress | None = None
    timed: bool = False
    """Whether any job has a deadline; otherwise deadlines are not checked."""
    looks: int = 0
    looked: float = 0.0
    """When, by the monotonic clock, the server was asked last."""
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.limit = self.concurrency
        """Less than `concurrency` while the server wants it so; grows by one with each swarm that ends."""
        usual = self.connection.server.retry
        self.retry = replace(usual, statuses=usual.statuses - {429})

    @property
    def room(self) -> int:
        """How many more may be started now."""
        held = len(self.in_flight) + len(self.outcomes)
        return min(self.limit - len(self.in_flight), _HELD * self.concurrency - held, _BATCH)

    def settle_job(self, job_id: str, job: Job | None, error: UnsandboxError | None) -> None:
        """Remove a job that has ended from those in flight."""
        running = self.in_flight.pop(job_id)
        self.settle(running.index, running.request, job, error)

    def settle(self, index: int, request: Request, job: Job | None, error: UnsandboxError | None) -> None:
        self.outcomes[index] = Mapped(index, request, job, error)
        self.failed += error is not None


async def _run(state: _State) -> AsyncGenerator[Mapped]:
    pauses = poll_delays()
    try:
        while True:
            refused = await _start_some(state)
            for mapped in _ready(state):
                yield mapped
            await _tell(state)
            if _fills(state, refused):
                continue
            if state.in_flight:
                left_s = _time_left(state)
                if await _collect(state, min(left_s, _hold_s(state, refused))):
                    pauses = poll_delays()
                    state.limit = min(state.concurrency, state.limit + 1)
                elif "wait_many" not in state.connection.features:
                    await sleep(min(left_s, next(pauses)))
                await _give_up_late(state)
                await _tell(state)
                for mapped in _ready(state):
                    yield mapped
            elif refused:
                await sleep(_REFUSED_PAUSE_S)
            elif state.requests.exhausted and not state.waiting:
                return
    finally:
        await state.requests.close()
        if state.in_flight:
            patience = execution.CLEAN_UP_S + _CANCEL_S * len(state.in_flight)
            await state.connection.clean_up(partial(_cancel_all, list(state.in_flight)), patience)


def _fills(state: _State, refused: bool) -> bool:
    """Return whether to start more jobs before the next poll, because each poll names every job in flight."""
    if len(state.in_flight) < _MANY or _hold_s(state, refused) > 0:
        return False
    return time.monotonic() < state.looked + _LOOK_EVERY_S


def _hold_s(state: _State, refused: bool) -> float:
    """Return how long to wait for a job to end, rather than to look whether more can be started."""
    if state.requests.exhausted or refused or state.room <= 0:
        return LONG_POLL_S if len(state.in_flight) <= MAX_WAITED_JOBS else _SHORT_HOLD_S
    return 0.0 if state.requests.ready else _SHORT_HOLD_S


def _time_left(state: _State) -> float:
    """Return the seconds until the first deadline of a job in flight."""
    if not state.timed:
        return math.inf
    left = (running.deadline.remaining() for running in state.in_flight.values())
    return min((seconds for seconds in left if seconds is not None), default=math.inf)


async def _give_up_late(state: _State) -> None:
    """Cancel the jobs whose deadline has passed."""
    if not state.timed:
        return
    late = [job_id for job_id, running in state.in_flight.items() if running.deadline.passed]
    for start in range(0, len(late), _BATCH):
        await gather([_ender(state, job_id) for job_id in late[start : start + _BATCH]])


def _ender(state: _State, job_id: str) -> Callable[[], Any]:
    async def end() -> None:
        """Cancel one job; one that has ended meanwhile is a result all the same."""
        known: dict[str, Any] = {"job_id": job_id}
        cancelled = True
        try:
            known = await execution.end(state.connection.cleaning(), job_id)
        except UnsandboxError:
            cancelled = False
        job = codec.response_from_wire(known, Job)
        if job.done and job.status != JobStatus.CANCELLED:
            state.settle_job(job_id, job, None)
            return
        error = execution.too_late(state.in_flight[job_id].deadline, known, cancelled=cancelled)
        type_partial(error)
        state.settle_job(job_id, None, error)

    return end


def _ready(state: _State) -> list[Mapped]:
    """Remove and return the outcomes that are due: in order, or as they finished."""
    if not state.ordered:
        ready = list(state.outcomes.values())
        state.outcomes.clear()
    else:
        ready = []
        while state.given + len(ready) in state.outcomes:
            ready.append(state.outcomes.pop(state.given + len(ready)))
    state.given += len(ready)
    return ready


async def _start_some(state: _State) -> bool:
    """Start as many as there is room for; tell whether the server wants no more for the time being."""
    batch: list[_Taken] = []
    while len(batch) < state.room:
        if state.waiting:
            batch.append(state.waiting.popleft())
            continue
        request = await state.requests.pull(patient=not batch and not state.in_flight)
        if request is NOTHING:
            break
        batch.append(_Taken(state.taken, request))
        state.taken += 1
    refused = any(await gather([_starter(state, taken) for taken in batch]))
    if refused:
        state.limit = max(1, len(state.in_flight))
    return refused


def _starter(state: _State, taken: _Taken) -> Callable[[], Any]:
    async def start() -> bool:
        """Start one job; tell whether the server wants no more for the time being."""
        connection = state.connection
        try:
            options, given = options_of(taken.request)
            deadline = Deadline(state.timeout if given is None else given)
            state.timed = state.timed or deadline.seconds is not None
            encoded = taken.encoded = taken.encoded or await _encoded(connection, options, deadline)
            answer = await execution.submit(connection, encoded, deadline=deadline, retry=state.retry)
            # Noted at once: when another one of the batch is broken off, this one must be found.
            state.in_flight[execution.job_id_of(answer)] = _Running(taken.index, taken.request, deadline)
        except RateLimitError:
            # No failure: there is room again when others have ended.
            state.waiting.append(taken)
            return True
        except UnsandboxError as error:
            type_partial(error)
            state.settle(taken.index, taken.request, None, error)
        return False

    return start


async def _encoded(connection: Connection, options: ExecuteOptions, deadline: Deadline) -> PreparedRequest:
    """Return the body of a request.

    Raises:
        InvalidRequestError: It makes no sense, or its standard input or its files cannot be read.
        WaitTimeoutError: Its standard input did not end in time.
    """
    try:
        return await connection.encode(options, deadline)
    except UnsandboxError:
        raise
    except Exception as error:
        raise InvalidRequestError(f"the request's input could not be read: {type(error).__name__}") from error


async def _collect(state: _State, hold_s: float) -> bool:
    """Collect jobs that have ended, after waiting at most a time for one; return whether there were any."""
    before = len(state.in_flight)
    ids = list(state.in_flight)
    state.looks += 1
    state.looked = time.monotonic()
    if "wait_many" in state.connection.features:
        shares = range(0, len(ids), MAX_WAITED_JOBS)
        await gather([_waiter(state, ids[start : start + MAX_WAITED_JOBS], hold_s) for start in shares])
    else:
        for job_id in ids[:_BATCH]:
            # The next time it is the turn of others.
            state.in_flight[job_id] = state.in_flight.pop(job_id)
        await gather([_looker(state, job_id) for job_id in ids[:_BATCH]])
    return len(state.in_flight) < before


def _waiter(state: _State, ids: list[str], hold_s: float) -> Callable[[], Any]:
    async def wait() -> None:
        """Collect the jobs of a list that have ended."""
        connection = state.connection
        members = {"ids": ids, "timeout": hold_s}
        request = PreparedRequest(encode_members(BY_NAME["wait_jobs"], members), creates=False)
        bounds = Bounds(timeout=hold_s + _HTTP_MARGIN_S, retry=execution.patience(connection))
        answer = await connection.call("wait_jobs", request=request, bounds=bounds)
        jobs = answer.get("jobs") or ()
        for job in jobs:
            _take(state, job)
        for unknown in answer.get("unknown") or ():
            if unknown in state.in_flight:
                state.settle_job(unknown, None, _lost(unknown))
        observer = connection.server.observer
        await observer.looked("wait_jobs", tuple(ids), state.looks, len(jobs), state.began)

    return wait


def _take(state: _State, answer: Any) -> None:
    """Settle a job if it has ended."""
    job = codec.response_from_wire(answer, Job)
    if job.done and job.job_id in state.in_flight:
        state.settle_job(job.job_id, job, None)


def _lost(job_id: str) -> NotFoundError:
    return NotFoundError(f"the server does not know job {job_id} any more", status=404, code="job_not_found")


def _looker(state: _State, job_id: str) -> Callable[[], Any]:
    async def look() -> None:
        """Collect one job if it has ended."""
        connection = state.connection
        try:
            answer = await execution.look(connection, job_id)
        except NotFoundError as error:
            state.settle_job(job_id, None, error)
        else:
            _take(state, {"job_id": job_id} | answer)
            over = int(job_id not in state.in_flight)
            observer = connection.server.observer
            await observer.looked("get_job", (job_id,), state.looks, over, state.began)

    return look


async def _tell(state: _State) -> None:
    if state.on_progress is not None:
        running, done = len(state.in_flight), state.taken - len(state.in_flight) - len(state.waiting)
        progress = Progress(state.taken, running, done, state.failed, state.total)
        if progress != state.notified:
            state.notified = progress
            await maybe_await(state.on_progress(progress))


async def _cancel_all(job_ids: list[str], connection: Connection) -> None:
    def canceller(job_id: str) -> Callable[[], Any]:
        async def cancel() -> None:
            try:
                await execution.cancel(connection, job_id)
            except UnsandboxError:
                return  # It has ended, or the server is gone: nothing can be done about it here.

        return cancel

    # The newest first: they wait still, and would be started if those that run were ended before them.
    newest_first = list(reversed(job_ids))
    for start in range(0, len(newest_first), _BATCH):
        await gather([canceller(job_id) for job_id in newest_first[start : start + _BATCH]])
