"""Types of the files in a session. Relative paths start in `/work`; links are resolved inside the session."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import msgspec

from unsandbox._presentation.times import as_datetime
from unsandbox.protocol.bounds import FileName, WaitSeconds, Word
from unsandbox.protocol.models import WireModel, exact_bytes

PART_BYTES = 3 << 20
"""Bytes of a file in one request or answer."""
MAX_ENTRIES = 10_000

Part = Annotated[str, msgspec.Meta(max_length=PART_BYTES * 4 // 3 + 4)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
PartLength = Annotated[int, msgspec.Meta(ge=0, le=PART_BYTES)]
FileMode = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
Depth = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Cursor = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
EntryCount = Annotated[int, msgspec.Meta(ge=1, le=MAX_ENTRIES)]


class FileRequest(WireModel, frozen=True, kw_only=True):
    """Names a file."""

    path: FileName
    """Path of the file inside the session."""


class FileStatRequest(FileRequest, frozen=True, kw_only=True):
    """Asks for the state of a file."""

    follow: bool = True
    """Whether to follow a link at the end of the path."""


class FileReadRequest(FileRequest, frozen=True, kw_only=True):
    """Asks for a part of a file."""

    offset: Offset = 0
    """Position of the first byte."""
    length: PartLength = PART_BYTES
    """Largest number of bytes."""
    version: Word | None = None
    """`version` of an earlier part. If the file changed since, the answer is the error `file_changed`."""


class FileWriteRequest(FileRequest, frozen=True, kw_only=True):
    """Writes a file. A large one is sent in parts; only the last part puts it in place."""

    content: Part | None = None
    """The bytes as text in UTF-8."""
    content_base64: Part | None = None
    """The bytes."""
    upload: Word | None = None
    """`upload` of the answer to the first part; absent in the first part."""
    offset: Offset = 0
    """Position of this part. A part can be sent again."""
    final: bool = True
    """Whether this is the last part."""
    mode: FileMode | None = None
    """Mode bits. Default: those of the file that is replaced, or 0644."""
    parents: bool = True
    """Whether to create missing parent directories."""
    append: bool = False
    """Whether to append to the file instead of replacing it."""
    exclusive: bool = False
    """Whether to fail if the file exists."""


class FileAbortRequest(FileRequest, frozen=True, kw_only=True):
    """Drops the parts of a file that is not complete."""

    upload: Word
    """`upload` of the answer to the first part."""


class FileListRequest(FileRequest, frozen=True, kw_only=True):
    """Lists a directory."""

    depth: Depth = 1
    """Levels to descend; 1 lists the directory alone. Links are not followed."""
    after: FileName | None = None
    """`name` of the last entry of the page before."""
    limit: EntryCount = 1000
    """Entries in a page."""


class FileGlobRequest(FileRequest, frozen=True, kw_only=True):
    """Finds files below a directory."""

    pattern: FileName
    """A pattern as of Python's `glob`: `*`, `?`, `[abc]`, and `**` for any number of directories."""
    limit: EntryCount = 1000
    """Largest number of entries."""


class MakeDirRequest(FileRequest, frozen=True, kw_only=True):
    """Creates a directory."""

    parents: bool = True
    """Whether to create missing parent directories."""
    exist_ok: bool = True
    """Whether an existing directory is accepted."""
    mode: FileMode | None = None
    """Mode bits. Default 0755."""


class FileMoveRequest(FileRequest, frozen=True, kw_only=True):
    """Moves or copies a file or directory."""

    target: FileName
    """The target. If it is an existing directory, the source goes into it, as with `mv` and `cp`."""
    overwrite: bool = True
    """Whether to replace an existing file."""
    parents: bool = True
    """Whether to create missing parent directories."""


class FileRemoveRequest(FileRequest, frozen=True, kw_only=True):
    """Removes a file or directory."""

    recursive: bool = False
    """Whether to remove a directory with its content."""
    missing_ok: bool = False
    """Whether a missing file is ignored."""


class RealPathRequest(FileRequest, frozen=True, kw_only=True):
    """Resolves the links in a path."""

    strict: bool = False
    """Whether the file must exist."""


class FileModeRequest(FileRequest, frozen=True, kw_only=True):
    """Changes the mode bits of a file."""

    mode: FileMode
    """The mode bits."""


class UnpackRequest(FileRequest, frozen=True, kw_only=True):
    """Unpacks a tar archive into a directory and removes the archive."""

    archive: FileName
    """Path of the archive inside the session."""


class FileWatchRequest(FileRequest, frozen=True, kw_only=True):
    """Asks for changes of the files in a directory. The first request of a watch begins it."""

    watch: Word
    """Name of the watch, chosen by the client."""
    recursive: bool = False
    """Whether to watch directories below it too."""
    cursor: Cursor | None = None
    """`cursor` of the answer before; absent in the first request."""
    wait: WaitSeconds = 0
    """Seconds to wait if nothing has changed."""


class FileUnwatchRequest(WireModel, frozen=True, kw_only=True):
    """Ends a watch."""

    watch: Word
    """Name of the watch."""


class FileEvent(WireModel, frozen=True, kw_only=True):
    """A change of a file."""

    type: str | None = None
    """`create`, `write`, `remove`, `rename`; or `lost`: changes before this event are not known, list the
    directory."""
    path: str | None = None
    """Absolute path of the file; of a renamed one, the new path."""
    name: str | None = None
    """The path relative to the directory; `.` stands for the directory itself."""
    old_path: str | None = None
    """Absolute path of a renamed file before."""
    is_dir: bool | None = None
    """Whether it is a directory."""


class FileEvents(WireModel, frozen=True, kw_only=True):
    """Changes of the files in a directory, in their order."""

    events: list[FileEvent] = []
    """The changes."""
    cursor: int | None = None
    """Position behind them, for the next request."""
    ended: bool | None = None
    """Whether no more follow, because the directory is gone."""


class FileInfo(WireModel, frozen=True, kw_only=True):
    """The state of a file."""

    path: str | None = None
    """Absolute path."""
    name: str | None = None
    """Last component of the path; in lists, the path relative to the listed directory."""
    type: str | None = None
    """`file`, `directory`, `symlink`, `fifo`, `socket` or `device`."""
    size: int | None = None
    """Size in bytes."""
    mode: int | None = None
    """Mode bits."""
    modified_at: float | None = None
    """Unix time of the last change of the content."""
    version: str | None = None
    """A text that differs after each change of the content."""
    target: str | None = None
    """The target of a link."""
    upload: str | None = None
    """Names the parts of a file that is being written."""
    eof: bool | None = None
    """Whether the answer holds the end of the file."""
    content_base64: str | None = None
    """The bytes that were asked for."""

    @property
    def content(self) -> bytes:
        """The bytes that were asked for."""
        return exact_bytes(None, self.content_base64 or "")

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.type == "directory"

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.type == "file"

    @property
    def modified(self) -> datetime | None:
        """`modified_at` as a time in UTC."""
        return as_datetime(self.modified_at)


class FileList(WireModel, frozen=True, kw_only=True):
    """Files of a directory, in the order of their names."""

    entries: list[FileInfo] = []
    """The files."""
    more: bool | None = None
    """Whether there are more than the limit."""

    def __iter__(self) -> Iterator[FileInfo]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
