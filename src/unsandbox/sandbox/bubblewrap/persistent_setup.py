"""What a live sandbox on bubblewrap is made of: its options, the request for it, the details of a program."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unsandbox.sandbox.bubblewrap.arguments import Mounts, base_words, null_separated
from unsandbox.sandbox.bubblewrap.outbound import Outbound, network_request
from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.host.launcher_client import CgroupReport, LauncherControl
from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.launcher.fd_numbers import ARGS_FD, IMAGE_FD, INFO_FD, SECCOMP_FD
from unsandbox.sandbox.launcher.messages import OpenPersistent
from unsandbox.sandbox.layout import DEFAULT_ENV, WORK
from unsandbox.sandbox.persistent_spec import PersistentSpec
from unsandbox.sandbox.storage.work_disk import DiskImages, FolderDisk, ImageDisk, WorkDisk
from unsandbox.sandbox.system import System
from unsandbox.sandbox.validation import check_program

_HELPERS = 8
"""Processes of ours for which there is room beside the tenant's."""


@dataclass(frozen=True, slots=True)
class BackendResources:
    """What a backend lends its live sandboxes."""

    control: LauncherControl
    cgroup: CgroupReport
    program: Path
    init: Path
    """The file of the first process, and the command that runs it."""
    init_command: tuple[str, ...]
    root: Path
    system: System
    mountable: Callable[[Sequence[str]], list[str]]
    filter: bytes
    discard_fd: int
    runtime: Path
    images: DiskImages | None
    """Where work folders are images; None where they are folders."""
    uid: int | None
    """The user of the host that the sandbox runs as; None for this process's own."""
    network: Outbound | None = None
    """How it gets out, when it does."""


def refuse_memory_snapshot(spec: PersistentSpec) -> None:
    """Refuse a sandbox that is to begin with memory and processes from a checkpoint.

    Raises:
        SandboxUnavailable: It is to.
    """
    if spec.hot_image is not None:
        raise SandboxUnavailable("bubblewrap sandboxes cannot start from a checkpoint; gVisor's can")


@dataclass(frozen=True, slots=True)
class Program:
    """What is started in a sandbox.

    `helper` is None for a program of the tenant; for one of ours, the capabilities that it keeps.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str = WORK
    terminal: tuple[int, int] | None = None
    helper: int | None = None

    def check(self) -> None:
        """Refuse what cannot be started.

        Raises:
            InvalidSpecError: The message names the field.
        """
        check_program(self.argv, self.env, self.cwd, self.terminal)


def make_disk(spec: PersistentSpec, parts: BackendResources) -> WorkDisk:
    """Return the disk that a sandbox asks for, not opened yet."""
    mount_point = parts.runtime / f"work-{secrets.token_hex(6)}"
    if parts.images is None:
        return FolderDisk(spec.work_disk, mount_point, parts.uid)
    return ImageDisk(parts.images, spec.work_disk, spec.limits.work_bytes, mount_point)


def persistent_arguments(spec: PersistentSpec, parts: BackendResources, disk: WorkDisk) -> bytes:
    """Return bubblewrap's options."""
    paths = parts.mountable([*parts.system.always_mounted, *spec.system_paths])
    words = base_words(Mounts(parts.root, parts.system, paths, parts.network), spec.limits.tmpfs_bytes)
    words += ["--bind", str(disk.mount_point), WORK, "--chdir", WORK]
    words += ["--seccomp", str(SECCOMP_FD), "--info-fd", str(INFO_FD)]
    return null_separated(words)


def persistent_request(
    spec: PersistentSpec, parts: BackendResources, disk: WorkDisk, fds: Sequence[int]
) -> OpenPersistent:
    """Return the request to the launcher; `fds` are the numbers of the descriptors in the sandbox program."""
    return OpenPersistent(
        program=str(parts.program),
        argv=("bwrap", "--args", str(ARGS_FD), "--", *parts.init_command),
        fds=tuple(fds),
        bounds=Bounds(spec.limits.memory_bytes, spec.limits.processes + _HELPERS, spec.limits.vcpu),
        uid=parts.uid,
        network=network_request(parts.network),
        disk=messages.WorkDisk(
            target=str(disk.mount_point),
            image_fd=None if disk.image is None else IMAGE_FD,
            source=None if disk.source is None else str(disk.source),
        ),
    )


def program_details(program: Program, spec: PersistentSpec, parts: BackendResources) -> bytes:
    """Return what the process needs to know that enters a sandbox; see `enter.become_program`."""
    ours = program.helper is not None
    own = {} if ours else dict(spec.env)
    term = {"TERM": "xterm-256color"} if program.terminal is not None else {}
    limits = spec.limits
    details = messages.ProgramDetails(
        argv=tuple(program.argv),
        env=DEFAULT_ENV | term | own | dict(program.env),
        cwd=program.cwd,
        terminal=program.terminal,
        helper=program.helper,
        filter=parts.filter,
        limits=messages.ProcessLimits(
            open_files=limits.open_files,
            # Counts the processes of this user in this sandbox.
            processes=None if ours else limits.processes,
            # One file alone cannot fill a folder that is only looked at from time to time.
            file_bytes=limits.work_bytes if parts.images is None and not ours else None,
            data_bytes=None if "memory" in parts.cgroup.controllers else limits.memory_bytes,
        ),
    )
    return messages.encode(details, None)
