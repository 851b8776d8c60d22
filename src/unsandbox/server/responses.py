"""Answers of the API: JSON, the headers that every answer has, and a JSON answer for every error."""

from __future__ import annotations

import logging

from aiohttp import web

from unsandbox._version import __version__
from unsandbox.engine import (
    Conflict,
    Damaged,
    Forbidden,
    InsufficientStorage,
    InvalidRequest,
    LimitReached,
    NotImplementedHere,
    RequestError,
    Stopping,
    StorageUnavailable,
    TooLarge,
    UnknownJob,
    UnknownObject,
)
from unsandbox.engine.store.disk_full import is_disk_full
from unsandbox.protocol import codec
from unsandbox.protocol.contents import ChunkReader, Pieces
from unsandbox.protocol.endpoints.jobs import FEATURES, FEATURES_HEADER, REQUEST_ID_HEADER
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.server.auth import Unauthorized
from unsandbox.server.body import too_large
from unsandbox.server.sudo import SudoNeeded
from unsandbox.server.unproved import Busy

logger = logging.getLogger("unsandbox.server")

_STATUS_OF: dict[type[RequestError], int] = {
    InvalidRequest: 400,
    UnknownJob: 404,
    UnknownObject: 404,
    Forbidden: 403,
    NotImplementedHere: 501,
    Conflict: 409,
    TooLarge: 413,
    LimitReached: 429,
    Damaged: 409,
    InsufficientStorage: 507,
    StorageUnavailable: 503,
    Stopping: 503,
    Busy: 503,
}
_RETRY_AFTER_S = "1"
_DISK_FULL = "the server's disk, or the quota of a work folder on it, is full; free space and send it again"
_FEATURES = ",".join(FEATURES)


def status_of(error: RequestError) -> int:
    """Return the HTTP status of a refused request."""
    return _STATUS_OF.get(type(error), 400)


def json_response(status: int, body: bytes | Pieces) -> web.Response:
    """Return a JSON answer; one in pieces is read while it is sent."""
    if isinstance(body, bytes):
        return web.Response(status=status, body=body, content_type="application/json")
    reader = ChunkReader(body.chunks())
    headers = {"Content-Length": str(len(body))}
    return web.Response(status=status, body=reader, content_type="application/json", headers=headers)


def introduce(response: web.StreamResponse, request_id: str) -> None:
    """Set the headers that name the server, its features, and the request."""
    response.headers[REQUEST_ID_HEADER] = request_id
    response.headers[FEATURES_HEADER] = _FEATURES
    response.headers["Server"] = f"unsandbox/{__version__}"


def error_response(error: Exception, request: web.Request, request_id: str, body_limit: int) -> web.Response:
    """Return the JSON answer for an exception of a handler; unexpected exceptions are logged.

    Args:
        error: The exception.
        request: The request.
        request_id: Its id.
        body_limit: Largest body that the server takes.
    """
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        error = too_large(body_limit)
    match error:
        case Unauthorized():
            # Historical clients read these members of the answer to this path alone.
            validity: dict[str, str | bool] = {"valid": False, "reason": error.reason, **error.details}
            details = validity if request.path == "/keys/validate" else {}
            response = _error(401, error.code, error.message, request_id, **details)
            response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, 11.6.1
            return response
        case SudoNeeded():
            code = "sudo_otp_required"
            return _error(428, code, error.message, request_id, challenge_id=error.challenge_id)
        case RequestError():
            return _refusal(error, request_id)
        case web.HTTPException():
            return _http_error(error, request_id)
        case SandboxUnavailable():
            return _error(400, "isolation_unavailable", str(error), request_id)
        case SandboxError():
            # The sandbox ended or failed during the call; a repeated request mostly succeeds.
            logger.warning("request %s: %s", request_id, error)
            return _error(409, "sandbox_failed", str(error), request_id)
    if is_disk_full(error):
        logger.error("request %s: a disk is full", request_id)
        return _error(507, InsufficientStorage.code, _DISK_FULL, request_id)
    logger.error("request %s failed", request_id, exc_info=error)
    message = f"the server failed; its log says why ({request_id})"
    return _error(500, "internal_error", message, request_id)


def _refusal(error: RequestError, request_id: str) -> web.Response:
    status = status_of(error)
    response = _error(status, error.code, error.message, request_id, **error.details)
    if status in {429, 503}:
        response.headers["Retry-After"] = str(error.details.get("retry_after", _RETRY_AFTER_S))
    return response


def _http_error(error: web.HTTPException, request_id: str) -> web.Response:
    name = error.reason.lower().replace(" ", "_")
    text = "no such path; /openapi.json lists what there is" if error.status == 404 else error.reason
    response = _error(error.status, name, text, request_id)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def _error(status: int, code: str, message: str, request_id: str, **details: int | str | bool) -> web.Response:
    # The order matters to clients that search the text: members that they read at top level come first.
    members = {"error": code, "message": message, "request_id": request_id, **details}
    return json_response(status, codec.encode(members))
