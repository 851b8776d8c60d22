"""Why the engine refuses a request. The server turns each into a status; the message is for people."""

from __future__ import annotations


class RequestError(Exception):
    """Root of all refusals.

    Attributes:
        code: Short name for programs, stable.
        message: Sentence for people: what is wrong and what to do.
        details: Further members of the error body.
    """

    code = "refused"

    def __init__(self, message: str, *, code: str | None = None, **details: int | str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.details = details


class InvalidRequest(RequestError):
    """The request can never be run as it is."""

    code = "invalid_request"


class TooLarge(RequestError):
    """Program or files are larger than this engine takes."""

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
    """Only the hosted service can do this."""

    code = "not_implemented"


class Conflict(RequestError):
    """The request contradicts an earlier one."""

    code = "conflict"


class LimitReached(RequestError):
    """This key has as many jobs as it may have."""

    code = "concurrency_limit_reached"


class Damaged(RequestError):
    """What was saved is no longer what it was; nothing was done with it."""

    code = "damaged"


class InsufficientStorage(RequestError):
    """The disk is full; what was there before is as it was."""

    code = "insufficient_storage"


class StorageUnavailable(RequestError):
    """What lies elsewhere cannot be reached now."""

    code = "storage_unavailable"


class Stopping(RequestError):
    """The engine is shutting down and takes nothing new."""

    code = "stopping"
