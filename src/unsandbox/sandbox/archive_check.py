"""Looks an archive through before a work folder is replaced by it."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from unsandbox.sandbox.spec import MIB, SandboxError

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW = 128 * MIB
_MARGIN_BYTES = 256 * MIB
_MAX_HEADER_BYTES = MIB
_MAX_SHOWN = 200


class InvalidArchiveError(SandboxError):
    """An archive that is not one, or holds what no work folder may have; the message says what."""


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[IO[bytes]]:
    """Open an archive for reading, unfolded."""
    with archive.open("rb") as file:
        compressed = file.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
        file.seek(0)
        if not compressed:
            yield file
            return
        from zstandard import ZstdDecompressor

        decompressor = ZstdDecompressor(max_window_size=_MAX_WINDOW)
        with decompressor.stream_reader(file, read_across_frames=True) as stream:
            yield stream


def examine(archive: Path, work_bytes: int) -> None:
    """Check an archive before anything is replaced by it; blocks.

    Links may point anywhere: they are put in place as they are and never followed, and inside a sandbox they
    lead to places inside. What would be unpacked through one, or under a name outside, is refused.

    Args:
        archive: A tar archive, compressed by zstd or not.
        work_bytes: The quota of the work folder. Its content, with a margin, must not be larger.

    Raises:
        InvalidArchiveError: It is damaged, or not one; too large; it names a place outside; it holds a device.
        OSError: It cannot be read.
    """
    from zstandard import ZstdError

    try:
        with opened(archive) as stream:
            bounded = _Bounded(stream, 2 * work_bytes + _MARGIN_BYTES)
            with tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r|", tarinfo=_Header) as members:
                links: set[str] = set()
                while (member := members.next()) is not None:
                    _examine_member(member, links)
                    # Or else it keeps them all.
                    vars(members)["members"].clear()
    except (tarfile.TarError, ZstdError, ValueError, EOFError) as error:
        raise InvalidArchiveError(f"the archive is damaged: {error}") from error


class _Header(tarfile.TarInfo):
    """Refuses what `tarfile` would take for the end of the archive, and headers that fill the memory."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise InvalidArchiveError(f"the archive is damaged: {error}") from error

    def _proc_member(self, tarfile_: tarfile.TarFile) -> Self:
        headers = (b"x", b"g", b"X", tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in headers and self.size > _MAX_HEADER_BYTES:
            raise InvalidArchiveError("the archive is damaged: a header is too large")
        return super()._proc_member(tarfile_)  # type: ignore[misc,no-any-return]


def _examine_member(member: tarfile.TarInfo, links: set[str]) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise InvalidArchiveError(f"the archive names a place outside: {_shown(member.name)}")
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk() or member.isfifo()):
        raise InvalidArchiveError(f"the archive holds something that is no file: {_shown(member.name)}")
    target = PurePosixPath(member.linkname)
    if member.islnk() and (target.is_absolute() or ".." in target.parts):
        raise InvalidArchiveError(f"the archive links to a place outside: {_shown(member.name)}")
    ways = [*name.parents, *(target.parents if member.islnk() else ())]
    if any(str(way) in links for way in ways):
        raise InvalidArchiveError(f"the archive leads through a link: {_shown(member.name)}")
    if str(name) in links:
        # tar would fail on it halfway.
        raise InvalidArchiveError(f"the archive names a link twice: {_shown(member.name)}")
    if member.issym():
        links.add(str(name))


def _shown(name: str) -> str:
    return repr(name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}...")


class _Bounded:
    """Reads at most so many bytes, against archives that unfold without end."""

    def __init__(self, stream: IO[bytes], left: int) -> None:
        self._stream = stream
        self._left = left

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise InvalidArchiveError("the archive holds more than the work folder may")
        return data
