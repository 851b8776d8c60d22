"""Files as tar archives: what is put into a sandbox, and its work folder as a whole."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import IO

from unsandbox.sandbox.spec import SandboxFile


def write_archive(files: Sequence[SandboxFile], folders: Sequence[str], target: IO[bytes]) -> None:
    """Write files and folders, given by absolute paths, as a tar archive relative to `/`."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        now = int(time.time())
        made = {"/", "/work", "/tmp", "/dev", "/dev/shm"}  # noqa: S108 - inside the sandbox

        def make(folder: PurePosixPath) -> None:
            for step in (*reversed(folder.parents), folder):
                if str(step) not in made:
                    made.add(str(step))
                    member = tarfile.TarInfo(str(step).lstrip("/"))
                    member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, now
                    archive.addfile(member)

        for folder in folders:
            make(PurePosixPath(folder))
        for file in files:
            make(PurePosixPath(file.path).parent)
            member = tarfile.TarInfo(file.path.lstrip("/"))
            member.size, member.mode, member.mtime = len(file.data), file.mode, now
            archive.addfile(member, io.BytesIO(file.data))


def archive_of(files: Sequence[SandboxFile]) -> bytes:
    """Return files, given by absolute paths, as a tar archive relative to `/`."""
    buffer = io.BytesIO()
    write_archive(files, (), buffer)
    return buffer.getvalue()
