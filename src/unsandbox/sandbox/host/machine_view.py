"""The machine as sandboxes see it: processors and memory are those of the sandbox's limits.

Runtimes and libraries size their pools and heaps by `/proc` and by the processors that they may use. So each
sandbox sees its own version of some files of `/proc`, and runs on as many processors as its limit says: those
that had the fewest sandboxes when it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from unsandbox.sandbox.launcher.cgroups import Group

NAMES = ("cpuinfo", "stat", "meminfo", "loadavg")
"""The files of `/proc` that sandboxes see in a version of their own."""
_COUNTED_PER_PACKAGE = re.compile(r"^((?:siblings|cpu cores)\s*:).*$", re.MULTILINE)
_BALANCE_S = 2.0
_IDLE, _FREE, _FULL = 0.1, 0.5, 0.85
_EMPTY = (
    "Buffers",
    "Cached",
    "SwapCached",
    "Active",
    "Inactive",
    "SwapTotal",
    "SwapFree",
    "Dirty",
    "Shmem",
    "Slab",
)


class MachineView:
    """Writes the files, and assigns processors.

    Args:
        folder: Where the files are; each slot has a folder in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o755)
        folder.chmod(0o711)
        self._load = dict.fromkeys(sorted(os.sched_getaffinity(0)), 0)
        """Sandboxes on each processor."""
        self._assigned: set[Processors] = set()
        self._cpuinfo = re.split(r"\n\n+", _read("cpuinfo").strip("\n"))
        self._boot = "".join(f"{line}\n" for line in _read("stat").split("\n") if line.startswith("btime"))
        self._shown: dict[int, tuple[int, int]] = {}

        self._balancing: asyncio.TimerHandle | None = None

    def show(self, slot: int, vcpu: float, memory_bytes: int) -> Path:
        """Write the files of a slot, unless they say so already; return their folder.

        Args:
            slot: Number of the slot.
            vcpu: Processors.
            memory_bytes: Memory limit.
        """
        folder = self.folder / str(slot)
        cpus = math.ceil(vcpu)
        if self._shown.get(slot) != (cpus, memory_bytes):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
            for name, text in self._texts(cpus, memory_bytes).items():
                (folder / name).write_text(text)
                (folder / name).chmod(0o644)
            self._shown[slot] = cpus, memory_bytes
        return folder

    def assign(self, vcpu: float) -> Processors:
        """Return the processors for a sandbox: those with the fewest sandboxes."""
        count = math.ceil(vcpu)
        if count >= len(self._load):
            return Processors(self, ())
        return Processors(self, sorted(self._load, key=lambda cpu: self._load[cpu])[:count])

    def occupy(self, processors: Processors, change: int) -> None:
        """Count a sandbox on its processors (1), or no longer (-1)."""
        for cpu in processors.cpus:
            self._load[cpu] += change
        if self._balancing is None:
            with contextlib.suppress(RuntimeError):  # Without a loop there is nothing to balance.
                self._balancing = asyncio.get_running_loop().call_later(_BALANCE_S, self._balance)
        if change > 0:
            self._assigned.add(processors)
        else:
            self._assigned.discard(processors)

    def _balance(self) -> None:
        self._balancing = None
        self.balance()
        if self._assigned:
            self._balancing = asyncio.get_running_loop().call_later(_BALANCE_S, self._balance)

    def balance(self) -> None:
        """Move one sandbox if two use a processor that is not enough for both, and another is free.

        At the start of a sandbox nobody knows how busy it will be. Sandboxes with several processors stay.
        """
        busy = {}
        for processors in self._assigned:
            if (share := processors.share()) > _IDLE:
                busy[processors] = share
        used = dict.fromkeys(self._load, 0.0)
        for processors, share in busy.items():
            for cpu in processors.cpus:
                used[cpu] += share / len(processors.cpus)
        fullest, emptiest = max(used, key=used.__getitem__), min(used, key=used.__getitem__)
        there = [each for each in busy if each.cpus == (fullest,)]
        if used[fullest] > _FULL and used[emptiest] < _FREE and len(there) > 1:
            min(there, key=busy.__getitem__).move((emptiest,))

    def _texts(self, cpus: int, memory_bytes: int) -> dict[str, str]:
        total = f"{memory_bytes >> 10:8} kB"
        cpus = min(cpus, len(self._load))
        stanzas = "\n\n".join(self._cpuinfo[:cpus])
        zeros = "0 0 0 100 0 0 0 0 0 0\n"
        memory = {"MemTotal": total, "MemFree": total, "MemAvailable": total}
        memory |= dict.fromkeys(_EMPTY, f"{0:8} kB")
        return {
            "cpuinfo": _COUNTED_PER_PACKAGE.sub(rf"\1 {cpus}", stanzas) + "\n\n",
            "stat": f"cpu  {zeros}" + "".join(f"cpu{number} {zeros}" for number in range(cpus)) + self._boot,
            "meminfo": "".join(f"{name + ':':15} {value}\n" for name, value in memory.items()),
            "loadavg": "0.00 0.00 0.00 1/1 1\n",
        }


class Processors:
    """The processors of one sandbox, until it gives them back.

    Args:
        view: Counts them.
        cpus: Numbers of its processors; empty if it may use all.
    """

    def __init__(self, view: MachineView, cpus: Sequence[int]) -> None:
        self._view = view
        self._held = True
        self._seen: tuple[float, float] | None = None
        self.cpus = tuple(sorted(cpus))
        self.group: Group | None = None
        """Control group of the sandbox, once it runs."""
        view.occupy(self, 1)

    def release(self) -> None:
        """Release the processors. May be repeated."""
        if self._held:
            self._held = False
            self._view.occupy(self, -1)

    def move(self, cpus: tuple[int, ...]) -> None:
        """Let the sandbox run on other processors."""
        if self._held:
            self._view.occupy(self, -1)
            self.cpus = cpus
            self._view.occupy(self, 1)
        if self.group is not None:
            run_on(self.group, cpus)

    def widen(self) -> None:
        """Let the sandbox run on every processor, and release its own ones."""
        self.release()
        if self.group is not None and self.cpus:
            run_on(self.group, ())

    def share(self) -> float:
        """Return how many processors it has used since the last call, as far as that is known."""
        used = None if self.group is None else self.group.cpu_s()
        before, self._seen = self._seen, None if used is None else (time.monotonic(), used)
        if before is None or self._seen is None:
            return 0.0
        return (self._seen[1] - before[1]) / max(0.001, self._seen[0] - before[0])


def run_on(group: Group, cpus: tuple[int, ...]) -> None:
    """Let the threads in a control group run on these processors; without any, on all of this process."""
    for thread in group.threads():
        # It may have ended, or belong to another user without the right to move it.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, cpus or os.sched_getaffinity(0))


def _read(name: str) -> str:
    try:
        return Path("/proc", name).read_text()
    except OSError:
        return ""
