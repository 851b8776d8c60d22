"""The host users of sandboxes: as root one for each sandbox, otherwise the server's user."""

from __future__ import annotations

import os
from pathlib import Path

USERS_PER_SERVER = 1000
"""Also the maximum number of sandboxes of one backend."""

_FIRST = 200_000
_SERVERS = 1000
_LOWEST = 10_000
"""Lower ids belong to people and system services."""


def sandbox_users(uid_map: str, gid_map: str, pid: int) -> range | None:
    """Return the range of user (and group) ids for the sandboxes of the server with the given pid.

    The ranges of servers on one machine rarely overlap. In a container whose user namespace maps few ids, the
    range is at the upper end of the mapped ids. None if there is no room for a range.

    Args:
        uid_map: Text of `/proc/self/uid_map`.
        gid_map: Text of `/proc/self/gid_map`.
        pid: Pid of the server.
    """
    start = max(_upper_range(uid_map)[0], _upper_range(gid_map)[0])
    end = min(_upper_range(uid_map)[1], _upper_range(gid_map)[1])
    first = _FIRST + pid % _SERVERS * USERS_PER_SERVER
    if start <= first and first + USERS_PER_SERVER <= end:
        return range(first, first + USERS_PER_SERVER)
    # The last ids often belong to users such as `nobody`.
    first = end - 2 * USERS_PER_SERVER
    return range(first, first + USERS_PER_SERVER) if first >= max(start, _LOWEST) else None


def available_users() -> range | None:
    """Return `sandbox_users` of this process; None if it is not root."""
    if os.geteuid() != 0:
        return None
    uid_map, gid_map = (Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid"))
    return sandbox_users(uid_map, gid_map, os.getpid())


def _upper_range(text: str) -> tuple[int, int]:
    """Return the highest range of a user namespace's map, as first id and the id after the last."""
    ranges = [(0, 0)]
    for line in text.splitlines():
        inside, _, count = map(int, line.split())
        ranges.append((inside, inside + count))
    return max(ranges, key=lambda found: found[1])
