"""The inside of every sandbox: its folders, its user, its environment.

The launcher, the zygote and gVisor's agent import nothing of ours, so they repeat the few of these that they
need; `tests/sandbox/test_parts.py` compares them.
"""

from __future__ import annotations

WORK = "/work"
"""The program's working folder and home."""
TMP = "/tmp"  # noqa: S108 - inside the sandbox, like the next ones
SHM = "/dev/shm"  # noqa: S108
ARTIFACT_FOLDER = "/tmp/artifacts"  # noqa: S108
"""Files that a program leaves here are returned with its result."""
INPUT_FOLDER = "/tmp/input"  # noqa: S108
"""Input files lie here."""
PREPARED_FOLDERS = (ARTIFACT_FOLDER, INPUT_FOLDER)
"""Present before every program of a language."""

HOSTNAME = "sandbox"
SANDBOX_UID = 1000
"""User and group that programs have inside."""
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


def shm_bytes(tmpfs_bytes: int) -> int:
    """Return the size of /dev/shm, given that of the other file systems in memory."""
    return max(1 << 16, tmpfs_bytes // 4)
