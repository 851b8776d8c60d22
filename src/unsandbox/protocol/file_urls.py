"""Signed URLs of one file in a session: HMAC-SHA256 (RFC 2104), made by clients and checked by servers.

The secret of a key signs method, session, path and expiry. The URL needs no other credentials. It ends with its
expiry, with the session, and with the key.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from unsandbox.errors import InvalidRequestError

LONGEST_S = 7 * 86400
"""Seconds that a URL may be valid."""
CONTENT_PATH = "/sessions/{id}/files/content"
_CONTEXT = "unsandbox file url"
"""Keeps these signatures apart from those of requests, which begin with a time."""
_EXPIRES = re.compile(r"[0-9]{1,12}\Z")


def file_url(
    base_url: str, keys: tuple[str, str], session_id: str, path: str, *, expires_at: int, write: bool = False
) -> str:
    """Return the signed URL of a file.

    Args:
        base_url: URL of the server, without a slash at the end.
        keys: Public and secret key.
        session_id: The session.
        path: The file inside it.
        expires_at: Unix time at which the URL ends.
        write: Whether it is for `PUT` instead of `GET`.

    Raises:
        InvalidRequestError: The path cannot be written as UTF-8.

    Example:
        >>> file_url("http://h", ("pk", "sk"), "s", "/work/a b", expires_at=9)[:62]
        'http://h/sessions/s/files/content?path=%2Fwork%2Fa%20b&expires'
    """
    public_key, secret_key = keys
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError("path holds a lone surrogate, which a URL cannot hold") from error
    members = {
        "path": path,
        "expires": str(expires_at),
        "key": public_key,
        "signature": _signature(secret_key, "PUT" if write else "GET", session_id, path, str(expires_at)),
    }
    place = CONTENT_PATH.replace("{id}", quote(session_id, safe=""))
    return f"{base_url}{place}?{urlencode(members, quote_via=quote, safe='')}"


def is_valid_file_url(
    secret_key: str, method: str, session_id: str, members: Mapping[str, str], now: float
) -> bool:
    """Return whether the members of a URL's query are signed by a key, and the URL has not ended.

    The time that the comparison takes tells nothing of the right signature.

    Args:
        secret_key: Secret of the key that the URL names.
        method: `GET` or `PUT`.
        session_id: The session.
        members: The query, decoded.
        now: Unix time in seconds.

    Example:
        >>> from urllib.parse import parse_qsl, urlsplit
        >>> url = file_url("http://h", ("pk", "sk"), "s", "a", expires_at=100)
        >>> members = dict(parse_qsl(urlsplit(url).query))
        >>> [is_valid_file_url("sk", "GET", "s", members, now) for now in (99, 100)]
        [True, False]
    """
    expires = members.get("expires", "")
    if not _EXPIRES.match(expires):
        return False
    right = _signature(secret_key, method, session_id, members.get("path", ""), expires)
    fits = hmac.compare_digest(right.encode(), members.get("signature", "").encode("utf-8", "replace"))
    return fits and now < int(expires) <= now + LONGEST_S + 300


def _signature(secret_key: str, method: str, session_id: str, path: str, expires: str) -> str:
    text = "\n".join(
        (_CONTEXT, method, quote(session_id, safe=""), quote(path, safe="", errors="replace"), expires)
    )
    return hmac.new(secret_key.encode(), text.encode(), "sha256").hexdigest()
