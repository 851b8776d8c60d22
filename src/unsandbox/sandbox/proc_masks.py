"""The files and folders of `/proc` that sandboxes do not see, because they describe the machine.

Most of `/proc` is not namespaced. The masked files name disks, devices, kernel symbols and boot options, or
have counters so precise that a program can time its neighbours. Programs do not need them. Masked files and
folders are empty. Of `cpuinfo`, `meminfo`, `stat` and `loadavg`, each sandbox sees its own version; see
`host/machine_view.py`.
"""

from __future__ import annotations

import os

FILES = (
    "cmdline", "config.gz", "diskstats", "interrupts", "iomem", "ioports", "kallsyms", "kcore", "key-users",
    "keys", "latency_stats", "locks", "modules", "partitions", "sched_debug", "schedstat", "softirqs", "swaps",
    "timer_list", "timer_stats",
)  # fmt: skip
"""Some of them exist on some kernels only."""
FOLDERS = ("acpi", "asound", "driver", "fs", "irq", "pressure", "scsi")
SYSCTL = "/proc/sys"
"""Mounted read-only, because the sandbox's user owns the settings of its namespaces (such as queues)."""
_BINFMT = f"{SYSCTL}/fs/binfmt_misc"


def masked_files() -> list[str]:
    """Return the paths of the files to mask on this machine."""
    return _present(FILES)


def masked_folders() -> list[str]:
    """Return the paths of the folders to mask on this machine."""
    return _present(FOLDERS)


def _present(names: tuple[str, ...]) -> list[str]:
    return [path for name in names if os.path.lexists(path := f"/proc/{name}")]


def words() -> list[str]:
    """Return bubblewrap's options for the masks; they come after those that mount /proc."""
    found: list[str] = []
    for path in masked_files():
        found += ["--dev-bind", "/dev/null", path]
    # The source is the host's /proc: the value of a setting depends on the reader's namespaces, not on the
    # mount.
    found += ["--ro-bind", SYSCTL, SYSCTL]
    mounted = [_BINFMT] if os.path.ismount(_BINFMT) else []
    for path in (*masked_folders(), *mounted):
        found += ["--perms", "0555", "--size", "4096", "--tmpfs", path, "--remount-ro", path]
    return found
