"""Authentication of requests: bearer key, timestamp, signature over the raw target and body."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web

from unsandbox.engine.accounts.keys import KeyRing, KeySettings
from unsandbox.protocol.signing import CLOCK_TOLERANCE_S, Verifier, clock_skew, verify
from unsandbox.protocol.tokens import split_token


class Unauthorized(Exception):  # noqa: N818 - named after the status
    """The request is not signed by a valid key.

    Attributes:
        code: Short name for programs.
        message: The problem, for people. It contains the word "timestamp" exactly when the clock is the
            problem: historical clients look for it.
        reason: Reason in the answer of `/keys/validate`: `invalid_key` or `expired`.
        details: Further members of its answer.
    """

    def __init__(self, code: str, message: str, reason: str = "invalid_key", **details: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.details = details


@dataclass(frozen=True, slots=True)
class Caller:
    """A request whose headers are plausible; its signature is still to be checked against the body."""

    public_key: str
    secret_key: str
    settings: KeySettings
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
            raise _wrong_signature()

    def verifier(self, method: str, target: str) -> Verifier:
        """Return an object that receives a body in pieces, for `check_taken`."""
        return Verifier(self.secret_key, self.timestamp, method, target)

    def check_taken(self, verifier: Verifier) -> None:
        """Check the signature of a body that came piece by piece.

        Raises:
            Unauthorized: It does not fit.
        """
        if not verifier.fits(self.signature):
            raise _wrong_signature()

    def check_expiry(self, now: float) -> None:
        """Check that the key is still valid; after the signature, so that strangers learn nothing of it.

        Raises:
            Unauthorized: It has expired.
        """
        expires = self.settings.expires_at
        if expires is not None and now >= expires:
            at = datetime.fromtimestamp(expires, UTC)
            raise Unauthorized(
                "key_expired",
                f"this key expired at {at:%Y-%m-%d %H:%M} UTC; ask the server's operator for a new one",
                reason="expired",
                expired_at_datetime=at.isoformat(),
                expired_ago=f"{human_duration(now - expires)} ago",
            )


def _wrong_signature() -> Unauthorized:
    return Unauthorized(
        "invalid_signature",
        "the signature does not fit this request; check the secret key, and that the signed bytes are "
        "those that are sent",
    )


def check_headers(request: web.Request, keys: KeyRing, now: float) -> Caller:
    """Check everything that can be known before the body is read, so that strangers cannot make us read it.

    Args:
        request: The request.
        keys: The lookup of secrets.
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
    known = keys.find(public_key) if public_key.isascii() else None
    if known is None:
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
    return Caller(public_key, known.secret_key, known.settings, timestamp, signature)


def check_token(token: str, keys: KeyRing) -> Caller:
    """Check a key pair that came as one text, as other protocols send it; see `unsandbox.protocol.tokens`.

    Args:
        token: The text.
        keys: The lookup of secrets.

    Raises:
        Unauthorized: It is not a valid key.
    """
    pair = split_token(token)
    if pair is None:
        raise Unauthorized(
            "missing_credentials", "the request needs a key pair as one token: <public key>.<secret key>"
        )
    public_key, secret_key = pair
    known = keys.find(public_key)
    # Compared in any case, so that the time tells nothing of which public keys exist.
    expected = secrets.token_hex(16) if known is None else known.secret_key
    fits = hmac.compare_digest(secret_key.encode(), expected.encode())
    if known is None or not fits:
        raise Unauthorized("invalid_key", "the key pair is unknown to this server or was revoked")
    return Caller(public_key, known.secret_key, known.settings, "", "")


def human_duration(seconds: float) -> str:
    """Return a duration in its largest unit.

    Example:
        >>> human_duration(90), human_duration(2 * 86400)
        ('1 minute', '2 days')
    """
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{int(seconds)} seconds"
