"""The configuration of a sandbox for `runsc`: an OCI configuration without data of the tenant, and options."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.layout import DEFAULT_ENV, HOSTNAME, SANDBOX_UID, SHM, TMP, WORK, shm_bytes
from unsandbox.sandbox.spec import MIB

SENTRY_BYTES = 64 * MIB
"""Memory of gVisor itself, in addition to the tenant's limit."""
SENTRY_PROCESSES = 512
"""Threads and helper processes of gVisor's kernel. A fork bomb reaches the limit inside before this one."""
PROCESSES_EACH = 4
"""Host threads for one process of the tenant."""
_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_NAMESPACES = ("pid", "ipc", "uts", "mount", "user")
_DISK_HINT = "dev.gvisor.spec.mount.work."


@dataclass(frozen=True, slots=True)
class FirstProcess:
    """The first program of a sandbox. It is written to the disk, so it must not contain data of the tenant."""

    command: Sequence[str]
    open_files: int
    uid: int = SANDBOX_UID
    capabilities: Sequence[str] = ()
    """Capabilities in gVisor's kernel; in Linux the program has none."""


def bounds(memory_bytes: int, processes: int, vcpu: float) -> Bounds:
    """Return the limits of a sandbox's control group for the given limits of the tenant."""
    return Bounds(memory_bytes + SENTRY_BYTES, SENTRY_PROCESSES + PROCESSES_EACH * processes, vcpu)


def configuration(
    first: FirstProcess,
    *,
    root: Path,
    mounts: Iterable[tuple[Path, str]],
    tmpfs_bytes: int,
    work_bytes: int,
    work_disk: Path | None = None,
) -> dict[str, Any]:
    """Return the content of a bundle's `config.json`.

    Args:
        first: What it begins with.
        root: The read-only root folder.
        mounts: Folders and files of the host and where they appear, read-only.
        tmpfs_bytes: Size of /tmp; /dev/shm gets a quarter.
        work_bytes: Size of /work.
        work_disk: Folder of the host in which gVisor keeps the content of /work, in a format of its own. None
            keeps it in memory.
    """
    user = [{"containerID": 0, "hostID": 0, "size": 1}]
    owner = {"uid": SANDBOX_UID, "gid": SANDBOX_UID}
    held = set(_CAPABILITY_SETS) - {"inheritable", "ambient"}
    work = _options(work_bytes, mode="0755", **owner)
    hints = {}
    if work_disk is not None:
        values = {
            "source": str(work_disk),
            "type": "tmpfs",
            "share": "container",
            "options": f"rw,{','.join(work)}",
        }
        hints = {_DISK_HINT + name: value for name, value in values.items()}
    return {
        "ociVersion": "1.0.2",
        "hostname": HOSTNAME,
        "root": {"path": str(root), "readonly": True},
        "annotations": hints,
        "process": {
            "terminal": False,
            "user": {"uid": first.uid, "gid": first.uid},
            "cwd": WORK,
            "args": list(first.command),
            "env": [f"{name}={value}" for name, value in DEFAULT_ENV.items()],
            "noNewPrivileges": True,
            "capabilities": {
                name: list(first.capabilities) if name in held else [] for name in _CAPABILITY_SETS
            },
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": first.open_files, "soft": first.open_files},
                {"type": "RLIMIT_CORE", "hard": 1, "soft": 1},
            ],
        },
        "mounts": [
            {
                "destination": "/proc",
                "type": "proc",
                "source": "proc",
                "options": ["nosuid", "noexec", "nodev"],
            },
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=0755"]},
            *(_bind(source, target) for source, target in mounts),
            _tmpfs(SHM, _options(shm_bytes(tmpfs_bytes), mode="1777", **owner)),
            _tmpfs(TMP, _options(tmpfs_bytes, mode="1777", **owner)),
            _tmpfs(WORK, work)
            if work_disk is None
            else {
                "destination": WORK,
                "type": "bind",
                "source": str(work_disk),
                "options": ["rw", "nosuid", "nodev"],
            },
        ],
        # The launcher made the process root of a user namespace without other users.
        "linux": {
            "namespaces": [{"type": name} for name in _NAMESPACES],
            "uidMappings": user,
            "gidMappings": user,
        },
    }


def _bind(source: Path, target: str) -> dict[str, Any]:
    return _mount(target, "bind", str(source), ["rbind", "ro", "nosuid", "nodev"])


def _tmpfs(target: str, options: Sequence[str]) -> dict[str, Any]:
    return _mount(target, "tmpfs", "tmpfs", ["nosuid", "nodev", *options])


def _mount(target: str, kind: str, source: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _options(size: int, **options: str | int) -> list[str]:
    return [f"size={size}", *(f"{name}={value}" for name, value in options.items())]


def runsc_words(bundle: Path) -> list[str]:
    """Return the beginning of every `runsc` command line for the sandbox of `bundle`."""
    return [
        "runsc",
        "--root",
        str(bundle / "state"),
        "--platform=systrap",
        "--network=none",
        # The launcher has put it into a control group already.
        "--ignore-cgroups",
        # Only needed for a work folder on disk: all other writable folders are tmpfs.
        "--overlay2=all:self",
        # Only the package manager changes the mounted folders.
        "--file-access-mounts=exclusive",
    ]


def make_bundle(runtime: Path, uid: int | None) -> Path:
    """Create a folder for one sandbox, with the state and the disk of user `uid`."""
    bundle = Path(tempfile.mkdtemp(prefix="gvisor-", dir=runtime))
    bundle.chmod(0o711)
    for name in ("state", "disk"):
        (bundle / name).mkdir(mode=0o700)
        if uid is not None:
            os.chown(bundle / name, uid, uid)
    return bundle


def write_configuration(bundle: Path, content: Mapping[str, object]) -> None:
    """Write a configuration to the file that `runsc` reads."""
    file = bundle / "config.json"
    file.write_text(json.dumps(content))
    file.chmod(0o644)
