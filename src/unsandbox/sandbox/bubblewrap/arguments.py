"""Bubblewrap's options for the sandbox of a job, and the options that all sandboxes share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unsandbox.sandbox import proc_masks
from unsandbox.sandbox.bubblewrap.outbound import Outbound
from unsandbox.sandbox.host.job_script import disturbs_shell
from unsandbox.sandbox.host.machine_view import NAMES
from unsandbox.sandbox.launcher.fd_numbers import FIRST_FILE_FD, INFO_FD, SECCOMP_FD
from unsandbox.sandbox.layout import (
    ARTIFACT_FOLDER,
    DEFAULT_ENV,
    ENVIRONMENT,
    HOSTNAME,
    SANDBOX_UID,
    SHM,
    TMP,
    WORK,
    shm_bytes,
)
from unsandbox.sandbox.spec import SandboxSpec
from unsandbox.sandbox.system import System

_ALWAYS = (
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--unshare-net",
    "--die-with-parent",
    "--new-session",
    # The job script is the first process: when it ends, the kernel kills the rest, and the monitor reaps it.
    "--as-pid-1",
    "--clearenv",
    # Otherwise the root of a container would keep the capabilities of its user namespace.
    "--cap-drop",
    "ALL",
)


@dataclass(frozen=True, slots=True)
class Mounts:
    """The read-only view of the host in a sandbox.

    Attributes:
        root: The root folder.
        system: The source of `/usr` and similar folders.
        system_paths: Absolute paths of the system to mount; each has a mount point in `root`.
        network: The outbound network; None for no network.
        environment: The folder of its environment; None for a sandbox without.
    """

    root: Path
    system: System
    system_paths: Iterable[str]
    network: Outbound | None = None
    environment: Path | None = None

    def words(self) -> list[str]:
        """Return bubblewrap's options."""
        words = ["--ro-bind", str(self.root), "/", "--ro-bind", str(self.system.usr), "/usr"]
        for path in self.system_paths:
            words += ["--ro-bind", str(self.system.path(path)), path]
        if self.environment is not None:
            words += ["--ro-bind", str(self.environment), ENVIRONMENT]
        return words if self.network is None else words + self.network.words()


def sandbox_arguments(spec: SandboxSpec, mounts: Mounts, view: Path) -> bytes:
    """Return bubblewrap's options, NUL-separated for `--args`, so that none appears on a command line.

    Args:
        spec: A validated specification.
        mounts: The sandbox's view of the host.
        view: The folder of its own versions of files of `/proc`.
    """
    size = spec.limits.tmpfs_bytes
    words = base_words(mounts, size, view)
    words += ["--perms", "0755", "--size", str(size), "--tmpfs", WORK, "--chdir", WORK]
    words += _file_arguments(spec)
    for name, value in (DEFAULT_ENV | dict(spec.env)).items():
        if not disturbs_shell(name):
            words += ["--setenv", name, value]
    words += ["--seccomp", str(SECCOMP_FD), "--info-fd", str(INFO_FD)]
    return null_separated(words)


def base_words(mounts: Mounts, tmpfs_bytes: int, view: Path) -> list[str]:
    """Return the options that jobs and persistent sandboxes share: namespaces and most mounts."""
    words = [*_ALWAYS]
    words += ["--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID), "--hostname", HOSTNAME]
    words += mounts.words()
    words += ["--proc", "/proc", *proc_masks.words()]
    for name in NAMES:
        words += ["--ro-bind", str(view / name), f"/proc/{name}"]
    words += ["--dev", "/dev"]
    words += ["--perms", "1777", "--size", str(shm_bytes(tmpfs_bytes)), "--tmpfs", SHM]
    # /dev is a tmpfs without a size limit.
    words += ["--remount-ro", "/dev"]
    return [*words, "--perms", "1777", "--size", str(tmpfs_bytes), "--tmpfs", TMP]


def null_separated(words: Iterable[str]) -> bytes:
    """Encode options in the format that bubblewrap reads from a descriptor."""
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _file_arguments(spec: SandboxSpec) -> list[str]:
    words: list[str] = []
    made = {"/", WORK, TMP, "/dev", SHM}

    def make(folder: PurePosixPath) -> None:
        for step in (*reversed(folder.parents), folder):
            if str(step) not in made:
                made.add(str(step))
                words.extend(["--dir", str(step)])

    for folder in (*spec.folders, *([ARTIFACT_FOLDER] if spec.collect_artifacts else [])):
        make(PurePosixPath(folder))
    for fd, file in enumerate(spec.files, FIRST_FILE_FD):
        make(PurePosixPath(file.path).parent)
        words += ["--perms", f"{file.mode:04o}", "--file", str(fd), file.path]
    return words
