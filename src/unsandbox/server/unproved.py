"""Limits on the bytes of bodies that are held before their signature is checked, in total and per address."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

from aiohttp import web

from unsandbox.engine import RequestError
from unsandbox.server.hosts import is_address
from unsandbox.server.ingress.connections import network_of

MIB = 1 << 20
MEMORY_BYTES = 256 * MIB
MEMORY_OF_ONE = 64 * MIB
DISK_BYTES = 8192 * MIB
DISK_OF_ONE = 1024 * MIB
_WAIT_S = 10.0


class Busy(RequestError):  # noqa: N818 - named after the status, as its siblings
    """The server already holds the maximum number of bytes of requests with unchecked signatures."""

    code = "busy"


class UnprovedBytes:
    """Charges bytes to the address that sends them, until the signature of the request is checked.

    Attributes:
        in_memory: Bytes in memory by address.
        on_disk: Bytes in files by address.
    """

    def __init__(self) -> None:
        self.in_memory: Counter[str] = Counter()
        self.on_disk: Counter[str] = Counter()
        self._released = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def memory(self, sender: str, size: int) -> AsyncIterator[None]:
        """Charge memory within the block; waits a while for others to release some.

        Raises:
            Busy: They did not.
        """
        if not self._has_memory(sender, size):
            try:
                async with asyncio.timeout(_WAIT_S), self._released:
                    await self._released.wait_for(lambda: self._has_memory(sender, size))
            except TimeoutError:
                raise _busy() from None
        self.in_memory[sender] += size
        try:
            yield
        finally:
            _release(self.in_memory, sender, size)
            async with self._released:
                self._released.notify_all()

    @contextlib.contextmanager
    def disk(self, sender: str) -> Iterator[Callable[[int], None]]:
        """Return a function that charges bytes on disk, which are released at the end of the block."""
        total = 0

        def charge(size: int) -> None:
            nonlocal total
            if self.on_disk[sender] + size > DISK_OF_ONE or self.on_disk.total() + size > DISK_BYTES:
                raise _busy()
            self.on_disk[sender] += size
            total += size

        try:
            yield charge
        finally:
            _release(self.on_disk, sender, total)

    def _has_memory(self, sender: str, size: int) -> bool:
        return self.in_memory[sender] + size <= MEMORY_OF_ONE and self.in_memory.total() + size <= MEMORY_BYTES


def sender_of(request: web.Request) -> str:
    """Return the address that a request comes from; that of a proxy on this machine is not the sender's.

    Of an IPv6 address, the network counts.
    """
    peer = request.remote or ""
    said = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return network_of(said) if _is_loopback(peer) and is_address(said) else network_of(peer)


def _is_loopback(address: str) -> bool:
    return is_address(address) and ipaddress.ip_address(address).is_loopback


def _release(counter: Counter[str], sender: str, size: int) -> None:
    counter[sender] -= size
    if not counter[sender]:
        del counter[sender]


def _busy() -> Busy:
    return Busy("the server reads as many requests as it can; send it again in a moment")
