"""One request as a handler sees it, and how its members are read."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from yarl import URL

from unsandbox.engine import Engine, InvalidRequest, TooLarge
from unsandbox.engine.accounts.keys import KeySettings
from unsandbox.protocol import codec
from unsandbox.protocol.bounds import LARGE, BoundExceededError
from unsandbox.protocol.contents import Content
from unsandbox.protocol.held import fill_in
from unsandbox.protocol.json_values import has_more_values
from unsandbox.protocol.models import WireModel
from unsandbox.protocol.splitting import restored

T = TypeVar("T", bound=WireModel)

SERVICE_DOMAIN = "localhost"
"""Every name below it leads to this machine (RFC 6761), in browsers and most resolvers without any set-up."""
MOST_VALUES = 100_000
"""JSON values in a large body; a request has a few for each of its files, arguments and variables."""
_SMALL_BYTES = 1 << 16
HOLD_S = 95.0
"""Seconds that `/execute` holds its answer: historical clients give up after 120, proxies after 100."""


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Call:
    """One request, authenticated and read.

    Attributes:
        engine: The engine.
        owner: Public key that signed; empty for an endpoint without a signature.
        settings: Settings of that key.
        params: Values of the path's placeholders, decoded.
        query: Query members, decoded.
        body: Raw body, but for large files.
        marks: Large files that are not in `body`, by the marks in their places.
        members: The JSON object in the body, when that was large.
        digest: SHA-256 in hex of the body as it was sent, where that is not of `body`.
        idempotency_key: From the header, if there.
        hold_s: Seconds that `/execute` may hold its answer.
        path: Path of the request, decoded.
        service_domain: Services are reached at hosts below it.
        connected: Tells whether the client still waits for the answer.
        base_url: The server's public URL, otherwise the scheme and host of the request; no slash at the end.
    """

    engine: Engine
    owner: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    marks: Mapping[str, Content] = field(default_factory=dict)
    members: dict[str, Any] | None = None
    digest: str | None = None
    settings: KeySettings = field(default_factory=KeySettings)
    idempotency_key: str | None = None
    hold_s: float = HOLD_S
    base_url: str = ""
    path: str = ""
    service_domain: str = SERVICE_DOMAIN
    connected: Callable[[], bool] = _always

    @property
    def body_sha256(self) -> str:
        """SHA-256 in hex of the body as it was sent."""
        return self.digest or hashlib.sha256(self.body).hexdigest()

    def service_url(self, name: str) -> str:
        """Return where a service is reached, as seen by this caller: on the port that the caller used.

        Example:
            >>> call = Call(Engine(), "", {}, {}, b"", base_url="http://127.0.0.1:8787")
            >>> call.service_url("shop")
            'http://shop.localhost:8787'
        """
        address = URL(self.base_url)
        port = "" if address.is_default_port() else f":{address.port}"
        return f"{address.scheme}://{name}.{self.service_domain}{port}"


Handler = Callable[[Call], Awaitable[WireModel]]


def read_body(call: Call, model: type[T]) -> T:
    """Return the JSON body as a model; absent, `{}`, `[]` and `null` are an object without members.

    Raises:
        InvalidRequest: It is not JSON, or a member is missing or of the wrong type.
    """
    return to_model(read_members(call), model)


def read_members(call: Call) -> dict[str, Any]:
    """Return the JSON body as an object.

    Raises:
        InvalidRequest: It is not JSON, or not an object.
    """
    return _parse(call.body, call.marks) if call.members is None else call.members


async def parse_large(body: bytes, marks: Mapping[str, Content]) -> dict[str, Any] | None:
    """Return the JSON object of a large body, read in a thread; None of a small one.

    Raises:
        InvalidRequest: It is not JSON, not an object, or has far too many members.
    """
    if len(body) <= _SMALL_BYTES:
        return None
    return await asyncio.to_thread(_parse_large, body, marks)


def _parse_large(body: bytes, marks: Mapping[str, Content]) -> dict[str, Any]:
    # The parser holds the interpreter from the first byte to the last, and its time grows with the values.
    if has_more_values(body, MOST_VALUES):
        raise InvalidRequest(f"the body has more than {MOST_VALUES} JSON values", code="invalid_json")
    return _parse(body, marks)


def _parse(body: bytes, marks: Mapping[str, Content]) -> dict[str, Any]:
    try:
        members = codec.loads_object(body)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from error
    return restored(members, marks) if marks else members


def to_model(members: Mapping[str, Any], model: type[T]) -> T:
    """Decode a request's body as its type.

    Raises:
        InvalidRequest: A member is missing, too long or of the wrong type; the message names it.
        TooLarge: Code, script or a file is too long.
    """
    try:
        return fill_in(codec.from_wire(members, model))
    except BoundExceededError as error:
        kind = TooLarge if error.bound > LARGE else InvalidRequest
        raise kind(str(error)) from error
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


def read_number(query: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    """Return a number of the query; one above `high` counts as `high`.

    Raises:
        InvalidRequest: It is not a number, or below `low`.
    """
    text = query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value:  # also true for NaN
        raise InvalidRequest(f"the query member {name!r} must be a number from {low:g} to {high:g}")
    return min(value, high)


def read_port(text: str) -> int:
    """Return a port that is named in a path.

    Raises:
        InvalidRequest: It is not a number from 1 to 65535.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 1 << 16):
        raise InvalidRequest(f"{text[:20]!r} is not a port from 1 to 65535")
    return int(text)


def read_flag(query: Mapping[str, str], name: str) -> bool:
    """Return whether a member of the query is `1`, `true` or `yes`, in any case."""
    return query.get(name, "").strip().lower() in {"1", "true", "yes"}
