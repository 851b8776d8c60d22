"""The inside of every sandbox: its folders, its user, its environment.

The launcher, the zygote and gVisor's agent import no other part of the package, so they repeat the constants
that they need; `tests/sandbox/test_parts.py` compares the copies.
"""

from __future__ import annotations

WORK = "/work"
"""The program's working folder and home."""
USER_HOME = "/home/user"
"""A link to `WORK`: the home of other services' sandboxes, whose programs expect their files there."""
TMP = "/tmp"  # noqa: S108 - inside the sandbox, like the next ones
SHM = "/dev/shm"  # noqa: S108
ARTIFACT_FOLDER = "/tmp/artifacts"  # noqa: S108
"""Files in this folder are returned with the program's result."""
INPUT_FOLDER = "/tmp/input"  # noqa: S108
"""The folder with the input files."""
PREPARED_FOLDERS = (ARTIFACT_FOLDER, INPUT_FOLDER)
"""Folders that exist before a program starts."""

ENVIRONMENT = "/opt/env"
"""The environment of a sandbox that has one: packages, and programs in its `bin`."""
HOSTNAME = "sandbox"
SANDBOX_UID = 1000
"""User and group id of programs inside a sandbox."""
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
DEFAULT_ENV = {
    "PATH": PATH,
    "HOME": WORK,
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "TMPDIR": TMP,
    "TERM": "dumb",
}


def environment_variables() -> dict[str, str]:
    """Return the variables by which programs find the packages of an environment."""
    return {"PATH": f"{ENVIRONMENT}/bin:{PATH}", "VIRTUAL_ENV": ENVIRONMENT}


def shm_bytes(tmpfs_bytes: int) -> int:
    """Return the size of /dev/shm for the given size of the other file systems in memory."""
    return max(1 << 16, tmpfs_bytes // 4)
