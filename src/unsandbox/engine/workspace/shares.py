"""Bounds for all processes of one key together: output on the disk of the server, input in its memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from unsandbox.engine.errors import LimitReached

OUTPUT_BYTES = 1 << 30
STDIN_BYTES = 16 << 20
EVENT_BYTES = 256 << 20


class Share:
    """A number of bytes that is taken and given back.

    Args:
        most: The bytes that there are.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0

    def has_room(self, count: int) -> bool:
        """Whether so many bytes are left."""
        return self.used + count <= self._most


@dataclass(eq=False, slots=True, weakref_slot=True)
class KeyShares:
    """The shares of one key."""

    output: Share = field(default_factory=lambda: Share(OUTPUT_BYTES))
    """Output of processes that can still be read."""
    stdin: Share = field(default_factory=lambda: Share(STDIN_BYTES))
    """Input that programs have not read yet."""
    events: Share = field(default_factory=lambda: Share(EVENT_BYTES))
    """Events of runs that can still be read."""

    @contextlib.contextmanager
    def waiting_input(self, count: int) -> Iterator[None]:
        """Count bytes of input within the block.

        Raises:
            LimitReached: Too much waits already.
        """
        if not self.stdin.has_room(count):
            raise LimitReached(
                f"{self.stdin.used} bytes wait for processes to read their standard input; write more when "
                "they have read it",
                code="stdin_limit_reached",
            )
        self.stdin.used += count
        try:
            yield
        finally:
            self.stdin.used -= count


class Shares:
    """The shares of all keys that have processes."""

    def __init__(self) -> None:
        self._of: WeakValueDictionary[str, KeyShares] = WeakValueDictionary()

    def of(self, owner: str) -> KeyShares:
        """Return the shares of a key, which exist while something uses them."""
        found = self._of.get(owner)
        if found is None:
            found = self._of[owner] = KeyShares()
        return found
