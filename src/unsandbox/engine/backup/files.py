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


def copy_file(source: Path, target: Path) -> bool:
    """Copy a regular file with mode, owner and times, durably; return whether it was still while it was copied.

    Where the file system can share blocks (Btrfs, XFS), the copy is made in one step.

    Raises:
        OSError: It cannot be read or written.
    """
    for _ in range(_TRIES):
        with source.open("rb") as reader, target.open("wb") as writer:
            before = os.fstat(reader.fileno())
            still = _clone(reader.fileno(), writer.fileno())
            if not still:
                _copy_data(reader.fileno(), writer.fileno(), before.st_size)
                after = os.fstat(reader.fileno())
                still = (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
            os.fsync(writer.fileno())
        if still:
            break
    shutil.copystat(source, target)
    _give(source, target)
    return still


def copy_tree(source: Path, target: Path) -> list[Path]:
    """Copy a folder; return the files that changed while they were copied. Vanished files are left out."""
    changed: list[Path] = []
    target.mkdir(mode=0o700)
    for path in sorted(source.iterdir()):
        # What a program deletes meanwhile is not part of the copy.
        with contextlib.suppress(FileNotFoundError):
            _copy_entry(path, target / path.name, changed)
    shutil.copystat(source, target)
    _give(source, target)
    return changed


def _copy_entry(path: Path, target: Path, changed: list[Path]) -> None:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        target.symlink_to(path.readlink())
        _give(path, target)
    elif stat.S_ISDIR(mode):
        changed.extend(copy_tree(path, target))
    elif stat.S_ISREG(mode) and not copy_file(path, target):
        changed.append(path)


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


def _give(source: Path, target: Path) -> None:
    if os.geteuid() == 0:
        owner = source.lstat()
        os.chown(target, owner.st_uid, owner.st_gid, follow_symlinks=False)
