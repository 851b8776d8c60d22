"""Gets the script of a service: from the request, or from a URL on the public internet."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver
from yarl import URL

from unsandbox.engine.bounded_http import BoundedHandler
from unsandbox.engine.errors import InvalidRequest, LimitReached, TooLarge
from unsandbox.protocol.bounds import SCRIPT_BYTES
from unsandbox.protocol.services import Redeploy, ServiceRequest
from unsandbox.sandbox.launcher.network.addresses import is_public_address
from unsandbox.sandbox.launcher.network.setup import present_networks

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult
    from aiohttp.client_proto import ResponseHandler

FETCH_S = 30.0
MOST_FETCHED = 4
"""Scripts that are fetched for one key at a time."""
_REDIRECTS = 5
_RESOLVED_AT_ONCE = 16
_fetching: Counter[str] = Counter()
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_URL = re.compile(r"https?://\S+\Z", re.IGNORECASE)
_NUMERIC = re.compile(r":|(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\.?\Z", re.IGNORECASE)
"""A host that is an address, in any of the forms that some resolver takes for one."""
_NOT_PUBLIC = "its host is not on the public internet"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A script, and the URL that it was fetched from, if it was."""

    script: bytes
    url: str | None = None


def is_elsewhere(address: str) -> bool:
    """Return whether an address is on the public internet, and not this machine's or on one of its networks.

    Raises:
        OSError: The kernel does not report this machine's networks.
    """
    return is_public_address(address) and not any(ip_address(address) in net for net in present_networks())


async def read_bootstrap(
    owner: str, request: ServiceRequest | Redeploy, is_public: Callable[[str], bool]
) -> Bootstrap | None:
    """Return the bootstrap of a request; None if it has none.

    Args:
        owner: The key that it is for.
        request: Gives at most one of a command or URL, the text of a script, a URL.
        is_public: Says which addresses may be fetched from.

    Raises:
        InvalidRequest: It gives more than one, or the URL cannot or may not be fetched.
        TooLarge: The script is too large.
    """
    given = [text for text in (request.bootstrap, request.bootstrap_content, request.bootstrap_url) if text]
    if len(given) > 1:
        raise InvalidRequest("pass only one of bootstrap, bootstrap_content and bootstrap_url")
    if not given:
        return None
    text = given[0]
    if request.bootstrap_url or (request.bootstrap and _URL.match(request.bootstrap.strip())):
        url = text.strip()
        with _one_more(owner):
            return Bootstrap(await fetch_script(url, is_public), url)
    try:
        script = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest("the bootstrap contains a lone surrogate, which UTF-8 cannot represent") from None
    if request.bootstrap:
        script += b"\n"
    if len(script) > SCRIPT_BYTES:
        raise _too_large()
    return Bootstrap(script)


@contextlib.contextmanager
def _one_more(owner: str) -> Iterator[None]:
    """Count a script that is being fetched.

    Raises:
        LimitReached: The key fetches as many as it may.
    """
    if _fetching[owner] >= MOST_FETCHED:
        raise LimitReached(
            f"{MOST_FETCHED} bootstrap URLs are being fetched for this key; wait for one to end",
            code="fetch_limit_reached",
        )
    _fetching[owner] += 1
    try:
        yield
    finally:
        _fetching[owner] -= 1
        if not _fetching[owner]:
            del _fetching[owner]


async def fetch_script(url: str, is_public: Callable[[str], bool] = is_elsewhere) -> bytes:
    """Return the content of an http(s) URL, which must be on the public internet.

    Every name is resolved once, every address of it is checked, and the connection goes to a checked address;
    each redirect is treated as a new URL. Proxies of the environment are not used.

    Args:
        url: URL of the script.
        is_public: Says which addresses are allowed.

    Raises:
        InvalidRequest: It cannot or may not be fetched; the message has the reason, but no received data.
        TooLarge: It is larger than 4 MiB.
    """
    connector = _Connector(resolver=_PublicResolver(is_public), use_dns_cache=False, limit=1)
    try:
        async with asyncio.timeout(FETCH_S), _session(connector) as session:
            place = URL(url)
            for _ in range(_REDIRECTS + 1):
                _check_place(place, is_public)
                async with session.get(place, allow_redirects=False) as response:
                    if response.status in _REDIRECTED and "Location" in response.headers:
                        place = place.join(URL(response.headers["Location"]))
                        continue
                    if response.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
                        raise _unusable("the server there compresses what was asked for uncompressed")
                    if response.status != 200:
                        raise _unusable(f"the server there answers with status {response.status}")
                    return await _read_bounded(response)
            raise _unusable(f"more than {_REDIRECTS} redirects")
    except TimeoutError:
        raise _unusable(f"it took longer than {FETCH_S:g} s") from None
    except _NotPublicError as error:
        raise _unusable(str(error)) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        inner = error.__cause__ or error.__context__
        raise _unusable(str(inner) if isinstance(inner, _NotPublicError) else type(error).__name__) from None


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    # Unpacked, a small answer may be as large as it likes.
    return aiohttp.ClientSession(
        connector=connector, headers={hdrs.ACCEPT_ENCODING: "identity"}, auto_decompress=False
    )


class _Connector(aiohttp.TCPConnector):
    """Connects to servers whose answers may be endless."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = cast(
            "functools.partial[ResponseHandler]", functools.partial(BoundedHandler, loop=self._loop)
        )


class _NotPublicError(OSError):
    """The name has an address from which nothing may be fetched."""


class _PublicResolver(AbstractResolver):
    """Resolves names to addresses that may be connected to, or not at all."""

    def __init__(self, is_public: Callable[[str], bool]) -> None:
        self._is_public = is_public

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return all addresses of a host; refuse the host if any of them is not public."""
        loop = asyncio.get_running_loop()
        try:
            look_up = functools.partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
            found = await loop.run_in_executor(_resolving(), look_up)
        except OSError:
            raise _NotPublicError("its host name cannot be resolved") from None
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or not all(self._is_public(address) for address in addresses):
            raise _NotPublicError("its host is not on the public internet")
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": entry[0],
                "proto": entry[2],
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for entry, address in zip(found, addresses, strict=True)
        ]

    async def close(self) -> None:
        """Do nothing."""


_resolvers: dict[int, ThreadPoolExecutor] = {}


def _resolving() -> ThreadPoolExecutor:
    """Return separate threads for name resolution, so that slow name servers do not block other work."""
    # One pool per process, because its threads do not exist in a forked child.
    pid = os.getpid()
    if pid not in _resolvers:
        _resolvers[pid] = ThreadPoolExecutor(_RESOLVED_AT_ONCE, thread_name_prefix="unsandbox-resolve")
    return _resolvers[pid]


def _check_place(place: URL, is_public: Callable[[str], bool]) -> None:
    if place.scheme not in {"http", "https"} or not place.host:
        raise _unusable("only http and https URLs can be fetched")
    if place.user or place.password:
        raise _unusable("it contains credentials, which would be stored in plain text")
    # An address in the URL itself is not resolved, so the resolver would not see it.
    if _NUMERIC.search(place.host) and not is_public(place.host):
        raise _unusable(_NOT_PUBLIC)


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    script = bytearray()
    async for chunk in response.content.iter_any():
        script += chunk
        if len(script) > SCRIPT_BYTES:
            raise _too_large()
    if not script:
        raise _unusable("it is empty")
    return bytes(script)


def _unusable(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the bootstrap URL cannot be used: {reason}", code="bootstrap_unavailable")


def _too_large() -> TooLarge:
    return TooLarge(f"the bootstrap is larger than {SCRIPT_BYTES >> 20} MiB; let it fetch what it needs")
