"""Files that a server sent, written to a disk. Their names are not trusted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from unsandbox.errors import InvalidResponseError

_PROGRAMS = (b"\x7fELF", b"#!", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


def save_file(folder: str | os.PathLike[str], place: str, chunks: Iterable[bytes]) -> Path:
    """Write a file into a folder; the old one of this name, if any, is replaced in one step.

    Args:
        folder: The target folder, which is created if it does not exist.
        place: Path in the folder: plain names separated by slashes.
        chunks: The content.

    Raises:
        InvalidResponseError: The place leads through a link.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    *steps, base = place.split("/")
    for step in steps:
        target /= step
        if target.is_symlink():
            raise InvalidResponseError(
                "the server sent a file whose folder is a link here: no link is followed"
            )
        target.mkdir(exist_ok=True)
    target /= base
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".unsandbox-")
    try:
        beginning = b""
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                beginning = beginning or chunk
                file.write(chunk)
        Path(temporary).chmod(0o755 if beginning.startswith(_PROGRAMS) else 0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target
