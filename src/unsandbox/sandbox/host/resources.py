"""The resources of an open backend that its jobs, persistent sandboxes and pool share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unsandbox.sandbox import rootfs
from unsandbox.sandbox.host.launcher_client import CgroupReport, LauncherControl
from unsandbox.sandbox.host.machine_view import MachineView
from unsandbox.sandbox.host.slots import SlotTable
from unsandbox.sandbox.system import System

_DATA_FACTOR = 2


@dataclass(frozen=True, slots=True)
class HostResources:
    """The shared parts of all sandboxes of one backend.

    Attributes:
        control: The launcher.
        cgroup: The control groups that it can use.
        runtime: Private folder of the backend, which the launcher removes.
        root: The read-only root folder of every sandbox.
        system: Where sandboxes get their `/usr`.
        discard_fd: Descriptor for output that is dropped.
        slots: The slots of sandboxes, each with its host user.
        view: The processors and the memory that sandboxes see.
    """

    control: LauncherControl
    cgroup: CgroupReport
    runtime: Path
    root: Path
    system: System
    discard_fd: int
    slots: SlotTable
    view: MachineView

    def system_paths(self, patterns: Sequence[str]) -> list[str]:
        """Return the paths outside /usr that a sandbox sees; each has a mount point in the root folder.

        Args:
            patterns: Paths in addition to those of every sandbox; see `SandboxSpec.system_paths`.
        """
        found = self.system.existing([*self.system.always_mounted, *patterns])
        for path in found:
            rootfs.add_mount_point(self.root, path, self.system)
        return found

    def data_bytes(self, memory_bytes: int) -> int | None:
        """Return the limit of each process's data where no control group limits memory, otherwise None.

        It is above the limit of memory: the launcher looks at the memory in use and kills a sandbox that has
        more, as the kernel does where it counts. Only a process that is quicker is refused memory.
        """
        return None if "memory" in self.cgroup.controllers else _DATA_FACTOR * memory_bytes
