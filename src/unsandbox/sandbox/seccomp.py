"""The system call filter of a sandbox, assembled here as classic BPF: no libseccomp needed.

The filter is a deny list over what the namespaces already forbid: it closes the kernel interfaces that have
been ways out of containers (mounting, namespaces, keyrings, io_uring, bpf, perf), and everything that is newer
than this table. What is refused answers EPERM, or ENOSYS where a C library has an older call to fall back to.
`ptrace` stays allowed: debuggers are a use of a sandbox, and the pid namespace confines it.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

from unsandbox.sandbox.spec import SandboxUnavailable

_LD_W_ABS = 0x20
_JMP_JEQ = 0x15
_JMP_JGT = 0x25
_JMP_JSET = 0x45
_RET = 0x06

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

_OFFSET_NR = 0
_OFFSET_ARCH = 4

CLONE_NEW_MASK = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET together."""

LAST_KNOWN_SYSCALL = 469
"""`file_setattr`, Linux 6.17. Later numbers answer ENOSYS, as on an older kernel: nobody has judged them."""

_AF_NETLINK = 16
_SOCKET_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_NETLINK_ROUTE = 0
_TTY_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# Linux, UNAME26, PER_LINUX32, both, ADDR_NO_RANDOMIZE (debuggers, Lisp), and the query.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)

# Numbers that all architectures share since Linux 5.1.
_DENIED_EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438,
    "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "set_mempolicy_home_node": 450,
    "statmount": 457, "listmount": 458, "lsm_set_self_attr": 460, "open_tree_attr": 467,
}  # fmt: skip

_DENIED_X86_64 = _DENIED_EVERYWHERE | {
    "syslog": 103, "uselib": 134, "ustat": 136, "sysfs": 139, "vhangup": 153, "modify_ldt": 154,
    "pivot_root": 155, "_sysctl": 156, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164,
    "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
    "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174, "init_module": 175,
    "delete_module": 176, "get_kernel_syms": 177, "query_module": 178, "quotactl": 179, "nfsservctl": 180,
    "lookup_dcookie": 212, "clock_settime": 227, "mbind": 237, "set_mempolicy": 238, "kexec_load": 246,
    "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256, "unshare": 272,
    "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "fanotify_mark": 301,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "kcmp": 312,
    "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
}  # fmt: skip

_DENIED_AARCH64 = _DENIED_EVERYWHERE | {
    "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "nfsservctl": 42, "chroot": 51,
    "vhangup": 58, "quotactl": 60, "acct": 89, "unshare": 97, "kexec_load": 104, "init_module": 105,
    "delete_module": 106, "clock_settime": 112, "syslog": 116, "reboot": 142, "sethostname": 161,
    "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "add_key": 217, "request_key": 218,
    "keyctl": 219, "swapon": 224, "swapoff": 225, "mbind": 235, "set_mempolicy": 237, "migrate_pages": 238,
    "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262, "fanotify_mark": 263,
    "name_to_handle_at": 264, "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "kcmp": 272,
    "finit_module": 273, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers of one machine type: audit architecture, the calls judged by argument, the refused ones."""

    audit: int
    clone: int
    clone3: int
    socket: int
    ioctl: int
    personality: int
    denied: dict[str, int]


ARCHITECTURES = {
    "x86_64": Architecture(0xC000003E, 56, 435, 41, 16, 135, _DENIED_X86_64),
    "aarch64": Architecture(0xC00000B7, 220, 435, 198, 29, 92, _DENIED_AARCH64),
}

Instruction = tuple[int, int, int, int]


def _argument(index: int) -> Instruction:
    """Load the low half of an argument: the judged ones are 32 bits wide, both machines little-endian."""
    return (_LD_W_ABS, 0, 0, 16 + 8 * index)


def _refuse(number: int) -> Instruction:
    return (_RET, 0, 0, _ERRNO | number)


def _for_call(number: int, body: list[Instruction]) -> list[Instruction]:
    """Run `body`, which must end in a return, for one system call; skip it for the others."""
    return [(_JMP_JEQ, 0, len(body), number), *body]


def _any_of(values: tuple[int, ...], then: Instruction, otherwise: Instruction) -> list[Instruction]:
    """Return `then` when the loaded word is one of `values`, else `otherwise`."""
    tests: list[Instruction] = [(_JMP_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [*tests, otherwise, then]


def program(machine: str) -> list[Instruction]:
    """Return the filter for `machine` (`x86_64`, `aarch64`) as (code, jump if true, jump if false, constant).

    Raises:
        SandboxUnavailable: There is no table for this machine.
    """
    table = ARCHITECTURES.get(machine)
    if table is None:
        raise SandboxUnavailable(f"no system call table for {machine}; known: {', '.join(ARCHITECTURES)}")
    allow: Instruction = (_RET, 0, 0, _ALLOW)
    denied = _refuse(errno.EPERM)
    netlink = [(_JMP_JEQ, 0, 4, _AF_NETLINK), _argument(2), *_netlink_protocol(allow)]
    code: list[Instruction] = [
        (_LD_W_ABS, 0, 0, _OFFSET_ARCH),
        (_JMP_JEQ, 1, 0, table.audit),
        (_RET, 0, 0, _KILL_PROCESS),
        (_LD_W_ABS, 0, 0, _OFFSET_NR),
        # Also catches the x32 calls, whose numbers have bit 30 set.
        (_JMP_JGT, 0, 1, LAST_KNOWN_SYSCALL),
        _refuse(errno.ENOSYS),
    ]
    # Its flags lie in memory that a filter cannot read; libc falls back to clone, whose flags are judged next.
    code += _for_call(table.clone3, [_refuse(errno.ENOSYS)])
    code += _for_call(table.clone, [_argument(0), (_JMP_JSET, 0, 1, CLONE_NEW_MASK), denied, allow])
    families = _any_of(_SOCKET_FAMILIES, allow, _refuse(errno.EAFNOSUPPORT))
    code += _for_call(table.socket, [_argument(0), *netlink, *families])
    code += _for_call(table.ioctl, [_argument(1), *_any_of(_TTY_INJECTION, denied, allow)])
    code += _for_call(table.personality, [_argument(0), *_any_of(_PERSONALITIES, allow, denied)])
    for number in sorted(table.denied.values()):
        code += _for_call(number, [denied])
    code.append(allow)
    return code


def _netlink_protocol(allow: Instruction) -> list[Instruction]:
    """After NETLINK is known: only its routing protocol, which the C library's resolver asks for interfaces."""
    return [(_JMP_JEQ, 0, 1, _NETLINK_ROUTE), allow, _refuse(errno.EAFNOSUPPORT)]


def build(machine: str | None = None) -> bytes:
    """Return the filter as the kernel's `struct sock_filter` array, by default for this machine."""
    return b"".join(struct.pack("<HBBI", *step) for step in program(machine or platform.machine()))
