# Generated from src/unsandbox/_async/objects/files.py by scripts/unasync.py; change that one.
"""The files of a session: reading, writing, listing, moving, whole directories."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from unsandbox._sync.objects.copying import download, upload
from unsandbox._sync.objects.file_content import FileContents, urgent
from unsandbox._sync.objects.watch import FileWatch
from unsandbox._sync.operations import CLEAN_UP_S
from unsandbox.errors import InvalidResponseError, NotFoundError
from unsandbox.protocol.files import FileInfo, FileList
from unsandbox.protocol.models import WireModel

M = TypeVar("M", bound=WireModel)
Entries = list[FileInfo]

_MOST_ENTRIES = 1_000_000
"""Files of a list: programs in the session answer, and may lie."""


class Files(FileContents):
    """The files of a session. Relative paths start in `/work`, the home of the session's user.

    The session's user carries out every operation inside the session, so permissions and links mean what they
    mean there. Failures are Python's errors, such as `FileNotFoundError`, and also `UnsandboxError`s.

    Example:
        ```python
        with client.session() as session:
            session.files.write("data/numbers.txt", "1 2 3")
            assert session.files.read_text("data/numbers.txt") == "1 2 3"
        ```
    """

    __module__ = "unsandbox"

    def stat(self, path: str, *, follow: bool = True) -> FileInfo:
        """Return type, size, mode and times of a file.

        Args:
            path: The file.
            follow: Whether to follow a link at the end of the path.
        """
        return self._ask("stat", FileInfo, path, {"follow": follow})

    def exists(self, path: str) -> bool:
        """Return whether there is such a file; a link counts if its target exists.

        Args:
            path: The file.
        """
        try:
            self.stat(path)
        except NotFoundError as error:
            if error.code != "file_not_found":
                raise
            return False
        except NotADirectoryError:
            return False
        return True

    def list(self, path: str = ".", *, depth: int = 1) -> Entries:
        """Return the files of a directory, in the order of their names.

        Args:
            path: The directory.
            depth: Levels to descend; `name` is then the path relative to the directory.
        """
        found: Entries = []
        while True:
            after = found[-1].name if found else None
            page = self._ask("list", FileList, path, {"depth": depth, "after": after})
            found += page.entries
            if len(found) > _MOST_ENTRIES:
                raise InvalidResponseError(f"the session lists more than {_MOST_ENTRIES:,} files")
            if not page.more or not page.entries:
                return found

    def glob(self, pattern: str, path: str = ".", *, limit: int = 1000) -> Entries:
        """Return the files below a directory that match a pattern, such as `**/*.py`.

        Args:
            pattern: A pattern as of Python's `glob`.
            path: The directory.
            limit: Largest number of files, at most 10,000.
        """
        return (self._ask("glob", FileList, path, {"pattern": pattern, "limit": limit})).entries

    def watch(self, path: str = ".", *, recursive: bool = False, cursor: str | None = None) -> FileWatch:
        """Return a watch on a directory; a block begins it.

        Args:
            path: The directory.
            recursive: Whether to watch directories below it too.
            cursor: `cursor` of an earlier watch, to continue it.
        """
        return FileWatch(self._connection, self._params["id"], path, recursive, cursor)

    def make_dir(
        self, path: str, *, parents: bool = True, exist_ok: bool = True, mode: int | None = None
    ) -> FileInfo:
        """Create a directory.

        Args:
            path: The directory.
            parents: Whether to create missing parents.
            exist_ok: Whether an existing directory is accepted.
            mode: Mode bits. Default 0755.
        """
        members = {"parents": parents, "exist_ok": exist_ok, "mode": mode}
        return self._ask("make_dir", FileInfo, path, members)

    def move(self, path: str, target: str, *, overwrite: bool = True) -> FileInfo:
        """Move or rename a file or directory, as `mv` does.

        Args:
            path: The file or directory to move.
            target: The new path, or a directory to move it into.
            overwrite: Whether to replace an existing file.
        """
        return self._ask("move", FileInfo, path, {"target": target, "overwrite": overwrite})

    def copy(self, path: str, target: str, *, overwrite: bool = True) -> FileInfo:
        """Copy a file, or a directory with everything in it, as `cp -r` does.

        Args:
            path: The file or directory to copy.
            target: The new path, or a directory to copy it into.
            overwrite: Whether to replace an existing file.
        """
        return self._ask("copy", FileInfo, path, {"target": target, "overwrite": overwrite})

    def remove(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> None:
        """Remove a file, a link, or a directory.

        Args:
            path: The file or directory to remove.
            recursive: Whether to remove a directory with its content.
            missing_ok: Whether a missing file is ignored.
        """
        self._ask("remove", FileInfo, path, {"recursive": recursive, "missing_ok": missing_ok})

    def realpath(self, path: str, *, strict: bool = False) -> str:
        """Return the absolute path with every link resolved.

        Args:
            path: The file.
            strict: Whether the file must exist.
        """
        return (self._ask("realpath", FileInfo, path, {"strict": strict})).path or path

    def chmod(self, path: str, mode: int) -> FileInfo:
        """Change the mode bits of a file.

        Args:
            path: The file.
            mode: The mode bits, such as 0o755.
        """
        return self._ask("chmod", FileInfo, path, {"mode": mode})

    def upload(self, source: str | Path, target: str) -> None:
        """Copy a file or directory of this machine into the session.

        Args:
            source: The file or directory here.
            target: The path there. Of a directory, the content goes into `target`.
        """
        upload(self, Path(source), target)

    def download(self, source: str, target: str | Path) -> None:
        """Copy a file or directory of the session to this machine.

        Args:
            source: The file or directory there.
            target: The path here. Of a directory, the content goes into `target`, and nothing outside it.
        """
        download(self, source, Path(target))

    def discard(self, path: str) -> None:
        """Remove a file although the current task may have been cancelled; failures are ignored.

        Args:
            path: The file.
        """
        remove = urgent("remove", self._params, {"path": path, "missing_ok": True})
        self._connection.clean_up(remove, CLEAN_UP_S)

    def pack(self, path: str) -> str:
        """Write a directory as a tar archive into a temporary file of the session and return its path.

        Args:
            path: The directory.
        """
        return (self._ask("pack", FileInfo, path)).path or ""

    def unpack(self, path: str, archive: str) -> None:
        """Unpack a tar archive of the session into a directory, and remove the archive.

        Args:
            path: The directory. It is created if it is missing.
            archive: The archive.
        """
        self._ask("unpack", FileInfo, path, {"archive": archive})
