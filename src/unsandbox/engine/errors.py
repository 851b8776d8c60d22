"""The errors of requests that the engine refuses. The server turns each class into an HTTP status."""

from __future__ import annotations


class RequestError(Exception):
    """Base of all errors of refused requests.

    Attributes:
        code: Short stable name for programs; by default that of the class.
        message: Sentence for people: the problem and the way to solve it.
        details: Further members of the error body.
    """

    code = "refused"

    def __init__(self, message: str, *, code: str | None = None, **details: int | str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.details = details


class InvalidRequest(RequestError):
    """The request is invalid: a member is missing, malformed, or not available on this server.

    Raised for jobs, sessions, services, vaults, snapshots and images alike.
    """

    code = "invalid_request"


class TooLarge(RequestError):
    """A program, a file, a vault, a saved state or a body is larger than this server takes."""

    code = "too_large"


class UnknownJob(RequestError):
    """No such job, or not one of this key."""

    code = "job_not_found"


class UnknownObject(RequestError):
    """No such session, service, snapshot or image, or not one of this key."""

    code = "not_found"


class Forbidden(RequestError):
    """This key may not do this."""

    code = "forbidden"


class NotImplementedHere(RequestError):
    """Only the hosted service serves this."""

    code = "not_implemented"


class Conflict(RequestError):
    """The request contradicts an earlier one, or the state that the object is in."""

    code = "conflict"


class LimitReached(RequestError):
    """The key is at one of its limits: requests per minute, jobs, CPU time, memory, or a number of objects.

    The default code is that of the limit on the number of jobs or objects; every other limit has its own,
    such as `rate_limit_exceeded`, `cpu_limit_reached` or `memory_limit_reached`.
    """

    code = "concurrency_limit_reached"


class Damaged(RequestError):
    """Saved bytes are missing or changed; nothing was done with them."""

    code = "damaged"


class InsufficientStorage(RequestError):
    """The disk is full, or the key stores as much as it may; nothing was changed."""

    code = "insufficient_storage"


class StorageUnavailable(RequestError):
    """The object store cannot be reached now."""

    code = "storage_unavailable"


class Stopping(RequestError):
    """The engine is shutting down and takes nothing new."""

    code = "stopping"
