"""What the pools of warm sandboxes have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unsandbox.sandbox.host.launcher_client import CgroupReport, LauncherControl


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolContext:
    """What every pool uses of its backend.

    Attributes:
        control: The launcher.
        cgroup: Its control groups.
        discard_fd: Where surplus output goes.
        users: The users that sandboxes run as, by slot; None when all run as the server's.
        take_slot: Returns a free slot, or raises `SandboxError`.
        free_slot: Takes it back.
    """

    control: LauncherControl
    cgroup: CgroupReport
    discard_fd: int
    users: range | None
    take_slot: Callable[[], int]
    free_slot: Callable[[int], None]
