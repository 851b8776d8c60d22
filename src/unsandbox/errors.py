"""Every error that this package raises.

* `UnsandboxError`
  x `CredentialsError` - no usable key pair
  x `InvalidRequestError` (also `ValueError`) - refused before anything was sent
  x `InvalidResponseError` (also `ValueError`) - the server's answer does not make sense
  x `ConnectionFailedError` - no answer: refused, reset, TLS, DNS
    + `RequestTimeoutError` (also `TimeoutError`) - no answer in time
  x `WaitTimeoutError` (also `TimeoutError`) - the caller's deadline passed; holds the partial result
  x `APIError` - the server answered with an error status
    + `BadRequestError` 400, `AuthenticationError` 401, `PermissionDeniedError` 403, `NotFoundError` 404,
      `ConflictError` 409, `PayloadTooLargeError` 413, `SudoRequiredError` 428, `RateLimitError` 429
    + `ServerError` 5xx
      - `UnavailableError` 502, 503, 504
  x `JobFailedError` - a program did not end well, and `check()` was asked to say so
  x `EngineError` - the embedded engine cannot run here
  x `ClientStateError` (also `RuntimeError`) - a client used after its end, or from another event loop
* `UnsandboxWarning` (a `UserWarning`) - it works, but not as it should

What crosses the network is raised as a subclass that is *also* an error of the HTTP library in use, so that
code written for the historical SDK goes on working: `except aiohttp.ClientError` catches every
`ConnectionFailedError` and `APIError` of the async client, `except requests.RequestException` those of the
sync one. `with_base` makes those subclasses; they carry the name of their parent.
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
    "RequestTimeoutError",
    "ServerError",
    "SudoRequiredError",
    "UnavailableError",
    "UnsandboxError",
    "UnsandboxWarning",
    "WaitTimeoutError",
]


class UnsandboxWarning(UserWarning):
    """Something works but should be put right, such as a secrets file that other users can read."""


class UnsandboxError(Exception):
    """The root: `except UnsandboxError` catches everything that this package raises on purpose."""

    retryable: bool = False
    """Whether the same request may succeed when it is sent again later."""

    _plain: type[UnsandboxError] | None = None
    _library: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword arguments of __init__ and the classes made by with_base would both be lost by the default.
        return _restore, (self._plain or type(self), self._library, self.args, self.__dict__)


class CredentialsError(UnsandboxError):
    """No usable key pair was found. The message names the place and the remedy, never a key."""


class InvalidRequestError(UnsandboxError, ValueError):
    """The request cannot be sent as it is; nothing left this process."""


class InvalidResponseError(UnsandboxError, ValueError):
    """The server's answer is not what the protocol allows: not JSON, a wrong type, no job id."""


class ConnectionFailedError(UnsandboxError):
    """No answer came: connection refused or reset, name not found, TLS failure, truncated body."""

    retryable = True

    sent: bool = True
    """Whether anything of the request may have reached the server; False when no connection came about."""


class RequestTimeoutError(ConnectionFailedError, TimeoutError):
    """No answer came within the HTTP timeout."""


class WaitTimeoutError(UnsandboxError, TimeoutError):
    """The deadline that the caller gave has passed.

    Attributes:
        job_id: The job that was waited for, if it got an id before the deadline.
        partial: What is known of the job, partial output included; None when nothing is known.
    """

    def __init__(self, message: str, *, job_id: str | None = None, partial: Any = None) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.partial = partial


class JobFailedError(UnsandboxError):
    """`check()` was called on the result of a program that did not end well.

    Attributes:
        result: The job, or the result of a command. What it wrote is in there, and not in the message.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class EngineError(UnsandboxError):
    """The engine cannot run here: isolation that cannot be had, a data folder that is not usable."""


class ClientStateError(UnsandboxError, RuntimeError):
    """A client was used after it was closed, or from another event loop than the one it belongs to."""


class APIError(UnsandboxError):
    """The server answered with an error status.

    Attributes:
        status: HTTP status code.
        code: The server's short code (`error` in the body), if any.
        server_message: The server's text for people, unchanged.
        request_id: The server's id of this request, for its log.
        retry_after: Seconds that the server asks to wait, if it does.
        body: The decoded body, or its text when it was not JSON.
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
    """400: the server does not accept the request as it is."""


class AuthenticationError(APIError):
    """401: unknown key, wrong signature, or a clock that is more than five minutes off."""


class PermissionDeniedError(APIError):
    """403: the key may not do this."""


class NotFoundError(APIError):
    """404: no such object, or not one of this key."""


class ConflictError(APIError):
    """409: a name is taken, or the object is not in a state that allows this."""


class PayloadTooLargeError(APIError):
    """413: the request body is larger than the server takes."""


class SudoRequiredError(APIError):
    """428: the server wants a one-time code for this operation, or the code that it got was not right.

    Give the call `otp=`: the code, or something to be called that returns it.
    """

    @property
    def challenge_id(self) -> str | None:
        """Which question of the server's the code answers; sent back beside it."""
        name = self.body.get("challenge_id") if isinstance(self.body, dict) else None
        return name if isinstance(name, str) and name else None


class RateLimitError(APIError):
    """429: too many requests or jobs at once; `retry_after` says when to come back."""


class ServerError(APIError):
    """5xx: the server failed."""


class UnavailableError(ServerError):
    """502, 503, 504: the server, or something before it, cannot answer now."""


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


def class_for_status(status: int) -> type[APIError]:
    """Return the error class for an HTTP status; an unknown one gets the nearest parent, never a failure.

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

    The library is imported when the first such error is made, not before. The subclass has the name and
    module of `cls`; asking twice returns the same class.

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
    """Rebuild a pickled error: keyword arguments of `__init__` come back through its state."""
    cls = with_base(cls, library) if library else cls
    # The base that decides the layout (OSError for those of requests) is the one whose __new__ Python allows.
    error = cls.__base__.__new__(cls)  # type: ignore[call-overload]
    error.args = args
    error.__dict__.update(state)
    return error


for _name in __all__:
    # Tracebacks name errors as programs do: `unsandbox.NotFoundError`.
    globals()[_name].__module__ = "unsandbox"
del _name
