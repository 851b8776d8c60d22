"""The host names of services: every name and domain belongs to one service of the server."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable, Iterator

from unsandbox.engine.errors import Conflict, Forbidden, InvalidRequest
from unsandbox.engine.services.record import ServiceRecord
from unsandbox.engine.store.objects import Collection
from unsandbox.protocol.bounds import MAX_DOMAINS

_PORT_FIRST = re.compile(r"[0-9]+-")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\Z")
_LONGEST_DOMAIN = 253


class ServiceNames:
    """Finds services by name or domain, and ensures that each is used once.

    Args:
        collection: All services.
        reserved: Host names, as suffixes, that no service may have: those of the API itself.

    Attributes:
        reserved: All such host names, lower-case.
    """

    def __init__(self, collection: Collection[ServiceRecord], reserved: Iterable[str]) -> None:
        self._collection = collection
        self.reserved = frozenset({name.lower() for name in reserved} | {"localhost", _own_name()})
        self._by_name: dict[str, ServiceRecord] = {}
        self._by_domain: dict[str, ServiceRecord] = {}
        self._claims: set[str] = set()

    def refresh(self) -> None:
        """Update the index after services have changed."""
        self._by_name = {record.name: record for record in self._collection}
        self._by_domain = {domain: record for record in self._collection for domain in record.domains}

    def named(self, name: str) -> ServiceRecord | None:
        """Return the service of a name."""
        return self._by_name.get(name)

    def with_domain(self, domain: str) -> ServiceRecord | None:
        """Return the service of a domain, which is lower-case."""
        return self._by_domain.get(domain)

    @contextlib.contextmanager
    def claim(
        self, name: str | None, domains: Iterable[str], but: ServiceRecord | None = None
    ) -> Iterator[None]:
        """Hold a name and domains that a service is about to get.

        Args:
            name: Its new name; None if it does not change.
            domains: Its domains.
            but: The service itself, which may have them already.

        Raises:
            Conflict: Another service has one of them or is about to.
            InvalidRequest: The name is not usable.
            Forbidden: The API is reached under it.
        """
        if name is not None:
            if _PORT_FIRST.match(name):
                raise InvalidRequest(
                    "a service name must not begin with a number and a hyphen; that form selects a port"
                )
            if any(f"{name}.{domain}" in self.reserved for domain in self.reserved):
                raise Forbidden(
                    f"the name {name!r} is this server's own; choose another", code="name_not_allowed"
                )
            if self._by_name.get(name) not in (None, but):
                raise Conflict(f"the name {name!r} is taken; choose another", code="name_taken")
        for domain in domains:
            if self._by_domain.get(domain) not in (None, but):
                raise Conflict(f"the domain {domain!r} belongs to another service", code="domain_taken")
        wanted = {*domains, *([name] if name is not None else ())}
        if wanted & self._claims:
            raise Conflict("another service is being created with this name or domain", code="name_taken")
        self._claims |= wanted
        try:
            yield
        finally:
            self._claims -= wanted

    def clean_domains(self, domains: Iterable[str]) -> list[str]:
        """Return domains in one form: lower-case, ASCII, each once, without a dot at the end.

        Raises:
            InvalidRequest: One is not a host name, or there are too many.
            Forbidden: One is the server's own.
        """
        given = list(domains)
        if len(given) > 2 * MAX_DOMAINS:
            raise _too_many(len(given))
        cleaned = dict.fromkeys(map(_clean, given))
        if len(cleaned) > MAX_DOMAINS:
            raise _too_many(len(cleaned))
        for domain in cleaned:
            if any(domain == own or domain.endswith(f".{own}") for own in self.reserved):
                raise Forbidden(f"the domain {domain!r} is this server's own", code="domain_not_allowed")
        return list(cleaned)


def _too_many(count: int) -> InvalidRequest:
    return InvalidRequest(f"{count} domains; at most {MAX_DOMAINS} are allowed")


def _clean(domain: str) -> str:
    text = domain.strip().rstrip(".").lower()
    # IDNA only makes names longer, and takes time that grows with the square of their length.
    if len(text) <= _LONGEST_DOMAIN:
        with contextlib.suppress(UnicodeError):
            text = text.encode("idna").decode("ascii")
    labels = text.split(".")
    # A name whose last label is a number would be an address.
    if (
        len(text) > _LONGEST_DOMAIN
        or len(labels) < 2
        or not all(map(_LABEL.match, labels))
        or labels[-1].isdigit()
        or labels[-1].startswith("0x")
    ):
        raise InvalidRequest(
            f"{domain[:80]!r} is not a domain; pass a host name with a dot, without scheme and port"
        )
    return text


def _own_name() -> str:
    return socket.gethostname().lower()
