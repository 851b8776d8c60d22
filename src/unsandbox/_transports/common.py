"""Code that both transports share: the type of answers, and the environment's proxies and CAs."""

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

_MAX_CAUSES = 16
USER_AGENT = f"unsandbox-python/{__version__}"
MAX_CONNECTIONS = 100
"""Connections of one client at a time; further requests wait for one of them to be free."""

GOOD_CLOSES = frozenset({1000, 1001})
"""Codes with which a WebSocket is closed because all is done (RFC 6455, 7.4.1); any other is a failure."""

_CA_VARIABLES = ("UNSANDBOX_CA_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
_HUNG_UP = frozenset(
    {"BadStatusLine", "ConnectionResetError", "RemoteDisconnected", "ServerDisconnectedError", "SSLEOFError"}
)


class RawResponse(NamedTuple):
    """One HTTP answer, read to its end. `headers` are looked up without regard to case.

    Large files were taken out of the body while it arrived; `marks` has them by the marks in their places.
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
        """Add the next piece.

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


def ca_bundle(given: str | None = None) -> str | None:
    """Return the file or folder of trusted CAs: the given one, else the environment's, else None.

    Raises:
        InvalidRequestError: It does not exist.
    """
    named = [("ca_file", given), *((name, os.environ.get(name)) for name in _CA_VARIABLES)]
    for name, path in named:
        if path:
            if not Path(path).exists():
                raise InvalidRequestError(f"{name} names a file of trusted CAs that does not exist: {path}")
            return path
    return None


def system_store() -> str | None:
    """Return the file or folder of CAs that this machine trusts; None if there is none."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return paths.cafile
    return paths.capath if paths.capath and any(Path(paths.capath).iterdir()) else None


def tls_problem(error: BaseException) -> str | None:
    """Return an explanation of a failure that repeating does not help: a certificate, or https for http."""
    for one in _causes(error):
        if isinstance(one, ssl.SSLCertVerificationError) and (message := getattr(one, "verify_message", "")):
            return (
                f"the server's certificate was refused ({message}). If a private CA signed it, pass ca_file= "
                "or set UNSANDBOX_CA_FILE to the CA's certificate"
            )
        if isinstance(one, ssl.SSLError) and getattr(one, "reason", "") in _NOT_TLS:
            return "the server does not speak TLS there: the API base URL must begin with http://"
    return None


def scheme_hint(error: BaseException, origin: str) -> str:
    """Return a hint for a server that hangs up before its first answer, as one of the other scheme does."""
    if not any(type(one).__name__ in _HUNG_UP for one in _causes(error)):
        return ""
    if origin.startswith("https:"):
        return ". If the server does not speak TLS, the API base URL must begin with http://"
    return ". If the server speaks TLS, the API base URL must begin with https://"


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, as far as HTTP libraries show them."""
    seen: list[BaseException] = []
    found = [error]
    while found and len(seen) < _MAX_CAUSES:
        one = found.pop(0)
        seen.append(one)
        inner = [one.__cause__, one.__context__, vars(one).get("reason"), *one.args]
        inner += [getattr(one, name, None) for name in ("os_error", "certificate_error")]
        found += [part for part in inner if isinstance(part, BaseException) and part not in seen]
    return seen


def wait_s(idle_s: float, within: float | None) -> float:
    """Return the seconds that one read of a stream may take; never 0, with which sockets do not wait."""
    # A little later than the caller's deadline, so that it has passed by then.
    return idle_s if within is None else min(idle_s, within + 0.005)


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Return the TLS context with the given CAs, otherwise the environment's, otherwise the system's.

    Args:
        ca_file: File or folder of trusted CAs.

    Raises:
        InvalidRequestError: The file does not exist, or holds no certificate.
    """
    bundle = ca_bundle(ca_file)
    if bundle is None:
        return ssl.create_default_context()
    try:
        if Path(bundle).is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except (ssl.SSLError, OSError) as error:
        raise InvalidRequestError(f"the file of trusted CAs cannot be used: {bundle}: {error}") from error


def place(method: str, origin: str, target: str) -> str:
    """Return how an error names a request: without its query, which may hold the user's data."""
    return f"{method} {origin}{target.partition('?')[0]}"
