"""Files that a server sent, put on the disk of a caller who does not trust their names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from unsandbox.errors import InvalidResponseError
from unsandbox.protocol.contents import Content, chunks_of
from unsandbox.protocol.names import relative_name

_PROGRAMS = (b"\x7fELF", b"#!", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


def save_file(folder: str | os.PathLike[str], name: str, data: bytes | Content) -> Path:
    """Write a file into a folder; the old one of this name, if any, is replaced in one step.

    Args:
        folder: Where to; made if need be.
        name: Where in the folder, as far as it says so plainly; see `relative_name`.
        data: The content, or where it lies.

    Raises:
        InvalidResponseError: The name is no file name, or leads through a link.
    """
    try:
        place = relative_name(name)
    except ValueError:
        raise InvalidResponseError("the server sent a file without a usable name") from None
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
            for chunk in chunks_of(data):
                beginning = beginning or chunk
                file.write(chunk)
        Path(temporary).chmod(0o755 if beginning.startswith(_PROGRAMS) else 0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target
