"""Images of gVisor sandboxes: files, memory and running processes, as `runsc` writes them."""

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
"""In an image's folder, beside the files of `runsc`: what it needs to be restored."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """What a sandbox and whatever is restored from its image have in common.

    Attributes:
        version: Of the `runsc` that made it: no other restores it.
        tmpfs_bytes: Size of /tmp.
        work_bytes: Size of /work.
        mounts: What of the host is mounted, and where.
        lasting: Number of the program that a restored sandbox takes over with its pipes; None for none.
    """

    version: str
    tmpfs_bytes: int
    work_bytes: int
    mounts: Sequence[tuple[Path, str]]
    lasting: int | None = None


def read_shape(image: Path, version: str) -> Shape:
    """Read what an image needs.

    Raises:
        SandboxUnavailable: It is none of ours, or another release of `runsc` wrote it.
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
    """A folder in which a checkpoint is being written; it gets its name when it is complete.

    Args:
        folder: The name.
        uid: User of the host that writes, None for this process's own.
    """

    def __init__(self, folder: Path, uid: int | None) -> None:
        self._folder = folder
        self._partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
        self._partial.mkdir(mode=0o700)
        if uid is not None:
            os.chown(self._partial, uid, uid)

    def complete(self, shape: Shape) -> int:
        """Take it over from its writer, give it its name and return its bytes."""
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
        """Return a descriptor of the folder, through which its writer reaches it whatever lies above it."""
        return os.open(self._partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def discard(self) -> None:
        """Remove what is not complete; without effect otherwise."""
        shutil.rmtree(self._partial, ignore_errors=True)


@contextlib.contextmanager
def readable_image(image: Path) -> Iterator[int]:
    """Yield a descriptor of an image's folder, through which a user may read it who may not pass to it."""
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
