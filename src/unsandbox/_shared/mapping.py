"""The requests, outcomes and progress of a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unsandbox._shared.options import ExecuteOptions
from unsandbox.errors import InvalidRequestError, UnsandboxError
from unsandbox.protocol.models import Job

Request = Mapping[str, Any] | tuple[str, str]
"""One job: a mapping with arguments of `execute`, or a pair of language and code."""

_OPTIONS = frozenset({*ExecuteOptions.__struct_fields__, "timeout"})


@dataclass(frozen=True, slots=True)
class Mapped:
    """The outcome of one request of a map.

    Attributes:
        index: Number of the request, from 0.
        request: The request.
        job: The finished job; None if there is an error.
        error: The error, if the job could not be run.
    """

    index: int
    request: Request
    job: Job | None = None
    error: UnsandboxError | None = None

    def result(self) -> Job:
        """Return the job, or raise the error."""
        if self.job is None:
            raise self.error or UnsandboxError("the request has no result")
        return self.job


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a map.

    Attributes:
        started: Number of requests read so far.
        running: Number of jobs on the server.
        done: Number of requests with a known outcome.
        failed: Number of those that have an error instead of a job.
        total: Number of all requests; None if unknown.
    """

    started: int
    running: int
    done: int
    failed: int
    total: int | None


def options_of(request: Request) -> tuple[ExecuteOptions, float | None]:
    """Return all arguments of an execution, and its own deadline in seconds.

    Raises:
        InvalidRequestError: It names an argument that does not exist, or lacks language or code.
    """
    if isinstance(request, Mapping):
        given = dict(request)
    else:
        try:
            given = dict(zip(("language", "code"), request, strict=True))
        except (TypeError, ValueError):
            raise InvalidRequestError(
                "a request must be a mapping with arguments of execute, or a pair (language, code)"
            ) from None
    if unknown := set(given) - _OPTIONS:
        raise InvalidRequestError(f"execute has no argument {min(map(str, unknown))!r}")
    if "language" not in given or "code" not in given:
        raise InvalidRequestError("a request needs language and code")
    timeout = given.pop("timeout", None)
    return ExecuteOptions(**given), timeout
