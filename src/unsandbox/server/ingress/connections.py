"""How many connections strangers may hold open, and how many bytes of unfinished requests on them."""

from __future__ import annotations

import ipaddress
import resource
from collections import Counter

_NETWORK_BITS = 64
"""An IPv6 user has a whole network of addresses."""
HEADS_BYTES = 64 << 20


def is_loopback(address: str) -> bool:
    """Return whether an address is one of this machine's loopback interface."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def usable_descriptors() -> int:
    """Return how many descriptors this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


class Connections:
    """How many connections there are, of each address and together.

    Args:
        most: Together; by default a quarter of the descriptors that this process may have, at most 16384.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most or max(64, min(16_384, usable_descriptors() // 4))
        self.refused = 0
        self._open = 0
        self._by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._open

    def add(self, address: str) -> bool:
        """Count a connection; return False when there are too many, of its address or together.

        One address has half of them, so that a single client cannot keep all others out.
        """
        if not self.has_room(address):
            self.refused += 1
            return False
        self._open += 1
        self._by_address[network_of(address)] += 1
        return True

    def has_room(self, address: str) -> bool:
        """Return whether another connection of an address may be open."""
        return self._open < self.most and self._by_address.get(network_of(address), 0) < self.most // 2

    def remove(self, address: str) -> None:
        """Take one off again."""
        sender = network_of(address)
        self._open -= 1
        self._by_address[sender] -= 1
        if self._by_address[sender] <= 0:
            del self._by_address[sender]


class HeldBytes:
    """Bytes that connections hold of requests whose heads are not complete, by address and together.

    Args:
        most: Together; one address has half of them.

    Example:
        >>> held = HeldBytes(100)
        >>> held.add("192.0.2.1", 50), held.add("192.0.2.1", 1), held.add("192.0.2.2", 50)
        (True, False, True)
    """

    def __init__(self, most: int = HEADS_BYTES) -> None:
        self.most = most
        self.refused = 0
        self._total = 0
        self._by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._total

    def add(self, address: str, size: int) -> bool:
        """Charge bytes to an address; return False, and charge nothing, when these are too many."""
        if self._total + size > self.most or self._by_address[address] + size > self.most // 2:
            self.refused += 1
            return False
        self._total += size
        self._by_address[address] += size
        return True

    def remove(self, address: str, size: int) -> None:
        """Take bytes off again."""
        self._total -= size
        self._by_address[address] -= size
        if self._by_address[address] <= 0:
            del self._by_address[address]


def network_of(address: str) -> str:
    """Return the sender that an address stands for: of IPv6, the network that a user usually has.

    Example:
        >>> network_of("192.0.2.1"), network_of("2001:db8::7"), network_of("::ffff:192.0.2.1")
        ('192.0.2.1', '2001:db8::/64', '192.0.2.1')
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, ipaddress.IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), _NETWORK_BITS), strict=False))
