"""The work folder of a persistent sandbox: its disk, its size, its archives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host import artifacts
from unsandbox.sandbox.host.blocking import run_to_end
from unsandbox.sandbox.host.process import SandboxProcess, communicate
from unsandbox.sandbox.host.resources import HostResources
from unsandbox.sandbox.launcher import enter
from unsandbox.sandbox.layout import WORK
from unsandbox.sandbox.persistent_spec import HashedBytes, PersistentSpec
from unsandbox.sandbox.storage.archive import PACK, UNPACK, load, save
from unsandbox.sandbox.storage.work_disk import DiskImages, FolderDisk, ImageDisk, WorkDisk

_WATCH_MIN_S = 1.0
_WATCH_SHARE = 20
"""Measuring a folder may take a twentieth of the time."""


class WorkFolder:
    """One sandbox's `/work`."""

    def __init__(
        self,
        spec: PersistentSpec,
        host: HostResources,
        images: DiskImages | None,
        uid: int | None,
        start_helper: Callable[[Sequence[str], int], Awaitable[SandboxProcess]],
        on_too_large: Callable[[str], Awaitable[None]],
    ) -> None:
        """Store the arguments; `open` creates the disk.

        Args:
            spec: The specification of the sandbox.
            host: The resources of the backend.
            images: The images of work folders; None if work folders are plain folders.
            uid: The host user of the sandbox; None for the server's user.
            start_helper: Starts a program inside, with capabilities.
            on_too_large: Called with the reason when a plain folder exceeds its quota.
        """
        mount_point = host.runtime / f"work-{secrets.token_hex(6)}"
        self.disk: WorkDisk = (
            FolderDisk(spec.work_disk, mount_point, uid)
            if images is None
            else ImageDisk(images, spec.work_disk, spec.limits.work_bytes, mount_point)
        )
        self._bytes = spec.limits.work_bytes
        self._has_quota = images is not None
        self._discard_fd = host.discard_fd
        self._start_helper = start_helper
        self._on_too_large = on_too_large
        self._fd = -1
        self._used = 0
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Create or open the disk; see `WorkDisk.open`."""
        await run_to_end(self.disk.open)

    def entered(self, pid: int, pidfd: int) -> None:
        """Start to watch the folder of a sandbox with the first process `pid`.

        Raises:
            OSError: The sandbox is gone already.
        """
        root = artifacts.open_root(pid, pidfd)
        try:
            self._fd = artifacts.open_beneath(root, WORK, os.O_PATH | os.O_DIRECTORY)
        finally:
            os.close(root)
        if not self._has_quota:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    def left(self) -> None:
        """Release the disk, because the sandbox is gone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._watching is not None:
            self._watching.cancel()

    def used(self) -> int:
        """Return the bytes that it occupies; for a plain folder, the size at the last check."""
        if not self._has_quota or self._fd < 0:
            return self._used
        status = os.fstatvfs(self._fd)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    async def save(self, destination: Path) -> HashedBytes:
        """Write the folder as an archive, while the tenant's programs are frozen; see `archive.save`."""
        return await save(await self._start_helper(PACK, enter.CAPABILITY_TO_READ_ALL), destination)

    async def replace(self, archive: Path) -> None:
        """Replace its content by an archive, which is checked first; see `archive.load`."""
        await load(await self._start_helper(UNPACK, enter.CAPABILITY_TO_READ_ALL), archive)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(SandboxError):
            while True:
                started = loop.time()
                self._used = await self._measure()
                if self._used > self._bytes:
                    await self._on_too_large(f"its work folder grew beyond {self._bytes} bytes")
                    return
                await asyncio.sleep(max(_WATCH_MIN_S, _WATCH_SHARE * (loop.time() - started)))

    async def _measure(self) -> int:
        du = await self._start_helper(["du", "-skx", WORK], enter.CAPABILITY_TO_READ_ALL)
        outcome = await communicate(du, b"", timeout_s=None, output_bytes=1 << 16, discard_fd=self._discard_fd)
        *_, last = outcome.stdout.data.splitlines() or [b""]
        size = last.partition(b"\t")[0]
        return int(size) * 1024 if size.isdigit() else self._used
