"""Persistent sandboxes on gVisor: an agent inside starts programs, `runsc` checkpoints and restores."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.gvisor import agent, commands, work_folder
from unsandbox.sandbox.gvisor.bundle import (
    SENTRY_BYTES,
    FirstProcess,
    configuration,
    make_bundle,
    write_configuration,
)
from unsandbox.sandbox.gvisor.channel import Channel
from unsandbox.sandbox.gvisor.checkpoint import NewImage, Shape, read_shape, readable_image
from unsandbox.sandbox.gvisor.programs import Programs
from unsandbox.sandbox.gvisor.resources import GvisorResources
from unsandbox.sandbox.host.blocking import run_long
from unsandbox.sandbox.host.descriptors import DescriptorStack, memory_file
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.persistent import SETUP_TIMEOUT_S, HostSandbox, Program
from unsandbox.sandbox.host.process import SandboxProcess
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.fd_numbers import CHECKPOINT_FD
from unsandbox.sandbox.layout import ARTIFACT_FOLDER
from unsandbox.sandbox.persistent_spec import HashedBytes, PersistentSandbox, PersistentSpec
from unsandbox.sandbox.spec import Artifact, SandboxFile
from unsandbox.sandbox.storage import archive
from unsandbox.sandbox.storage.archive_check import examine
from unsandbox.sandbox.validation import check_files

logger = logging.getLogger("unsandbox.sandbox")

PYTHON = "/usr/bin/python3"
"""The agent's interpreter, inside the sandbox."""
AGENT = "/opt/unsandbox/agent.py"
"""Path of the agent inside the sandbox."""
_POWERS = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_OVERRIDE"]
"""The agent's capabilities inside: start programs as the tenant, stop them, read and clear the work folder."""


class GvisorSandbox(HostSandbox):
    """One persistent sandbox; implements `PersistentSandbox` and the launcher's `JobEvents`.

    Args:
        spec: Its specification.
        resources: The resources of the backend.
        slot: Its slot.
        on_over: Called when the sandbox and its files are gone.
    """

    backend = "gvisor"
    memory_overhead = SENTRY_BYTES
    counts_processors = True

    def __init__(
        self,
        spec: PersistentSpec,
        resources: GvisorResources,
        slot: Slot,
        *,
        on_over: Callable[[Any], None],
    ) -> None:
        """Store the arguments; `open` creates the sandbox."""
        super().__init__(spec, resources.host, slot, on_over)
        self._resources = resources
        self._bundle: Path | None = None
        self._shape: Shape
        self.channel: Channel | None = None
        """Speaks to its first process, once there is one."""
        self._programs: Programs
        self._saver: work_folder.WorkSaver | None = None
        self._disk_used = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # Creation

    async def open(self) -> None:
        """Create or restore the sandbox; when this returns, programs can be started in it.

        Raises:
            SandboxError: The sandbox could not be set up.
            SandboxUnavailable: The checkpoint cannot be restored here.
        """
        spec, resources = self._spec, self._resources
        if spec.hot_image is not None:
            self._shape = await run_long(read_shape, spec.hot_image, resources.version)
            # A server without such sandboxes so far lacks their mount points in the root folder.
            resources.mounts([target for _, target in self._shape.mounts], None)
        else:
            self._shape = Shape(
                version=resources.version,
                tmpfs_bytes=spec.limits.tmpfs_bytes,
                work_bytes=spec.limits.work_bytes,
                mounts=resources.mounts(spec.system_paths, spec.environment),
            )
        said = memory_file(b"")
        try:
            await self._make(said)
            self.settle()
        finally:
            os.close(said)
        if spec.hot_image is None:
            kept = spec.work_disk if spec.work_disk is not None and spec.work_disk.exists() else None
            if (source := kept or spec.work_archive) is not None:
                await self.replace_work(source)
        if spec.files:
            await self.put_files(spec.files)
        if spec.work_disk is not None:
            self._saver = work_folder.WorkSaver(
                self._programs, spec.work_disk, self._going_on, lambda: self.frozen
            )

    async def _make(self, said: int) -> None:
        image = self._spec.hot_image
        self._bundle = bundle = make_bundle(self._host.runtime, self._uid)
        write_configuration(bundle, self._configuration(bundle))
        with DescriptorStack() as sent:
            (their_in, our_out), (our_in, their_out) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
            fds = {0: sent.add(their_in), 1: sent.add(their_out), 2: said}
            self.channel = channel = Channel(our_out, our_in, self._broken)
            self._programs = Programs(channel, self._spec, self._host.discard_fd)
            ready = channel.expect(agent.READY, 0)
            words = ["run"]
            if image is not None:
                fds[CHECKPOINT_FD] = sent.enter_context(readable_image(image))
                words = ["restore", "--image-path", f"/proc/self/fd/{CHECKPOINT_FD}"]
                self._restore_program(channel)
            request = self._resources.persistent_request(
                bundle, words, self._spec.limits, self._uid, fds, self._processors.cpus
            )
            await self._handle.start(self, request, list(fds.values()))
            # The checkpoint's descriptor is needed until it is read; the launcher owns copies of the others.
            try:
                async with asyncio.timeout(SETUP_TIMEOUT_S):
                    await self._first_word(ready)
            except TimeoutError:
                raise SandboxError(f"the sandbox was not ready within {SETUP_TIMEOUT_S:g} s") from None
            except SandboxError:
                what = self._ending.error if self._ending else ""
                what = what or os.pread(said, 2000, 0).decode("utf-8", "replace").strip()
                raise SandboxError(f"the sandbox could not be set up: {what or 'no reason given'}") from None
        running = json.loads(ready.result() or b"[]")
        if self.lasting is not None and self._programs.stream_of(self.lasting) not in running:
            # The program had ended before the checkpoint.
            self._programs.give_up(self.lasting)
            self.lasting = None
        self._ready = True

    def _restore_program(self, channel: Channel) -> None:
        """Connect the restored program to pipes of this server."""
        stream = self._shape.lasting
        if stream is not None:
            channel.use_stream(stream)
            self.lasting = self._programs.on_pipes(stream)
        channel.send(agent.RESET, 0, json.dumps([] if stream is None else [stream]).encode())

    async def _first_word(self, ready: asyncio.Future[bytes]) -> None:
        """Wait for the agent's first message. If the sandbox fails, its end of the channel closes."""
        ended = asyncio.ensure_future(self._handle.over.wait())
        try:
            await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise SandboxError("the sandbox has ended")
            ready.result()
        finally:
            ended.cancel()

    def _configuration(self, bundle: Path) -> dict[str, Any]:
        first = FirstProcess(
            command=[PYTHON, "-I", "-S", "-u", AGENT],
            open_files=max(4096, self._spec.limits.open_files),
            uid=0,
            capabilities=_POWERS,
        )
        return configuration(
            first,
            root=self._host.root,
            mounts=self._shape.mounts,
            tmpfs_bytes=self._shape.tmpfs_bytes,
            work_bytes=self._shape.work_bytes,
            work_disk=bundle / "disk",
        )

    # Events of the launcher and the channel

    def started(self, pid: int, pidfd: int) -> None:  # noqa: ARG002 - the agent says when it is ready
        """Record that the sandbox's `runsc` runs."""
        os.close(pidfd)

    def _gone(self, ending: Ending) -> None:  # noqa: ARG002 - why makes no difference here
        if self._saver is not None:
            self._saver.stop()
        if self.channel is not None:
            self.channel.close()

    def _remove_files(self) -> None:
        if self._bundle is not None:
            shutil.rmtree(self._bundle, ignore_errors=True)

    def _broken(self, why: str) -> None:
        if self._handle.over.is_set():
            return
        if self._ready and not self._closed:
            logger.info("a gVisor sandbox is being ended: %s", why)
        killing = self._loop.create_task(self._handle.kill())
        self._tasks.add(killing)
        killing.add_done_callback(self._tasks.discard)

    # Programs

    async def _start_program(self, program: Program) -> SandboxProcess:
        return await self._programs.start_tenants(program)

    async def _connect(self, port: int) -> int:
        async with self._going_on():
            return await self._programs.connect(port)

    # Files

    async def put_files(self, files: Sequence[SandboxFile]) -> None:
        """Write files as the sandbox's user; see `PersistentSandbox.put_files`.

        Raises:
            InvalidSpecError: A path is not below /work, /tmp or /dev/shm.
            SandboxError: A file could not be written.
        """
        check_files(files)
        async with self._standing_still():
            await work_folder.put_files(self._programs, files)

    async def collect(self, folder: str = ARTIFACT_FOLDER) -> tuple[list[Artifact], list[str]]:
        """Return the regular files in a folder; see `PersistentSandbox.collect`."""
        async with self._standing_still():
            return await work_folder.collect(self._programs, folder)

    def disk_used(self) -> int:
        """Return the size of the work folder at the last request, and request it again."""
        if self.channel is not None and self._ready and not self._handle.over.is_set() and not self.frozen:
            self.channel.expect(agent.DISK, 0).add_done_callback(self._note_disk)
            self.channel.send(agent.DISK, 0)
        return self._disk_used

    def _note_disk(self, said: asyncio.Future[bytes]) -> None:
        if not said.cancelled() and said.exception() is None and said.result().isdigit():
            self._disk_used = int(said.result())

    async def archive_work(self, destination: Path) -> HashedBytes:
        """Write the work folder as an archive; see `PersistentSandbox.archive_work`."""
        async with self._standing_still():
            return await work_folder.save(self._programs, destination)

    async def replace_work(self, source: Path) -> None:
        """Replace the content of the work folder; see `PersistentSandbox.replace_work`."""
        await run_long(examine, source, self._shape.work_bytes)
        async with self._standing_still():
            await work_folder.replace(self._programs, source)

    async def copy_work(self, targets: Sequence[PersistentSandbox]) -> None:
        """Copy the work folder into other sandboxes; see `PersistentSandbox.copy_work`."""
        async with self._standing_still():
            await archive.copy(
                await self._programs.start(archive.PACK, root=True),
                [target.start_unpacking for target in targets],
            )

    async def start_unpacking(self) -> SandboxProcess:
        """Start a program that reads an archive; see `PersistentSandbox.start_unpacking`."""
        self._must_live()
        return await self._programs.start(archive.UNPACK)

    async def _save(self) -> None:
        if self._saver is not None:
            await self._saver.finish(self._standing_still)

    # Freezing

    async def _stop_all(self) -> None:
        # First the processes one by one, so that they stay stopped while a frozen sandbox is archived. Then
        # gVisor, which is never completely idle.
        await self._programs.halt(True)
        await self._hold_kernel()

    async def _continue_all(self) -> None:
        await self._let_kernel_go()
        await self._programs.halt(False)

    async def _hold_tenant(self) -> None:
        if self.frozen:
            await self._let_kernel_go()
        else:
            await self._programs.halt(True)

    async def _let_tenant_go(self) -> None:
        if self.frozen:
            await self._hold_kernel()
        else:
            await self._programs.halt(False)

    async def _hold_kernel(self) -> None:
        await self._handle.call(messages.Freeze)

    async def _let_kernel_go(self) -> None:
        await self._handle.call(messages.Unfreeze)

    # Checkpoints

    async def checkpoint(self, folder: Path) -> int:
        """Write files, memory and running processes into a new folder; see `PersistentSandbox.checkpoint`."""
        image = await run_long(NewImage, folder, self._uid)
        try:
            fd = image.descriptor()
            try:
                await self._checkpoint(fd)
            finally:
                os.close(fd)
            lasting = self._programs.stream_of(self.lasting)
            return await run_long(image.complete, dataclasses.replace(self._shape, lasting=lasting))
        finally:
            await run_long(image.discard)

    async def _checkpoint(self, fd: int) -> None:
        options = ["--image-path", f"/proc/self/fd/{CHECKPOINT_FD}", "--leave-running", "--compression=none"]
        async with self._changing:
            self._must_live()
            if self.channel is None or self._bundle is None:
                raise SandboxError("the sandbox was never started")
            if self.frozen:
                await self._let_kernel_go()
            try:
                await self.channel.hold()
                try:
                    await commands.run(
                        self._resources, self._bundle, self._uid, ["checkpoint", *options], {CHECKPOINT_FD: fd}
                    )
                finally:
                    self.channel.release()
            finally:
                if self.frozen and not self._handle.over.is_set():
                    await self._hold_kernel()
