"""Removes the runtime folder and control groups of a backend, also those of servers that died earlier.

The launcher calls this when its server has ended, for any reason. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from unsandbox.sandbox.launcher.cgroups import remove_folder

PREFIX = "unsandbox-"
_YOUNG_S = 60.0
"""A folder younger than this may belong to a server that has not locked it yet."""


def instance_name(pid: int, token: str) -> str:
    """Return the name of a backend's runtime folder and control groups, which contains the pid of its owner."""
    return f"{PREFIX}{pid}-{token}"


def owner_of(name: str) -> int | None:
    """Return the pid in a name made by `instance_name`; None for any other name."""
    parts = name.removeprefix(PREFIX).split("-")
    return int(parts[0]) if name.startswith(PREFIX) and len(parts) == 2 and parts[0].isdigit() else None


def remove_groups(folders: Iterable[Path], patience_s: float = 2.0) -> list[Path]:
    """Remove control groups and the groups in them; return those that still exist after `patience_s`."""
    left = list(folders)
    give_up = time.monotonic() + patience_s
    while True:
        left = [folder for folder in left if not _remove_tree_of_groups(folder)]
        if not left or time.monotonic() > give_up:
            return left
        # An empty group stays busy until the kernel has finished the exit of its last process.
        time.sleep(0.01)


def _remove_tree_of_groups(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        for child in list(folder.iterdir()):
            if child.is_dir():
                _remove_tree_of_groups(child)
    return remove_folder(folder)


def remove_runtime(folder: Path) -> None:
    """Remove a runtime folder of this package; do nothing for any other folder."""
    if owner_of(folder.name) is not None:
        remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder with its content, including tenants' folders without permissions and very deep ones.

    A file or a link is removed too; a missing one is no error.
    """
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    # Imported here, because shutil loads compressors and would slow down the launcher's start.
    import shutil

    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for command in (["chmod", "-R", "u+rwX", "--", str(folder)], ["rm", "-rf", "--", str(folder)]):
            with contextlib.suppress(OSError):
                os.waitpid(os.posix_spawnp(command[0], command, {"PATH": "/usr/bin:/bin"}), 0)


def sweep(places: Iterable[Path], remove_as_group: bool) -> None:
    """Remove the control groups, or this user's runtime folders, that dead owners left below `places`."""
    for place in places:
        with contextlib.suppress(OSError):
            for child in list(place.iterdir()):
                owner = owner_of(child.name)
                if owner is None or _alive(owner):
                    continue
                if remove_as_group:
                    _kill_orphans(child)
                    remove_groups([child], patience_s=0.2)
                elif _abandoned(child):
                    remove_runtime(child)


def sweep_instances(names: Sequence[str], places: Iterable[Path], patience_s: float = 5.0) -> None:
    """Kill the processes of this server's killed launchers, and remove their control groups.

    A launcher that is killed takes its sandboxes along, but for those that were just being made: bubblewrap's
    child asks late to die with its parent. Nobody else looks after these: all of them are killed.

    Args:
        names: Names of the dead instances; see `instance_name`.
        places: Folders that contain their groups.
        patience_s: How long to wait for the end of killed processes.
    """
    folders = [folder for place in places for name in names if (folder := place / name).is_dir()]
    give_up = time.monotonic() + patience_s
    while names and (left := _processes_in(folders) | _processes_of(names)) and time.monotonic() < give_up:
        for thawed in (file for folder in folders for file in folder.rglob("freezer.state")):
            with contextlib.suppress(OSError):
                thawed.write_text("THAWED")
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    remove_groups(folders)


def _processes_in(groups: Iterable[Path]) -> set[int]:
    """Return the pids of the processes in groups and their subgroups."""
    found: set[int] = set()
    for group in groups:
        for processes in group.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(int(number) for number in processes.read_text().split())
    return found - {0}


def _processes_of(names: Sequence[str]) -> set[int]:
    """Return the pids of processes whose program or root is in an instance's runtime folder."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                places = [str((entry / "exe").readlink()), _root_of(entry)]
                if any(f"/{name}/" in place for name in names for place in places):
                    found.add(int(entry.name))
    return found


def _root_of(entry: Path) -> str:
    """Return the path, on its file system, of the root folder of a process with a folder in /proc."""
    for line in (entry / "mountinfo").read_text("utf-8", "replace").split("\n"):
        fields = line.split(" ")
        if len(fields) > 4 and fields[4] == "/":
            return fields[3]
    return ""


def _kill_orphans(group: Path) -> None:
    """Kill the processes in a group whose server and launcher were both killed.

    Only processes whose parent is the machine's first process are killed; all others still have an owner.
    """
    for processes in group.rglob("cgroup.procs"):
        for number in processes.read_text().split():
            with contextlib.suppress(OSError, IndexError):
                stat_line = Path(f"/proc/{number}/stat").read_text()
                if stat_line.rpartition(")")[2].split()[1] == "1":
                    os.kill(int(number), signal.SIGKILL)


def hold(folder: Path) -> int:
    """Lock a runtime folder for the life of this process; return the descriptor that holds the lock."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def _abandoned(folder: Path) -> bool:
    """Return whether a runtime folder belongs to this user, is not new, and is not locked.

    A process number alone proves nothing: containers may share a folder for temporary files, but not numbers.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    if time.time() - status.st_mtime < _YOUNG_S:
        return False
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
