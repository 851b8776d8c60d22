"""The files of a session: reading, writing, listing, moving, whole directories."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from unsandbox._async.connection import Connection
from unsandbox._async.objects.copying import download, upload
from unsandbox._async.objects.process import ask
from unsandbox._async.operations import CLEAN_UP_S
from unsandbox._compat.aio import Interrupted, Work, in_thread
from unsandbox.errors import InvalidRequestError, NotFoundError
from unsandbox.protocol.files import PART_BYTES, FileInfo, FileList
from unsandbox.protocol.models import WireModel

M = TypeVar("M", bound=WireModel)
Entries = list[FileInfo]


class AsyncFiles:
    """The files of a session. Relative paths start in `/work`, the home of the session's user.

    The session's user carries out every operation inside the session, so permissions and links mean what they
    mean there. Failures are Python's errors, such as `FileNotFoundError`, and also `UnsandboxError`s.

    Example:
        ```python
        async with client.session() as session:
            await session.files.write("data/numbers.txt", "1 2 3")
            assert await session.files.read_text("data/numbers.txt") == "1 2 3"
        ```
    """

    __module__ = "unsandbox"

    def __init__(self, connection: Connection, session_id: str) -> None:
        self._connection = connection
        self._params = {"id": session_id}

    async def read(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Return the content of a file.

        Args:
            path: The file.
            offset: Position of the first byte.
            length: Largest number of bytes. Default: up to the end.

        Raises:
            FileNotFoundError: The file does not exist.
            IsADirectoryError: The path is a directory.
            PermissionError: The session's user may not read it.
        """
        content = bytearray()
        async for part in self.stream(path, offset=offset, length=length):
            content += part
        return bytes(content)

    async def read_text(self, path: str, *, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the content of a file as text.

        Args:
            path: The file.
            encoding: Its encoding.
            errors: As for `bytes.decode`.
        """
        return (await self.read(path)).decode(encoding, errors)

    async def stream(self, path: str, *, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        """Yield the content of a file in parts.

        Args:
            path: The file.
            offset: Position of the first byte.
            length: Largest number of bytes. Default: up to the end.

        Raises:
            ConflictError: The file changed while it was read.
        """
        if offset < 0 or (length is not None and length < 0):
            raise InvalidRequestError("offset and length must not be negative")
        version = None
        while length is None or length > 0:
            size = PART_BYTES if length is None else min(PART_BYTES, length)
            part = await self._ask(
                "read", FileInfo, path, {"offset": offset, "length": size, "version": version}
            )
            data = part.content
            if data:
                yield data
            if part.eof or not data:
                return
            offset += len(data)
            length = None if length is None else length - len(data)
            version = part.version

    async def write(
        self,
        path: str,
        data: bytes | str | IO[bytes],
        *,
        mode: int | None = None,
        parents: bool = True,
        append: bool = False,
        exclusive: bool = False,
    ) -> FileInfo:
        """Write a file. Until everything has arrived, the file keeps its old content.

        Args:
            path: The file.
            data: The content; text is written as UTF-8, a file object is read to its end.
            mode: Mode bits. Default: those of the file that is replaced, or 0644.
            parents: Whether to create missing parent directories.
            append: Whether to append to the file instead of replacing it.
            exclusive: Whether an existing file is an error.

        Raises:
            FileExistsError: The file exists, and `exclusive` is true.
            IsADirectoryError: The path is a directory.
            PermissionError: The session's user may not write there.
        """
        if isinstance(data, str):
            data = data.encode()
        source = io.BytesIO(data) if isinstance(data, bytes | bytearray | memoryview) else data
        options = {"mode": mode, "parents": parents, "append": append or None, "exclusive": exclusive or None}
        upload, offset, part = None, 0, await in_thread(source.read, PART_BYTES)
        try:
            while True:
                following = await in_thread(source.read, PART_BYTES)
                final = not following
                info = await self._ask(
                    "write",
                    FileInfo,
                    path,
                    {
                        "content_base64": base64.b64encode(part).decode(),
                        "upload": upload,
                        "offset": None if append else offset,
                        "final": final,
                        **options,
                    },
                )
                if final:
                    return info
                upload = None if append else info.upload
                offset += len(part)
                part = following
        except (Exception, Interrupted):
            if upload is not None:
                abort = _urgent("abort", self._params, {"path": path, "upload": upload})
                await self._connection.clean_up(abort, CLEAN_UP_S)
            raise

    async def stat(self, path: str, *, follow: bool = True) -> FileInfo:
        """Return type, size, mode and times of a file.

        Args:
            path: The file.
            follow: Whether to follow a link at the end of the path.
        """
        return await self._ask("stat", FileInfo, path, {"follow": follow})

    async def exists(self, path: str) -> bool:
        """Return whether there is such a file; a link counts if its target exists.

        Args:
            path: The file.
        """
        try:
            await self.stat(path)
        except NotFoundError as error:
            if error.code != "file_not_found":
                raise
            return False
        except NotADirectoryError:
            return False
        return True

    async def list(self, path: str = ".", *, depth: int = 1) -> Entries:
        """Return the files of a directory, in the order of their names.

        Args:
            path: The directory.
            depth: Levels to descend; `name` is then the path relative to the directory.
        """
        found: Entries = []
        while True:
            after = found[-1].name if found else None
            page = await self._ask("list", FileList, path, {"depth": depth, "after": after})
            found += page.entries
            if not page.more or not page.entries:
                return found

    async def glob(self, pattern: str, path: str = ".", *, limit: int = 1000) -> Entries:
        """Return the files below a directory that match a pattern, such as `**/*.py`.

        Args:
            pattern: A pattern as of Python's `glob`.
            path: The directory.
            limit: Largest number of files, at most 10,000.
        """
        return (await self._ask("glob", FileList, path, {"pattern": pattern, "limit": limit})).entries

    async def make_dir(
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
        return await self._ask("make_dir", FileInfo, path, members)

    async def move(self, path: str, target: str, *, overwrite: bool = True) -> FileInfo:
        """Move or rename a file or directory, as `mv` does.

        Args:
            path: The file or directory to move.
            target: The new path, or a directory to move it into.
            overwrite: Whether to replace an existing file.
        """
        return await self._ask("move", FileInfo, path, {"target": target, "overwrite": overwrite})

    async def copy(self, path: str, target: str, *, overwrite: bool = True) -> FileInfo:
        """Copy a file, or a directory with everything in it, as `cp -r` does.

        Args:
            path: The file or directory to copy.
            target: The new path, or a directory to copy it into.
            overwrite: Whether to replace an existing file.
        """
        return await self._ask("copy", FileInfo, path, {"target": target, "overwrite": overwrite})

    async def remove(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> None:
        """Remove a file, a link, or a directory.

        Args:
            path: The file or directory to remove.
            recursive: Whether to remove a directory with its content.
            missing_ok: Whether a missing file is ignored.
        """
        await self._ask("remove", FileInfo, path, {"recursive": recursive, "missing_ok": missing_ok})

    async def realpath(self, path: str, *, strict: bool = False) -> str:
        """Return the absolute path with every link resolved.

        Args:
            path: The file.
            strict: Whether the file must exist.
        """
        return (await self._ask("realpath", FileInfo, path, {"strict": strict})).path or path

    async def chmod(self, path: str, mode: int) -> FileInfo:
        """Change the mode bits of a file.

        Args:
            path: The file.
            mode: The mode bits, such as 0o755.
        """
        return await self._ask("chmod", FileInfo, path, {"mode": mode})

    async def upload(self, source: str | Path, target: str) -> None:
        """Copy a file or directory of this machine into the session.

        Args:
            source: The file or directory here.
            target: The path there. Of a directory, the content goes into `target`.
        """
        await upload(self, Path(source), target)

    async def download(self, source: str, target: str | Path) -> None:
        """Copy a file or directory of the session to this machine.

        Args:
            source: The file or directory there.
            target: The path here. Of a directory, the content goes into `target`, and nothing outside it.
        """
        await download(self, source, Path(target))

    async def discard(self, path: str) -> None:
        """Remove a file although the current task may have been cancelled; failures are ignored.

        Args:
            path: The file.
        """
        remove = _urgent("remove", self._params, {"path": path, "missing_ok": True})
        await self._connection.clean_up(remove, CLEAN_UP_S)

    async def pack(self, path: str) -> str:
        """Write a directory as a tar archive into a temporary file of the session and return its path.

        Args:
            path: The directory.
        """
        return (await self._ask("pack", FileInfo, path)).path or ""

    async def unpack(self, path: str, archive: str) -> None:
        """Unpack a tar archive of the session into a directory, and remove the archive.

        Args:
            path: The directory. It is created if it is missing.
            archive: The archive.
        """
        await self._ask("unpack", FileInfo, path, {"archive": archive})

    async def _ask(
        self, operation: str, model: type[M], path: str, members: Mapping[str, Any] | None = None
    ) -> M:
        body = {"path": str(path), **(members or {})}
        return await ask(self._connection, f"file_{operation}", model, self._params, body)


def _urgent(operation: str, params: Mapping[str, str], members: Mapping[str, Any]) -> Work[FileInfo]:
    """Return an operation for the clean-up of a call that was broken off."""
    name = f"file_{operation}"
    return partial(ask, name=name, model=FileInfo, params=params, members=members, urgent=True)
