"""Slots: every sandbox of a backend has one, and with it a host user."""

from __future__ import annotations

import heapq
from typing import Self

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.uid_ranges import USERS_PER_SERVER


class Slot:
    """The slot of one sandbox. As a context manager, it is released at the end of the block unless kept.

    Attributes:
        number: Its number in the table.
        uid: The host user that the sandbox runs as; None for the server's user.

    Example:
        >>> table = SlotTable(range(200_000, 201_000))
        >>> with table.take() as slot:
        ...     uid = slot.uid  # an exception here releases the slot
        ...     slot.keep()  # from now on, only `release` does
        >>> uid
        200000
    """

    __slots__ = ("_table", "_taken", "number", "uid")

    def __init__(self, table: SlotTable, number: int, uid: int | None) -> None:
        self._table: SlotTable | None = table
        self._taken = False
        self.number = number
        self.uid = uid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._taken:
            self.release()

    def keep(self) -> None:
        """Keep the slot after the block: the sandbox exists, and its end calls `release`."""
        self._taken = True

    def release(self) -> None:
        """Return the slot to the table. May be repeated."""
        if self._table is not None:
            self._table.give_back(self.number)
            self._table = None


class SlotTable:
    """The slots of one backend, lowest numbers first.

    Args:
        users: Host users, one for each slot; None if all sandboxes run as the server's user.
    """

    def __init__(self, users: range | None) -> None:
        self.users = users
        self._free: list[int] = []
        self._next = 0

    @property
    def taken(self) -> int:
        """Number of slots in use."""
        return self._next - len(self._free)

    def take(self) -> Slot:
        """Return a free slot.

        Raises:
            SandboxError: All slots are in use.
        """
        if self._free:
            number = heapq.heappop(self._free)
        elif self._next < USERS_PER_SERVER:
            number = self._next
            self._next += 1
        else:
            raise SandboxError(f"{USERS_PER_SERVER} sandboxes are running already")
        return Slot(self, number, None if self.users is None else self.users[number])

    def give_back(self, number: int) -> None:
        """Free a slot; called once, by `Slot.release`."""
        heapq.heappush(self._free, number)
