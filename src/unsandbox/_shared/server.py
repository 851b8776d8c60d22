"""The address of the server."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import urlsplit

from unsandbox.credentials import Credentials
from unsandbox.errors import InvalidRequestError

HOSTED = "https://api.unsandbox.com"
LOCAL = "local"
"""The base URL that means: the engine inside this process."""
BASE_VARIABLE = "UNSANDBOX_API_BASE"


class ServerAddress(NamedTuple):
    """A server's address, and the keys that come with it when it is the embedded one."""

    origin: str
    prefix: str
    keys: Credentials | None = None


def choose_base(base_url: str | None) -> str:
    """Return the base URL to use: the given one, else the environment's, else the hosted service."""
    chosen = (base_url or os.environ.get(BASE_VARIABLE, "")).strip() or HOSTED
    return LOCAL if chosen.lower() == LOCAL else chosen


def parse_base(base_url: str) -> ServerAddress:
    """Split a base URL into origin and path prefix.

    Raises:
        InvalidRequestError: It is not a plain http or https URL.

    Example:
        >>> parse_base("https://example.org/api/")
        ServerAddress(origin='https://example.org', prefix='/api', keys=None)
    """
    problem = None
    try:
        parts = urlsplit(base_url)
        _ = parts.port
    except ValueError:
        problem = "it is not a URL"
    else:
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            problem = "it must start with http:// or https:// and name a host, or be 'local'"
        elif parts.username is not None or parts.password is not None:
            problem = "it contains a user name; pass keys separately"
        elif parts.query or parts.fragment:
            problem = "it contains a query or a fragment"
        elif not (base_url.isascii() and base_url.isprintable()) or " " in base_url:
            problem = "it contains a space or a non-ASCII character; write such a host in its xn-- form"
    if problem:
        # A URL with a user name is not shown: it may hold a password.
        shown = "" if "@" in base_url else f" {base_url!r}"
        source = f" of {BASE_VARIABLE}" if os.environ.get(BASE_VARIABLE, "").strip() == base_url else ""
        raise InvalidRequestError(f"invalid API base URL{shown}{source}: {problem}")
    return ServerAddress(f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/"))
