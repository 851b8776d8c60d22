"""What both transports share: the answer's type and what the environment says about proxies and CAs."""

from __future__ import annotations

import os
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

from unsandbox._version import __version__
from unsandbox.errors import InvalidRequestError
from unsandbox.protocol.contents import LARGE, Content, base64_length
from unsandbox.protocol.splitting import Splitter

USER_AGENT = f"unsandbox-python/{__version__}"
MAX_CONNECTIONS = 100
"""Connections of one client at a time; further requests wait for one of them to be free."""

GOOD_CLOSES = frozenset({1000, 1001})
"""Codes with which a WebSocket is closed because all is done (RFC 6455, 7.4.1); any other is a failure."""

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class RawResponse(NamedTuple):
    """One HTTP answer, read to its end. `headers` are looked up without regard to case.

    Large files were taken out of the body as it came; `marks` holds them by what stands in their place.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    marks: Mapping[str, Content] = MappingProxyType({})

    @property
    def size(self) -> int:
        """Bytes of the body as it came, roughly."""
        return len(self.body) + sum(base64_length(len(content)) for content in self.marks.values())


class AnswerReader:
    """Puts together the body of an answer from its pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._splitter: Splitter | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            OSError: The disk is full.
        """
        if self._splitter is not None:
            self._splitter.feed(piece)
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > LARGE:
            self._splitter = Splitter()
            for early in self._pieces:
                self._splitter.feed(early)
            self._pieces = []

    def answer(self, status: int, headers: Mapping[str, str]) -> RawResponse:
        """Return the answer, when all pieces were fed."""
        if self._splitter is None:
            return RawResponse(status, headers, b"".join(self._pieces))
        body = self._splitter.finish()
        return RawResponse(status, headers, body, self._splitter.marks)


def proxy_for(origin: str) -> str | None:
    """Return the URL of the proxy that the environment (or the system) wants for a server, or None.

    Raises:
        InvalidRequestError: The proxy is not one that can be used; going around it in silence would be worse.
    """
    parts = urlsplit(origin)
    # Asked once per client: reading the whole environment for each request is a quarter of a request's cost.
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    scheme = urlsplit(proxy).scheme
    if scheme not in {"http", "https"}:
        raise InvalidRequestError(
            f"the environment names a {scheme} proxy, and only http and https proxies can be used: "
            "unset it, or list this server in NO_PROXY"
        )
    return proxy


def ca_bundle() -> str | None:
    """Return the file or folder of trusted CAs that the environment names, or None.

    Raises:
        InvalidRequestError: It does not exist.
    """
    for name in _CA_VARIABLES:
        path = os.environ.get(name)
        if path:
            if not Path(path).exists():
                raise InvalidRequestError(f"{name} names a file of trusted CAs that does not exist")
            return path
    return None


def wait_s(idle_s: float, within: float | None) -> float:
    """Return the seconds that one read of a stream may take; never 0, with which sockets do not wait."""
    # A little later than the caller's deadline, so that it has passed by then.
    return idle_s if within is None else min(idle_s, within + 0.005)


def tls_context() -> ssl.SSLContext:
    """Return what checks servers: against the CAs that the environment names, else against the system's."""
    bundle = ca_bundle()
    if bundle is None:
        return ssl.create_default_context()
    if Path(bundle).is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


def place(method: str, origin: str, target: str) -> str:
    """Return how an error names a request: without its query, which may hold the user's data."""
    return f"{method} {origin}{target.partition('?')[0]}"
