"""What an open backend has on this machine, for its jobs, persistent sandboxes and pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unsandbox.sandbox import rootfs
from unsandbox.sandbox.host.launcher_client import CgroupReport, LauncherControl
from unsandbox.sandbox.host.slots import SlotTable
from unsandbox.sandbox.system import System


@dataclass(frozen=True, slots=True)
class HostResources:
    """The shared parts of all sandboxes of one backend.

    Attributes:
        control: The launcher.
        cgroup: The control groups that it can use.
        runtime: Private folder of the backend, which the launcher removes.
        root: The read-only root folder of every sandbox.
        system: Where sandboxes get their `/usr`.
        discard_fd: Where output goes that is not kept.
        slots: Places of sandboxes, and the users that they run as.
    """

    control: LauncherControl
    cgroup: CgroupReport
    runtime: Path
    root: Path
    system: System
    discard_fd: int
    slots: SlotTable

    def system_paths(self, patterns: Sequence[str]) -> list[str]:
        """Return the paths outside /usr that a sandbox sees; each has a mount point in the root folder.

        Args:
            patterns: What it wants besides what every sandbox gets; see `SandboxSpec.system_paths`.
        """
        found = self.system.existing([*self.system.always_mounted, *patterns])
        for path in found:
            rootfs.add_mount_point(self.root, path, self.system)
        return found

    def data_bytes(self, memory_bytes: int) -> int | None:
        """Return the bound of each process's data where no control group counts memory; else None."""
        return None if "memory" in self.cgroup.controllers else memory_bytes
