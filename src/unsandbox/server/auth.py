"""Who sent a request: bearer key, timestamp, signature over the raw target and the raw body."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from unsandbox.engine.keys import KeyRing
from unsandbox.protocol.signing import CLOCK_TOLERANCE_S, clock_skew, verify


class Unauthorized(Exception):  # noqa: N818 - named after the status
    """The request is not signed by a valid key.

    Attributes:
        code: Short name for programs.
        message: What is wrong, for people. It holds the word "timestamp" exactly when the clock is the
            problem: historical clients look for it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Caller:
    """A request whose headers are plausible; its signature is still to be checked against the body."""

    public_key: str
    secret_key: str
    timestamp: str
    signature: str

    def __repr__(self) -> str:
        return f"Caller({self.public_key!r})"

    def check_body(self, method: str, target: str, body: bytes) -> None:
        """Check the signature.

        Raises:
            Unauthorized: It does not fit.
        """
        if not verify(self.secret_key, self.timestamp, method, target, body, self.signature):
            raise Unauthorized(
                "invalid_signature",
                "the signature does not fit this request; check the secret key, and that the signed bytes are "
                "those that are sent",
            )


def check_headers(request: web.Request, keys: KeyRing, now: float) -> Caller:
    """Check everything that can be known before the body is read, so that strangers cannot make us read it.

    Args:
        request: The request.
        keys: Where secrets are found.
        now: Unix time in seconds.

    Raises:
        Unauthorized: A header is missing or wrong, or the key is not valid.
    """
    scheme, _, public_key = request.headers.get("Authorization", "").partition(" ")
    public_key = public_key.strip()
    timestamp = request.headers.get("X-Timestamp", "")
    signature = request.headers.get("X-Signature", "")
    if scheme.lower() != "bearer" or not public_key or not timestamp or not signature:
        raise Unauthorized(
            "missing_credentials",
            "the request needs the headers Authorization (Bearer <public key>), X-Timestamp and X-Signature",
        )
    secret_key = keys.secret_of(public_key) if public_key.isascii() else None
    if secret_key is None:
        raise Unauthorized("invalid_key", "the public key is unknown to this server or was revoked")
    skew = clock_skew(timestamp, now)
    if skew is None:
        raise Unauthorized("invalid_timestamp", "the timestamp must be Unix time in whole seconds")
    if abs(skew) > CLOCK_TOLERANCE_S:
        direction = "ahead of" if skew > 0 else "behind"
        raise Unauthorized(
            "stale_timestamp",
            f"the timestamp is {abs(skew):.0f} s {direction} the server's clock; at most {CLOCK_TOLERANCE_S} s "
            "are allowed. Set your clock",
        )
    return Caller(public_key, secret_key, timestamp, signature)
