"""Directories as tar archives, on their way into a session and out of it."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from unsandbox.errors import InvalidResponseError


class PackedFolder:
    """A directory as an archive in an unnamed file; closed at the end of a block.

    Attributes:
        file: The archive, at its beginning.
        name_hint: A random text for a file name.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.name_hint = os.urandom(8).hex()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def pack_folder(folder: Path) -> PackedFolder:
    """Return the content of a directory as an archive. Links stay links; sockets and devices are left out."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(folder.rglob("*")):
                if path.is_symlink() or path.is_file() or path.is_dir():
                    tar.add(path, path.relative_to(folder).as_posix(), recursive=False)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return PackedFolder(file)


def unpack_folder(archive: Path, folder: Path) -> None:
    """Unpack an archive that a session made. Nothing is written outside the directory.

    Raises:
        InvalidResponseError: The archive is damaged, or names something outside the directory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise InvalidResponseError(f"the session sent a bad archive: {error}") from error
