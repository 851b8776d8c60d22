"""The system call filter of a sandbox, compiled to classic BPF without libseccomp.

The filter is an allow list (`policy`), compiled for a machine with the numbers in `syscalls.txt`. Calls that
are not on the list are refused; calls without a number, which are newer, do not exist. The filter is a binary
search, so the few calls whose arguments it checks need eight comparisons instead of a hundred. For all other
calls the kernel caches the answer when the filter is installed, and does not run the filter again.
"""

from __future__ import annotations

import errno
import functools
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.launcher import bpf
from unsandbox.sandbox.launcher.bpf import AND, JA, JEQ, JGE, JSET, LD_W_ABS, LONGEST_JUMP, RET, Instruction
from unsandbox.sandbox.seccomp import policy

_Code = tuple[Instruction, ...]
"""Instructions that end with a return on every path."""

AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""The kernel's constant for each machine of the table, in the order of its columns."""

_OFFSET_NR = 0
_OFFSET_ARCH = 4
_OFFSET_ARGUMENTS = 16

_ALLOW: _Code = ((RET, 0, 0, 0x7FFF0000),)
_KILL_PROCESS: _Code = ((RET, 0, 0, 0x80000000),)


def _refuse(number: int) -> _Code:
    return ((RET, 0, 0, 0x00050000 | number),)


_DENIED, _ABSENT = _refuse(errno.EPERM), _refuse(errno.ENOSYS)


@functools.cache
def numbers(machine: str) -> Mapping[str, int]:
    """Return the number of every system call that `machine` has, by name.

    Raises:
        SandboxUnavailable: There is no table for this machine.
    """
    if machine not in AUDIT_ARCHITECTURES:
        known = ", ".join(AUDIT_ARCHITECTURES)
        raise SandboxUnavailable(f"no system call table for {machine}; known: {known}")
    column = 1 + list(AUDIT_ARCHITECTURES).index(machine)
    text = (resources.files("unsandbox.sandbox.seccomp") / "syscalls.txt").read_text(encoding="ascii")
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def _argument(index: int) -> Instruction:
    """Load the low half of an argument: these arguments have 32 bits, and both machines are little-endian."""
    return (LD_W_ABS, 0, 0, _OFFSET_ARGUMENTS + 8 * index)


def _search(cases: Mapping[int, _Code], otherwise: _Code) -> _Code:
    """Return code that finds the case of the loaded word by binary search."""
    starts: dict[int, _Code] = {0: otherwise}
    for value, code in sorted(cases.items()):
        starts[value] = code
        starts[value + 1] = otherwise
    steps: list[tuple[int, _Code]] = []
    for start, code in sorted(starts.items()):
        if start <= 0xFFFFFFFF and (not steps or steps[-1][1] != code):
            steps.append((start, code))
    return _halve(steps)


def _halve(steps: Sequence[tuple[int, _Code]]) -> _Code:
    if len(steps) == 1:
        return steps[0][1]
    middle = len(steps) // 2
    below, above = _halve(steps[:middle]), _halve(steps[middle:])
    start = steps[middle][0]
    if len(below) <= LONGEST_JUMP:
        return ((JGE, len(below), 0, start), *below, *above)
    return ((JGE, 0, 1, start), (JA, 0, 0, len(below)), *below, *above)


def _one_of(index: int, values: Iterable[int], then: _Code, otherwise: _Code) -> _Code:
    """Judge a call by whether an argument is one of `values`."""
    return (_argument(index), *_search(dict.fromkeys(values, then), otherwise))


def _has_bits(index: int, mask: int, then: _Code, otherwise: _Code) -> _Code:
    """Judge a call by whether an argument has any bit of `mask`; `then` must be one instruction."""
    return (_argument(index), (JSET, 0, len(then), mask), *then, *otherwise)


def _no_device(index: int) -> _Code:
    kinds = _search(dict.fromkeys(policy.DEVICE_TYPES, _DENIED), _ALLOW)
    return (_argument(index), (AND, 0, 0, policy.FILE_TYPE), *kinds)


def _judged() -> dict[str, _Code]:
    """Return the code for the calls of `policy.JUDGED`. Errors are those of a kernel without the feature."""
    no_family = _refuse(errno.EAFNOSUPPORT)
    internet = _one_of(2, policy.INTERNET_PROTOCOLS, _ALLOW, _refuse(errno.EPROTONOSUPPORT))
    families = {
        policy.AF_UNIX: _ALLOW,
        policy.AF_INET: internet,
        policy.AF_INET6: internet,
        policy.AF_NETLINK: _one_of(2, [policy.NETLINK_ROUTE], _ALLOW, no_family),
    }
    no_layer = _one_of(2, [policy.TCP_ULP], _refuse(errno.ENOENT), _ALLOW)
    wrong = _refuse(errno.EINVAL)
    filters = dict.fromkeys(policy.FILTER_OPERATIONS, _ALLOW)
    filters[policy.SET_FILTER] = _has_bits(1, 0xFFFFFFFF ^ policy.FILTER_FLAGS, wrong, _ALLOW)
    return {
        "clone": _has_bits(0, policy.CLONE_NEW_MASK, _DENIED, _ALLOW),
        "socket": (_argument(0), *_search(families, no_family)),
        "socketpair": _one_of(0, [policy.AF_UNIX], _ALLOW, no_family),
        "setsockopt": (_argument(1), *_search({policy.SOL_TCP: no_layer}, _ALLOW)),
        "ioctl": _one_of(1, policy.TERMINAL_REQUESTS, _DENIED, _ALLOW),
        "personality": _one_of(0, policy.PERSONALITIES, _ALLOW, _DENIED),
        "prctl": _one_of(0, policy.PROCESS_OPTIONS, _ALLOW, wrong),
        "ptrace": _one_of(0, policy.PTRACE_FILTERS, _DENIED, _ALLOW),
        "seccomp": (_argument(0), *_search(filters, wrong)),
        "mknod": _no_device(1),
        "mknodat": _no_device(2),
    }


def program(machine: str) -> list[Instruction]:
    """Return the filter for `machine` (`x86_64`, `aarch64`) as (code, jump if true, jump if false, constant).

    Raises:
        SandboxUnavailable: There is no table for this machine.
    """
    known = numbers(machine)
    verdicts = {
        **dict.fromkeys(policy.ALLOWED, _ALLOW),
        **dict.fromkeys(policy.NO_PERMISSION, _DENIED),
        **dict.fromkeys(policy.NOT_THERE, _ABSENT),
        **_judged(),
    }
    # Calls without a number do not exist. Neither do those of x32, whose numbers have bit 30 set.
    cases = {number: verdicts[name] for name, number in known.items()}
    return [
        (LD_W_ABS, 0, 0, _OFFSET_ARCH),
        (JEQ, len(_KILL_PROCESS), 0, AUDIT_ARCHITECTURES[machine]),
        *_KILL_PROCESS,
        (LD_W_ABS, 0, 0, _OFFSET_NR),
        *_search(cases, _ABSENT),
    ]


def build(machine: str | None = None) -> bytes:
    """Return the filter as the kernel's `struct sock_filter` array, by default for this machine."""
    return bpf.encode(program(machine or platform.machine()))
