"""Many jobs at once: what is asked for, what comes of each, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unsandbox._shared.options import ExecuteOptions
from unsandbox.errors import InvalidRequestError, UnsandboxError
from unsandbox.protocol.models import Job

Request = Mapping[str, Any] | tuple[str, str]
"""One job: the arguments of `execute` by name, or just language and code."""

_OPTIONS = frozenset({*ExecuteOptions.__struct_fields__, "timeout"})


@dataclass(frozen=True, slots=True)
class Mapped:
    """What came of one request.

    Attributes:
        index: Which one it was, from 0.
        request: The request itself.
        job: The job as it ended; None when there is an error.
        error: Why there is no job: it could not be sent, or was refused.
    """

    index: int
    request: Request
    job: Job | None = None
    error: UnsandboxError | None = None

    def result(self) -> Job:
        """Return the job, or raise the error."""
        if self.job is None:
            raise self.error or UnsandboxError("there is no result")
        return self.job


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a map is.

    Attributes:
        started: Requests taken so far.
        running: Jobs on the server now.
        done: Requests whose outcome is known.
        failed: Those of them that have an error and no job.
        total: How many there will be; None when the requests do not know their number.
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
                "a request must be the arguments of execute by name, or (language, code)"
            ) from None
    if unknown := set(given) - _OPTIONS:
        raise InvalidRequestError(f"execute has no argument {min(map(str, unknown))!r}")
    if "language" not in given or "code" not in given:
        raise InvalidRequestError("a request needs language and code")
    timeout = given.pop("timeout", None)
    return ExecuteOptions(**given), timeout
