"""Takes over a cgroup v2 group, so that sandboxes get groups with limits below it.

A v2 group that hands controllers to its children may hold no process, and a group with processes that enables
`pids` or `cpu` alone becomes "domain threaded": every group below it is invalid until the next boot. So this
module changes only groups that were delegated (systemd marks them), that are the root of a container, or that
hold nothing but the server where no service manager owns them. It enables all controllers in one write, which
the kernel carries out completely or not at all, and takes back its changes when a step fails and at the end.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html and https://systemd.io/CGROUP_DELEGATION/.

The launcher, a bare interpreter, loads this module: standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unsandbox.sandbox.launcher.cgroups import WANTED, read, remove_folder, write

LEAF = "unsandbox-server"
"""Name of the group to which the processes of a delegated group are moved."""
_ROUNDS = 20
_DELEGATED = ("user.delegate", "trusted.delegate")
"""Attributes with which systemd marks the groups that it has delegated; only root can read the second one."""
FINAL = frozenset({"not-mounted", "no-memory"})
"""Reasons that no scope of systemd changes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why sandboxes get no control groups.

    Attributes:
        why: `not-mounted`, `no-memory` (the kernel has the controller switched off), `no-controllers` (they
            are not delegated), `threaded`, `shared` (other processes are in the group), `read-only`, `denied`,
            `no-systemd`, `no-user-manager`, or `systemd` (it refused).
        detail: The group, or an error message.
    """

    why: str
    detail: str = ""


class NotDelegated(Exception):  # noqa: N818 - never raised to callers of the package
    """A group cannot be taken over; nothing was changed."""

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(why, detail)
        self.refusal = Refusal(why, detail)


def take(base: Path | None, *, ours: bool = False) -> Path:
    """Enable the controllers for children of this process's own group, and return the group.

    Args:
        base: The group; None if v2 is not mounted.
        ours: Whether the group is known to be delegated.

    Raises:
        NotDelegated: That is not possible, and the group is as before.
    """
    if base is None:
        raise NotDelegated("not-mounted")
    if base.name == LEAF:
        # Another server, or this one's earlier launcher, has taken over the group.
        base = base.parent
    kind = _kind(base)
    if kind not in ("root", "domain"):
        raise NotDelegated("threaded", str(base))
    available = read(base / "cgroup.controllers").split()
    if "memory" not in available:
        switched_on = read(_top(base) / "cgroup.controllers").split()
        raise NotDelegated("no-controllers" if "memory" in switched_on else "no-memory", str(base))
    missing = [name for name in WANTED if name in available]
    enabled = read(base / "cgroup.subtree_control").split()
    try:
        if not set(missing) <= set(enabled):
            _enable(base, missing, in_place=kind == "root", ours=ours)
        elif not os.access(base, os.W_OK):
            raise NotDelegated("denied", str(base))
    except OSError as error:
        raise NotDelegated("read-only" if error.errno == errno.EROFS else "denied", str(error)) from error
    return base


def _enable(base: Path, controllers: Iterable[str], *, in_place: bool, ours: bool) -> None:
    control, switch_on = base / "cgroup.subtree_control", " ".join(f"+{name}" for name in controllers)
    members = _members(base)
    if in_place or not members:
        write(control, switch_on)
        return
    # A number of 0 stands for a process outside of this process's pid namespace.
    if 0 in members or not (ours or is_delegated(base) or _is_alone(members)):
        raise NotDelegated("shared", str(base))
    leaf = base / LEAF
    leaf.mkdir(exist_ok=True)
    try:
        _move(base, leaf)
        write(control, switch_on)
    except OSError:
        give_back(base)
        raise


def give_back(base: Path) -> None:
    """Undo `take`, unless another server uses the group as well. The groups of sandboxes are gone already."""
    leaf = base / LEAF
    with contextlib.suppress(OSError):
        if leaf.is_dir() and not any(child.is_dir() and child != leaf for child in base.iterdir()):
            enabled = read(base / "cgroup.subtree_control").split()
            write(base / "cgroup.subtree_control", " ".join(f"-{name}" for name in WANTED if name in enabled))
            _move(leaf, base)
            remove_folder(leaf)


def may_have_children(base: Path) -> bool:
    """Return whether groups without controllers may be made below a group, for the sake of their freezer."""
    if base.name == LEAF or _kind(base) == "root":
        return True
    return _kind(base) == "domain" and (is_delegated(base) or not systemd_runs())


def is_delegated(base: Path) -> bool:
    """Return whether a group was delegated by systemd, or is the root that a container sees."""
    for attribute in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(base, attribute) == b"1":
                return True
    return _top(base) == base


def systemd_runs() -> bool:
    """Return whether systemd is this system's service manager (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def _is_alone(members: set[int]) -> bool:
    # Systemd may change the groups of its units at any time, unless they are delegated.
    return members <= {os.getpid(), os.getppid()} and not systemd_runs()


def _kind(base: Path) -> str:
    """Return the type of a group; `root` for the root of the hierarchy, which has none."""
    return read(base / "cgroup.type").strip() or "root"


def _top(base: Path) -> Path:
    """Return the highest visible group above a group: the root of the hierarchy or of the container."""
    while (base.parent / "cgroup.procs").exists():
        base = base.parent
    return base


def _members(base: Path) -> set[int]:
    return {int(pid) for pid in read(base / "cgroup.procs").split()}


def _move(source: Path, target: Path) -> None:
    """Move all processes, also those that are started meanwhile."""
    for _ in range(_ROUNDS):
        members = _members(source)
        if not members:
            return
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                write(target / "cgroup.procs", str(pid))
