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
FOLDERS = ("acpi", "asound", "driver", "fs", "irq", "scsi")


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
    for path in masked_folders():
        found += ["--perms", "0555", "--size", "4096", "--tmpfs", path, "--remount-ro", path]
    return found
