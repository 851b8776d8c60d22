"""Names of files that cross the wire, and the places that they may mean."""

from __future__ import annotations

import os
import re

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_DEPTH = 32
_DRIVE = re.compile(r"[A-Za-z]:")


def relative_name(given: str) -> str:
    r"""Return the place below a folder that a name means: plain names with slashes between them.

    A name that leads anywhere else (an absolute path, one with a drive or with `..`) means its last part alone,
    which is also all that historical clients send. There a backslash separates as a slash does; elsewhere it is
    a character like others, but where files are named with it.

    Args:
        given: The name as it came.

    Raises:
        ValueError: It has no usable last part, or is longer or deeper than a file system can be asked to hold.

    Example:
        >>> relative_name("data/2024/a.csv"), relative_name("/home/me/a.csv"), relative_name(r"C:\temp\a.txt")
        ('data/2024/a.csv', 'a.csv', 'a.txt')
        >>> relative_name(r"back\slash.txt") == r"back\slash.txt"
        True
    """
    path = given.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in {"", "."}]
    kept = [part for part in given.split("/") if part not in {"", "."}]
    # Judged by the first part that counts: `./C:/a` names a drive as much as `C:/a` does.
    absolute = path.startswith("/") or "/".join(kept).startswith("\\")
    if absolute or _DRIVE.match(parts[0] if parts else "") or ".." in parts:
        parts = parts[-1:]
    elif os.name != "nt" and parts:
        parts = kept
    name = "/".join(parts)
    try:
        sizes = [len(part.encode("utf-8", "surrogateescape")) for part in (*parts, name)]
    except UnicodeEncodeError as error:
        raise ValueError("a filename contains a lone surrogate, which UTF-8 cannot represent") from error
    if not parts or parts == [".."] or "\0" in name or max(sizes[:-1]) > MAX_NAME_BYTES:
        raise ValueError(f"a filename must end in a base name of at most {MAX_NAME_BYTES} bytes")
    if len(parts) > MAX_DEPTH or sizes[-1] > MAX_PATH_BYTES:
        raise ValueError(f"a filename must have at most {MAX_DEPTH} parts and {MAX_PATH_BYTES} bytes")
    return name


def clash(names: set[str]) -> str | None:
    """Return the name of a file that is also a folder of other names; None if there is none.

    Example:
        >>> clash({"a", "a/b"}), clash({"a/b", "a/c"})
        ('a', None)
    """
    folders = {parent for name in names for parent in _parents(name)}
    return min(names & folders, default=None)


def _parents(name: str) -> list[str]:
    found = []
    while name := name.rpartition("/")[0]:
        found.append(name)
    return found
