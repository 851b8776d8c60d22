"""The programs of a few hundred bytes in machine code: first processes of sandboxes, and what makes warm ones.

A first process lets go of every descriptor but one and sleeps. Orphans come to it. Nothing inside can end it
(a first process takes no signal from its own namespace) or look into it (it is not dumpable), and there is
nothing in it to take over. A shell or an interpreter in its place costs megabytes for each sandbox.

The sources are the assembly files in this folder, from which `scripts/assemble.py` writes `machine_code.py`.
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass
from importlib import resources

from unsandbox.sandbox.launcher.fd_numbers import INIT_FD
from unsandbox.sandbox.native.machine_code import CODE

READY = b"init"
"""What the first process of a persistent sandbox writes to `READY_FD` when the sandbox stands."""

_BASE = 0x400000
_HEADERS = 64 + 56
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


@dataclass(frozen=True, slots=True)
class NativePrograms:
    """Programs for one machine. Each is None where there is none; then something slower does the same.

    Attributes:
        persistent: The first process of a persistent sandbox, an executable file. Else `reaper.py`, run by the
            sandbox's `python3`.
        waiter: The first process of a warm sandbox, an executable file. Else a fork of the zygote.
        spawner: Instructions that fork a process and run a list of system calls in it; see `zygote.lockdown`.
            Else a fork of the zygote goes through the list.
    """

    persistent: bytes | None = None
    waiter: bytes | None = None
    spawner: bytes | None = None


NO_PROGRAMS = NativePrograms()
"""Everything is done by something slower."""


def persistent_first_process(programs: NativePrograms) -> tuple[bytes, tuple[str, ...]]:
    """Return the file to be attached as `INIT_FD`, and the command that makes a process of it."""
    path = f"/proc/self/fd/{INIT_FD}"
    if programs.persistent is not None:
        return programs.persistent, (path,)
    reaper = resources.files("unsandbox.sandbox.native") / "reaper.py"
    return reaper.read_bytes(), ("python3", "-I", "-S", path)


def native_programs(machine: str | None = None) -> NativePrograms:
    """Return the programs for a machine, by default for this one."""
    machine = machine or platform.machine()
    return NativePrograms(
        persistent=_executable("persistent", machine),
        waiter=_executable("waiter", machine),
        spawner=CODE.get(("spawner", machine)),
    )


def _executable(program: str, machine: str) -> bytes | None:
    """Put code into the smallest file that the kernel executes: one segment, begun at its start.

    Source: elf(5).
    """
    code = CODE.get((program, machine))
    if code is None:
        return None
    size = _HEADERS + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 2, _ELF_MACHINES[machine], 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    return header + segment + code
