"""Input files: the accepted types and their encoding."""

from __future__ import annotations

import base64
import io
import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from unsandbox.errors import InvalidRequestError
from unsandbox.protocol.bounds import MAX_INPUT_FILES
from unsandbox.protocol.contents import CHUNK, SPOOLED, Content, Held
from unsandbox.protocol.models import InputFile
from unsandbox.protocol.names import clash, relative_name

FileSource = str | os.PathLike[str] | IO[str] | IO[bytes] | InputFile
InputFiles = Mapping[str, "str | bytes | os.PathLike[str] | IO[str] | IO[bytes]"] | Iterable[FileSource]
"""Files for the program: a mapping from name to content, path or open file, or a list of paths, folders, open
files and `InputFile`s. In `/tmp/input`, a file has its base name, the content of a folder keeps its structure,
and a named file has its name (`data/a.csv`)."""

_USUAL_MODE = 0o644
_HAS_PREAD = hasattr(os, "pread")


class FileOnDisk(Content):
    """A file that is read each time that it is sent.

    Args:
        file: Its path, or a descriptor that the caller keeps open.
        name: How errors call it.
        start: Position in the file to start at.

    Raises:
        OSError: The file does not exist, or its status cannot be read.
    """

    def __init__(self, file: str | os.PathLike[str] | int, name: str, start: int = 0) -> None:
        self._file = file
        self._name = name
        self._start = start
        self._seen = _stamp(os.fstat(file) if isinstance(file, int) else Path(file).stat())
        self._size = max(0, self._seen[0] - start)

    def __len__(self) -> int:
        return self._size

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes.

        Raises:
            InvalidRequestError: It cannot be read any more, or was changed since it was looked at first.
        """
        if isinstance(self._file, int):
            yield from self._chunks(self._file)
            return
        try:
            fd = os.open(self._file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise unreadable(self._name, error) from error
        try:
            yield from self._chunks(fd)
        finally:
            os.close(fd)

    def _chunks(self, fd: int) -> Iterator[bytes]:
        end = self._start + self._size
        for start in range(self._start, end, CHUNK):
            try:
                chunk = _read_at(fd, start, min(CHUNK, end - start))
                # Check after reading, so that all bytes read before belong to the unchanged file.
                unchanged = _stamp(os.fstat(fd)) == self._seen
            except OSError as error:
                raise unreadable(self._name, error) from error
            if not unchanged or len(chunk) < min(CHUNK, end - start):
                raise InvalidRequestError(f"the input file {self._name!r} changed while it was being sent")
            yield chunk


def encode_files(given: object) -> list[dict[str, Any]]:
    """Return input files in the format of requests: small ones as base64, large ones as contents to read later.

    Raises:
        InvalidRequestError: A file does not exist or cannot be sent; the message names it.
    """
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise InvalidRequestError("input_files must be a mapping from name to content, or a list of paths")
    pairs = given.items() if isinstance(given, Mapping) else itertools.chain.from_iterable(map(_named, given))
    files: dict[str, str | Content] = {}
    modes: dict[str, int] = {}
    for path, source in pairs:
        name = _place(path)
        if name in files:
            raise InvalidRequestError(
                f"two input files have the name {name!r}; pass a mapping with different names, or a folder"
            )
        if len(files) >= MAX_INPUT_FILES:
            raise InvalidRequestError(
                f"there are more than {MAX_INPUT_FILES} input files; pack them into an archive"
            )
        content = _content(name, source)
        large = len(content) > SPOOLED
        files[name] = content if large else base64.b64encode(bytes(content)).decode("ascii")
        if (mode := _mode(source)) is not None:
            modes[name] = mode
    if (both := clash(set(files))) is not None:
        raise InvalidRequestError(f"{both!r} is an input file and also the folder of another one")
    return [
        {"filename": name, "content": content, **({"mode": modes[name]} if name in modes else {})}
        for name, content in files.items()
    ]


def reads_files(input_files: InputFiles | None) -> bool:
    """Return whether building the request may read from the disk."""
    if not input_files:
        return False
    if isinstance(input_files, Mapping):
        return not all(isinstance(content, str | bytes) for content in input_files.values())
    return True


def utf8(name: str, content: str) -> bytes:
    """Return a text as bytes.

    Raises:
        InvalidRequestError: It contains characters that UTF-8 cannot encode.
    """
    try:
        return content.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequestError(
            f"the text of {name!r} contains a lone surrogate, which UTF-8 cannot represent: pass bytes instead"
        ) from None


def unreadable(name: str, error: Exception) -> InvalidRequestError:
    """Return the error of a file that cannot be read."""
    reason = getattr(error, "strerror", None) or type(error).__name__
    return InvalidRequestError(f"the input file {name!r} cannot be read: {reason}")


def _named(item: object) -> Iterator[tuple[str, object]]:
    """Yield names and sources of an item of a list of input files; a folder has many."""
    if isinstance(item, InputFile):
        yield item.filename, item
    elif hasattr(item, "read"):
        # An open file has a name, unless it was opened from a descriptor or is in memory.
        name = getattr(item, "name", None)
        yield Path(name).name if isinstance(name, str) else "", item
    elif not isinstance(item, str | os.PathLike):
        raise InvalidRequestError(
            f"an input file must be a path, an open file or an InputFile, not {type(item).__name__}"
        )
    elif (path := Path(item)).is_dir():
        for inside in sorted(path.rglob("*")):
            if inside.is_file():
                yield inside.relative_to(path).as_posix(), inside
    else:
        yield path.name, path


def _content(name: str, source: object) -> Content:
    """Return the bytes of an input file, or where they are."""
    try:
        if isinstance(source, os.PathLike):
            if Path(source).is_file():
                return FileOnDisk(source, name)
            source = Path(source).read_bytes()
        elif hasattr(source, "read"):
            if (on_disk := _open_file(source, name)) is not None:
                return on_disk
            source = source.read()
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error
    if isinstance(source, InputFile):
        source = source.source
    if isinstance(source, Content):
        return source
    if isinstance(source, str):
        return Held(utf8(name, source))
    if not isinstance(source, bytes | bytearray | memoryview):
        raise InvalidRequestError(f"the input file {name!r} must be bytes or text")
    return Held(source)


def _mode(source: object) -> int | None:
    """Return the permission bits of a file, where there are such and they are not the usual ones."""
    if isinstance(source, InputFile):
        return source.mode
    if os.name == "nt" or not isinstance(source, os.PathLike):
        return None
    try:
        mode = stat.S_IMODE(os.stat(source).st_mode) & 0o777  # noqa: PTH116
    except OSError:
        return None
    return None if mode == _USUAL_MODE else mode


def _open_file(file: Any, name: str) -> FileOnDisk | None:
    """Return the place of an open file, which then counts as read to its end; None if it must be read here.

    Only for the plain kinds of files, the descriptor is known to have the bytes that reading returns.
    """
    file = getattr(file, "file", file)  # The file inside a wrapper of `tempfile`.
    if not _HAS_PREAD:
        return None
    raw = file.raw if isinstance(file, io.BufferedReader | io.BufferedRandom) else file
    if not isinstance(raw, io.FileIO) or not stat.S_ISREG(os.fstat(raw.fileno()).st_mode) or not raw.readable():
        return None
    if isinstance(file, io.BufferedRandom):
        file.flush()
    found = FileOnDisk(raw.fileno(), name, file.tell())
    file.seek(0, os.SEEK_END)
    return found


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _read_at(fd: int, start: int, size: int) -> bytes:
    """Return the bytes at a position, fewer only at the end, without moving the descriptor's position."""
    parts = []
    if not _HAS_PREAD:
        os.lseek(fd, start, os.SEEK_SET)
    while size and (part := os.pread(fd, size, start) if _HAS_PREAD else os.read(fd, size)):
        parts.append(part)
        size -= len(part)
        start += len(part)
    return b"".join(parts)


def _place(given: object) -> str:
    """Return where below `/tmp/input` a file will lie."""
    try:
        return relative_name(given if isinstance(given, str) else "")
    except ValueError as error:
        raise InvalidRequestError(f"an input file has no usable base name: {error}") from None
