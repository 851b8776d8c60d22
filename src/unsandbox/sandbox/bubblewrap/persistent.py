"""Persistent sandboxes on bubblewrap: created by the launcher, and entered for each program."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unsandbox.sandbox.bubblewrap.connector import Connector
from unsandbox.sandbox.bubblewrap.persistent_setup import persistent_arguments, persistent_request
from unsandbox.sandbox.bubblewrap.programs import Programs
from unsandbox.sandbox.bubblewrap.resources import BubblewrapResources
from unsandbox.sandbox.bubblewrap.work_folder import WorkFolder
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.host import artifacts
from unsandbox.sandbox.host.blocking import run_long, run_to_end
from unsandbox.sandbox.host.descriptors import DescriptorStack, memory_file
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.persistent import SETUP_TIMEOUT_S, HostSandbox, Program
from unsandbox.sandbox.host.process import SandboxProcess, communicate, reports
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.enter import CAPABILITY_TO_READ_ALL
from unsandbox.sandbox.launcher.fd_numbers import ARGS_FD, IMAGE_FD, INIT_FD, READY_FD, SECCOMP_FD
from unsandbox.sandbox.layout import ARTIFACT_FOLDER
from unsandbox.sandbox.native.first_process import READY
from unsandbox.sandbox.persistent_spec import HashedBytes, PersistentSandbox, PersistentSpec
from unsandbox.sandbox.spec import MIB, Artifact, Limits, SandboxFile
from unsandbox.sandbox.storage.archive import PACK, UNPACK, archive_of, copy, must_have_room
from unsandbox.sandbox.storage.archive_check import examine
from unsandbox.sandbox.storage.work_disk import DiskImages
from unsandbox.sandbox.validation import check_files


class BubblewrapSandbox(HostSandbox):
    """One persistent sandbox; implements `PersistentSandbox` and the launcher's `JobEvents`.

    Args:
        spec: Its specification.
        resources: The resources of the backend.
        images: The images of work folders; None if work folders are plain folders.
        slot: Its slot.
        on_over: Called when the sandbox and its files are gone.
    """

    backend = "bubblewrap"

    def __init__(
        self,
        spec: PersistentSpec,
        resources: BubblewrapResources,
        images: DiskImages | None,
        slot: Slot,
        *,
        on_over: Callable[[Any], None],
    ) -> None:
        """Store the arguments; `open` creates the sandbox."""
        super().__init__(spec, resources.host, slot, on_over)
        self._resources = resources
        file_bytes = spec.limits.work_bytes if images is None else None
        self._programs = Programs(spec, resources, slot.uid, self._handle, file_bytes)
        self._work = WorkFolder(spec, resources.host, images, slot.uid, self._start_helper, self._end)
        self._connector = Connector(self._start_connector)
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._pid = self._pidfd = -1

    # Creation

    async def open(self) -> None:
        """Create the sandbox; when this returns, programs can be started in it.

        Raises:
            SandboxError: The sandbox could not be set up.
        """
        await self._work.open()
        said = memory_file(b"")
        try:
            await self._make(said)
        finally:
            os.close(said)
            self._work.disk.handed_over()
        self._work.entered(self._pid, self._pidfd)
        self.settle()
        if self._spec.work_archive is not None:
            await self.replace_work(self._spec.work_archive)
        if self._spec.low_ports:
            await self._open_low_ports()
        if self._spec.files:
            await self.put_files(self._spec.files)

    async def _make(self, said: int) -> None:
        resources, disk = self._resources, self._work.disk
        arguments = persistent_arguments(self._spec, resources, disk, self._view)
        here, there = socket.socketpair()
        here.setblocking(False)
        with here:
            with DescriptorStack() as sent:
                descriptors = {READY_FD: sent.add(there.detach()), 1: said, 2: said}
                descriptors |= {
                    0: sent.add(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)),
                    ARGS_FD: sent.add(memory_file(arguments)),
                    SECCOMP_FD: sent.add(memory_file(resources.filter)),
                    INIT_FD: sent.add(os.open(resources.init.file, os.O_RDONLY | os.O_CLOEXEC)),
                }
                if disk.image is not None:
                    descriptors[IMAGE_FD] = disk.image
                request = persistent_request(self._spec, resources, self._uid, disk, descriptors)
                await self._handle.start(self, request, list(descriptors.values()))
            try:
                async with asyncio.timeout(SETUP_TIMEOUT_S):
                    self._ready = await self._loop.sock_recv(here, 16) == READY
                    if self._ready:
                        await self._first
            except TimeoutError:
                raise SandboxError(f"the sandbox was not ready within {SETUP_TIMEOUT_S:g} s") from None
        if not self._ready:
            await self._handle.over.wait()
            raise SandboxError(f"the sandbox could not be set up: {self._setup_error(said)}")

    def _setup_error(self, said: int) -> str:
        text = os.pread(said, 4096, 0).decode("utf-8", "replace").strip()
        ending = self._ending or Ending(None)
        return ending.error or text or f"exit status {ending.exit_code}"

    # Events of the launcher

    @property
    def process(self) -> tuple[int, int]:
        """Number and descriptor of the first process, -1 before it exists."""
        return self._pid, self._pidfd

    def started(self, pid: int, pidfd: int) -> None:
        """Record that the first process exists, and take over `pidfd`."""
        self._pid, self._pidfd = pid, pidfd
        if not self._first.done():
            self._first.set_result(None)

    def _gone(self, ending: Ending) -> None:  # noqa: ARG002 - why makes no difference here
        self._connector.close()
        if not self._first.done():
            self._first.set_exception(SandboxError("the sandbox has ended"))
            self._first.exception()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._work.left()

    def _remove_files(self) -> None:
        self._work.disk.release()

    # Programs

    async def _start_program(self, program: Program) -> SandboxProcess:
        return await self._programs.start(program, self._processors.cpus)

    async def _start_helper(self, argv: Sequence[str], capabilities: int = 0) -> SandboxProcess:
        self._must_live()
        return await self._programs.start_helper(argv, capabilities)

    # Files

    async def put_files(self, files: Sequence[SandboxFile]) -> None:
        """Write files as the sandbox's user; see `PersistentSandbox.put_files`.

        Raises:
            InvalidSpecError: A path is not below /work, /tmp or /dev/shm.
            SandboxError: A file could not be written.
        """
        check_files(files)
        # tar writes them inside the sandbox, so a link can only lead to a place in the sandbox.
        words = ["tar", "--extract", "--no-overwrite-dir", "--keep-directory-symlink", "--no-same-permissions"]
        packed = await run_long(archive_of, files)
        outcome = await communicate(
            await self._start_helper(words),
            packed,
            timeout_s=None,
            output_bytes=MIB,
            discard_fd=self._host.discard_fd,
        )
        if outcome.exit_code != 0:
            said = outcome.stderr.data.decode("utf-8", "replace").strip()
            must_have_room(said, "the files could not be written")
            raise SandboxError(f"could not write the files: {said}")

    async def collect(self, folder: str = ARTIFACT_FOLDER) -> tuple[list[Artifact], list[str]]:
        """Return the regular files in a folder; see `PersistentSandbox.collect`."""
        self._must_live()
        root = artifacts.open_root(self._pid, self._pidfd)
        try:
            collector = artifacts.Collector(root, Limits())
            await run_long(collector.collect, folder, ())
        finally:
            os.close(root)
        return collector.artifacts, collector.skipped

    # The work folder

    def disk_used(self) -> int:
        """Return the bytes that the work folder occupies; see `PersistentSandbox.disk_used`.

        The size of a folder without a quota is that of the last check.
        """
        return self._work.used()

    async def _end(self, reason: str) -> None:
        self.end_reason, self.end_cause = reason, "disk"
        await self._handle.kill()

    async def archive_work(self, destination: Path) -> HashedBytes:
        """Write the work folder as an archive; see `PersistentSandbox.archive_work`.

        Raises:
            SandboxError: It could not be read.
            OSError: The disk is full or failed.
        """
        async with self._standing_still():
            return await self._work.save(destination)

    async def replace_work(self, archive: Path) -> None:
        """Replace the content of the work folder; see `PersistentSandbox.replace_work`.

        Raises:
            InvalidArchiveError: The archive is damaged or has a forbidden entry; nothing has changed.
            SandboxError: It could not be unpacked; the work folder is incomplete.
            OSError: It does not fit (`EDQUOT`; the work folder is incomplete), or could not be read.
        """
        await run_to_end(functools.partial(examine, archive, self._spec.limits.work_bytes))
        async with self._standing_still():
            await self._work.replace(archive)

    async def copy_work(self, targets: Sequence[PersistentSandbox]) -> None:
        """Copy the work folder into other sandboxes; see `PersistentSandbox.copy_work`."""
        async with self._standing_still():
            await copy(
                await self._start_helper(PACK, CAPABILITY_TO_READ_ALL),
                [target.start_unpacking for target in targets],
            )

    async def start_unpacking(self) -> SandboxProcess:
        """Start a program that reads an archive; see `PersistentSandbox.start_unpacking`."""
        return await self._start_helper(UNPACK, CAPABILITY_TO_READ_ALL)

    async def _save(self) -> None:
        # The disk already has the files.
        return

    # Freezing

    async def _stop_all(self) -> None:
        await self._handle.call(messages.Freeze)

    async def _continue_all(self) -> None:
        await self._handle.call(messages.Unfreeze)

    async def _hold_tenant(self) -> None:
        if not self.frozen:
            await self._stop_all()

    async def _let_tenant_go(self) -> None:
        if not self.frozen:
            await self._continue_all()

    async def checkpoint(self, folder: Path) -> int:
        """Raise an error, because bubblewrap cannot save memory and processes.

        Raises:
            SandboxUnavailable: Always.
        """
        raise SandboxUnavailable(
            f"{folder.name}: bubblewrap sandboxes cannot be checkpointed with memory and processes; make the "
            "session or service with isolation gvisor"
        )

    # Connections

    async def _open_low_ports(self) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here:
            with there:
                asked = await self._handle.ask(messages.OpenLowPorts, [there.fileno()])
            async for message, _ in reports(here):
                if isinstance(message, messages.Failed):
                    raise SandboxUnavailable(
                        f"ports below 1024 cannot be opened here ({message.error}); use higher ones"
                    )
            await asked

    async def _connect(self, port: int) -> int:
        return await self._connector.connect(port)

    async def _start_connector(self, orders: int) -> asyncio.Future[messages.Answered]:
        return await self._handle.ask(messages.Connect, [orders])
