"""Programs of a few hundred bytes of machine code: first processes of sandboxes, and the creator of warm ones.

A first process closes every descriptor except one, adopts orphans, and sleeps. Nothing inside the sandbox can
end it (it receives no signals from its own namespace) or read it (it is not dumpable), and it offers nothing
to take over. A shell or an interpreter in its place would cost megabytes per sandbox.

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
"""The message of a persistent sandbox's first process on `READY_FD` when the sandbox is ready."""

_BASE = 0x400000
_HEADERS = 64 + 56
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


@dataclass(frozen=True, slots=True)
class NativePrograms:
    """The programs for one machine. A slower replacement is used for each that is None.

    Attributes:
        persistent: The first process of a persistent sandbox, an executable file. Replacement: `reaper.py`,
            run by the sandbox's `python3`.
        waiter: The first process of a warm sandbox, an executable file. Replacement: a fork of the zygote.
        spawner: Instructions that fork a process and execute a list of system calls in it; see
            `zygote.lockdown`. Replacement: a fork of the zygote executes the list.
        forker: Instructions that fork a process which becomes a program of a persistent sandbox; see
            `launcher.enter`. Replacement: fork(2), which copies the page tables of an interpreter.
    """

    persistent: bytes | None = None
    waiter: bytes | None = None
    spawner: bytes | None = None
    forker: bytes | None = None


NO_PROGRAMS = NativePrograms()
"""Only replacements."""


def persistent_first_process(programs: NativePrograms) -> tuple[bytes, tuple[str, ...]]:
    """Return the content of the file for `INIT_FD`, and the command that executes it."""
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
        forker=CODE.get(("forker", machine)),
    )


def _executable(program: str, machine: str) -> bytes | None:
    """Return the smallest executable file with the code: one segment, executed from its start.

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
