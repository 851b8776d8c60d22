"""Copying of files: sparse ones stay sparse, and a copy of a file that changes meanwhile is noticed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 4 << 20
_FICLONE = 0x40049409
_TRIES = 3
_DEPTH = 200
_TENANTS_OWN = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR}
"""Errors that modes, names and links of a tenant's files cause."""


def copy_file(source: Path, target: Path) -> bool:
    """Copy a regular file with mode, owner and times, durably; return whether it was still while it was copied.

    Where the file system can share blocks (Btrfs, XFS), the copy is made in one step.

    Raises:
        OSError: It cannot be read or written, or is a link.
    """
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            before = os.fstat(reader)
            with target.open("wb") as writer:
                still = _clone(reader, writer.fileno())
                if not still:
                    _copy_data(reader, writer.fileno(), before.st_size)
                    after = os.fstat(reader)
                    still = (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
                os.fsync(writer.fileno())
            if still:
                break
    finally:
        os.close(reader)
    _describe(before, target)
    return still


def copy_tree(source: Path, target: Path, depth: int = _DEPTH) -> list[Path]:
    """Copy a folder, without sockets and pipes.

    Programs of tenants may write into it meanwhile. They must not spoil the copy of others: files that vanish
    are left out. Nor may they have files copied from elsewhere: links are never followed, also not in a folder
    that is replaced by a link, because each folder is read through its descriptor.

    Returns:
        Files that changed while they were copied, and those that cannot be read or are nested too deeply; below
        `source`.
    """
    inexact: list[Path] = []
    folder = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        target.mkdir(mode=0o700)
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - of a descriptor
            try:
                found = _copy_entry(Path(f"/proc/self/fd/{folder}", name), target / name, depth - 1)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in _TENANTS_OWN:
                    raise
                found = [Path()]
            inexact += [name / path for path in found]
        _describe(os.fstat(folder), target)
    finally:
        os.close(folder)
    return inexact


def _copy_entry(path: Path, target: Path, depth: int) -> list[Path]:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        target.symlink_to(path.readlink())
        _describe(status, target)
    elif stat.S_ISDIR(status.st_mode):
        return copy_tree(path, target, depth) if depth else [Path()]
    elif stat.S_ISREG(status.st_mode) and not copy_file(path, target):
        return [Path()]
    return []


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target` that gets its name at the end of the block; it is removed on errors.

    Raises:
        FileExistsError: `target` exists and is not an empty folder.
        OSError: The folder cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    partial.mkdir(mode=0o700)
    try:
        yield partial
        try:
            # Replaces an empty folder, and fails when it has got files meanwhile.
            partial.rename(target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            raise FileExistsError(errno.EEXIST, "it is not empty", str(target)) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clone(reader: int, writer: int) -> bool:
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError:
        return False
    return True


def _copy_data(reader: int, writer: int, size: int) -> None:
    """Copy the parts of a file that hold data."""
    os.ftruncate(writer, size)
    position = 0
    while position < size:
        try:
            position = os.lseek(reader, position, os.SEEK_DATA)
            end = os.lseek(reader, position, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data up to the end
                raise
            return
        while position < end:
            data = os.pread(reader, min(_CHUNK, end - position), position)
            if not data:
                return
            done = 0
            while done < len(data):
                done += os.pwrite(writer, data[done:], position + done)
            position += len(data)


def _describe(status: os.stat_result, target: Path) -> None:
    """Give a copy the owner, mode and times of its original."""
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        target.chmod(stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
