"""What a dead server may have left on this machine: looked for by process, control group, mount, folder, device."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path


class Family:
    """A server's processes, whatever their names, and the network namespaces in which their interfaces are."""

    def __init__(self, server: int) -> None:
        parents = {
            int(stat.parent.name): int(text.rpartition(")")[2].split()[1])
            for stat in Path("/proc").glob("[0-9]*/stat")
            if (text := read(stat))
        }
        found, young = set(), {server}
        while young:
            found |= young
            young = {child for child, parent in parents.items() if parent in young}
        self.processes = {
            process: born for number in found if (born := started(process := Path(f"/proc/{number}")))
        }
        self.programs = Counter(name for process in self.processes if (name := read(process / "comm").strip()))
        self.networks = {network for process in self.processes if (network := network_of(process))}
        self.networks.discard(network_of(Path("/proc/self")))
        self.taken = int(float(read(Path("/proc/uptime")).split()[0]) * os.sysconf("SC_CLK_TCK"))

    def left(self) -> list[str]:
        """Return which of them are there still."""
        found = [str(process) for process, born in self.processes.items() if started(process) == born]
        # Numbers of namespaces are used again, so only what is as old as this family can hold one of its.
        held = {
            network_of(process)
            for process in Path("/proc").glob("[0-9]*")
            if (born := started(process)) is not None and born <= self.taken
        }
        return found + sorted(self.networks & held)


def read(path: Path) -> str:
    """Return what a file holds, nothing when it is gone."""
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def started(process: Path) -> int | None:
    """Return when a process began, in ticks: with its number, it names the process for ever."""
    fields = read(process / "stat").rpartition(")")[2].split()
    return int(fields[19]) if fields else None


def network_of(process: Path) -> str | None:
    """Return the network namespace of a process, as `net:[4026531840]`."""
    with contextlib.suppress(OSError):
        return os.readlink(process / "ns" / "net")
    return None


def traces(pid: int) -> list[str]:
    """Return what a dead server left under its name: processes, control groups, mounts, folders."""
    mark = f"unsandbox-{pid}-"
    places = [
        Path("/run"),
        Path("/tmp"),
        Path("/var/tmp"),
        Path("/dev/shm"),
        *Path("/sys/fs/cgroup").glob("*/"),
    ]
    found = [str(path) for place in places for path in place.glob(f"{mark}*")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if mark in line]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "cmdline").read_bytes() + (process / "cgroup").read_bytes():
                found.append(f"process {process.name}")
    return found


def loop_devices(data: Path) -> list[str]:
    """Return the loop devices that are backed by a file of the data folder."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if str(data) in backing.read_text():
                found.append(str(backing))
    return found
