"""Host names: which requests are for a service, and which for the API."""

from __future__ import annotations

import ipaddress
import re

from aiohttp import web

_HOST = re.compile(r"([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?\Z")
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")


def host_name(header: str) -> str | None:
    """Return the host name of a `Host` header in one form: lower-case, without port and final dot.

    None if the header is not a host name: programs that guess would guess differently.

    Example:
        >>> host_name("Shop.localhost.:8787"), host_name("[::1]:80"), host_name("a b"), host_name("a@b")
        ('shop.localhost', '[::1]', None, None)
    """
    match = _HOST.match(header)
    if match is None or (match[2] is not None and int(match[2]) > 65535):
        return None
    name = match[1].lower().removesuffix(".")
    return name if all(name.split(".")) or name.startswith("[") else None


def is_address(name: str) -> bool:
    """Tell whether the name in a `Host` header is an IP address, which no foreign web page can have.

    Example:
        >>> is_address("127.0.0.1"), is_address("[::1]"), is_address("evil.example")
        (True, True, False)
    """
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def label_of(name: str, domains: tuple[str, ...]) -> str | None:
    """Return the label before one of the domains of services; None if the name is below none of them.

    Example:
        >>> label_of("shop.localhost", ("localhost",)), label_of("localhost", ("localhost",))
        ('shop', None)
    """
    for domain in domains:
        if name.endswith(f".{domain}"):
            return name[: -len(domain) - 1]
    return None


def from_this_machine(request: web.Request) -> bool:
    """Return whether a request comes from this machine itself and not through a proxy."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    host = peer[0] if isinstance(peer, tuple) else ""
    local = host in {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    return local and not any(name in request.headers for name in _FORWARDED)
