"""The work folder of a live sandbox: its disk, how full that is, archives of it."""

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
"""Looking at a folder may take a twentieth of the time."""


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
        """Make nothing yet.

        Args:
            spec: The sandbox's.
            host: The shared parts of all sandboxes of its backend.
            images: Where work folders are images; None where they are folders.
            uid: The user of the host that the sandbox runs as; None for the server's.
            start_helper: Starts a program inside, with capabilities.
            on_too_large: Called with the reason when a folder without a quota of its own has outgrown it.
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
        """Make or find the disk; see `WorkDisk.open`."""
        await run_to_end(self.disk.open)

    def entered(self, pid: int, pidfd: int) -> None:
        """The sandbox stands; `pid` is its first process.

        Raises:
            OSError: It is gone already.
        """
        root = artifacts.open_root(pid, pidfd)
        try:
            self._fd = artifacts.open_beneath(root, WORK, os.O_PATH | os.O_DIRECTORY)
        finally:
            os.close(root)
        if not self._has_quota:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    def left(self) -> None:
        """The sandbox is gone: hold its disk no longer."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._watching is not None:
            self._watching.cancel()

    def used(self) -> int:
        """Return the bytes that it takes; of a folder without a quota, those of the last look at it."""
        if not self._has_quota or self._fd < 0:
            return self._used
        status = os.fstatvfs(self._fd)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    async def save(self, destination: Path) -> HashedBytes:
        """Write it as an archive, while the tenant's programs stand still; see `archive.save`."""
        return await save(await self._start_helper(PACK, enter.CAPABILITY_TO_READ_ALL), destination)

    async def replace(self, archive: Path) -> None:
        """Replace its content by an archive that was looked through; see `archive.load`."""
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
