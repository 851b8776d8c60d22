"""The template of bubblewrap's zygotes: the sandbox in which the zygote's interpreter starts."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from unsandbox.sandbox import proc_masks
from unsandbox.sandbox.host.machine_view import NAMES
from unsandbox.sandbox.launcher.fd_numbers import INFO_FD
from unsandbox.sandbox.layout import DEFAULT_ENV, HOSTNAME, SHM, TMP, WORK
from unsandbox.sandbox.native.first_process import NativePrograms
from unsandbox.sandbox.seccomp import compiler as seccomp
from unsandbox.sandbox.system import System
from unsandbox.sandbox.zygote.lockdown import SYSTEM_CALLS, VIEW
from unsandbox.sandbox.zygote.main import FIRST_PROCESS

_PARTS = ("prefault", "lockdown", "main")
"""The modules that a zygote loads, in this order."""
_CAPABILITIES = ("SYS_ADMIN", "SETUID", "SETGID", "SETPCAP", "NET_ADMIN", "SYS_NICE")
"""The capabilities that a zygote needs to create sandboxes; the sandboxes have none."""
_NEEDED = sum(1 << number for number in (6, 7, 8, 12, 21))
"""The bits of those which it cannot do without: SETGID, SETUID, SETPCAP, NET_ADMIN, SYS_ADMIN."""


@dataclass(frozen=True, slots=True)
class Template:
    """The template that zygotes are started in.

    Attributes:
        root: The read-only root folder.
        system: The source of `/usr`.
        system_paths: Further paths of the system that all sandboxes see; each has a mount point in `root`.
        env: Variables of Python programs in addition to the defaults.
        as_root: Whether the zygote needs no user namespace to create others.
        own_users: Whether each sandbox gets a separate user; otherwise all map the zygote's user.
        uid: Host user of the zygote, and without `own_users` of its sandboxes; None for the server's user.
        nice: The number by which the priority is lower while sandboxes are created.
        view: The folder with each slot's own versions of files of `/proc`.
        native: Machine code that creates sandboxes and is their first process.
        quick_end: See `PoolConfig`.
    """

    root: Path
    system: System
    system_paths: Iterable[str]
    env: Mapping[str, str]
    as_root: bool
    own_users: bool
    uid: int | None
    nice: int
    view: Path
    native: NativePrograms
    quick_end: bool

    def arguments(self, files: Mapping[str, int]) -> bytes:
        """Return bubblewrap's options, NUL-separated.

        Args:
            files: Descriptor numbers of the zygote's files, by path.
        """
        words = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--unshare-net"]
        if not self.as_root:
            words += ["--unshare-user", "--uid", "0", "--gid", "0"]
        words += ["--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--cap-drop", "ALL"]
        # The kernel requires the last one from a process that maps the root of the outer namespace.
        for name in (*_CAPABILITIES, *([] if self.own_users else ["SETFCAP"])):
            words += ["--cap-add", f"CAP_{name}"]
        words += [
            "--hostname",
            HOSTNAME,
            "--ro-bind",
            str(self.root),
            "/",
            "--ro-bind",
            str(self.system.usr),
            "/usr",
        ]
        for path in self.system_paths:
            words += ["--ro-bind", str(self.system.path(path)), path]
        words += ["--ro-bind", str(self.view), VIEW]
        words += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", SHM, "--remount-ro", "/dev"]
        words += ["--perms", "1777", "--tmpfs", TMP, "--perms", "0755", "--tmpfs", WORK, "--chdir", WORK]
        words += ["--info-fd", str(INFO_FD)]
        for path, fd in files.items():
            words += ["--perms", "0555", "--file", str(fd), path]
        for name, value in (DEFAULT_ENV | dict(self.env) | {"PWD": WORK}).items():
            words += ["--setenv", name, value]
        return b"".join(os.fsencode(word) + b"\0" for word in words)

    def files(
        self, bpf: bytes, version: str, folders: Sequence[str], commands: Mapping[int, list[str]]
    ) -> dict[str, bytes]:
        """Return the files that load the zygote's code into the interpreter, by path.

        Args:
            bpf: The system call filter of the sandboxes.
            version: The interpreter's version, as in the name of its folders: `3.11`.
            folders: Folders that each sandbox creates before it is ready.
            commands: The commands of other interpreters, by kind of sandbox.
        """
        folder = resources.files("unsandbox.sandbox.zygote")
        known = seccomp.numbers(platform.machine())
        numbers = {name: known[name] for name in SYSTEM_CALLS if name in known}
        proc_files = proc_masks.masked_files(), proc_masks.masked_folders(), NAMES
        settings = numbers, bpf, proc_files, self.native.spawner, self.nice
        parts = {f"{WORK}/.{name}": (folder / f"{name}.py").read_bytes() for name in _PARTS}
        arguments = f"{list(folders)!r}, {dict(commands)!r}, quick_end={self.quick_end!r}"
        install = f"install(lambda: Setup(*{settings!r}), {arguments})\n"
        parts[f"{WORK}/.install"] = install.encode()
        executed = "; ".join(f"exec(open({path!r}).read(), n)" for path in parts)
        load = f"import sys; n = {{'__name__': 'zygote'}}; {executed}"
        site = f"{WORK}/.local/lib/python{version}/site-packages"
        first = self.native.waiter
        return {
            **parts,
            f"{site}/zygote.pth": load.encode(),
            **({} if first is None else {FIRST_PROCESS: first}),
        }


def root_can_fork() -> bool:
    """Return whether this process is root with the capabilities that a zygote of root needs.

    The root of a container often lacks some of them.
    """
    if os.geteuid() != 0:
        return False
    _, _, rest = Path("/proc/self/status").read_text().partition("\nCapEff:")
    return int(rest.split()[0], 16) & _NEEDED == _NEEDED


def python_version(system: System) -> str | None:
    """Return the version of a sandbox's `python3`, from its file name; None if the name has no version."""
    for folder in ("local/bin", "bin"):
        path = system.usr / folder / "python3"
        for _ in range(10):
            if not path.is_symlink():
                break
            path = path.parent / path.readlink()
            if found := re.fullmatch(r"python(3\.\d+)", path.name):
                return found[1]
    return None
