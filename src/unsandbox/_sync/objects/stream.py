# Generated from src/unsandbox/_async/objects/stream.py by scripts/unasync.py; change that one.
"""Streaming output: events if the server sends them, otherwise the new output of each poll."""

from __future__ import annotations

import json
from collections.abc import Generator
from functools import partial
from types import TracebackType
from typing import Any, Self

from unsandbox._compat.blocking import closing
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.events import Decoder, Event, ResultEvent
from unsandbox._shared.options import ExecuteOptions
from unsandbox._shared.request import failed_attempt
from unsandbox._shared.streaming import JOB_EVENTS
from unsandbox._sync import execution
from unsandbox._sync.connection import Connection
from unsandbox._sync.opening import STREAM_IDLE_S, open_stream
from unsandbox.errors import APIError, ConnectionFailedError, InvalidResponseError, WaitTimeoutError
from unsandbox.protocol import codec
from unsandbox.protocol.events import (
    CURSOR_HEADER,
    OUTPUT_EVENT,
    RESULT_EVENT,
    STREAMS,
    Cursor,
    OutputChunk,
)
from unsandbox.protocol.models import Job
from unsandbox.protocol.retry import RetryPolicy
from unsandbox.protocol.sse import EventReader, ServerEvent

_REPLACEMENT = "\ufffd".encode()

_PATIENCE = RetryPolicy(max_retries=8, base_s=0.1, cap_s=8.0)
"""For a stream that breaks again and again without a new byte in between."""


class JobStream:
    """The events of a job, to be iterated over once. A block around it cancels the job when left early."""

    __module__ = "unsandbox"

    def __init__(
        self,
        connection: Connection,
        *,
        options: ExecuteOptions | None = None,
        job_id: str | None = None,
        timeout: float | None = None,
        keep: bool = False,
    ) -> None:
        self._known = {"job_id": job_id}
        # No reference back to this object: thrown away, it ends at once, and the job with it.
        self._events = _run(connection, self._known, options, timeout, keep)

    @property
    def job_id(self) -> str | None:
        """The job's id; None until it is known."""
        return self._known["job_id"]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.job_id or 'a job not yet started'}>"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        return self._events.__next__()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and cancel the job if it still runs and was not to be kept. Further calls have no effect."""
        self._events.close()


def _run(
    connection: Connection,
    known: dict[str, str | None],
    options: ExecuteOptions | None,
    timeout: float | None,
    keep: bool,
) -> Generator[Event]:
    deadline = Deadline(timeout)
    if options is not None:
        request = connection.encode(options, deadline)
        known["job_id"] = execution.job_id_of(execution.submit(connection, request, deadline=deadline))
    job_id = known["job_id"] or ""
    over = False

    end = partial(execution.end, job_id=job_id)
    try:
        if connection.server.features is None:
            execution.look(connection, job_id, deadline=deadline)
        source = _listen if "events" in connection.features else _look_again
        with closing(source(connection, job_id, deadline)) as events:
            for event in events:
                over = over or isinstance(event, ResultEvent)
                yield event
    except (WaitTimeoutError, ConnectionFailedError) as error:
        if not deadline.passed:
            raise
        over = True
        left = None if keep else connection.clean_up(end, execution.CLEAN_UP_S)
        seen = left or {"job_id": job_id}
        late = execution.too_late(deadline, seen, cancelled=left is not None)
        late.partial = codec.response_from_wire(seen, Job)
        raise late from error
    finally:
        if not over and not keep:
            connection.clean_up(end, execution.CLEAN_UP_S)


def _listen(connection: Connection, job_id: str, deadline: Deadline) -> Generator[Event]:
    """Yield the events that the server sends. A connection that breaks is made again behind the last byte."""
    decoder = Decoder()
    cursor = Cursor()
    failures = 0
    while True:
        error: ConnectionFailedError | APIError | None = None
        try:
            with closing(_pieces(connection, job_id, cursor, deadline)) as pieces:
                for event in pieces:
                    failures = 0
                    if event.event == RESULT_EVENT:
                        for rest in decoder.rests():
                            yield rest
                        job = _job(event.data)
                        if job.artifacts_apart:
                            answer = execution.look(connection, job_id, deadline=deadline)
                            job = codec.response_from_wire(answer, Job)
                        yield ResultEvent(job)
                        return
                    if event.event == OUTPUT_EVENT:
                        chunk = _chunk(event.data)
                        cursor = _moved(cursor, event, chunk)
                        if chunk.data:
                            yield decoder.event(chunk.stream, chunk.data)  # type: ignore[arg-type]
        except (ConnectionFailedError, APIError) as caught:
            error = caught
        if deadline.passed:
            raise execution.too_late(deadline, {"job_id": job_id}, cancelled=False)
        failures += 1
        broken = error or InvalidResponseError(f"the events of job {job_id} end without its result")
        # The first time at once: most often the connection was old, and the server is there.
        failed = failed_attempt("GET", failures, broken, deadline)
        connection.server.pause(JOB_EVENTS.name, failed, broken, _PATIENCE, at_once=failures == 1)


def _pieces(connection: Connection, job_id: str, cursor: Cursor, deadline: Deadline) -> Generator[ServerEvent]:
    """Yield the events of one connection until it ends."""
    headers = {"Accept": "text/event-stream"}
    if cursor != Cursor():
        headers[CURSOR_HEADER] = str(cursor)
    remaining = deadline.remaining()
    idle_s = STREAM_IDLE_S if remaining is None else max(0.01, min(STREAM_IDLE_S, remaining))
    stream = open_stream(
        connection, JOB_EVENTS, {"id": job_id}, headers=headers, deadline=deadline, idle_s=idle_s
    )
    try:
        reader = EventReader()
        while piece := stream.read(deadline.remaining()):
            for event in reader.feed(piece):
                yield event
            if deadline.passed:
                return
    finally:
        stream.close()


def _look_again(connection: Connection, job_id: str, deadline: Deadline) -> Generator[Event]:
    """Yield the new output of each poll, for servers that send no events."""
    decoder = Decoder()
    seen = dict.fromkeys(STREAMS, 0)
    job = Job()
    with closing(execution.looks(connection, job_id, deadline, {"job_id": job_id})) as answers:
        for answer in answers:
            job = codec.response_from_wire(answer, Job)
            over = execution.ended(answer, looked=True)
            for name in STREAMS:
                data = _settled(job, name, over=over)
                if new := data[seen[name] :]:
                    seen[name] = len(data)
                    yield decoder.event(name, new)  # type: ignore[arg-type]
    for rest in decoder.rests():
        yield rest
    yield ResultEvent(job)


def _settled(job: Job, name: str, *, over: bool) -> bytes:
    """Return the part of a stream in a poll that no later poll will change.

    In text, a character that is not yet complete comes as U+FFFD, or as several, and later as itself.
    """
    data: bytes = getattr(job, f"{name}_bytes")
    if over or getattr(job, f"{name}_base64") is not None:
        return data
    while data.endswith(_REPLACEMENT):
        data = data.removesuffix(_REPLACEMENT)
    return data


def _moved(cursor: Cursor, event: ServerEvent, chunk: OutputChunk) -> Cursor:
    """Return the cursor behind a piece, after making sure that nothing was lost or came twice."""
    try:
        moved = Cursor.parse(event.id or "")
    except ValueError as error:
        raise InvalidResponseError("an event of the job has no cursor") from error
    expected = cursor._replace(**{chunk.stream: getattr(cursor, chunk.stream) + len(chunk.data)})
    if moved != expected:
        raise InvalidResponseError("the events of the job skip or repeat bytes")
    return moved


def _chunk(data: str) -> OutputChunk:
    chunk = codec.response_from_wire(_object(data), OutputChunk)
    if chunk.stream not in STREAMS:
        raise InvalidResponseError("an event of the job names an unknown stream")
    return chunk


def _job(data: str) -> Job:
    return codec.response_from_wire(_object(data), Job)


def _object(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise InvalidResponseError("an event of the job is not JSON") from error
