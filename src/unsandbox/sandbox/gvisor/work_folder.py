"""Files of persistent gVisor sandboxes, which helper programs inside read and write."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.gvisor.files import MAX_LISTING, PACK, UNPACK, list_words, select, take_archive
from unsandbox.sandbox.gvisor.programs import Programs
from unsandbox.sandbox.host.artifacts import Selection
from unsandbox.sandbox.host.blocking import run_long
from unsandbox.sandbox.layout import WORK
from unsandbox.sandbox.persistent_spec import HashedBytes
from unsandbox.sandbox.spec import Artifact, Limits, SandboxFile
from unsandbox.sandbox.storage import archive

logger = logging.getLogger("unsandbox.sandbox")

SAVE_EVERY_S = 30.0
"""Minimum time between two saves of a work folder; a killed server loses the changes since the last one."""
_SAVE_SHARE = 20
"""Minimum time between two saves, as a multiple of the duration of a save."""
_SAVE_TIMEOUT_S = 120.0
_CLOCK_SLACK_S = 0.1
# Files may change while they are read; tar then says 1.
_PACK_LOOSELY = ["sh", "-c", f"{shlex.join(archive.PACK)}; [ $? -le 1 ]"]
_CLEAR = ["find", WORK, "-xdev", "-mindepth", "1", "-delete"]
_TAR_OVERHEAD = 4096
"""Bytes of headers and padding for one file in an archive, at most."""


async def put_files(programs: Programs, files: Sequence[SandboxFile]) -> None:
    """Write files as the tenant, whose programs are suspended.

    Raises:
        SandboxError: A file could not be written.
    """
    packed = await run_long(archive.archive_of, files)
    outcome = await programs.help(UNPACK, packed)
    if outcome.exit_code != 0:
        said = outcome.stderr.data.decode("utf-8", "replace").strip()
        raise SandboxError(f"could not write the files: {said}")


async def collect(programs: Programs, folder: str) -> tuple[list[Artifact], list[str]]:
    """Return the regular files in a folder, and the skipped names; the tenant's programs are suspended."""
    selection = Selection(Limits())
    listing = await programs.help(list_words(folder), output_bytes=MAX_LISTING)
    wanted = select(listing.stdout.data, folder, (), selection)
    if wanted:
        names = b"".join(os.fsencode(entry.path) + b"\0" for entry in wanted)
        most = sum(entry.size + _TAR_OVERHEAD for entry in wanted) + 3 * _TAR_OVERHEAD
        packed = await programs.help(PACK, names, most)
        await run_long(take_archive, packed.stdout.data, wanted, selection)
    return selection.artifacts, selection.skipped


async def save(programs: Programs, destination: Path) -> HashedBytes:
    """Write the work folder as an archive, while the tenant's programs are suspended; see `archive.save`."""
    # As root of the sandbox, because the tenant may lack permission to read some of its files.
    return await archive.save(await programs.start(archive.PACK, root=True), destination)


async def replace(programs: Programs, source: Path) -> None:
    """Replace the content of the work folder by an archive, which was checked; see `archive.load`."""
    await programs.help(_CLEAR, root=True)
    # As the tenant, who then owns the unpacked files.
    await archive.load(await programs.start(archive.UNPACK), source)


class WorkSaver:
    """Saves a persistent work folder: regularly, in case the server is killed, and at the end.

    Args:
        programs: The programs of the sandbox.
        disk: The path of the archive.
        going_on: While the sandbox can be asked; raises `SandboxError` when it cannot, or is frozen.
        frozen: Whether it is frozen, so that nothing changes.
    """

    def __init__(
        self,
        programs: Programs,
        disk: Path,
        going_on: Callable[[], contextlib.AbstractAsyncContextManager[None]],
        frozen: Callable[[], bool],
    ) -> None:
        self._programs = programs
        self._disk = disk
        self._going_on = going_on
        self._frozen = frozen
        self._task = asyncio.get_running_loop().create_task(self._keep_saved())

    async def _keep_saved(self) -> None:
        """Save without suspending the tenant.

        The files in such an archive may be of different moments. `finish` writes a consistent archive.
        """
        pause, saved_at = SAVE_EVERY_S, time.time()
        while True:
            await asyncio.sleep(pause)
            began, started = time.time(), time.monotonic()
            try:
                if not self._frozen() and await self._changed_since(saved_at):
                    async with self._going_on():
                        tar = await self._programs.start(_PACK_LOOSELY, root=True)
                    await archive.save(tar, self._disk)
                    saved_at = began
            except (SandboxError, OSError) as error:
                logger.warning("the work folder of a gVisor sandbox could not be saved: %s", error)
            pause = max(SAVE_EVERY_S, _SAVE_SHARE * (time.monotonic() - started))

    async def _changed_since(self, moment: float) -> bool:
        words = ["find", WORK, "-xdev", "-newermt", f"@{moment - _CLOCK_SLACK_S:.3f}", "-print", "-quit"]
        async with self._going_on():
            return bool((await self._programs.help(words, root=True)).stdout.data)

    def stop(self) -> None:
        """Stop the regular saves."""
        self._task.cancel()

    async def finish(self, standing_still: Callable[[], contextlib.AbstractAsyncContextManager[None]]) -> None:
        """Save for the last time, while the tenant's programs are suspended."""
        self.stop()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(_SAVE_TIMEOUT_S), standing_still():
                await save(self._programs, self._disk)
        except (SandboxError, OSError) as error:
            logger.warning("the work folder of a gVisor sandbox could not be saved: %s", error)
