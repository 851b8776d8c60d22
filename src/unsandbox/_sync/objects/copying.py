# Generated from src/unsandbox/_async/objects/copying.py by scripts/unasync.py; change that one.
"""Copies files and directories between this machine and a session."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from unsandbox._compat.blocking import in_thread
from unsandbox._shared.tar import pack_folder, unpack_folder

if TYPE_CHECKING:
    from unsandbox._sync.objects.files import Files


def upload(files: Files, source: Path, target: str) -> None:
    """Copy a file or directory of this machine into a session; see `AsyncFiles.upload`."""
    mode = (in_thread(source.stat)).st_mode
    if not stat.S_ISDIR(mode):
        with in_thread(source.open, "rb") as file:
            files.write(target, file, mode=mode & 0o777)
        return
    with in_thread(pack_folder, source) as archive:
        place = f"/work/.unsandbox-{archive.name_hint}.tar"
        try:
            files.write(place, archive.file)
            files.unpack(target, place)
        except BaseException:
            files.discard(place)
            raise


def download(files: Files, source: str, target: Path) -> None:
    """Copy a file or directory of a session to this machine; see `AsyncFiles.download`."""
    info = files.stat(source)
    if not info.is_dir:
        if in_thread(target.is_dir):
            target /= Path(info.path or source).name
        _fetch(files, source, target)
        return
    packed = files.pack(source)
    archive = target.parent / f".{target.name}.unsandbox.tar"
    try:
        in_thread(target.parent.mkdir, parents=True, exist_ok=True)
        _fetch(files, packed, archive)
        in_thread(unpack_folder, archive, target)
    finally:
        archive.unlink(missing_ok=True)
        files.discard(packed)


def _fetch(files: Files, source: str, target: Path) -> None:
    """Copy one file. It gets its name when it is complete."""
    temporary = target.parent / f".{target.name}.unsandbox"
    try:
        with in_thread(temporary.open, "wb") as file:
            for part in files.stream(source):
                in_thread(file.write, part)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
