"""Bubblewrap's options for persistent sandboxes, and the request to the launcher."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from unsandbox.sandbox.bubblewrap.arguments import base_words, null_separated
from unsandbox.sandbox.bubblewrap.outbound import network_request
from unsandbox.sandbox.bubblewrap.resources import BubblewrapResources
from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.launcher.fd_numbers import ARGS_FD, IMAGE_FD, INFO_FD, SECCOMP_FD
from unsandbox.sandbox.layout import WORK
from unsandbox.sandbox.persistent_spec import PersistentSpec
from unsandbox.sandbox.storage.work_disk import WorkDisk

_HELPERS = 8
"""Number of engine processes that are allowed in addition to the tenant's."""


def persistent_arguments(
    spec: PersistentSpec, resources: BubblewrapResources, disk: WorkDisk, view: Path
) -> bytes:
    """Return bubblewrap's options; `view` is the folder of the files of `/proc` that tell its limits."""
    words = base_words(resources.mounts(spec.system_paths, spec.environment), spec.limits.tmpfs_bytes, view)
    words += ["--bind", str(disk.mount_point), WORK, "--chdir", WORK]
    words += ["--seccomp", str(SECCOMP_FD), "--info-fd", str(INFO_FD)]
    return null_separated(words)


def persistent_request(
    spec: PersistentSpec, resources: BubblewrapResources, uid: int | None, disk: WorkDisk, fds: Iterable[int]
) -> messages.OpenPersistent:
    """Return the request to the launcher.

    Args:
        spec: The specification of the sandbox.
        resources: The resources of the backend.
        uid: Its host user; None for the server's user.
        disk: Its work folder.
        fds: The numbers of its descriptors in the sandbox program.
    """
    limits = spec.limits
    return messages.OpenPersistent(
        program=str(resources.program),
        argv=("bwrap", "--args", str(ARGS_FD), "--", *resources.init.command),
        fds=tuple(fds),
        bounds=Bounds(limits.memory_bytes, limits.processes + _HELPERS, limits.vcpu),
        uid=uid,
        network=network_request(resources.network),
        disk=messages.WorkDisk(
            target=str(disk.mount_point),
            image_fd=None if disk.image is None else IMAGE_FD,
            source=None if disk.source is None else str(disk.source),
        ),
    )
