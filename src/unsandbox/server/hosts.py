"""Host names: which requests are for a service, and which for the API."""

from __future__ import annotations

import re

_HOST = re.compile(r"([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?\Z")


def host_name(header: str) -> str | None:
    """Return the host name of a `Host` header in one form: lower-case, without port and final dot.

    None when the header is nothing that names a host: whoever guesses then guesses differently from others.

    Example:
        >>> host_name("Shop.localhost.:8787"), host_name("[::1]:80"), host_name("a b"), host_name("a@b")
        ('shop.localhost', '[::1]', None, None)
    """
    match = _HOST.match(header)
    if match is None or (match[2] is not None and int(match[2]) > 65535):
        return None
    name = match[1].lower().removesuffix(".")
    return name if all(name.split(".")) or name.startswith("[") else None


def label_of(name: str, domains: tuple[str, ...]) -> str | None:
    """Return what stands before one of the domains of services; None when the name is below none.

    Example:
        >>> label_of("shop.localhost", ("localhost",)), label_of("localhost", ("localhost",))
        ('shop', None)
    """
    for domain in domains:
        if name.endswith(f".{domain}"):
            return name[: -len(domain) - 1]
    return None
