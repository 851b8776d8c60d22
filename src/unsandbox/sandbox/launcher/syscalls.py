"""System calls that Python's standard library has no function for, and the constants that they take.

Each raises `OSError` with the kernel's error number. Numbers of calls below are those that all architectures
share. Sources: the manual pages of section 2, `linux/prctl.h`, `linux/sched.h`, `linux/mount.h`. Standard
library only: the launcher and the processes that it forks use this.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 36, 38, 47, 2

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME = 2, 4, 8, 1024
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 0x1000, 0x4000, 0x40000, 0x80000
MNT_DETACH = 2

NS_GET_USERNS = 0xB701
"""Request of `ioctl`: a descriptor of the user namespace that owns a namespace."""

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08
"""Flags of `openat2`."""

_CLONE_INTO_CGROUP = 0x200000000
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_OPEN_TREE_CLONE, _CLOEXEC, _AT_EMPTY_PATH, _AT_FDCWD = 1, 0x80000, 0x1000, -100
_MOVE_MOUNT_FROM_EMPTY_PATH = 4
_MOUNT_ATTR_IDMAP = 0x00100000
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_CLONE3, _SYS_OPENAT2 = 428, 429, 435, 437
_SYS_PIDFD_GETFD, _SYS_MOUNT_SETATTR = 438, 442
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}

_libc = ctypes.CDLL(None, use_errno=True)
# Keeps the interpreter's lock, so that after a fork parent and child both find it as it was.
_libc_with_lock = ctypes.PyDLL(None, use_errno=True)


class _FilterProgram(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def fork_sharing(code: bytes) -> int:
    """Fork as vfork(2) does; return the child's number, as its parent has it, in the child.

    The child shares the memory of the caller, which waits until the child executes a program or ends, and then
    ends with status 0. It never returns from here.

    Args:
        code: A function for this machine: `forker` in `sandbox.native`.

    Raises:
        OSError: The kernel refuses executable memory, or the fork; the caller goes on.
    """
    memory = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    number = ctypes.c_int()
    # Keeps the interpreter's lock: the child goes on where the caller stopped.
    function = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p)
    result = function(ctypes.addressof(ctypes.c_char.from_buffer(memory)))(ctypes.addressof(number))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return number.value


def prctl(option: int, value: int = 0, second: int = 0) -> None:
    """Change how the kernel treats this process."""
    _check(_libc.prctl(option, value, second, 0, 0))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, and leave now if that is no longer `parent`.

    A parent that died before the call sends no signal: hence the look at it afterwards. A change of user or
    namespace resets the request, so this comes after them.

    Args:
        parent: Number of the parent, as it knew it itself or as it was seen before it could have died.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)


def unshare(kinds: int) -> None:
    """Leave the namespaces of these kinds for new ones."""
    _check(_libc.unshare(kinds))


def setns(fd: int, kinds: int) -> None:
    """Enter namespaces: the one behind a descriptor, or those of these kinds of the process behind a pidfd."""
    _check(_libc.setns(fd, kinds))


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Put a file system in place, or change one that is there already."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, options)]
    _check(_libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]))


def detach(target: str) -> None:
    """Unmount the file system on a folder as soon as it is no longer used."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH))


def copy_mount(path: str) -> int:
    """Return a descriptor of a copy of the mount at a path, mounted nowhere yet."""
    return _syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | _CLOEXEC)


def map_users(tree: int, namespace: int) -> None:
    """Show the owners of the files of a copied mount as a user namespace maps them (Linux 5.12)."""
    attributes = struct.pack("=4Q", _MOUNT_ATTR_IDMAP, 0, 0, namespace)
    _syscall(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))


def attach_mount(tree: int, target: str) -> None:
    """Mount a copied mount on a folder."""
    _syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_FROM_EMPTY_PATH)


def openat2(folder: int, path: str, flags: int, resolve: int) -> int:
    """Open a path below a folder under the conditions in `resolve`; return the descriptor."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _syscall(_SYS_OPENAT2, folder, os.fsencode(path), how, len(how))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Return a copy of another process's descriptor; this process must be allowed to trace that one."""
    return _syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)


def fork_into_cgroup(group: int) -> int:
    """Fork a child that is born in a control group (v2, Linux 5.7); return its number, and 0 in it.

    Args:
        group: Descriptor of the group's folder.
    """
    arguments = struct.pack("=11Q", _CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, *[0] * 5, group)
    return _check(int(_libc_with_lock.syscall(_SYS_CLONE3, arguments, len(arguments))))


def set_capabilities(held: int, inheritable: int) -> None:
    """Hold the capabilities in the mask `held`, and pass on at most those in `inheritable`."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    sets = (held, held, inheritable)
    words = [*(one & 0xFFFFFFFF for one in sets), *(one >> 32 for one in sets)]
    _check(_libc.capset(header, struct.pack("6I", *words)))


def drop_bounding_set() -> None:
    """Take every capability out of the bounding set, as far as this process may."""
    for number in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break


def install_filter(program: bytes) -> None:
    """Judge every further system call by a program, an array of `struct sock_filter`."""
    code = ctypes.create_string_buffer(program, len(program))
    head = _FilterProgram(len(program) // 8, ctypes.addressof(code))
    _check(_libc.prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(head), 0, 0))


def leave_session_keyring() -> None:
    """Begin a session keyring of this process's own, where the kernel has keyrings."""
    if (number := _SYS_KEYCTL.get(os.uname().machine)) is not None:
        _libc.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None)


def clear_memory(start: int, end: int) -> None:
    """Fill a piece of this process's memory with zeros."""
    ctypes.memset(start, 0, end - start)


def _syscall(number: int, *arguments: object) -> int:
    return _check(int(_libc.syscall(number, *arguments)))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
