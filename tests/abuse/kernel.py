"""System calls that a program has no business with: each has been, or leads to, a way out of containers."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct

from tests.abuse.inside import CAPS, FILTER, SETTINGS, VIRTUAL, attack, call, in_child, number_of, raw, reaches

# name: (arguments, what it is for). Arguments make sense where that harms nobody outside a sandbox.
CARRIED_OUT = {
    "mount": ((b"tmpfs", b"/mnt", b"tmpfs", 0, 0), "mount a file system"),
    "chroot": ((b"/tmp",), "change the root folder"),
    "open_tree": ((-100, b"/", 1), "copy a mount"),
    "fsopen": ((b"tmpfs", 0), "make a file system by the new calls"),
    "keyctl": ((0, -3, 1), "reach the session's keyring"),
    "add_key": ((b"user", b"abuse", b"y", 1, -1), "add a key, in memory that the kernel counts elsewhere"),
    "userfaultfd": ((1,), "hold the kernel at a page fault"),
    "perf_event_open": ((struct.pack("IIQ", 1, 112, 0).ljust(112, b"\0"), 0, -1, -1, 0), "measure with hardware counters"),
    "io_uring_setup": ((1, b"\0" * 120), "have the kernel work beside the filter"),
    "fanotify_init": ((0, 0), "watch a whole file system"),
    "syslog": ((10, 0, 0), "read the kernel's log"),
    "settimeofday": ((0, 0), "set the clock"),
    "iopl": ((3,), "reach the ports of the hardware"),
    "sethostname": ((b"abused", 6), "name the machine"),
    "process_vm_readv": ((os.getpid(), 0, 0, 0, 0, 0), "read another process's memory in one call"),
    "adjtimex": ((b"\0" * 208,), "steer the clock"),
    "clock_adjtime": ((0, b"\0" * 208), "steer another clock"),
    "modify_ldt": ((0, b"\0" * 16, 16), "change segments of memory"),
    "mbind": ((0, 0, 0, 0, 0, 0), "place memory on a node"),
    "kcmp": ((os.getpid(), os.getpid(), 0, 0, 0), "compare addresses in the kernel"),
    "lsm_list_modules": ((b"\0" * 64, struct.pack("I", 64), 0), "learn what guards the machine"),
}  # fmt: skip
REACHED = {
    "remap_file_pages": ((1, 0, 0, 0, 0), "an old call that nobody uses"),
    "umount2": ((b"/nowhere", 0), "unmount"),
    "pivot_root": ((b"/nowhere", b"/nowhere"), "exchange the root folder"),
    "move_mount": ((-1, b"", -1, b"", 0), "move a mount"),
    "fspick": ((-1, b"", 0), "change a file system that is mounted"),
    "mount_setattr": ((-1, b"/nowhere", 0, 0, 0), "make a mount writable"),
    "statmount": ((0, 0, 0, 0), "learn of mounts"),
    "bpf": ((0, b"\0" * 120, 120), "load a program into the kernel"),
    "request_key": ((b"user", b"nowhere", 0, -3), "ask the machine for a key"),
    "io_setup": ((0, 0), "use up the machine's contexts for asynchronous input"),
    "pidfd_getfd": ((-1, 0, 0), "take another process's descriptor"),
    "process_madvise": ((-1, 0, 0, 0, 0), "page out another process"),
    "name_to_handle_at": ((-100, b"/", 0, 0, 0), "name a file past all mounts"),
    "open_by_handle_at": ((-1, b"\0" * 64, 0), "open a file past all mounts (shocker)"),
    "init_module": ((0, 0, b""), "load a module"),
    "finit_module": ((-1, b"", 0), "load a module from a file"),
    "delete_module": ((b"nowhere", 0), "remove a module"),
    "kexec_load": ((0, 1 << 20, 0, 0), "start another kernel"),
    "kexec_file_load": ((-1, -1, 0, 0, 1 << 20), "start another kernel from a file"),
    "reboot": ((1, 2, 3, 0), "reboot"),
    "swapon": ((b"/nowhere", 0), "swap to a file"),
    "swapoff": ((b"/nowhere",), "end swapping"),
    "acct": ((b"/nowhere",), "write the machine's accounting to a file"),
    "quotactl": ((-1, b"/nowhere", 0, 0), "change quotas"),
    "clock_settime": ((0, 0), "set another clock"),
    "ioperm": ((0, 0, 1), "reach a port of the hardware"),
    "setdomainname": ((b"x", -1), "name the machine's domain"),
    "migrate_pages": ((-1, 0, 0, 0), "move memory between nodes"),
    "move_pages": ((-1, 0, 0, 0, 0, 0), "find where memory lies"),
    "memfd_secret": ((1 << 10,), "hide memory from the kernel's own accounting"),
}

NOT_EVERYWHERE = {
    "memfd_secret", "kexec_load", "kexec_file_load", "iopl", "ioperm", "init_module", "finit_module", "delete_module",
    "modify_ldt", "remap_file_pages", "lsm_list_modules", "perf_event_open", "kcmp", "io_uring_setup", "mbind",
    "migrate_pages", "move_pages", "userfaultfd",
}  # fmt: skip
"""Kernels are built without these; there the control would prove nothing."""


def _declare(name: str, arguments: tuple[object, ...], tried: str, way: object) -> None:
    def function() -> object:
        return way(name, *arguments)

    function.__name__, function.__module__ = name, __name__
    attack(tried, FILTER, VIRTUAL, control=name not in NOT_EVERYWHERE)(function)


for _name, (_arguments, _tried) in CARRIED_OUT.items():
    _declare(_name, _arguments, _tried, call)
for _name, (_arguments, _tried) in REACHED.items():
    _declare(_name, _arguments, _tried, reaches)


@attack("a personality that maps page zero", gvisor=VIRTUAL)
def personality_mmap_page_zero():
    return in_child(lambda: call("personality", 0x0100000 | 0x0400000))


@attack("system calls of x32, which a filter may have forgotten", control=False)
def x32_system_call():
    return raw(0x40000000 + 39)


@attack("a system call newer than the filter", control=False)
def system_call_of_the_future():
    return raw(600)


@attack("system calls of 32 bits (int 0x80), which have other numbers", "system call filter: killed")
def system_calls_of_32_bits():
    if SETTINGS["machine"] != "x86_64":
        return None
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\0\0\0\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return in_child(lambda: function() > 0)


@attack("PR_SET_MM, which rewrites what /proc shows of a process", gvisor=VIRTUAL, control=False)
def prctl_set_mm():
    return call("prctl", 35, 14, -1, -1, 0)


@attack("core scheduling, which keeps others off the processor's sibling", gvisor=VIRTUAL, control=False)
def prctl_core_scheduling():
    return call("prctl", 62, 1, 0, 0, 0)


@attack("merging equal pages, whose saving tells of the memory of others", gvisor=VIRTUAL)
def prctl_memory_merge():
    return call("prctl", 67, 1, 0, 0, 0)


@attack("writing into the machine's log by a filter that logs", gvisor=VIRTUAL)
def seccomp_that_logs():
    allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    head = struct.pack("HxxxxxxP", 1, ctypes.addressof(allow))

    def work():
        raw(number_of("prctl"), 38, 1, 0, 0, 0)
        return call("seccomp", 1, 2, head)

    return in_child(work)


@attack("reading the filter itself by ptrace", gvisor=VIRTUAL, control=False)
def ptrace_get_filter():
    return call("ptrace", 0x420C, os.getpid(), 0, 0)


def _socket_attack(
    name: str, tried: str, family: int, kind: int, protocol: int, *, control: bool = True
) -> None:
    def function() -> object:
        with socket.socket(family, kind, protocol) as made:
            return f"made {made.family}"

    function.__name__, function.__module__ = name, __name__
    attack(tried, FILTER, VIRTUAL, control=control)(function)


_socket_attack("socket_vsock", "a line to the hypervisor", 40, 1, 0, control=False)
_socket_attack("socket_packet", "raw frames of the network", 17, 3, 0)
_socket_attack("socket_alg", "the kernel's cryptography", 38, 5, 0, control=False)
_socket_attack("socket_bluetooth", "Bluetooth", 31, 3, 0, control=False)
_socket_attack("socket_can", "a vehicle's bus", 29, 3, 1, control=False)
_socket_attack("socket_tipc", "a cluster's sockets", 30, 1, 0, control=False)
_socket_attack("socket_xdp", "frames past the network's code", 44, 3, 0, control=False)
_socket_attack("netlink_audit", "the machine's audit log", 16, 3, 9, control=False)
_socket_attack("netlink_uevent", "events of the machine's devices", 16, 3, 15)
_socket_attack("netlink_netfilter", "the packet filter of the kernel", 16, 3, 12, control=False)
_socket_attack("socket_sctp", "SCTP, a module loaded on demand", 2, 1, 132, control=False)
_socket_attack("socket_dccp", "DCCP, a module loaded on demand", 2, 6, 33, control=False)
_socket_attack("socket_mptcp", "MPTCP", 2, 1, 262, control=False)
_socket_attack("socket_raw", "raw internet packets", 2, 3, 255)


@attack("TLS in the kernel, on top of a connection", gvisor=VIRTUAL, control=False)
def tcp_upper_layer():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
    ):
        one.setsockopt(6, 31, b"tls")
        return "kernel TLS"


def _make_node(mode: int, device: int) -> str:
    path = b"/tmp/abuse-%d" % os.getpid()
    done = call("mknodat", -100, path, mode, device)
    os.unlink(path)
    return done


@attack("making a block device node", "system call filter, no capabilities", VIRTUAL)
def make_block_device():
    return _make_node(0o60666, 0xFE00)


@attack("making a character device node (/dev/mem)", "system call filter, no capabilities", VIRTUAL)
def make_character_device():
    return _make_node(0o20666, 0x0101)


@attack("real-time priority, which starves the machine", CAPS, VIRTUAL)
def realtime_priority():
    def rise():
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        return "real time"

    return in_child(rise)


@attack("a higher priority than others", CAPS, VIRTUAL)
def higher_priority():
    def rise():
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        return f"nice {os.getpriority(0, 0)}"

    return in_child(rise)


@attack("first place at the disk", CAPS, VIRTUAL)
def realtime_disk():
    return in_child(lambda: call("ioprio_set", 1, 0, 1 << 13))


@attack(
    "the host's kernel behind it all",
    "not stopped: bubblewrap shares it",
    "the release is gVisor's",
    control=False,
)
def kernel_of_the_host():
    if SETTINGS["where"] == "bubblewrap":
        return None
    return os.uname().release if os.uname().release == SETTINGS["release"] else None
