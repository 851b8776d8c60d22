"""Mounts a work disk for the sandbox that the calling process is about to become.

Root mounts it in a private mount namespace of that process. The mount ends with the sandbox's last process,
so it never has to be unmounted. Standard library only; the launcher uses this.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import struct
from pathlib import Path

from unsandbox.sandbox.launcher import syscalls
from unsandbox.sandbox.launcher.messages import WorkDisk

INSIDE_UID = 1000
"""Owner of the files on a disk, whichever user of the host the sandbox runs as."""

CANNOT_MOUNT = "the work disk cannot be mounted"

_LOOP_CONTROL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_LOOP_AUTOCLEAR, _LOOP_DIRECT_IO = 4, 16
_LOOP_MAJOR = 7
_LOOP_ROUNDS = 50
# A sparse file reads as zeros, so inode tables need no zeroing. Space of deleted files returns to the host.
_OPTIONS = "errors=remount-ro,noinit_itable,discard"


def mount_work_disk(disk: WorkDisk, uid: int) -> None:
    """Mount the work disk of a persistent sandbox; called as root in the forked child that becomes the sandbox.

    Args:
        disk: The disk; the descriptor of an image is closed.
        uid: Host user and group that owns the files of user 1000 on the disk.

    Raises:
        OSError: It cannot be mounted.
    """
    try:
        if disk.image_fd is not None:
            mount_image(disk.image_fd, disk.target, uid)
            os.close(disk.image_fd)
        elif disk.source is not None:
            mount_folder(disk.source, disk.target)
    except OSError as error:
        raise OSError(error.errno, f"{CANNOT_MOUNT}: {error.strerror}") from error


def mount_image(image: int, target: str, uid: int) -> None:
    """Mount an ext4 image in a new mount namespace of this process, so that its files belong to `uid`.

    Args:
        image: Descriptor of the image; its lock lasts while it is mounted.
        target: Folder to mount it on.
        uid: Host user and group that owns the files of user 1000 on the disk.

    Raises:
        OSError: It cannot be mounted.
    """
    _leave_the_mounts_of_the_host()
    device, path = _attach(image, Path(target).parent)
    try:
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOATIME
        syscalls.mount(path, target, "ext4", flags, _OPTIONS)
    finally:
        os.close(device)
    with contextlib.suppress(OSError):
        # Remove the folder only if mkfs created it, not if the tenant did.
        found = Path(target, "lost+found")
        if found.lstat().st_uid == 0:
            found.rmdir()
    if uid != INSIDE_UID:
        _show_as(target, uid)


def mount_folder(source: str, target: str) -> None:
    """Mount a folder that its user cannot reach, in a new mount namespace of this process.

    Raises:
        OSError: It cannot be mounted.
    """
    _leave_the_mounts_of_the_host()
    syscalls.mount(source, target, None, syscalls.MS_BIND)


def _leave_the_mounts_of_the_host() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)


def _attach(image: int, folder: Path) -> tuple[int, str]:
    """Attach an image to a free loop device that frees itself; return the device's descriptor and path."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_LOOP_ROUNDS):
            number = fcntl.ioctl(control, _LOOP_CONTROL_GET_FREE)
            device, path = _open_device(number, folder)
            # struct loop_config: the file, block size, then struct loop_info64 with its flags, then reserved.
            for options in (_LOOP_AUTOCLEAR | _LOOP_DIRECT_IO, _LOOP_AUTOCLEAR):
                config = struct.pack("=II5Q4I", image, 0, 0, 0, 0, 0, 0, 0, 0, 0, options)
                try:
                    fcntl.ioctl(device, _LOOP_CONFIGURE, config.ljust(304, b"\0"))
                except OSError as error:
                    if error.errno == errno.EINVAL:
                        # Not every file system supports direct I/O.
                        continue
                    os.close(device)
                    if error.errno == errno.EBUSY:
                        # Another process has taken the device.
                        break
                    raise
                return device, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device")


def _open_device(number: int, folder: Path) -> tuple[int, str]:
    usual = f"/dev/loop{number}"
    try:
        return os.open(usual, os.O_RDWR | os.O_CLOEXEC), usual
    except FileNotFoundError:
        # In containers, the kernel does not create the devices in /dev.
        path = folder / f"loop{number}-{os.getpid()}"
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(_LOOP_MAJOR, number))
        try:
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        finally:
            path.unlink()
        # The name was removed, but the device exists.
        return device, f"/proc/self/fd/{device}"


def _show_as(target: str, uid: int) -> None:
    """Make the files of user 1000 on a mount belong to `uid`: by an id-mapped mount, otherwise by chown."""
    mapped = _mapped_copy(target, uid)
    owner = INSIDE_UID if mapped is not None else uid
    if Path(target).stat().st_uid != owner:
        # The disk was last used with or without an id-mapped mount, unlike now.
        give_to(owner, target)
    if mapped is not None:
        try:
            syscalls.detach(target)
            syscalls.attach_mount(mapped, target)
        finally:
            os.close(mapped)


def _mapped_copy(target: str, uid: int) -> int | None:
    """Return a descriptor of a mount's copy that shows user 1000 as `uid`; None without kernel support."""
    tree = -1
    try:
        tree = syscalls.copy_mount(target)
        namespace = _user_namespace(uid)
        try:
            syscalls.map_users(tree, namespace)
        finally:
            os.close(namespace)
    except OSError as error:
        if tree >= 0:
            os.close(tree)
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
            raise
        return None
    return tree


def _user_namespace(uid: int) -> int:
    """Return a descriptor of a user namespace that maps 1000 to `uid`."""
    parent = os.getpid()
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            syscalls.die_with_parent(parent)
            os.write(ready_write, b"+")
            signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(ready_write)
        if os.read(ready_read, 1) != b"+":
            raise OSError(errno.EPERM, "no user namespace for the work disk")
        for kind in ("uid", "gid"):
            Path(f"/proc/{pid}/{kind}_map").write_text(f"{INSIDE_UID} {uid} 1")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_read)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def give_to(uid: int, folder: str) -> None:
    """Change the owner of a folder, which no program can reach now, and of its content; the folder itself last.

    Raises:
        OSError: It did not succeed.
    """
    # The slash follows a link at the top; links below are not followed.
    command = ["chown", "-hR", "--", f"{uid}:{uid}", f"{folder}/."]
    pid = os.posix_spawnp(command[0], command, {"PATH": "/usr/bin:/bin"})
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise OSError(errno.EIO, "the work folder could not be given to its user", folder)
