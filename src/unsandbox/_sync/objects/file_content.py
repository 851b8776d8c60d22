# Generated from src/unsandbox/_async/objects/file_content.py by scripts/unasync.py; change that one.
"""The content of the files of a session."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Generator, Mapping
from functools import partial
from typing import IO, Any, TypeVar

from unsandbox._compat.blocking import Interrupted, Work, in_thread
from unsandbox._sync.connection import Connection
from unsandbox._sync.objects.process import ask
from unsandbox._sync.operations import CLEAN_UP_S
from unsandbox.errors import InvalidRequestError
from unsandbox.protocol.file_urls import LONGEST_S, file_url
from unsandbox.protocol.files import PART_BYTES, FileInfo
from unsandbox.protocol.models import WireModel

M = TypeVar("M", bound=WireModel)
Entries = list[FileInfo]


class FileContents:
    """Reads and writes files of a session, a part of `AsyncFiles`."""

    def __init__(self, connection: Connection, session_id: str) -> None:
        self._connection = connection
        self._params = {"id": session_id}

    def read(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
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
        for part in self.stream(path, offset=offset, length=length):
            content += part
        return bytes(content)

    def read_text(self, path: str, *, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the content of a file as text.

        Args:
            path: The file.
            encoding: Its encoding.
            errors: As for `bytes.decode`.
        """
        return (self.read(path)).decode(encoding, errors)

    def stream(self, path: str, *, offset: int = 0, length: int | None = None) -> Generator[bytes]:
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
            part = self._ask("read", FileInfo, path, {"offset": offset, "length": size, "version": version})
            data = part.content
            if data:
                yield data
            if part.eof or not data:
                return
            offset += len(data)
            length = None if length is None else length - len(data)
            version = part.version

    def write(
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
        upload, offset, part = None, 0, in_thread(source.read, PART_BYTES)
        try:
            while True:
                following = in_thread(source.read, PART_BYTES)
                final = not following
                info = self._ask(
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
                abort = urgent("abort", self._params, {"path": path, "upload": upload})
                self._connection.clean_up(abort, CLEAN_UP_S)
            raise

    def url(self, path: str, *, expires: float = 3600, write: bool = False) -> str:
        """Return a URL that reads or writes one file without keys, for a browser or another program.

        It is signed with the secret key and ends with its time, with the session, and with the key. `GET`
        answers ranges; `PUT` puts the file in place when all of it has arrived.

        Args:
            path: The file.
            expires: Seconds for which it is valid, at most seven days.
            write: Whether it is for `PUT` instead of `GET`.

        Example:
            ```python
            link = session.files.url("report.pdf", expires=600)
            ```
        """
        if not 0 < expires <= LONGEST_S:
            raise InvalidRequestError(f"expires must be from 1 to {LONGEST_S} seconds")
        connection = self._connection
        address, _ = connection.server.open()
        keys = address.keys or connection.keys()
        if keys is None:
            raise InvalidRequestError("a signed URL needs keys")
        return file_url(
            f"{address.origin}{address.prefix}",
            (keys.public_key, keys.secret_key),
            self._params["id"],
            str(path),
            expires_at=int(time.time() + connection.server.clock.offset + expires),
            write=write,
        )

    def _ask(self, operation: str, model: type[M], path: str, members: Mapping[str, Any] | None = None) -> M:
        body = {"path": str(path), **(members or {})}
        return ask(self._connection, f"file_{operation}", model, self._params, body)


def urgent(operation: str, params: Mapping[str, str], members: Mapping[str, Any]) -> Work[FileInfo]:
    """Return an operation for the clean-up of a call that was broken off."""
    name = f"file_{operation}"
    return partial(ask, name=name, model=FileInfo, params=params, members=members, urgent=True)
