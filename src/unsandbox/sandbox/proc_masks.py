"""What of `/proc` a sandbox does not see: files that tell of the machine and not of the sandbox's processes.

Most of `/proc` knows no namespaces. What is masked here names disks, devices, kernel symbols and options of
the machine's start, or counts events so finely that neighbours can be timed. Programs need none of it; what
they do read (`cpuinfo`, `meminfo`, `stat`, `loadavg`, `vmstat`) stays. A masked file is empty, a masked
folder too.
"""

from __future__ import annotations

import os

FILES = (
    "cmdline", "config.gz", "diskstats", "interrupts", "iomem", "ioports", "kallsyms", "kcore", "key-users",
    "keys", "latency_stats", "locks", "modules", "partitions", "sched_debug", "schedstat", "softirqs", "swaps",
    "timer_list", "timer_stats",
)  # fmt: skip
"""As far as this kernel has them."""
FOLDERS = ("acpi", "asound", "driver", "fs", "irq", "pressure", "scsi")
SYSCTL = "/proc/sys"
"""Read-only: the user of a sandbox owns the settings of its namespaces, such as those of queues."""
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
    # Of the host's /proc: what a setting says depends on the namespaces of who reads it, not on the mount.
    found += ["--ro-bind", SYSCTL, SYSCTL]
    mounted = [_BINFMT] if os.path.ismount(_BINFMT) else []
    for path in (*masked_folders(), *mounted):
        found += ["--perms", "0555", "--size", "4096", "--tmpfs", path, "--remount-ro", path]
    return found
