"""Which users of the host sandboxes run as: one each where root may hand them out, else the server's own."""

from __future__ import annotations

import os
from pathlib import Path

USERS_PER_SERVER = 1000
"""Also the most sandboxes that one backend runs at a time."""

_FIRST = 200_000
_SERVERS = 1000
_LOWEST = 10_000
"""Below are the users of real people and services."""


def sandbox_users(uid_map: str, gid_map: str, pid: int) -> range | None:
    """Return the user (and group) numbers for the sandboxes of the server with number `pid`.

    Servers on one machine get ranges that rarely overlap. In a container whose user namespace knows few
    numbers they come from the upper end of what it knows; None when there is no room for a range.

    Args:
        uid_map: Text of `/proc/self/uid_map`.
        gid_map: Text of `/proc/self/gid_map`.
        pid: Number of the server's process.
    """
    start = max(_upper_range(uid_map)[0], _upper_range(gid_map)[0])
    end = min(_upper_range(uid_map)[1], _upper_range(gid_map)[1])
    first = _FIRST + pid % _SERVERS * USERS_PER_SERVER
    if start <= first and first + USERS_PER_SERVER <= end:
        return range(first, first + USERS_PER_SERVER)
    # The last numbers are often `nobody` and its like.
    first = end - 2 * USERS_PER_SERVER
    return range(first, first + USERS_PER_SERVER) if first >= max(start, _LOWEST) else None


def available_users() -> range | None:
    """Return `sandbox_users` of this process; None as an ordinary user."""
    if os.geteuid() != 0:
        return None
    uid_map, gid_map = (Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid"))
    return sandbox_users(uid_map, gid_map, os.getpid())


def _upper_range(text: str) -> tuple[int, int]:
    """Return the highest range of a user namespace's map, as first number and the one after the last."""
    ranges = [(0, 0)]
    for line in text.splitlines():
        inside, _, count = map(int, line.split())
        ranges.append((inside, inside + count))
    return max(ranges, key=lambda found: found[1])
