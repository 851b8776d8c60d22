"""Checkpoints of gVisor sandboxes: files, memory and running processes, as written by `runsc`."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unsandbox.sandbox.errors import SandboxUnavailable

_ABOUT = "unsandbox.json"
"""File in a checkpoint's folder, beside those of `runsc`, with the data needed to restore it."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """The properties that a sandbox shares with those restored from its checkpoint.

    Attributes:
        version: Release of `runsc` that wrote it, the only one that can restore it.
        tmpfs_bytes: Size of /tmp.
        work_bytes: Size of /work.
        mounts: What of the host is mounted, and where.
        lasting: Number of the program that a restored sandbox connects to new pipes; None for none.
    """

    version: str
    tmpfs_bytes: int
    work_bytes: int
    mounts: Sequence[tuple[Path, str]]
    lasting: int | None = None


def read_shape(image: Path, version: str) -> Shape:
    """Read the properties of a checkpoint.

    Raises:
        SandboxUnavailable: It is not a checkpoint of this project, or another release of `runsc` wrote it.
    """
    try:
        about = json.loads((image / _ABOUT).read_text())
        shape = Shape(
            version=about["runsc"],
            tmpfs_bytes=about["tmpfs_bytes"],
            work_bytes=about["work_bytes"],
            mounts=[(Path(source), target) for source, target in about["mounts"]],
            lasting=about.get("lasting"),
        )
        known = about["format"] == _FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SandboxUnavailable(f"not a gVisor checkpoint: {error}") from error
    if not known:
        raise SandboxUnavailable("the gVisor checkpoint has a format that this release does not support")
    if shape.version != version:
        raise SandboxUnavailable(
            f"the checkpoint was written by runsc {shape.version}, and this server has {version}; "
            "gVisor restores only checkpoints of the same release"
        )
    return shape


class NewImage:
    """The folder of a checkpoint that is being written; it is renamed when it is complete.

    Args:
        folder: The final path.
        uid: Host user that writes the checkpoint; None for the user of this process.
    """

    def __init__(self, folder: Path, uid: int | None) -> None:
        self._folder = folder
        self._partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
        self._partial.mkdir(mode=0o700)
        if uid is not None:
            os.chown(self._partial, uid, uid)

    def complete(self, shape: Shape) -> int:
        """Take over the folder from its writer, rename it, and return its size in bytes."""
        about = {
            "format": _FORMAT,
            "runsc": shape.version,
            "tmpfs_bytes": shape.tmpfs_bytes,
            "work_bytes": shape.work_bytes,
            "mounts": [(str(source), target) for source, target in shape.mounts],
            "lasting": shape.lasting,
        }
        (self._partial / _ABOUT).write_text(json.dumps(about))
        total = 0
        for file in (*self._partial.iterdir(), self._partial):
            if os.geteuid() == 0:
                os.chown(file, 0, 0)
            total += file.lstat().st_size if file is not self._partial else 0
            _sync(file)
        self._partial.rename(self._folder)
        _sync(self._folder.parent)
        return total

    def descriptor(self) -> int:
        """Return a descriptor of the folder, so that its writer needs no access to the folders above it."""
        return os.open(self._partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def discard(self) -> None:
        """Remove an incomplete checkpoint; otherwise do nothing."""
        shutil.rmtree(self._partial, ignore_errors=True)


@contextlib.contextmanager
def readable_image(image: Path) -> Iterator[int]:
    """Yield a descriptor of a checkpoint's folder, for a user without access to the folders above it."""
    fd = os.open(image, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o711)
        for file in image.iterdir():
            file.chmod(0o644)
        yield fd
    finally:
        os.close(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
