"""All exceptions of this package.

* `UnsandboxError`
  x `CredentialsError` - no usable key pair
  x `InvalidRequestError` (also `ValueError`) - an invalid request; nothing was sent
  x `InvalidResponseError` (also `ValueError`) - the server's answer violates the protocol
  x `ConnectionFailedError` - no answer: refused, reset, TLS, DNS
    + `RequestTimeoutError` (also `TimeoutError`) - no answer in time
  x `WaitTimeoutError` (also `TimeoutError`) - the caller's deadline passed; has the partial result
  x `APIError` - the server answered with an error status
    + `BadRequestError` 400, `AuthenticationError` 401, `PermissionDeniedError` 403, `NotFoundError` 404,
      `ConflictError` 409, `PayloadTooLargeError` 413, `SudoRequiredError` 428, `RateLimitError` 429
    + `RemoteFileError` (also `OSError`) - a file operation in a session failed; each subclass is also Python's
      own error: `RemoteFileNotFoundError`, `RemoteFileExistsError`, `RemoteIsADirectoryError`,
      `RemoteNotADirectoryError`, `RemoteNotAFileError`, `RemotePermissionError`
    + `ServerError` 5xx
      - `UnavailableError` 502, 503, 504
  x `JobFailedError` - `check()` was called on the result of a program that failed
  x `EngineError` - the engine cannot run on this machine
  x `ClientStateError` (also `RuntimeError`) - a client used after it was closed, or in another event loop
* `UnsandboxWarning` (a `UserWarning`) - something works but should be corrected

Network errors are raised as subclasses that are *also* errors of the HTTP library in use, so that code written
for the historical SDK keeps working: `except aiohttp.ClientError` catches every `ConnectionFailedError` and
`APIError` of the async client, `except requests.RequestException` those of the sync client. `with_base` creates
these subclasses; they have the name of their parent.
"""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

__all__ = [
    "APIError",
    "AuthenticationError",
    "BadRequestError",
    "ClientStateError",
    "ConflictError",
    "ConnectionFailedError",
    "CredentialsError",
    "EngineError",
    "InvalidRequestError",
    "InvalidResponseError",
    "JobFailedError",
    "NotFoundError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "RateLimitError",
    "RemoteFileError",
    "RemoteFileExistsError",
    "RemoteFileNotFoundError",
    "RemoteIsADirectoryError",
    "RemoteNotADirectoryError",
    "RemoteNotAFileError",
    "RemotePermissionError",
    "RequestTimeoutError",
    "ServerError",
    "SudoRequiredError",
    "UnavailableError",
    "UnsandboxError",
    "UnsandboxWarning",
    "WaitTimeoutError",
]


class UnsandboxWarning(UserWarning):
    """Something works but should be corrected, such as a file of secrets that other users can read."""


class UnsandboxError(Exception):
    """The root of all exceptions that this package raises."""

    retryable: bool = False
    """Whether the same request may succeed later."""

    _plain: type[UnsandboxError] | None = None
    _library: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would lose keyword arguments of __init__ and the classes made by with_base.
        return _restore, (self._plain or type(self), self._library, self.args, self.__dict__)


class CredentialsError(UnsandboxError):
    """No usable key pair was found. The message names the place and the remedy, never a key."""


class InvalidRequestError(UnsandboxError, ValueError):
    """The request is invalid. Nothing was sent."""


class InvalidResponseError(UnsandboxError, ValueError):
    """The server's answer violates the protocol: not JSON, a wrong type, no job id."""


class ConnectionFailedError(UnsandboxError):
    """The server did not answer: connection refused or reset, name not found, TLS failure, truncated body."""

    retryable = True

    sent: bool = True
    """Whether a part of the request may have reached the server; False if no connection was established."""


class RequestTimeoutError(ConnectionFailedError, TimeoutError):
    """The server did not answer within the HTTP timeout."""


class WaitTimeoutError(UnsandboxError, TimeoutError):
    """The caller's deadline has passed.

    Attributes:
        job_id: The id of the job, if it was known before the deadline.
        partial: The job's last known state with its output so far; None if nothing is known.
    """

    def __init__(self, message: str, *, job_id: str | None = None, partial: Any = None) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.partial = partial


class JobFailedError(UnsandboxError):
    """`check()` was called on the result of a program that failed.

    Attributes:
        result: The job or the result of the command, with all of its output. The message holds the last line of
            standard error at most.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class EngineError(UnsandboxError):
    """The engine cannot run on this machine: isolation is not available, or the data folder is not usable."""


class ClientStateError(UnsandboxError, RuntimeError):
    """A client was used after it was closed, or in another event loop than its own."""


class APIError(UnsandboxError):
    """The server answered with an error status.

    Attributes:
        status: HTTP status code.
        code: The server's error code (`error` in the body), if any.
        server_message: The server's message, unchanged.
        request_id: The server's id of this request, as in its log.
        retry_after: Seconds to wait before a retry, if the server says so.
        body: The decoded body, or its text if it is not JSON.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        server_message: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.server_message = server_message
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body
        self.retryable = status in RETRYABLE_STATUSES

    def __str__(self) -> str:
        return str(self.args[0])


class BadRequestError(APIError):
    """400: the request is invalid."""


class AuthenticationError(APIError):
    """401: unknown key, wrong signature, or clocks that differ by more than five minutes."""


class PermissionDeniedError(APIError):
    """403: the key may not do this."""


class NotFoundError(APIError):
    """404: the key has no such object."""


class ConflictError(APIError):
    """409: a name is taken, or the object's state does not allow the operation."""


class RemoteFileError(APIError, OSError):
    """A file operation in a session failed. `filename` is not set; the message names the path.

    The subclasses are also Python's errors of the same kind, so `except FileNotFoundError` works.
    """


class RemoteFileNotFoundError(RemoteFileError, NotFoundError, FileNotFoundError):
    """404: there is no such file in the session."""


class RemoteFileExistsError(RemoteFileError, ConflictError, FileExistsError):
    """409: the file exists."""


class RemoteIsADirectoryError(RemoteFileError, ConflictError, IsADirectoryError):
    """409: a file was expected, and the path is a directory."""


class RemoteNotADirectoryError(RemoteFileError, ConflictError, NotADirectoryError):
    """409: a directory was expected, and the path is something else."""


class RemoteNotAFileError(RemoteFileError, BadRequestError):
    """400: a regular file was expected, and the path is a pipe, a socket or a device."""


class RemotePermissionError(RemoteFileError, PermissionDeniedError, PermissionError):
    """403: the user of the session may not do this with the file."""


class PayloadTooLargeError(APIError):
    """413: the request body is larger than the server accepts."""


class SudoRequiredError(APIError):
    """428: the operation requires a one-time code, or the code was wrong.

    Pass `otp=` to the call: the code, or a function that returns it.
    """

    @property
    def challenge_id(self) -> str | None:
        """The id of the server's challenge, which is sent back with the code."""
        name = self.body.get("challenge_id") if isinstance(self.body, dict) else None
        return name if isinstance(name, str) and name else None


class RateLimitError(APIError):
    """429: a limit of the key was reached; `retry_after` has the seconds to wait."""


class ServerError(APIError):
    """5xx: the server failed."""


class UnavailableError(ServerError):
    """502, 503, 504: the server or a proxy is temporarily unable to answer."""


RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})

_BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: PayloadTooLargeError,
    428: SudoRequiredError,
    429: RateLimitError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


_BY_CODE: dict[str, type[APIError]] = {
    "file_not_found": RemoteFileNotFoundError,
    "file_exists": RemoteFileExistsError,
    "is_a_directory": RemoteIsADirectoryError,
    "not_a_directory": RemoteNotADirectoryError,
    "not_a_regular_file": RemoteNotAFileError,
    "permission_denied": RemotePermissionError,
}


def class_for_code(code: str | None, status: int) -> type[APIError]:
    """Return the error class for the code of an answer; for an unknown code, that of its HTTP status.

    Example:
        >>> class_for_code("file_exists", 409).__name__, class_for_code(None, 409).__name__
        ('RemoteFileExistsError', 'ConflictError')
    """
    return _BY_CODE.get(code or "") or class_for_status(status)


def class_for_status(status: int) -> type[APIError]:
    """Return the error class for an HTTP status; for an unknown status, the nearest parent class.

    Example:
        >>> class_for_status(404).__name__, class_for_status(418).__name__, class_for_status(599).__name__
        ('NotFoundError', 'APIError', 'ServerError')
    """
    return _BY_STATUS.get(status) or (ServerError if status >= 500 else APIError)


E_co = TypeVar("E_co", bound=UnsandboxError)

_LIBRARY_BASES = {
    "aiohttp": ("aiohttp", "ClientError"),
    "requests": ("requests", "RequestException"),
}
_derived: dict[tuple[type[UnsandboxError], str], type[UnsandboxError]] = {}


def with_base(cls: type[E_co], library: str) -> type[E_co]:
    """Return a subclass of `cls` that is also an error of `library` (`aiohttp` or `requests`).

    The library is imported when the first such error is created. The subclass has the name and module of
    `cls`. Repeated calls return the same class.

    Example:
        >>> import aiohttp
        >>> issubclass(with_base(NotFoundError, "aiohttp"), aiohttp.ClientError)
        True
    """
    found = _derived.get((cls, library))
    if found is None:
        module, name = _LIBRARY_BASES[library]
        base = getattr(importlib.import_module(module), name)
        namespace = {"__module__": cls.__module__, "__doc__": cls.__doc__, "_plain": cls, "_library": library}
        found = _derived.setdefault((cls, library), type(cls.__name__, (cls, base), namespace))
    return found  # type: ignore[return-value]


def _restore(
    cls: type[UnsandboxError], library: str | None, args: tuple[Any, ...], state: dict[str, Any]
) -> UnsandboxError:
    """Rebuild a pickled error; its state restores the keyword arguments of `__init__`."""
    cls = with_base(cls, library) if library else cls
    # Python requires __new__ of the base that determines the layout (OSError for errors of requests).
    error = cls.__base__.__new__(cls)  # type: ignore[call-overload]
    error.args = args
    error.__dict__.update(state)
    return error


for _name in __all__:
    # Tracebacks name errors as programs do: `unsandbox.NotFoundError`.
    globals()[_name].__module__ = "unsandbox"
del _name
