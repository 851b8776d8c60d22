"""Checks an archive before it replaces a work folder."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import cast

from unsandbox.sandbox.errors import InvalidArchiveError
from unsandbox.sandbox.spec import MIB

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW = 128 * MIB
_MARGIN_BYTES = 256 * MIB
_MAX_HEADER_BYTES = MIB
_MAX_DIGITS = 20
DEEPEST = 1000
"""Nested folders; reading and unpacking takes time that grows with their square."""
_LONGEST_NAME = 4000
"""Bytes of a path, which Linux bounds to 4096 with the folder before it."""
_MAX_SHOWN = 200
_CHUNK = MIB // 4

_BLOCK = 512
_END = bytes(_BLOCK)
_BASE_256 = 0x80
_NEWLINE = ord("\n")
_FILE, _HARD_LINK, _LINK, _FOLDER, _FIFO, _EXTENSION = b"0", b"1", b"2", b"5", b"6", b"x"
_KINDS = {_FILE, _HARD_LINK, _LINK, _FOLDER, _FIFO}
_NAMING_KEYS = {b"path", b"linkpath", b"GNU.sparse.name"}
_SPARSE = b"GNU.sparse."
_SPARSE_KEYS = {_SPARSE + key for key in (b"major", b"minor", b"name", b"realsize")}
_SPARSE_FORMAT = {(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")}


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[io.BufferedIOBase]:
    """Open an archive for reading, unfolded."""
    with archive.open("rb") as file:
        compressed = file.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
        file.seek(0)
        if not compressed:
            yield file
            return
        from zstandard import ZstdDecompressor

        decompressor = ZstdDecompressor(max_window_size=_MAX_WINDOW)
        with decompressor.stream_reader(file, _CHUNK, read_across_frames=True) as stream:
            yield cast("io.BufferedIOBase", stream)


def examine(archive: Path, work_bytes: int) -> None:
    """Check an archive before it replaces a work folder; blocks.

    Links may point anywhere: they are created as they are and never followed, and inside a sandbox they
    lead to places inside. What would be unpacked through one, or under a name outside, is refused. So is what
    another tar than `archive.PACK` may write and GNU tar may read in another way than it is read here.

    Args:
        archive: A tar archive, compressed by zstd or not.
        work_bytes: The quota of the work folder. Its content, with a margin, must not be larger.

    Raises:
        InvalidArchiveError: It is damaged or too large, is not an archive, names a path outside, or has a
        device. OSError: It cannot be read.
    """
    from zstandard import ZstdError

    links = _Links()
    try:
        with opened(archive) as stream:
            for member in _members(_Blocks(stream, 2 * work_bytes + _MARGIN_BYTES)):
                _examine_member(member, links)
    except (ZstdError, ValueError) as error:
        raise InvalidArchiveError(f"the archive is damaged: {error}") from error


@dataclass(slots=True)
class _Member:
    """The metadata of one file from its header and extension."""

    kind: bytes
    name: bytes
    target: bytes
    size: int
    sparse: bool = False


def _members(blocks: _Blocks) -> Iterator[_Member]:
    """Read all headers.

    Raises:
        ValueError: One is damaged, or the archive ends early.
    """
    records: dict[bytes, bytes] | None = None
    while (header := blocks.take(_BLOCK)) != _END:
        if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise ValueError("the checksum of a header is wrong")
        kind, size = header[156:157], _number(header[124:136])
        if kind == _EXTENSION:
            if records is not None:
                raise ValueError("a header has two extensions")
            if size > _MAX_HEADER_BYTES:
                raise ValueError("a header is too large")
            records = _records(blocks.take(size))
            blocks.skip(-size % _BLOCK)
            continue
        member = _Member(kind, _name(header), _text(header[157:257]), size)
        if records is not None:
            _extend(member, records)
            records = None
        yield member
        content = member.size + -member.size % _BLOCK
        if member.sparse:
            content -= _examine_map(blocks, content)
        blocks.skip(content)
    if records is not None:
        raise ValueError("the last header is missing")


def _number(field: bytes) -> int:
    if field[0] == _BASE_256:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits.isdigit():
        raise ValueError("invalid number")
    return int(digits, 8)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _name(header: bytes) -> bytes:
    prefix = _text(header[345:500])
    if not prefix:
        return _text(header[:100])
    if header[257:263] != b"ustar\0":
        raise ValueError("a header is of an old format")
    return prefix + b"/" + _text(header[:100])


def _records(data: bytes) -> dict[bytes, bytes]:
    """Read an extension: lines of `<length> <key>=<value>`."""
    records = {}
    start = 0
    while start < len(data):
        length, _, _ = data[start : start + _MAX_DIGITS].partition(b" ")
        end = start + _decimal(length)
        key, equals, value = data[start + len(length) + 1 : end - 1].partition(b"=")
        if not (equals and start < end <= len(data) and data[end - 1] == _NEWLINE):
            raise ValueError("the extension of a header is wrong")
        records[key] = value
        start = end
    return records


def _extend(member: _Member, records: dict[bytes, bytes]) -> None:
    """Give an extension precedence over its header, as GNU tar does."""
    sparse = {key: value for key, value in records.items() if key.startswith(_SPARSE)}
    if sparse:
        right = sparse.keys() == _SPARSE_KEYS and sparse.items() > _SPARSE_FORMAT
        if not right or member.kind != _FILE:
            raise ValueError("the sparse format is not supported")
        member.sparse = True
    if any(not value or b"\0" in value for key, value in records.items() if key in _NAMING_KEYS):
        raise ValueError("the extension of a header has no name")
    member.name = records.get(b"GNU.sparse.name") or records.get(b"path") or member.name
    member.target = records.get(b"linkpath", member.target)
    if (size := records.get(b"size")) is not None:
        member.size = _decimal(size)


def _examine_map(blocks: _Blocks, content: int) -> int:
    """Read the map at the beginning of a sparse file; return its size in bytes.

    GNU tar reads as many blocks as the map says, regardless of the file's size in the header.
    """
    line, seen, wanted = b"", 0, 1
    taken = said = 0
    while seen < wanted:
        *lines, line = (line + blocks.take(_BLOCK)).split(b"\n")
        taken += _BLOCK
        if taken > content:
            raise ValueError("the map of a sparse file is wrong")
        # The number of pieces, then offset and size of each.
        for number in map(_decimal, lines):
            if seen == 0:
                wanted = 1 + 2 * number
            elif seen % 2 == 0 and seen < wanted:
                said += number + -number % _BLOCK
            seen += 1
        # Only the bytes after the last number are padding, which may be longer than a number.
        if seen < wanted and len(line) > _MAX_DIGITS:
            raise ValueError("the map of a sparse file is wrong")
    if taken + said != content:
        raise ValueError("the map of a sparse file is wrong")
    return taken


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ValueError("invalid number")
    return int(digits)


class _Links:
    """The names that are symbolic links, each stored as a number of fixed size."""

    def __init__(self) -> None:
        self._places: set[int] = set()

    def add(self, parts: Sequence[bytes]) -> None:
        self._places.add(self._steps(parts)[-1])

    def lead_through(self, parts: Sequence[bytes]) -> bool:
        """Return whether a folder on a path is a link."""
        return bool(self._places) and not self._places.isdisjoint(self._steps(parts)[:-1])

    def has(self, parts: Sequence[bytes]) -> bool:
        return bool(self._places) and self._steps(parts)[-1] in self._places

    @staticmethod
    def _steps(parts: Sequence[bytes]) -> list[int]:
        # A collision of numbers would refuse a valid archive, but never accept an invalid one.
        return list(accumulate(parts, lambda way, part: hash((way, part)), initial=0))


def _examine_member(member: _Member, links: _Links) -> None:
    name = member.name
    parts = _inside(name)
    if parts is None or not name:
        raise InvalidArchiveError(f"the archive contains a path outside the folder: {_shown(name)}")
    if len(parts) > DEEPEST or len(name) > _LONGEST_NAME:
        raise InvalidArchiveError(f"the archive contains folders that are nested too deeply: {_shown(name)}")
    if member.kind not in _KINDS:
        raise InvalidArchiveError(f"the archive contains an unsupported entry type: {_shown(name)}")
    has_content, is_folder = member.size > 0, not parts or name.endswith(b"/")
    if (has_content and member.kind != _FILE) or (is_folder and member.kind != _FOLDER):
        # GNU tar and this reader would disagree about the place of the next header.
        raise InvalidArchiveError(f"the archive is damaged: {_shown(name)} does not have the type of its entry")
    target = _inside(member.target) if member.kind == _HARD_LINK else ()
    if target is None:
        raise InvalidArchiveError(f"the archive links outside the folder: {_shown(name)}")
    if links.lead_through(parts) or links.lead_through(target):
        raise InvalidArchiveError(f"the archive contains a path through a link: {_shown(name)}")
    if links.has(parts):
        # tar would fail on it in the middle of the archive.
        raise InvalidArchiveError(f"the archive contains a link twice: {_shown(name)}")
    if member.kind == _LINK or (target and links.has(target)):
        links.add(parts)


def _inside(name: bytes) -> list[bytes] | None:
    """Return the parts of a name; None if it leads out of the folder that it is relative to."""
    if name.startswith(b"/"):
        return None
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    return None if b".." in parts else parts


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "replace")
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


class _Blocks:
    """Reads an archive up to a maximum size, which stops decompression bombs."""

    def __init__(self, stream: io.BufferedIOBase, left: int) -> None:
        self._stream = stream
        self._left = left
        self._buffer = bytearray(_CHUNK)
        self._start = self._end = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            ValueError: There are not so many.
        """
        if size <= self._end - self._start:
            self._start += size
            return bytes(self._buffer[self._start - size : self._start])
        taken = bytearray()
        while len(taken) < size:
            self._fill()
            count = min(size - len(taken), self._end - self._start)
            taken += self._buffer[self._start : self._start + count]
            self._start += count
        return bytes(taken)

    def skip(self, size: int) -> None:
        """Skip bytes.

        Raises:
            ValueError: There are not so many.
        """
        while size > self._end - self._start:
            size -= self._end - self._start
            self._start = self._end
            self._fill()
        self._start += size

    def _fill(self) -> None:
        """Read more when the buffer is used up."""
        if self._start < self._end:
            return
        self._start, self._end = 0, self._stream.readinto(self._buffer)
        if not self._end:
            raise ValueError("it ends early")
        self._left -= self._end
        if self._left < 0:
            raise InvalidArchiveError("the archive exceeds the quota of the work folder")
