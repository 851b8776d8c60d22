"""What `runsc` is told of a sandbox: an OCI configuration without anything of the tenant's in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unsandbox.sandbox.command import DEFAULT_ENV, SHM, TMP, WORK
from unsandbox.sandbox.skeleton import HOSTNAME, SANDBOX_UID

_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_NAMESPACES = ("pid", "ipc", "uts", "mount", "user")


def configuration(
    *,
    root: Path,
    mounts: Iterable[tuple[Path, str]],
    tmpfs_bytes: int,
    work_bytes: int,
    command: Sequence[str],
    open_files: int,
) -> dict[str, Any]:
    """Return the content of a bundle's `config.json`.

    Args:
        root: The read-only root folder.
        mounts: Folders and files of the host and where they appear, read-only.
        tmpfs_bytes: Size of /tmp; /dev/shm gets a quarter.
        work_bytes: Size of /work.
        command: The first process. It is written to the disk, so nothing of the tenant may be in it.
        open_files: Descriptors that one process may have.
    """
    user = [{"containerID": 0, "hostID": 0, "size": 1}]
    owner = {"uid": SANDBOX_UID, "gid": SANDBOX_UID}
    return {
        "ociVersion": "1.0.2",
        "hostname": HOSTNAME,
        "root": {"path": str(root), "readonly": True},
        "process": {
            "terminal": False,
            "user": owner,
            "cwd": WORK,
            "args": list(command),
            "env": [f"{name}={value}" for name, value in DEFAULT_ENV.items()],
            "noNewPrivileges": True,
            "capabilities": {name: [] for name in _CAPABILITY_SETS},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": open_files, "soft": open_files},
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
            _tmpfs(SHM, max(1 << 16, tmpfs_bytes // 4), mode="1777", **owner),
            _tmpfs(TMP, tmpfs_bytes, mode="1777", **owner),
            _tmpfs(WORK, work_bytes, mode="0755", **owner),
        ],
        # The launcher has made the process root of a user namespace that knows nobody else.
        "linux": {
            "namespaces": [{"type": name} for name in _NAMESPACES],
            "uidMappings": user,
            "gidMappings": user,
        },
    }


def _bind(source: Path, target: str) -> dict[str, Any]:
    options = ["rbind", "ro", "nosuid", "nodev"]
    return {"destination": target, "type": "bind", "source": str(source), "options": options}


def _tmpfs(target: str, size: int, **options: str | int) -> dict[str, Any]:
    words = ["nosuid", "nodev", f"size={size}", *(f"{name}={value}" for name, value in options.items())]
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": words}
