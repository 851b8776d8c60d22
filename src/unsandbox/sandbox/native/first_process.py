"""The first process of a sandbox: a program of a hundred bytes, assembled here; and what makes warm sandboxes.

It says that it is there, lets go of every descriptor and sleeps. Orphans come to it and the kernel reaps them
at once, because it ignores SIGCHLD. Nothing inside can end it (a first process takes no signal from its own
namespace) or look into it (it is not dumpable), and there is nothing in it to take over. A shell or an
interpreter in its place would cost megabytes for each sandbox, and could be attached to by a debugger.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.launcher.fd_numbers import READY_FD

READY = b"init"
"""What it writes to `READY_FD` when the sandbox stands."""

_BASE = 0x400000
_HEADERS = 64 + 56
_NAME = READY + b"\0" * 4
_IGNORE = struct.pack("<4Q", 1, 0, 0, 0)  # struct sigaction with SIG_IGN
_PR_SET_DUMPABLE, _PR_SET_NAME, _SIGCHLD = 4, 15, 17

_Argument = int | str
"""A number, or the name of a piece of data whose address is meant."""


@dataclass(frozen=True, slots=True)
class _Machine:
    elf: int
    prctl: int
    rt_sigaction: int
    write: int
    ppoll: int
    close_range: int = 436


_MACHINES = {"x86_64": _Machine(62, 157, 13, 1, 271), "aarch64": _Machine(183, 167, 134, 64, 73)}


_WAITER_X86_64 = (
    bytes.fromhex(
        # prctl(PR_SET_DUMPABLE, 0)
        "b89d000000bf0400000031f60f05"
        # prctl(PR_SET_NAME, "init")
        "b89d000000bf0f000000488d35820100000f05"
        # room for what a signal says, a status, and a set of all signals
        "4881ec9000000048c7842488000000ffffffff"
        # rt_sigprocmask(SIG_SETMASK, all): they wait to be asked for
        "b80e000000bf02000000488db4248800000031d241ba080000000f05"
        # wait4(-1, status, WNOHANG), again while there was one; process 2 goes on below
        "b83d00000048c7c7ffffffff488db42480000000ba010000004531d20f0583f802744185c07fd9"
        # rt_sigtimedwait(all, what it says), for ever
        "b880000000488dbc24880000004889e631d241ba080000000f05"
        # if it is not signal 64, or not of process 2: reap again
        "83f84075ba837c24100275b3"
        # kill(-1, SIGKILL); code 0; say so
        "b83e00000048c7c7ffffffffbe090000000f0531dbeb7e"
        # process 2: its exit code is the second byte of the status, or 128 + signal
        "8b8424800000000fb6dc83e07f74068d9880000000"
        # wait4(-1, status, WNOHANG), again while there was one; nobody left: say so
        "b83d00000048c7c7ffffffff488db42480000000ba010000004531d20f0585c07fde7845"
        # somebody is left: say "ran", and go on when told to
        "b872616e20e853000000e89100000085c07e41"
        # kill(-1, SIGKILL)
        "b83e00000048c7c7ffffffffbe090000000f05"
        # wait4(-1, status), again until nobody is left
        "b83d00000048c7c7ffffffff488db4248000000031d24531d20f0585c079e1"
        # say "end", and wait until the other end is closed
        "b8656e6420e80e000000e84c000000"
        # exit(0)
        "b83c00000031ff0f05"
        # say: the word in eax, the digits of ebx from the last to the first, a newline
        "8944240889d8b90a00000031d2f7f180c2308854240e31d2f7f180c2308854240d04308844240cc644240f0a"
        # write(3, text, 8)
        "b801000000bf03000000488d742408ba080000000f05c3"
        # hear: read(3, text, 1)
        "31c0bf03000000488d742408ba010000000f05c3"
    )
    + _NAME
)


_SPAWNER_X86_64 = bytes.fromhex(
    # keep rbx; r9: the list
    "534989f9"
    # clone(first word, 0, address of the third word, 0, 0)
    "b838000000498b3931f6498d51104531d24531c00f05"
    # in the caller, which waits until the child is another program or gone: return
    "4885c07533"
    # rbx: the first call
    "498d5918"
    # its number and five arguments; call
    "488b03488b7b08488b7310488b53184c8b53204c8b43280f05"
    # below 0: it failed
    "4885c07819"
    # no fork: the next one; the parent after a fork: the next one
    "488b4b304885c9740a4885c07505"
    # the child after a fork: return the seventh word, in its own copy of the memory
    "4889c85bc3"
    # the next one
    "4883c338ebc9"
    # failed: the result is the first word, the address of the call the second; exit_group(1)
    "49890149895908b8e7000000bf010000000f05"
)


def _calls(machine: _Machine) -> list[tuple[int, Sequence[_Argument]]]:
    return [
        (machine.prctl, (_PR_SET_DUMPABLE, 0, 0, 0)),
        (machine.prctl, (_PR_SET_NAME, "name", 0, 0)),
        (machine.rt_sigaction, (_SIGCHLD, "ignore", 0, 8)),
        (machine.write, (READY_FD, "name", len(READY), 0)),
        (machine.close_range, (0, 0xFFFFFFFF, 0, 0)),
        # For ever: what ends it is only a signal from outside.
        (machine.ppoll, (0, 0, 0, 0)),
    ]


def build(name: str | None = None) -> bytes:
    """Return the program as an executable file, by default for this machine.

    Raises:
        SandboxUnavailable: It cannot be assembled for this machine.
    """
    name = name or platform.machine()
    machine = _MACHINES.get(name)
    if machine is None:
        raise SandboxUnavailable(f"no first process for {name}; known: {', '.join(_MACHINES)}")
    assemble = _x86_64 if name == "x86_64" else _aarch64
    # The code's length does not depend on addresses: assemble once for the length, then in earnest.
    start = len(assemble(_calls(machine), {"name": 0, "ignore": 0}))
    data = _BASE + _HEADERS + start
    code = assemble(_calls(machine), {"name": data, "ignore": data + len(_NAME)}) + _NAME + _IGNORE
    return _executable(machine, code)


def build_waiter(name: str | None = None) -> bytes | None:
    """Return the first process of a warm sandbox, by default for this machine; None when there is none for it.

    It reaps. When the program (process number 2) has ended and others have not, it reports the exit code on
    `READY_FD` as `ran NNN` and waits for a byte. Then it kills whatever else there is, reports `end NNN`, and
    stays until that descriptor's other end is closed. A program that is about to exit with 0 and has left no
    other may say so with signal 64: then the report does not wait for its memory to be taken down.
    """
    machine = _MACHINES.get(name or platform.machine())
    return _executable(machine, _WAITER_X86_64) if machine is _MACHINES["x86_64"] else None


def build_spawner(name: str | None = None) -> bytes | None:
    """Return instructions that fork a process and run a list of system calls in it; see `zygote.lockdown`.

    They are a function of one argument, the address of 64-bit words: flags of clone(2), two words that they
    write to, and then for each call its number, five arguments, and for a fork what is returned in the child.

    Args:
        name: The machine, by default this one.

    Returns:
        The instructions, None when there are none for the machine.
    """
    return _SPAWNER_X86_64 if (name or platform.machine()) == "x86_64" else None


def _executable(machine: _Machine, code: bytes) -> bytes:
    """Put code into the smallest file that the kernel executes: one segment, begun at its start."""
    size = _HEADERS + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine.elf, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    return header + segment + code


def _x86_64(calls: Sequence[tuple[int, Sequence[_Argument]]], places: dict[str, int]) -> bytes:
    # mov r32, imm32 for eax, edi, esi, edx, r10d; everything lies below 4 GiB.
    registers = (b"\xbf", b"\xbe", b"\xba", b"\x41\xba")
    code = last = b""
    for number, arguments in calls:
        last = b"\xb8" + struct.pack("<I", number)
        for register, argument in zip(registers, arguments, strict=True):
            value = places[argument] if isinstance(argument, str) else argument
            last += register + struct.pack("<I", value)
        last += b"\x0f\x05"  # syscall
        code += last
    return code + b"\xeb" + struct.pack("<b", -len(last) - 2)  # jmp to the last call


def _aarch64(calls: Sequence[tuple[int, Sequence[_Argument]]], places: dict[str, int]) -> bytes:
    def load(register: int, value: int) -> list[int]:
        # movz, movk with the upper half
        return [
            0xD2800000 | (value & 0xFFFF) << 5 | register,
            0xF2A00000 | (value >> 16 & 0xFFFF) << 5 | register,
        ]

    words: list[int] = []
    last: list[int] = []
    for number, arguments in calls:
        last = load(8, number)
        for register, argument in enumerate(arguments):
            last += load(register, places[argument] if isinstance(argument, str) else argument)
        last.append(0xD4000001)  # svc 0
        words += last
    words.append(0x14000000 | (-len(last) & 0x3FFFFFF))  # b to the last call
    return struct.pack(f"<{len(words)}I", *words)
