"""Freezes and unfreezes the processes of a persistent sandbox.

The freezer of cgroup v2 is used if a v2 hierarchy can be written, even one without controllers beside v1: its
frozen processes can be killed, so a frozen sandbox dies with its server. Otherwise the v1 freezer is used,
whose processes must be thawed before they can die; otherwise stop signals, which programs notice (like Ctrl-Z
in a shell).

The launcher, a bare interpreter, loads this module: standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from unsandbox.sandbox.launcher import cgroups, hierarchy, syscalls


def find_base(name: str, limits: cgroups.Hierarchy | None) -> tuple[str, Path] | None:
    """Return the kind (`v2`, `v1`) and the folder in which this server's freezer groups are made, or None."""
    if limits is not None and limits.version == 2:
        return "v2", limits.folders()[0]
    for kind, base in hierarchy.freezer_bases():
        folder = base / name
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            if _can_freeze(kind, folder):
                return kind, folder
            folder.rmdir()
    return None


def _can_freeze(kind: str, folder: Path) -> bool:
    """Return whether the freezer works in a new group: it does not in a v2 group of an invalid type."""
    try:
        if kind == "v2":
            cgroups.write(folder / "cgroup.freeze", "0")
    except OSError:
        return False
    return True


class Freezer:
    """Freezes one sandbox. `held` returns the current processes of the sandbox."""

    def __init__(self, base: tuple[str, Path] | None, name: str, *, nested: bool) -> None:
        """Create the group, if the machine has control groups.

        Args:
            base: What `find_base` returned.
            name: Name of the sandbox's group.
            nested: Whether a v2 group of that name exists already, with the limits; this one is made below it,
                so that helpers can share the limits without being frozen.

        Raises:
            OSError: The kernel refused the group.
        """
        self.kind, parent = base if base is not None else ("stop", Path())
        self.nested = nested and self.kind == "v2"
        self._folder = parent / name / "tenant" if self.nested else parent / name
        self._stopped: list[int] = []
        if self.kind != "stop":
            self._folder.mkdir()

    def fork(self) -> int:
        """Fork a child that starts in the group; return 0 in the child.

        Entering a v2 group later costs a grace period of the kernel, some 10 ms; being born there does not.

        Raises:
            OSError: As `fork`.
        """
        if self.kind == "v2":
            group = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return syscalls.fork_into_cgroup(group)
            except OSError:
                # The kernel is too old, or a filter forbids the call.
                pass
            finally:
                os.close(group)
        pid = os.fork()
        if pid == 0 and self.kind != "stop":
            cgroups.write(self._folder / ("cgroup.procs" if self.kind == "v2" else "tasks"), "0")
        return pid

    def freeze(self, held: Iterable[int]) -> None:
        """Start to freeze; `frozen` returns whether it is done."""
        if self.kind == "v2":
            cgroups.write(self._folder / "cgroup.freeze", "1")
        elif self.kind == "v1":
            cgroups.write(self._folder / "freezer.state", "FROZEN")
        else:
            self._stop(held)

    def _stop(self, held: Iterable[int]) -> None:
        for pid in held:
            # Processes that the tenant stopped stay stopped after unfreezing.
            if pid not in self._stopped and _state(pid) not in ("T", "t", "Z", "X", ""):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    self._stopped.append(pid)

    def frozen(self, held: Iterable[int]) -> bool:
        """Return whether every process is frozen."""
        if self.kind == "v2":
            return cgroups.field(self._folder / "cgroup.events", "frozen") == 1
        if self.kind == "v1":
            return (self._folder / "freezer.state").read_text().strip() == "FROZEN"
        found = list(held)
        self._stop(found)
        return all(_state(pid) in ("T", "t", "Z", "X", "") for pid in found)

    def thaw(self) -> None:
        """Resume all processes; does nothing if none is frozen."""
        if self.kind == "v2":
            cgroups.write(self._folder / "cgroup.freeze", "0")
        elif self.kind == "v1":
            cgroups.write(self._folder / "freezer.state", "THAWED")
        # Children before their parents, so that no running parent sees a stopped child.
        stopped, self._stopped = self._stopped, []
        for pid in reversed(stopped):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """Make killed processes of the group die, even if they are frozen."""
        with contextlib.suppress(OSError):
            if self.kind == "v2":
                cgroups.write(self._folder / "cgroup.kill", "1")
            elif self.kind == "v1":
                self.thaw()

    def remove(self) -> bool:
        """Remove the group; return False if it is still busy and the caller should try again."""
        return self.kind == "stop" or cgroups.remove_folder(self._folder)


def _state(pid: int) -> str:
    """Return a process's state letter; empty if the process does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
