"""Finds the control groups of this process, and opens those in which sandboxes get theirs.

On v1, every group may contain processes and groups, so the launcher makes its group below its own. On v2, it
needs a group that is delegated to it; see `delegation` and `systemd`.

The launcher, a bare interpreter, loads this module: standard library only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from unsandbox.sandbox.launcher import delegation, systemd
from unsandbox.sandbox.launcher.cgroups import WANTED, Hierarchy, read, write
from unsandbox.sandbox.launcher.delegation import NotDelegated, Refusal


def _mounts(text: str) -> Iterable[tuple[str, str, Path, set[str]]]:
    """Yield (type, root, mount point, super options) of the cgroup mounts in a `mountinfo` text."""
    # Not splitlines(), because a path may contain characters that it takes for line ends.
    for line in filter(None, text.split("\n")):
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = left.split(" ")
            yield kind, fields[3], Path(fields[4].replace("\\040", " ")), set(options.split(","))


def _own_path(cgroup_text: str, controller: str) -> str:
    """Return this process's path for `controller` from a `/proc/self/cgroup` text; `""` means v2."""
    for line in filter(None, cgroup_text.split("\n")):
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return path
    return "/"


def _below_mount(mount: Path, root: str, path: str) -> Path:
    """Return the directory of a cgroup path; the mount may show only a part (`root`) of the hierarchy."""
    relative = os.path.relpath(path, root) if path.startswith(root) else "."
    folder = mount / relative
    return folder if folder.is_dir() else mount


def find_bases(mountinfo: str, own: str) -> tuple[int, dict[str, Path]]:
    """Return the version and, per wanted controller, the directory of this process's own group.

    Args:
        mountinfo: Text of `/proc/self/mountinfo`.
        own: Text of `/proc/self/cgroup`.
    """
    v1: dict[str, Path] = {}
    v2: dict[str, Path] = {}
    for kind, root, mount, options in _mounts(mountinfo):
        if kind == "cgroup2":
            base = _below_mount(mount, root, _own_path(own, ""))
            available = read(base / "cgroup.controllers").split()
            v2.update({name: base for name in WANTED if name in available})
        else:
            for name in (*WANTED, "cpuacct"):
                if name in options:
                    v1.setdefault(name, _below_mount(mount, root, _own_path(own, name)))
    if "memory" in v2 or not v1:
        return 2, v2
    return 1, v1


def _v2_base(mountinfo: str, own: str) -> Path | None:
    """Return the directory of this process's own v2 group; None if the hierarchy is not mounted."""
    found = [(mount, root) for kind, root, mount, _ in _mounts(mountinfo) if kind == "cgroup2"]
    return _below_mount(*found[0], _own_path(own, "")) if found else None


def open_hierarchy(
    name: str, mountinfo: str | None = None, own: str | None = None
) -> tuple[Hierarchy | None, Refusal | None]:
    """Create the group `name`, which will contain the groups of sandboxes.

    Args:
        name: The name, and on v2 also that of the scope that systemd may be asked for.
        mountinfo: Text of `/proc/self/mountinfo`; given by tests, where nothing is asked of systemd.
        own: Text of `/proc/self/cgroup`, likewise.

    Returns:
        The usable hierarchies, or None and the reason.
    """

    def texts() -> tuple[str, str]:
        return (
            read("/proc/self/mountinfo") if mountinfo is None else mountinfo,
            read("/proc/self/cgroup") if own is None else own,
        )

    version, bases = find_bases(*texts())
    if version == 1:
        return _open_v1(name, bases)
    try:
        base = _v2_base(*texts())
        try:
            base = delegation.take(base)
        except NotDelegated as refused:
            if mountinfo is not None or refused.refusal.why in delegation.FINAL:
                raise
            try:
                systemd.enter_scope(name, texts()[1])
            except NotDelegated as why:
                # Without systemd, the first reason is the useful one.
                raise refused if why.refusal.why == "no-systemd" else why from why
            # The attribute that marks delegated groups is missing in those of a user's systemd.
            base = delegation.take(_v2_base(*texts()), ours=True)
        folder = base / name
        folder.mkdir(exist_ok=True)
        usable = read(base / "cgroup.subtree_control").split()
        usable = [controller for controller in WANTED if controller in usable]
        write(folder / "cgroup.subtree_control", " ".join(f"+{controller}" for controller in usable))
    except NotDelegated as why:
        return None, why.refusal
    except OSError as error:
        return None, Refusal("denied", str(error))
    return Hierarchy(2, dict.fromkeys(usable, folder)), None


def _open_v1(name: str, bases: Mapping[str, Path]) -> tuple[Hierarchy | None, Refusal | None]:
    parents: dict[str, Path] = {}
    refusal: Refusal | None = None
    for controller, base in bases.items():
        folder = base / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            refusal = Refusal("read-only" if error.errno == errno.EROFS else "denied", str(error))
            continue
        parents[controller] = folder
    return (Hierarchy(1, parents), None) if parents else (None, refusal or Refusal("not-mounted"))


def freezer_bases() -> Iterable[tuple[str, Path]]:
    """Yield kind (`v2`, `v1`) and directory of this process's groups that might have a freezer."""
    own, found = read("/proc/self/cgroup"), []
    for kind, root, mount, options in _mounts(read("/proc/self/mountinfo")):
        if kind == "cgroup2":
            base = _below_mount(mount, root, _own_path(own, ""))
            if delegation.may_have_children(base):
                found.append(("v2", base))
        elif "freezer" in options:
            found.append(("v1", _below_mount(mount, root, _own_path(own, "freezer"))))
    return sorted(found, reverse=True)
