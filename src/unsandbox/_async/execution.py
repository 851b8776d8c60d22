"""Runs code to its end: one request if the server holds it, otherwise polls until the job has ended.

An early end, by a deadline, an error or because the task was cancelled, leaves no job behind: the job is
cancelled by its id, or, if the id is not known yet, found by the idempotency key.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from unsandbox._async.connection import Connection
from unsandbox._compat.aio import Interrupted, closing, sleep
from unsandbox._shared.deadline import NEVER, Deadline
from unsandbox._shared.request import Bounds, PreparedRequest
from unsandbox.errors import (
    ClientStateError,
    ConnectionFailedError,
    InvalidResponseError,
    UnavailableError,
    UnsandboxError,
    WaitTimeoutError,
)
from unsandbox.protocol.models import TERMINAL_STATUSES
from unsandbox.protocol.polling import LONG_POLL_S, poll_delays
from unsandbox.protocol.retry import RetryPolicy

__all__ = [
    "CLEAN_UP_S",
    "EXECUTE",
    "RUN",
    "cancel",
    "end",
    "ended",
    "execute",
    "job_id_of",
    "look",
    "looks",
    "patience",
    "submit",
    "too_late",
    "wait",
]

CLEAN_UP_S = 5.0
"""How long a caller who leaves early is held up at most, so that the job can be cancelled."""

_PATIENCE = 10
_HTTP_MARGIN_S = 15.0
_OUTCOME = ("stdout", "stderr", "output", "exit_code", "error")


EXECUTE = ("execute", "execute_async")
RUN = ("run", "run_async")
"""Operations that hold their answer until the job has ended, and that answer at once."""


async def execute(
    connection: Connection,
    request: PreparedRequest,
    *,
    deadline: Deadline,
    operation: tuple[str, str] = EXECUTE,
    query: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Run code and return the job as it ended.

    Args:
        connection: The server.
        request: The request's body.
        deadline: When to give up.
        operation: `EXECUTE` or `RUN`.
        query: Members of the query.

    Raises:
        WaitTimeoutError: The deadline passed; the job was cancelled.
    """
    answer: dict[str, Any] = {}
    at_once = operation[1]
    try:
        await connection.require(request, deadline)
        answer = await connection.call(operation[0], query=query, request=request, bounds=Bounds(deadline))
        if ended(answer):
            return answer
        return await _watch(connection, job_id_of(answer), deadline, answer)
    except (WaitTimeoutError, ConnectionFailedError, UnavailableError, ClientStateError) as error:
        if isinstance(error, ClientStateError) and not request.sent:
            raise
        late = deadline.passed
        known = error.partial if isinstance(error, WaitTimeoutError) else answer
        left = await connection.clean_up(partial(_abandon, at_once, query, request, known), CLEAN_UP_S)
        if not late:
            raise
        raise too_late(deadline, left or known, cancelled=left is not None) from error
    except UnsandboxError:
        raise  # There is no job: it was refused.
    except (Exception, Interrupted):
        # The caller was interrupted, or a hook of the caller's failed.
        await connection.clean_up(partial(_abandon, at_once, query, request, answer), CLEAN_UP_S)
        raise


async def submit(
    connection: Connection,
    request: PreparedRequest,
    *,
    deadline: Deadline = NEVER,
    operation: tuple[str, str] = EXECUTE,
    query: Mapping[str, object] | None = None,
    retry: RetryPolicy | None = None,
) -> dict[str, Any]:
    """Start a job and return the server's answer, which holds its id; the arguments are those of `execute`.

    Raises:
        InvalidResponseError: The answer holds no id.
        WaitTimeoutError: The deadline passed.
    """
    at_once = operation[1]
    try:
        await connection.require(request, deadline)
        answer = await connection.call(
            at_once, query=query, request=request, bounds=Bounds(deadline, retry=retry)
        )
    except (ConnectionFailedError, UnavailableError, ClientStateError) as error:
        if isinstance(error, ClientStateError) and not request.sent:
            raise
        late = deadline.passed
        left = await connection.clean_up(partial(_abandon, at_once, query, request, {}), CLEAN_UP_S)
        if not late:
            raise
        raise too_late(deadline, left or {}, cancelled=left is not None) from error
    except UnsandboxError:
        raise
    except (Exception, Interrupted):
        await connection.clean_up(partial(_abandon, at_once, query, request, {}), CLEAN_UP_S)
        raise
    job_id_of(answer)
    return answer


async def wait(connection: Connection, job_id: str, *, deadline: Deadline, keep: bool) -> dict[str, Any]:
    """Return a job as it ended.

    Args:
        connection: The server.
        job_id: Id of the job.
        deadline: When to give up.
        keep: Whether the job continues if this is left early; otherwise it is cancelled.

    Raises:
        WaitTimeoutError: The deadline passed.
    """
    last: dict[str, Any] = {"job_id": job_id}
    try:
        if deadline.passed:
            raise too_late(deadline, last, cancelled=False)
        if connection.server.features is None:
            # The server's features are unknown so far: the first request finds them out.
            last = await look(connection, job_id, deadline=deadline)
            if ended(last, looked=True):
                return last
        return await _watch(connection, job_id, deadline, last)
    except (Interrupted, ClientStateError):
        # The latter when another task closed the client.
        if not keep:
            await connection.clean_up(partial(end, job_id=job_id), CLEAN_UP_S)
        raise
    except (WaitTimeoutError, ConnectionFailedError) as error:
        if not deadline.passed:
            # Closing the client breaks the connection of a request that is under way.
            if connection.server.closed and not keep:
                await connection.clean_up(partial(end, job_id=job_id), CLEAN_UP_S)
            raise
        known = error.partial if isinstance(error, WaitTimeoutError) else last
        left = None
        if not keep:
            left = await connection.clean_up(partial(end, job_id=job_id), CLEAN_UP_S)
        raise too_late(deadline, left or known, cancelled=left is not None) from error


async def look(
    connection: Connection,
    job_id: str,
    *,
    hold: float | None = None,
    deadline: Deadline = NEVER,
) -> dict[str, Any]:
    """Return a job's current state, or, with `hold`, its state when it ends or after this number of seconds."""
    return await connection.call(
        "get_job",
        params={"id": job_id},
        query=None if hold is None else {"wait": round(hold, 3)},
        bounds=Bounds(
            deadline,
            None if hold is None else hold + min(connection.server.timeout, _HTTP_MARGIN_S),
            patience(connection),
        ),
    )


def patience(connection: Connection) -> RetryPolicy:
    """Return the policy of a wait: it may last long, so a server that is away for a while is waited for."""
    retry = connection.server.retry
    return replace(retry, max_retries=max(_PATIENCE, retry.max_retries)) if retry.max_retries > 0 else retry


async def cancel(connection: Connection, job_id: str, *, deadline: Deadline = NEVER) -> dict[str, Any]:
    """Cancel a job and return the server's answer, including partial output."""
    return await connection.call("cancel_job", params={"id": job_id}, bounds=Bounds(deadline, urgent=True))


def job_id_of(answer: dict[str, Any]) -> str:
    """Return the job's id.

    Raises:
        InvalidResponseError: It is missing.
    """
    job_id = answer.get("job_id") or answer.get("id")
    if not isinstance(job_id, str) or not job_id:
        raise InvalidResponseError("the server's answer holds neither a result nor a job id")
    return job_id


async def looks(
    connection: Connection, job_id: str, deadline: Deadline, last: dict[str, Any]
) -> AsyncGenerator[dict[str, Any]]:
    """Yield a job again and again until it has ended: by long-polling where the server can, else on schedule.

    Raises:
        WaitTimeoutError: The deadline passed; the error has the last known state.
    """
    pauses = poll_delays()
    waiting_since = time.monotonic()
    number = 0
    while True:
        remaining = deadline.remaining()
        if remaining == 0:
            raise too_late(deadline, last, cancelled=False)
        hold = None
        if "wait" in connection.features:
            hold = LONG_POLL_S if remaining is None else min(LONG_POLL_S, remaining)
        else:
            pause = next(pauses)
            await sleep(pause if remaining is None else min(pause, remaining))
            if deadline.passed:
                continue
        began = time.monotonic()
        last = await look(connection, job_id, hold=hold, deadline=deadline)
        number += 1
        over = ended(last, looked=True)
        await connection.server.observer.looked("get_job", (job_id,), number, int(over), waiting_since)
        yield last
        if over:
            return
        if hold is not None and time.monotonic() - began < hold / 2:
            # A server that promised to hold and does not must not be asked in a tight loop.
            await sleep(next(pauses))


async def _watch(
    connection: Connection, job_id: str, deadline: Deadline, last: dict[str, Any]
) -> dict[str, Any]:
    async with closing(looks(connection, job_id, deadline, last)) as seen:
        async for answer in seen:
            last = answer
    return last


def ended(answer: dict[str, Any], *, looked: bool = False) -> bool:
    """Return whether an answer is a result.

    Without a status, an answer to a look is final, and one to an execution is when it holds any outcome.
    """
    status = answer.get("status")
    if status is None:
        return looked or any(name in answer for name in _OUTCOME)
    return status in TERMINAL_STATUSES


async def end(connection: Connection, job_id: str) -> dict[str, Any]:
    """Cancel a job and return its output so far; servers that answer only "cancelled" are asked once more."""
    bounds = Bounds(Deadline(CLEAN_UP_S), urgent=True)
    answer = await connection.call("cancel_job", params={"id": job_id}, bounds=bounds)
    if not any(name in answer for name in _OUTCOME):
        # If this fails, the job was cancelled nevertheless.
        with contextlib.suppress(UnsandboxError):
            answer = await connection.call("get_job", params={"id": job_id}, bounds=bounds)
    return {"job_id": job_id} | answer


async def _abandon(
    at_once: str,
    query: Mapping[str, object] | None,
    request: PreparedRequest,
    answer: dict[str, Any],
    connection: Connection,
) -> dict[str, Any] | None:
    """Cancel the job of an execution that is being left, also when its id never arrived."""
    job_id = answer.get("job_id") or answer.get("id")
    if isinstance(job_id, str):
        return await end(connection, job_id)
    if not request.sent:
        return None
    bounds = Bounds(Deadline(CLEAN_UP_S), urgent=True)
    await connection.learn_features(bounds)
    if "idempotency" not in connection.features:
        return None
    # The same request with the same key is the same job; this path answers at once.
    found = await connection.call(at_once, query=query, request=request, bounds=bounds)
    return await end(connection, job_id_of(found))


def too_late(deadline: Deadline, known: dict[str, Any], *, cancelled: bool) -> WaitTimeoutError:
    job_id = known.get("job_id") or known.get("id")
    what = f"job {job_id}" if job_id else "the job"
    fate = "; it was cancelled" if cancelled else ""
    return WaitTimeoutError(
        f"{what} had not ended after {deadline.seconds:g} s{fate}", job_id=job_id, partial=known or None
    )
