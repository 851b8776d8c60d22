"""Request signing: HMAC-SHA256 (RFC 2104) over `timestamp:METHOD:path:body`.

The signature covers exactly the sent bytes: the body, and the target as in the request line. It is valid for
five minutes around the server's clock. There is no nonce, so the same request sent twice within one second
has the same signature, and both are valid.
"""

from __future__ import annotations

import functools
import hmac
import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from unsandbox.errors import InvalidRequestError
from unsandbox.protocol.contents import Pieces, chunks_of

CLOCK_TOLERANCE_S = 300
"""How far a request's timestamp may be from the server's clock, in seconds, either way."""

_TIMESTAMP = re.compile(r"[0-9]{1,15}\Z")
_LOG_MEMBERS = {"source", "lines", "since", "grep", "level"}
_BARE_PATHS = (
    ("POST", re.compile(r"/sessions"), {"audit"}),
    ("DELETE", re.compile(r"/sessions/[^/]+"), {"audit"}),
    ("GET", re.compile(r"(?:/paas)?/logs(?:/[^?]*)?"), _LOG_MEMBERS),
    ("GET", re.compile(r"/images"), {"filter"}),
    ("GET", re.compile(r"/services/[^/]+/env"), {"format"}),
)
"""Method, path and query members of requests whose query the C client does not sign (wire document, 2.1)."""
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def sign(secret_key: str, timestamp: str, method: str, target: str, body: bytes | Pieces = b"") -> str:
    """Return the signature of one request: 64 lower-case hexadecimal digits.

    Args:
        secret_key: The whole secret key, prefix included.
        timestamp: The exact text of the `X-Timestamp` header (Unix time, whole seconds).
        method: HTTP method in upper case.
        target: Path and query as sent, starting with `/`.
        body: The exact bytes of the body; empty if there is none. Contents in files are read.

    Raises:
        OSError: A file cannot be read.

    Example:
        >>> sign("unsb-sk-x", "1700000000", "GET", "/jobs")[:16]
        '8f184c38ed82c7a4'
    """
    signature = _begun(secret_key, timestamp, method, target)
    for chunk in chunks_of(body):
        signature.update(chunk)
    return signature.hexdigest()


def signed_headers(
    public_key: str, secret_key: str, timestamp: int, method: str, target: str, body: bytes | Pieces = b""
) -> dict[str, str]:
    """Return the three headers that authenticate a request: key, time, signature.

    Args:
        public_key: Sent as bearer token.
        secret_key: Never sent; signs.
        timestamp: Unix time in seconds.
        method: HTTP method in upper case.
        target: Path and query as sent.
        body: The exact bytes of the body.
    """
    text = str(timestamp)
    return {
        "Authorization": f"Bearer {public_key}",
        "X-Timestamp": text,
        "X-Signature": sign(secret_key, text, method, target, body),
    }


def verify(secret_key: str, timestamp: str, method: str, target: str, body: bytes, signature: str) -> bool:
    """Return whether a signature is valid, in constant time for each variant.

    Some historical requests are signed over the bare path although they have a query (see `signed_targets`),
    and some over the empty string although they send `{}`; both are accepted, each alone and together.

    Args:
        secret_key: The secret that belongs to the request's public key.
        timestamp: Text of the `X-Timestamp` header.
        method: HTTP method as received.
        target: Path and query as received, not decoded.
        body: Body bytes as received.
        signature: Text of the `X-Signature` header.
    """
    targets = signed_targets(method.upper(), target)
    bodies = {body, b""} if body == b"{}" else {body}
    given = signature.encode(errors="replace")
    # `|=` and not `or`: every variant is computed, so the time does not tell which one matched.
    right = False
    for one_target in targets:
        for one_body in bodies:
            expected = sign(secret_key, timestamp, method.upper(), one_target, one_body)
            right |= hmac.compare_digest(expected.encode(), given)
    return right


def signed_targets(method: str, target: str) -> set[str]:
    """Return the targets that the signature of a request may be over: its own, and for a few its bare path.

    Those few are the requests whose query the historical C client does not sign. The query of any other request
    must be signed; otherwise an attacker on the network could add one.

    Example:
        >>> sorted(signed_targets("GET", "/images?filter=owned")), signed_targets("GET", "/jobs?limit=1")
        (['/images', '/images?filter=owned'], {'/jobs?limit=1'})
    """
    path, _, query = target.partition("?")
    names = {member.partition("=")[0] for member in query.split("&")}
    for bare_method, pattern, members in _BARE_PATHS:
        if method == bare_method and names <= members and pattern.fullmatch(path):
            return {target, path}
    return {target}


class Verifier:
    """Checks the signature of a body that arrives in pieces; the variants are those of `verify`.

    Args:
        secret_key: The secret that belongs to the request's public key.
        timestamp: Text of the `X-Timestamp` header.
        method: HTTP method as received.
        target: Path and query as received, not decoded.
    """

    def __init__(self, secret_key: str, timestamp: str, method: str, target: str) -> None:
        targets = signed_targets(method.upper(), target)
        self._begun = [_begun(secret_key, timestamp, method.upper(), one) for one in targets]

    def update(self, piece: bytes) -> None:
        """Add the next piece of the body."""
        for signature in self._begun:
            signature.update(piece)

    def fits(self, signature: str) -> bool:
        """Return whether the text of the `X-Signature` header is valid for the body."""
        given = signature.encode(errors="replace")
        right = False
        for expected in self._begun:
            right |= hmac.compare_digest(expected.hexdigest().encode(), given)
        return right


def clock_skew(timestamp: str, now: float) -> float | None:
    """Return the seconds that the request's clock is ahead of this one; None if the header is not a time.

    Example:
        >>> clock_skew("1700000100", 1700000000.0)
        100.0
    """
    if not _TIMESTAMP.match(timestamp):
        return None
    return int(timestamp) - now


def build_target(path: str, params: Mapping[str, str], query: Mapping[str, object] | None = None) -> str:
    """Fill a path template and append the query, percent-encoded, ready to be signed and sent.

    Args:
        path: Template such as `/jobs/{id}`.
        params: A value for each placeholder; a value may hold any character, slash included.
        query: Query members; None values are left out, booleans become `true` and `false`.

    Raises:
        InvalidRequestError: A parameter is missing, empty, or cannot be written as UTF-8.

    Example:
        >>> build_target("/jobs/{id}", {"id": "a/b"}, {"wait": 5, "x": None})
        '/jobs/a%2Fb?wait=5'
    """
    target = path
    try:
        for name in _placeholders(path):
            value = params.get(name, "")
            if not value or value in {".", ".."}:
                raise InvalidRequestError(f"{name!r} of {path} must be a non-empty identifier")
            # A quoted value has no brace, so it is never mistaken for a placeholder.
            target = target.replace(f"{{{name}}}", quote(value, safe=""))
        if not query:
            return target
        members = {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in query.items()
            if value is not None
        }
        return f"{target}?{urlencode(members, quote_via=quote)}" if members else target
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"an argument of {path} holds a lone surrogate: {error.reason}") from error


@functools.cache
def _placeholders(path: str) -> list[str]:
    """Return the names in a path template, of which there are as many as there are endpoints."""
    return _PLACEHOLDER.findall(path)


def _begun(secret_key: str, timestamp: str, method: str, target: str) -> hmac.HMAC:
    signature = _keyed(secret_key).copy()
    signature.update(b"%s:%s:%s:" % (timestamp.encode(), method.encode(), _raw(target)))
    return signature


@functools.lru_cache(maxsize=256)
def _keyed(secret_key: str) -> hmac.HMAC:
    """Return the beginning of every signature by a key: OpenSSL takes longer to set one up than to sign."""
    return hmac.new(secret_key.encode(), digestmod="sha256")


def _raw(target: str) -> bytes:
    # A server decodes a request line that is not UTF-8 with surrogateescape; this gives its bytes back.
    return target.encode("utf-8", "surrogateescape")
