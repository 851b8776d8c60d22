"""Files that a server sent, put on the disk of a caller who does not trust their names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from unsandbox.errors import InvalidResponseError
from unsandbox.protocol.contents import Content, chunks_of

_PROGRAMS = (b"\x7fELF", b"#!", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


def save_file(folder: str | os.PathLike[str], name: str, data: bytes | Content) -> Path:
    """Write a file into a folder; the old one of this name, if any, is replaced in one step.

    Args:
        folder: Where to; made if need be.
        name: Only its base name counts.
        data: The content, or where it lies.

    Raises:
        InvalidResponseError: The name is no file name.
    """
    base = name.replace("\\", "/").rpartition("/")[2]
    if base in {"", ".", ".."} or "\0" in base:
        raise InvalidResponseError("the server sent a file without a usable name")
    target = Path(folder) / base
    target.parent.mkdir(parents=True, exist_ok=True)
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
