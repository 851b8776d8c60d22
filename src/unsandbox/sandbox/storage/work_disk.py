"""Work folders on disk, with a quota.

As root, a work folder is an ext4 file system in a sparse image file, mounted through a loop device in the
sandbox's private mount namespace (`disk_mount`). When the sandbox's last process ends, for any reason, the
kernel unmounts it and frees the loop device. The image is locked while a loop device holds it, because lock
and loop device share one open file. So the holder of the lock knows that no sandbox of any server writes to
it.

Without root, which mounting needs, it is a plain folder whose size the backend checks from time to time.

This module does not depend on a backend.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.launcher.cleanup import remove_tree
from unsandbox.sandbox.launcher.disk_mount import INSIDE_UID, give_to
from unsandbox.sandbox.spec import MIB

LOCK_TIMEOUT_S = 5.0
_RELEASE_TIMEOUT_S = 60.0
"""The last writes of a sandbox may still have to reach the disk."""
_JOURNAL_MIB = 8
_BYTES_PER_INODE = 8192
_TOOL_FOLDERS = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"


def images_usable() -> str:
    """Return why work folders cannot be images on this machine; empty if they can."""
    if os.geteuid() != 0:
        return "only root can mount images"
    if _tool("mkfs.ext4") is None:
        return "mkfs.ext4 is not installed (apt-get install e2fsprogs)"
    try:
        os.close(os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/loop-control: {error.strerror}"
    return ""


class DiskImages:
    """Creates and opens image files; each new one is copied from the first of its size."""

    def __init__(self, folder: Path) -> None:
        """Make nothing yet.

        Args:
            folder: Where images without a name of their own lie (and nowhere are: they have no name).
        """
        self._folder = folder
        self._patterns: dict[int, int] = {}

    def open(self, path: Path | None, work_bytes: int) -> int:
        """Return a descriptor of an image with room for `work_bytes`, locked for exclusive use.

        Blocks; call it in a thread.

        Args:
            path: Where it lies. Made when it is not there, made larger when it is too small. None: one that is
                gone when its last user is.
            work_bytes: Its capacity.

        Raises:
            SandboxError: Another sandbox uses it, or it is damaged.
            OSError: The disk is full or failed.
        """
        size = _image_bytes(work_bytes)
        if path is not None and path.exists():
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                lock(fd, path)
                if os.fstat(fd).st_size < size:
                    _grow(fd, size)
            except BaseException:
                os.close(fd)
                raise
            return fd
        fd, temporary = _new_file(self._folder if path is None else path.parent)
        try:
            if temporary is not None and path is None:
                temporary.unlink()
            self._copy(fd, size)
            lock(fd, path)
            if path is not None:
                os.fsync(fd)
                # The image gets its name only now, so every named image is complete.
                _give_name(fd, temporary, path)
        except BaseException:
            os.close(fd)
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise
        return fd

    def close(self) -> None:
        """Forget the patterns."""
        patterns, self._patterns = self._patterns, {}
        for fd in patterns.values():
            os.close(fd)

    def _copy(self, fd: int, size: int) -> None:
        if size not in self._patterns:
            self._patterns[size] = _new_image(self._folder, size)
        os.ftruncate(fd, size)
        _copy_data(self._patterns[size], fd, size)


def _new_file(folder: Path) -> tuple[int, Path | None]:
    """Return a descriptor of a new file, and its name; None where the file system has files without a name."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
    except OSError as error:
        # The overlay file system of containers has them since Linux 6.3.
        if error.errno != errno.EOPNOTSUPP:
            raise
    fd, name = tempfile.mkstemp(dir=folder, prefix=".unsandbox-")
    return fd, Path(name)


def _give_name(fd: int, temporary: Path | None, path: Path) -> None:
    """Give a new file its final name, which no other file may have."""
    if temporary is None:
        # The folder's descriptor is not used; it only makes Python follow the link to the file.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    else:
        path.hardlink_to(temporary)
        temporary.unlink()


def lock(fd: int, path: Path | None, timeout_s: float | None = None) -> None:
    """Lock a disk; may block for a while, because the kernel takes time to unmount.

    Raises:
        SandboxError: Another sandbox uses it.
    """
    give_up = time.monotonic() + (LOCK_TIMEOUT_S if timeout_s is None else timeout_s)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise SandboxError(f"the work disk {path} is in use by another sandbox") from None
            time.sleep(0.005)
        else:
            return


def wait_released(path: Path) -> None:
    """Wait until no sandbox uses the disk at `path` any more; blocks.

    Raises:
        SandboxError: It is still in use.
    """
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            lock(fd, path, _RELEASE_TIMEOUT_S)
        finally:
            os.close(fd)


def _image_bytes(work_bytes: int) -> int:
    """Return the size of an image with room for `work_bytes`, its inodes and its journal."""
    size = work_bytes + work_bytes * 256 // _BYTES_PER_INODE + work_bytes // 256 + (_JOURNAL_MIB + 2) * MIB
    return -(-size // MIB) * MIB


def _new_image(folder: Path, size: int) -> int:
    """Return a descriptor of a new file system in a file without a name."""
    fd, temporary = _new_file(folder)
    try:
        if temporary is not None:
            temporary.unlink()
        os.ftruncate(fd, size)
        options = f"nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner={INSIDE_UID}:{INSIDE_UID}"
        words = ["-q", "-F", "-b", "4096", "-m", "0", "-i", str(_BYTES_PER_INODE), "-J", f"size={_JOURNAL_MIB}"]
        _run(["mkfs.ext4", *words, "-E", options], fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _grow(fd: int, size: int) -> None:
    """Enlarge the file system of an image, after repairing what a killed server left incomplete."""
    _run(["e2fsck", "-f", "-p"], fd, good=(0, 1))
    os.ftruncate(fd, size)
    _run(["resize2fs"], fd)


def _tool(name: str) -> str | None:
    return shutil.which(name, path=_TOOL_FOLDERS)


def _run(command: Sequence[str], fd: int, good: Sequence[int] = (0,)) -> None:
    program = _tool(command[0])
    if program is None:
        raise SandboxUnavailable(f"{command[0]} is not installed (apt-get install e2fsprogs)")
    done = subprocess.run(
        [program, *command[1:], f"/proc/self/fd/{fd}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={},
        pass_fds=[fd],
        check=False,
    )
    if done.returncode not in good:
        said = done.stdout.decode("utf-8", "replace").strip()
        raise SandboxError(f"{command[0]} failed with status {done.returncode}: {said}")


def _copy_data(source: int, target: int, size: int) -> None:
    """Copy the data of a sparse file, without its holes."""
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole.
            return
        position = os.lseek(source, start, os.SEEK_HOLE)
        while start < position:
            data = os.pread(source, min(MIB, position - start), start)
            start += os.pwrite(target, data, start)


class WorkDisk(Protocol):
    """The disk of one sandbox."""

    mount_point: Path
    """Host folder where the sandbox program finds the work folder."""
    image: int | None
    """Descriptor of the image that must be mounted there first."""
    source: Path | None
    """The folder that must be mounted there first."""

    def open(self) -> None:
        """Create or open the disk, and lock it; blocks.

        Raises:
            SandboxError: Another sandbox uses it, or it is damaged.
            SandboxUnavailable: It cannot be used on this machine.
            OSError: The disk is full or failed.
        """

    def handed_over(self) -> None:
        """Note that the sandbox has mounted the disk."""

    def release(self) -> None:
        """Wait until the disk of an ended sandbox is free, and remove a disk without a name; blocks."""


class ImageDisk:
    """A work disk in an image file."""

    def __init__(self, images: DiskImages, path: Path | None, work_bytes: int, mount_point: Path) -> None:
        """See `DiskImages.open`."""
        self.mount_point = mount_point
        self.image: int | None = None
        self.source: Path | None = None
        self._images = images
        self._path = path
        self._bytes = work_bytes
        self._held = False
        self._handing = threading.Lock()

    def open(self) -> None:
        """See `WorkDisk.open`."""
        if self._path is not None and self._path.is_dir():
            raise SandboxUnavailable(
                f"the work disk {self._path} is a folder created by a server without root; use another path"
            )
        self.mount_point.mkdir(mode=0o711)
        self.image = self._images.open(self._path, self._bytes)
        self._held = True

    def handed_over(self) -> None:
        """Close the server's descriptor, so that only the loop device holds the lock."""
        # Another thread may release the disk now, and a number that is closed twice may belong to another file.
        with self._handing:
            if self.image is not None:
                os.close(self.image)
                self.image = None

    def release(self) -> None:
        """See `WorkDisk.release`."""
        self.handed_over()
        with contextlib.suppress(OSError):
            self.mount_point.rmdir()
        if self._held and self._path is not None:
            wait_released(self._path)
        self._held = False


class FolderDisk:
    """A work disk that is a plain folder, without a quota."""

    def __init__(self, path: Path | None, mount_point: Path, uid: int | None) -> None:
        """Make nothing yet.

        Args:
            path: Where it lies; None for one that goes with the sandbox.
            mount_point: A path in the runtime folder. Root has a named folder mounted there, since the user of
                the sandbox could not get to it.
            uid: The user whose folder it is, if not this process's own.
        """
        self._anonymous = path is None
        self._folder = path or mount_point
        self._uid = uid
        self._lock = -1
        self.image: int | None = None
        self.source = path if uid is not None else None
        self.mount_point = mount_point if self.source else self._folder

    def open(self) -> None:
        """See `WorkDisk.open`."""
        if self.source:
            self.mount_point.mkdir(mode=0o711)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open(self._folder, flags)
        except NotADirectoryError:
            raise SandboxUnavailable(
                f"the work disk {self._folder} is an image, which only root can mount; run the server as root"
            ) from None
        lock(self._lock, self._folder)
        if self._uid is not None and os.fstat(self._lock).st_uid != self._uid:
            give_to(self._uid, f"/proc/{os.getpid()}/fd/{self._lock}")

    def handed_over(self) -> None:
        """Do nothing, because the server keeps the lock."""

    def release(self) -> None:
        """See `WorkDisk.release`."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._anonymous:
            remove_tree(self._folder)
        elif self.source:
            with contextlib.suppress(OSError):
                self.mount_point.rmdir()
