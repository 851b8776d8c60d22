"""Reads artifacts out of a sandbox, which may try to make the reader open other files.

The kernel resolves paths with `openat2`, below the sandbox's root and without following symbolic links, so a
link to /etc/shadow is refused instead of being opened with the server's rights. Only regular files are read.
They are opened without blocking, so a FIFO without a writer cannot hold up the reader.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from unsandbox.protocol.contents import CHUNK, SPOOLED, Content, Spool
from unsandbox.protocol.names import MAX_DEPTH, MAX_PATH_BYTES
from unsandbox.sandbox.launcher import syscalls
from unsandbox.sandbox.layout import ARTIFACT_FOLDER
from unsandbox.sandbox.spec import Artifact, Limits

_RESOLVE = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
MAX_ENTRIES_SEEN = 10_000
_MAX_SKIPPED = 100


def open_beneath(root_fd: int, path: str, flags: int) -> int:
    """Open `path` below the directory `root_fd`, following no link of any kind; return the descriptor.

    Raises:
        OSError: As `open` does; `ELOOP` for a symbolic link anywhere in the path.
    """
    try:
        return syscalls.openat2(root_fd, path.lstrip("/") or ".", flags | os.O_NOFOLLOW, _RESOLVE)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def open_root(pid: int, pidfd: int) -> int:
    """Return a descriptor of the root folder of the sandbox whose first process is `pid`, and is `pidfd`.

    Raises:
        OSError: The process is gone.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # If the process is still alive, the pid belonged to it when the folder was opened.
    # poll, because select accepts no descriptors above 1023, and a busy server has them.
    ending = select.poll()
    ending.register(pidfd, select.POLLIN)
    if ending.poll(0):
        os.close(root)
        raise ProcessLookupError(errno.ESRCH, "the sandbox ended first")
    return root


class Selection:
    """The artifacts of one job within its limits, and the names that were skipped."""

    def __init__(self, limits: Limits) -> None:
        self._bytes_left = limits.artifact_bytes
        self._files_left = limits.artifact_files
        self._spool: Spool | None = None
        self.artifacts: list[Artifact] = []
        self.skipped: list[str] = []

    def admit(self, path: str, mode: int, size: int) -> bool:
        """Return whether to read a file of this type and size: count it against the limits, or note why not."""
        if not stat.S_ISREG(mode):
            self.skip(path, _kind(mode))
        elif len(_display(path).encode()) > MAX_PATH_BYTES:
            self.skip(path, "name too long")
        elif self._files_left <= 0:
            self.skip(path, "too many files")
        elif size > self._bytes_left:
            self.skip(path, f"too large ({size} bytes)")
        else:
            self._bytes_left -= size
            self._files_left -= 1
            return True
        return False

    def take(self, size: int, read: Callable[[int], bytes]) -> bytes | Content:
        """Read a file; return its bytes if it is small, otherwise its place in a temporary file.

        Args:
            size: Maximum number of bytes to read.
            read: Returns the next bytes, at most as many as requested; empty at the end.

        Raises:
            OSError: The disk is full.
        """
        if size <= SPOOLED:
            return _joined(size, read)
        spool = self._spool = self._spool or Spool()
        start = spool.size
        while size and (part := read(min(size, CHUNK))):
            spool.write(part)
            size -= len(part)
        return spool.since(start)

    def add(self, path: str, data: bytes | Content, mode: int) -> None:
        """Add a file that was admitted."""
        self.artifacts.append(Artifact(_display(path), data, stat.S_IMODE(mode) & 0o777))

    def skip(self, path: str, reason: str) -> None:
        """Note that a name is skipped, and why."""
        if len(self.skipped) < _MAX_SKIPPED:
            self.skipped.append(f"{_display(path)}: {reason}")


class Collector(Selection):
    """Gathers artifacts of one job below the root of its sandbox."""

    def __init__(self, root_fd: int, limits: Limits) -> None:
        super().__init__(limits)
        self._root = root_fd

    def collect(self, folder: str | None, paths: Sequence[str]) -> None:
        """Read `paths` and then the regular files below `folder`."""
        for path in paths:
            self._take(path, required=False)
        if folder is not None:
            for path in self._below(folder):
                self._take(path, required=True)

    def _below(self, top: str) -> Iterator[str]:
        """Yield the files in a folder and its subfolders; the files of a folder come before its subfolders."""
        folders = [top]
        seen = 0
        for folder in folders:
            for name, is_folder in self._entries(folder):
                seen += 1
                if seen > MAX_ENTRIES_SEEN:
                    self.skip(top, f"only the first {MAX_ENTRIES_SEEN} entries were looked at")
                    return
                path = f"{folder}/{name}"
                if not is_folder:
                    yield path
                elif path.count("/") - top.count("/") >= MAX_DEPTH:
                    self.skip(path, f"more than {MAX_DEPTH} folders deep")
                else:
                    folders.append(path)

    def _entries(self, folder: str) -> list[tuple[str, bool]]:
        """Return the names in a folder, up to the limit, and whether each is a folder."""
        try:
            fd = open_beneath(self._root, folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return []
        except OSError as error:
            self.skip(folder, _reason(error))
            return []
        try:
            with os.scandir(fd) as entries:
                some = itertools.islice(entries, MAX_ENTRIES_SEEN + 1)
                return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in some]
        finally:
            os.close(fd)

    def _take(self, path: str, *, required: bool) -> None:
        try:
            fd = open_beneath(self._root, path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            if required:
                self.skip(path, "vanished")
            return
        except OSError as error:
            self.skip(path, _reason(error))
            return
        try:
            self._read(fd, path)
        except OSError as error:
            self.skip(path, _reason(error))
        finally:
            os.close(fd)

    def _read(self, fd: int, path: str) -> None:
        status = os.fstat(fd)
        if self.admit(path, status.st_mode, status.st_size):
            # The file may still grow: never read more than was admitted.
            self.add(path, self.take(status.st_size, lambda size: os.read(fd, size)), status.st_mode)


def _joined(size: int, read: Callable[[int], bytes]) -> bytes:
    parts = []
    while size and (part := read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _display(path: str) -> str:
    """Return a name as valid text, relative to the artifact folder; invalid UTF-8 is replaced."""
    inside = path.startswith(f"{ARTIFACT_FOLDER}/")
    name = path.removeprefix(f"{ARTIFACT_FOLDER}/") if inside else PurePosixPath(path).name
    return os.fsencode(name).decode("utf-8", "replace")


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "symbolic link"
    if error.errno == errno.ENXIO:
        return "socket or FIFO"
    return (error.strerror or "cannot be read").lower()


def _kind(mode: int) -> str:
    for test, name in ((stat.S_ISDIR, "directory"), (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket")):
        if test(mode):
            return name
    return "not a regular file"
