"""How many connections strangers may hold open."""

from __future__ import annotations

import resource
from collections import Counter


class Connections:
    """How many connections there are, of each address and together.

    Args:
        most: Together; by default a quarter of the descriptors that this process may have, at most 16384.
    """

    def __init__(self, most: int | None = None) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        usable = 1 << 20 if soft == resource.RLIM_INFINITY else soft
        self.most = most or max(64, min(16_384, usable // 4))
        self.refused = 0
        self._open = 0
        self._by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._open

    def add(self, address: str) -> bool:
        """Count a connection; return False when there are too many, of its address or together.

        One address has half of them, so that a single client cannot keep all others out.
        """
        if self._open >= self.most or self._by_address[address] >= self.most // 2:
            self.refused += 1
            return False
        self._open += 1
        self._by_address[address] += 1
        return True

    def remove(self, address: str) -> None:
        """Take one off again."""
        self._open -= 1
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]
