"""Copies files and directories between this machine and a session."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from unsandbox._compat.aio import in_thread
from unsandbox._shared.tar import pack_folder, unpack_folder

if TYPE_CHECKING:
    from unsandbox._async.objects.files import AsyncFiles


async def upload(files: AsyncFiles, source: Path, target: str) -> None:
    """Copy a file or directory of this machine into a session; see `AsyncFiles.upload`."""
    mode = (await in_thread(source.stat)).st_mode
    if not stat.S_ISDIR(mode):
        with await in_thread(source.open, "rb") as file:
            await files.write(target, file, mode=mode & 0o777)
        return
    with await in_thread(pack_folder, source) as archive:
        place = f"/work/.unsandbox-{archive.name_hint}.tar"
        try:
            await files.write(place, archive.file)
            await files.unpack(target, place)
        except BaseException:
            await files.discard(place)
            raise


async def download(files: AsyncFiles, source: str, target: Path) -> None:
    """Copy a file or directory of a session to this machine; see `AsyncFiles.download`."""
    info = await files.stat(source)
    if not info.is_dir:
        if await in_thread(target.is_dir):
            target /= Path(info.path or source).name
        await _fetch(files, source, target)
        return
    packed = await files.pack(source)
    archive = target.parent / f".{target.name}.unsandbox.tar"
    try:
        await in_thread(target.parent.mkdir, parents=True, exist_ok=True)
        await _fetch(files, packed, archive)
        await in_thread(unpack_folder, archive, target)
    finally:
        archive.unlink(missing_ok=True)
        await files.discard(packed)


async def _fetch(files: AsyncFiles, source: str, target: Path) -> None:
    """Copy one file. It gets its name when it is complete."""
    temporary = target.parent / f".{target.name}.unsandbox"
    try:
        with await in_thread(temporary.open, "wb") as file:
            async for part in files.stream(source):
                await in_thread(file.write, part)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
