"""Turn an HTTP answer into a JSON object or an error."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any

from unsandbox.errors import APIError, InvalidResponseError, class_for_code
from unsandbox.protocol import codec
from unsandbox.protocol.endpoints.jobs import REQUEST_ID_HEADER
from unsandbox.protocol.retry import parse_retry_after

_TEXT_SHOWN = 300


def read_object(status: int, headers: Mapping[str, str], body: bytes, now: float) -> dict[str, Any]:
    """Return the JSON object of a successful answer.

    Args:
        status: HTTP status code.
        headers: Response headers, looked up by their usual spelling.
        body: The whole body.
        now: Unix time in seconds, for a `Retry-After` that is a date.

    Raises:
        APIError: The status is not 2xx; the subclass tells which.
        InvalidResponseError: The body of a success is not a JSON object.
    """
    if not 200 <= status < 300:
        raise api_error(status, headers, body, now)
    try:
        value = codec.loads(body)
    except ValueError as error:
        raise InvalidResponseError(f"the server answered {status} with a body that is not JSON") from error
    if isinstance(value, list):
        # The C client accepts a bare array from /languages, so some servers may send it.
        return {"languages": value, "jobs": value, "count": len(value)}
    if not isinstance(value, dict):
        raise InvalidResponseError(f"the server answered {status} with JSON that is not an object")
    return value


def api_error(status: int, headers: Mapping[str, str], body: bytes, now: float) -> APIError:
    """Build the error of a non-2xx answer; the server's own words are kept.

    Example:
        >>> error = api_error(404, {}, b'{"error":"not_found","message":"no such job"}', 0.0)
        >>> type(error).__name__, str(error)
        ('NotFoundError', '404 Not Found: no such job (not_found)')
    """
    try:
        decoded: Any = codec.loads(body) if body else None
    except ValueError:
        decoded = body.decode("utf-8", "replace")
    members = decoded if isinstance(decoded, dict) else {}
    code = _text(members.get("error"))
    message = _text(members.get("message"))
    shown = message or code or (decoded.strip()[:_TEXT_SHOWN] if isinstance(decoded, str) else "")
    try:
        phrase = f" {http.HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    text = f"{status}{phrase}" + (f": {shown}" if shown else "")
    if message and code and code != message:
        text += f" ({code})"
    return class_for_code(code, status)(
        # A body that was not UTF-8 left surrogates, which cannot be printed.
        text.encode("utf-8", "replace").decode(),
        status=status,
        code=code,
        server_message=message or code,
        request_id=headers.get(REQUEST_ID_HEADER) or _text(members.get("request_id")),
        retry_after=parse_retry_after(headers, now),
        body=decoded,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
