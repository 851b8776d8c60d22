"""Errors in the shapes that E2B's clients know: one for each of the three parts of the wire."""

from __future__ import annotations

import logging

import msgspec
from aiohttp import web

from unsandbox.engine.errors import (
    Conflict,
    Forbidden,
    InsufficientStorage,
    InvalidRequest,
    LimitReached,
    NotImplementedHere,
    RequestError,
    Stopping,
    TooLarge,
    UnknownObject,
)
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.server.auth import Unauthorized

logger = logging.getLogger("unsandbox.server.e2b")

JSON = "application/json"
CONNECT_STATUS = {
    "invalid_argument": 400,
    "failed_precondition": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "resource_exhausted": 429,
    "canceled": 499,
    "internal": 500,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}
"""HTTP status of each code (https://connectrpc.com/docs/protocol#error-codes)."""

_BY_CLASS: tuple[tuple[type[Exception], str], ...] = (
    (UnknownObject, "not_found"),
    (Forbidden, "permission_denied"),
    (InvalidRequest, "invalid_argument"),
    (TooLarge, "resource_exhausted"),
    (LimitReached, "resource_exhausted"),
    (InsufficientStorage, "resource_exhausted"),
    (NotImplementedHere, "unimplemented"),
    (Unauthorized, "unauthenticated"),
    (Stopping, "unavailable"),
    (Conflict, "failed_precondition"),
    (SandboxUnavailable, "unavailable"),
    (SandboxError, "unavailable"),
)
_BY_REASON = {
    "file_exists": "already_exists",
    "is_a_directory": "invalid_argument",
    "not_a_directory": "invalid_argument",
    "directory_not_empty": "invalid_argument",
    "stdin_closed": "failed_precondition",
}
_GONE = frozenset({"session_not_found", "session_frozen"})
_PLAIN_STATUS = {"failed_precondition": 409, "unavailable": 503}
"""Statuses of plain HTTP that differ from those of the table."""


class E2bError(Exception):
    """A request that is refused.

    Attributes:
        code: Name of the error, of `CONNECT_STATUS`.
        message: The problem, for people.
        status: HTTP status in plain HTTP.
    """

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status or _PLAIN_STATUS.get(code, CONNECT_STATUS[code])


class SandboxGoneError(E2bError):
    """The sandbox does not exist, or is paused. The clients look for the words "was not found"."""

    def __init__(self, sandbox_id: str) -> None:
        super().__init__("unavailable", "The sandbox was not found", 502)
        self.sandbox_id = sandbox_id


def as_e2b_error(error: Exception, sandbox_id: str = "") -> E2bError:
    """Return any error of a request as one of E2B's.

    Args:
        error: The error.
        sandbox_id: The sandbox of the request.
    """
    if isinstance(error, E2bError):
        return error
    reason = error.code if isinstance(error, RequestError) else ""
    if reason in _GONE:
        return SandboxGoneError(sandbox_id)
    message = str(getattr(error, "message", "") or error)
    if isinstance(error, web.HTTPException):
        known = next((code for code, status in CONNECT_STATUS.items() if status == error.status), "internal")
        return E2bError(known, error.reason, error.status)
    code = _BY_REASON.get(reason) or next((name for kind, name in _BY_CLASS if isinstance(error, kind)), None)
    if code is None:
        logger.error("a request of an E2B client failed", exc_info=error)
        return E2bError("internal", "the server failed; its log says why")
    return E2bError(code, message, 507 if isinstance(error, InsufficientStorage) else None)


def plain_error(error: E2bError) -> web.Response:
    """Return an error of the control plane, or of the files.

    Args:
        error: The error.
    """
    members: dict[str, object] = {"code": error.status, "message": error.message}
    if isinstance(error, SandboxGoneError):
        members["sandboxId"] = error.sandbox_id
    return json_answer(members, error.status)


def connect_error(error: E2bError) -> web.Response:
    """Return an error of a unary call of Connect.

    Args:
        error: The error.
    """
    if isinstance(error, SandboxGoneError):
        return plain_error(error)
    return json_answer({"code": error.code, "message": error.message}, CONNECT_STATUS[error.code])


def text_error(error: E2bError) -> web.Response:
    """Return an error of the code interpreter.

    Args:
        error: The error.
    """
    return (
        plain_error(error)
        if isinstance(error, SandboxGoneError)
        else web.Response(text=error.message, status=error.status)
    )


def json_answer(members: object, status: int = 200) -> web.Response:
    """Return an answer in JSON.

    Args:
        members: The object or list.
        status: HTTP status.
    """
    return web.Response(body=msgspec.json.encode(members), status=status, content_type=JSON)
