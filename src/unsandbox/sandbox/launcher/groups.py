"""Creates and removes the control groups of one launcher's sandboxes.

Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from unsandbox.sandbox.launcher import cleanup, delegation
from unsandbox.sandbox.launcher.cgroups import Bounds, Group, Hierarchy, group_name
from unsandbox.sandbox.launcher.freezer import Freezer, find_base
from unsandbox.sandbox.launcher.hierarchy import open_hierarchy
from unsandbox.sandbox.launcher.messages import Ready

_REMOVAL_INTERVAL_S = 0.01


class SandboxGroups:
    """Creates and removes the groups of sandboxes, if this machine has control groups.

    Args:
        name: Name of the launcher's groups, which contain those of its sandboxes.
        dead: Names of the groups of this server's earlier launchers, which were killed.
    """

    def __init__(self, name: str, dead: Sequence[str] = ()) -> None:
        self._name = name
        self._dead = dead
        self._hierarchy: Hierarchy | None = None
        self._freezer_base: tuple[str, Path] | None = None
        self._busy: list[Group | Freezer] = []
        self._next_removal = 0.0

    def open(self) -> Ready:
        """Create the launcher's groups, remove those of dead servers and launchers; return the hierarchy."""
        self._hierarchy, refusal = open_hierarchy(self._name)
        if self._hierarchy:
            cleanup.sweep({folder.parent for folder in self._hierarchy.folders()}, remove_as_group=True)
        self._freezer_base = find_base(self._name, self._hierarchy)
        if self._freezer_base:
            cleanup.sweep([self._freezer_base[1].parent], remove_as_group=True)
        cleanup.sweep_instances(self._dead, {folder.parent for folder in self._folders()})
        freezer = self._freezer_base[0] if self._freezer_base else "stop"
        if self._hierarchy is None:
            why, detail = ("", "") if refusal is None else (refusal.why, refusal.detail)
            return Ready(freezer=freezer, cgroup_refusal=why, cgroup_detail=detail)
        parents = {name: str(folder) for name, folder in self._hierarchy.parents.items()}
        return Ready(cgroup_version=self._hierarchy.version, cgroup_parents=parents, freezer=freezer)

    @property
    def count_memory(self) -> bool:
        """Whether the kernel counts and limits the memory of a sandbox."""
        return self._hierarchy is not None and "memory" in self._hierarchy.parents

    @property
    def busy(self) -> bool:
        """Whether `remove_busy` should be called soon."""
        return bool(self._busy)

    def make(self, number: int, bounds: Bounds) -> Group | None:
        """Create the group of a sandbox; return None without control groups.

        Raises:
            OSError: The kernel refused it.
        """
        if self._hierarchy is None:
            return None
        group = Group(self._hierarchy, group_name(number))
        try:
            group.create(bounds)
        except FileNotFoundError:
            # Another program removed the launcher's group, because an idle server's group is empty.
            self._hierarchy, _ = open_hierarchy(self._name)
            if self._hierarchy is None:
                raise
            group = Group(self._hierarchy, group_name(number))
            group.create(bounds)
        return group

    def make_freezer(self, number: int, group: Group | None) -> Freezer:
        """Create the freezer of a persistent sandbox whose group is `group`.

        Raises:
            OSError: The kernel refused it.
        """
        nested = group is not None and self._hierarchy is not None and self._hierarchy.version == 2
        try:
            return Freezer(self._freezer_base, group_name(number), nested=nested)
        except FileNotFoundError:
            # Another program removed the group, as above.
            self._freezer_base = find_base(self._name, self._hierarchy)
            return Freezer(self._freezer_base, group_name(number), nested=nested)

    def remove(self, group: Group | Freezer | None) -> None:
        """Remove a group, later if the kernel still holds it."""
        if group and not group.remove():
            self._busy.append(group)

    def remove_busy(self) -> None:
        """Try again to remove busy groups, at most every few milliseconds."""
        if self._busy and (now := time.monotonic()) >= self._next_removal:
            self._next_removal = now + _REMOVAL_INTERVAL_S
            self._busy = [group for group in self._busy if not group.remove()]

    def close(self) -> None:
        """Remove the launcher's groups, when no process is left, and undo what `open` changed."""
        cleanup.remove_groups(sorted(self._folders()))
        if self._hierarchy is not None and self._hierarchy.version == 2:
            for folder in self._hierarchy.folders():
                delegation.give_back(folder.parent)

    def _folders(self) -> set[Path]:
        folders = set(self._hierarchy.folders()) if self._hierarchy else set()
        return folders | ({self._freezer_base[1]} if self._freezer_base else set())
