"""Sandboxes that stay, on gVisor: an agent inside starts programs, `runsc` checkpoints and restores."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
import os
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsandbox.protocol.contents import Content
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.gvisor import agent, commands
from unsandbox.sandbox.gvisor import checkpoint as gvisor_image
from unsandbox.sandbox.gvisor import files as gvisor_files
from unsandbox.sandbox.gvisor.bundle import (
    SENTRY_BYTES,
    FirstProcess,
    bounds,
    configuration,
    make_bundle,
    runsc_words,
    write_configuration,
)
from unsandbox.sandbox.gvisor.channel import Channel, encoded, text
from unsandbox.sandbox.gvisor.terminal import LocalTerminal
from unsandbox.sandbox.host import artifacts
from unsandbox.sandbox.host.descriptors import memory_file
from unsandbox.sandbox.host.launcher_client import CgroupReport, Ending, LauncherControl
from unsandbox.sandbox.host.process import SandboxProcess, communicate
from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.fd_numbers import CHECKPOINT_FD
from unsandbox.sandbox.launcher.messages import Answered, OpenPersistent
from unsandbox.sandbox.layout import ARTIFACT_FOLDER, DEFAULT_ENV, WORK
from unsandbox.sandbox.persistent_spec import CommandOutcome, HashedBytes, PersistentSpec, RunningProcess
from unsandbox.sandbox.spec import MIB, Artifact, Limits, SandboxFile
from unsandbox.sandbox.storage import archive
from unsandbox.sandbox.storage.archive_check import examine
from unsandbox.sandbox.validation import check_files, check_new_limits, check_port, check_program

logger = logging.getLogger("unsandbox.sandbox")

PYTHON = "/usr/bin/python3"
"""Runs the agent; inside."""
AGENT = "/opt/unsandbox/agent.py"
"""Where the agent lies; inside."""
_SETUP_TIMEOUT_S = 60.0
_CLOSE_TIMEOUT_S = 10.0
_SAVE_TIMEOUT_S = 120.0
SAVE_EVERY_S = 30.0
"""How long a change in a work folder that is to be kept may be lost when the server is killed, at least."""
_SAVE_SHARE = 20
"""Time between two such saves, in times of what one took."""
_CLOCK_SLACK_S = 0.1
_KILLED = 137
# Files may change while they are read; tar then says 1.
_PACK_LOOSELY = ["sh", "-c", f"{shlex.join(archive.PACK)}; [ $? -le 1 ]"]
_CLEAR = ["find", "/work", "-xdev", "-mindepth", "1", "-delete"]
_POWERS = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_OVERRIDE"]
"""Of the agent, inside: to start programs as the tenant, to stop them, to read and clear all of his folder."""
_TAR_OVERHEAD = 4096
"""Bytes of headers and padding for one file in an archive, at most."""


@dataclass(frozen=True, slots=True)
class BackendResources:
    """What a backend lends its live sandboxes.

    Attributes:
        control: The launcher.
        cgroup: What it can enforce.
        program: The `runsc`.
        version: Its release.
        runtime: Where bundles are made.
        root: The read-only root folder.
        mounts: Returns what is mounted for some system paths.
        discard_fd: Where output goes that is not kept.
        uid: The user of the host that the sandbox runs as; None for this process's own.
    """

    control: LauncherControl
    cgroup: CgroupReport
    program: Path
    version: str
    runtime: Path
    root: Path
    mounts: Callable[[Sequence[str]], list[tuple[Path, str]]]
    discard_fd: int
    uid: int | None


class GvisorSandbox:
    """One live sandbox; implements `PersistentSandbox` and the launcher's `JobEvents`."""

    backend = "gvisor"

    def __init__(
        self, spec: PersistentSpec, parts: BackendResources, *, on_over: Callable[[GvisorSandbox], None]
    ) -> None:
        """Make nothing yet; `open` does. `on_over` is called when nothing of it is left."""
        self.frozen = False
        self._spec = spec
        self._parts = parts
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._bundle: Path | None = None
        self._shape: gvisor_image.Shape
        self._channel: Channel
        self._ended = asyncio.Event()
        self._ending: Ending | None = None
        self._ready = False
        self._closed = False
        self._changing = asyncio.Lock()
        self._saving: asyncio.Task[None] | None = None
        self._disk_used = 0
        self._stream_of: dict[RunningProcess, int] = {}
        self.lasting: RunningProcess | None = None

    # Its beginning

    async def open(self) -> None:
        """Have it made, or restored; returns when programs can be started in it.

        Raises:
            SandboxError: It could not be set up.
            SandboxUnavailable: The image that it is to begin with cannot be restored here.
        """
        spec = self._spec
        if spec.hot_image is not None:
            self._shape = await asyncio.to_thread(gvisor_image.read_shape, spec.hot_image, self._parts.version)
            # In a server that has made no such sandbox yet, the root folder lacks the places for its mounts.
            self._parts.mounts([target for _, target in self._shape.mounts])
        else:
            self._shape = gvisor_image.Shape(
                version=self._parts.version,
                tmpfs_bytes=spec.limits.tmpfs_bytes,
                work_bytes=spec.limits.work_bytes,
                mounts=self._parts.mounts(spec.system_paths),
            )
        said = memory_file(b"")
        try:
            await self._make(said)
        finally:
            os.close(said)
        if spec.hot_image is None:
            kept = spec.work_disk if spec.work_disk is not None and spec.work_disk.exists() else None
            if (source := kept or spec.work_archive) is not None:
                await self.replace_work(source)
        if spec.files:
            await self.put_files(spec.files)
        if spec.work_disk is not None:
            self._saving = self._loop.create_task(self._keep_saved(spec.work_disk))

    async def _make(self, said: int) -> None:
        parts, image = self._parts, self._spec.hot_image
        self._bundle = bundle = make_bundle(parts.runtime, parts.uid)
        write_configuration(bundle, self._configuration(bundle))
        with contextlib.ExitStack() as sent:
            (their_in, our_out), (our_in, their_out) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
            for fd in (their_in, their_out):
                sent.callback(os.close, fd)
            self._channel = Channel(our_out, our_in, self._broken)
            ready = self._channel.expect(agent.READY, 0)
            fds = {0: their_in, 1: their_out, 2: said}
            words = ["run"]
            if image is not None:
                fds[CHECKPOINT_FD] = sent.enter_context(gvisor_image.readable_image(image))
                words = ["restore", "--image-path", f"/proc/self/fd/{CHECKPOINT_FD}"]
                keep = [] if self._shape.lasting is None else [self._shape.lasting]
                for stream in keep:
                    self._channel.use_stream(stream)
                    self.lasting = self._on_pipes(stream)
                self._channel.send(agent.RESET, 0, json.dumps(keep).encode())
            argv = [*runsc_words(bundle), *words, "--bundle", str(bundle), bundle.name]
            limits = self._spec.limits
            request = OpenPersistent(
                program=str(parts.program),
                argv=tuple(argv),
                fds=tuple(fds),
                bounds=bounds(limits.memory_bytes, limits.processes, limits.vcpu),
                uid=parts.uid,
                single_process=True,
            )
            self._number = await parts.control.start(self, request, list(fds.values()))
            # An image's descriptor is needed until it is read; the others belong to the launcher now.
            try:
                async with asyncio.timeout(_SETUP_TIMEOUT_S):
                    await self._first_word(ready)
            except TimeoutError:
                raise SandboxError(f"the sandbox was not ready within {_SETUP_TIMEOUT_S:g} s") from None
            except SandboxError:
                what = self._ending.error if self._ending else ""
                what = what or os.pread(said, 2000, 0).decode("utf-8", "replace").strip()
                raise SandboxError(f"the sandbox could not be set up: {what or 'no reason given'}") from None
        if self.lasting is not None and self._stream_of[self.lasting] not in json.loads(
            ready.result() or b"[]"
        ):
            # It had ended before the checkpoint.
            self._channel.abandon(self._stream_of[self.lasting])
            self.lasting.close()
            self.lasting = None
        self._ready = True

    async def _first_word(self, ready: asyncio.Future[bytes]) -> None:
        """Wait until the agent speaks. When it does not, its end of the channel closes with its sandbox."""
        ended = asyncio.ensure_future(self._ended.wait())
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
            root=self._parts.root,
            mounts=self._shape.mounts,
            tmpfs_bytes=self._shape.tmpfs_bytes,
            work_bytes=self._shape.work_bytes,
            work_disk=bundle / "disk",
        )

    # What the launcher and the channel say

    def started(self, pid: int, pidfd: int) -> None:  # noqa: ARG002 - the agent says when it is ready
        """The sandbox's `runsc` runs."""
        os.close(pidfd)

    def ended(self, ending: Ending) -> None:
        """No process of the sandbox is left."""
        if self._ending is not None:
            return
        self._ending = ending
        self._ended.set()
        # Neither is there when the disk was too full to begin.
        if (channel := getattr(self, "_channel", None)) is not None:
            channel.close()
        if self._bundle is not None:
            shutil.rmtree(self._bundle, ignore_errors=True)
        self._on_over(self)

    def _broken(self, why: str) -> None:
        if self._ready and not self._closed and not self._ended.is_set():
            logger.info("a gVisor sandbox is being ended: %s", why)
        if self._number and not self._ended.is_set():
            task = self._loop.create_task(self._kill())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _kill(self) -> None:
        with contextlib.suppress(SandboxError):
            await self._parts.control.kill(self._number)

    # Programs

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = WORK,
        terminal: tuple[int, int] | None = None,
    ) -> SandboxProcess:
        """Start a program; see `PersistentSandbox.spawn`."""
        check_program(argv, env or {}, cwd, terminal)
        term = {"TERM": "xterm-256color"} if terminal is not None else {}
        variables = DEFAULT_ENV | term | dict(self._spec.env) | dict(env or {})
        async with self._changing:
            self._must_go_on()
            return await self._start(argv, variables, cwd, terminal)

    async def _start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] = DEFAULT_ENV,
        cwd: str = "/",
        terminal: tuple[int, int] | None = None,
        root: bool = False,
    ) -> SandboxProcess:
        """Start a program as the tenant, or as root of the sandbox."""
        self._must_live()
        channel, stream = self._channel, self._channel.new_stream()
        if terminal is not None:
            local = LocalTerminal(channel, stream, terminal)
            process = self._process(stream, terminal_fd=local.master)
        else:
            process = self._on_pipes(stream)
        details = encoded(
            argv=list(argv), env=dict(env), cwd=cwd, terminal=terminal, limits=self._limits(), root=root
        )
        try:
            said = await channel.call(agent.SPAWN, stream, details, agent.STARTED)
        except BaseException:
            process.close()
            raise
        if said:
            process.close()
            channel.abandon(stream)
            raise SandboxError(f"the program cannot be started: {text(said)}")
        return process

    def _on_pipes(self, stream: int) -> SandboxProcess:
        ends = {
            "stdin_fd": self._feeds(stream),
            "stdout_fd": self._drains(stream),
            "stderr_fd": self._drains(stream + 1),
        }
        return self._process(stream, **ends)

    def _process(self, stream: int, **ends: int) -> SandboxProcess:
        exited = self._exit_of(self._channel.expect(agent.EXIT, stream))
        process = SandboxProcess(exited, functools.partial(self._send_signal, stream), **ends)
        self._stream_of[process] = stream
        exited.add_done_callback(lambda _: self._stream_of.pop(process, None))
        return process

    def _feeds(self, stream: int) -> int:
        """Return a descriptor; what is written to it goes into the sandbox."""
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write, False)
        self._channel.outlet(stream, read)
        return write

    def _drains(self, stream: int) -> int:
        """Return a descriptor from which can be read what comes out of the sandbox."""
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        self._channel.inlet(stream, write)
        return read

    def _exit_of(self, said: asyncio.Future[bytes]) -> asyncio.Future[Answered]:
        answer: asyncio.Future[Answered] = self._loop.create_future()

        def tell(done: asyncio.Future[bytes]) -> None:
            code = _KILLED if done.cancelled() or done.exception() else int(done.result())
            if not answer.done():
                answer.set_result(Answered(ask=0, exit_code=code))

        said.add_done_callback(tell)
        return answer

    def _limits(self) -> dict[str, int]:
        limits = self._spec.limits
        return {"RLIMIT_NOFILE": limits.open_files, "RLIMIT_NPROC": limits.processes}

    def _send_signal(self, stream: int, number: int, session: bool) -> None:
        self._channel.send(agent.SIGNAL, stream, encoded(number=number, session=session))

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = WORK,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        output_bytes: int = 10 * MIB,
    ) -> CommandOutcome:
        """Run a program to its end; see `PersistentSandbox.run`."""
        process = await self.spawn(argv, env=env, cwd=cwd)
        return await self._finish(process, stdin, timeout_s, output_bytes)

    async def _finish(
        self, process: SandboxProcess, stdin: bytes | Content, timeout_s: float | None, output_bytes: int
    ) -> CommandOutcome:
        return await communicate(
            process, stdin, timeout_s=timeout_s, output_bytes=output_bytes, discard_fd=self._parts.discard_fd
        )

    async def _help(
        self, argv: Sequence[str], stdin: bytes | Content = b"", output_bytes: int = MIB, *, root: bool = False
    ) -> CommandOutcome:
        """Run a program of ours, also when the tenant's are stopped."""
        return await self._finish(await self._start(argv, root=root), stdin, None, output_bytes)

    async def connect(self, port: int) -> int:
        """Return a descriptor of a connection to a port inside; see `PersistentSandbox.connect`.

        It is one end of a local socket pair whose other end is carried into the sandbox.
        """
        check_port(port)
        async with self._changing:
            self._must_go_on()
            channel, stream = self._channel, self._channel.new_stream()
            here, there = socket.socketpair()
            with here, there:
                there.setblocking(False)
                channel.outlet(stream, os.dup(there.fileno()))
                end = functools.partial(_shut, os.dup(there.fileno()))
                channel.inlet(stream, os.dup(there.fileno()), end)
                said = await channel.call(agent.CONNECT, stream, str(port).encode(), agent.STARTED)
                if said:
                    channel.abandon(stream)
                    raise ConnectionError(f"nothing answers on port {port} of the sandbox: {text(said)}")
                here.setblocking(False)
                return here.detach()

    # Files

    async def put_files(self, files: Sequence[SandboxFile]) -> None:
        """Write files as the sandbox's user; see `PersistentSandbox.put_files`.

        Raises:
            InvalidSpecError: A path is not below /work, /tmp or /dev/shm.
            SandboxError: A file could not be written.
        """
        check_files(files)
        packed = await asyncio.to_thread(archive.archive_of, files)
        async with self._standing_still():
            outcome = await self._help(gvisor_files.UNPACK, packed)
        if outcome.exit_code != 0:
            said = outcome.stderr.data.decode("utf-8", "replace").strip()
            raise SandboxError(f"the files could not be written: {said}")

    async def collect(self, folder: str = ARTIFACT_FOLDER) -> tuple[list[Artifact], list[str]]:
        """Return the regular files in a folder; see `PersistentSandbox.collect`."""
        selection = artifacts.Selection(Limits())
        async with self._standing_still():
            listing = await self._help(gvisor_files.list_words(folder), output_bytes=gvisor_files.MAX_LISTING)
            wanted = gvisor_files.select(listing.stdout.data, folder, (), selection)
            names = b"".join(os.fsencode(entry.path) + b"\0" for entry in wanted)
            most = sum(entry.size + _TAR_OVERHEAD for entry in wanted) + 3 * _TAR_OVERHEAD
            packed = await self._help(gvisor_files.PACK, names, most) if wanted else None
        if packed is not None:
            await asyncio.to_thread(gvisor_files.take_archive, packed.stdout.data, wanted, selection)
        return selection.artifacts, selection.skipped

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far; see `PersistentSandbox.cpu_s`."""
        group = self._parts.cgroup.group_of(self._number)
        return None if group is None or self._ended.is_set() else group.cpu_s()

    def disk_used(self) -> int:
        """Return the bytes that the work folder took when the sandbox was last asked, which this does again."""
        if self._ready and not self._ended.is_set() and not self.frozen:
            self._channel.expect(agent.DISK, 0).add_done_callback(self._note_disk)
            self._channel.send(agent.DISK, 0)
        return self._disk_used

    def _note_disk(self, said: asyncio.Future[bytes]) -> None:
        if not said.cancelled() and said.exception() is None and said.result().isdigit():
            self._disk_used = int(said.result())

    # Freezing and limits

    async def freeze(self) -> None:
        """Stop every process where it is; see `PersistentSandbox.freeze`."""
        async with self._changing:
            self._must_live()
            if not self.frozen:
                # First one by one: so they stay stopped while a frozen sandbox is archived. Then gVisor, that
                # is never quite idle.
                await self._halt(True)
                await self._hold_all(True)
                self.frozen = True

    async def unfreeze(self) -> None:
        """Let every process go on; see `PersistentSandbox.unfreeze`."""
        async with self._changing:
            self._must_live()
            if self.frozen:
                await self._hold_all(False)
                await self._halt(False)
                self.frozen = False

    async def _hold_all(self, hold: bool) -> None:
        wanted = (messages.Freeze if hold else messages.Unfreeze)(job=self._number)
        await (await self._parts.control.ask(wanted))

    async def _halt(self, halt: bool) -> None:
        await self._channel.call(agent.HALT, 0, b"1" if halt else b"0", agent.DONE)

    @contextlib.asynccontextmanager
    async def _standing_still(self) -> Any:
        """Hold the tenant's programs while ours work, and leave the sandbox as it was."""
        async with self._changing:
            self._must_live()
            if self.frozen:
                await self._hold_all(False)
            else:
                await self._halt(True)
            try:
                yield
            finally:
                if not self._ended.is_set():
                    await (self._hold_all(True) if self.frozen else self._halt(False))

    async def set_limits(self, *, vcpu: float | None = None, memory_bytes: int | None = None) -> None:
        """Change limits of the living sandbox; see `PersistentSandbox.set_limits`.

        Raises:
            InvalidSpecError: A limit is not positive.
            SandboxError: The kernel refuses, as when more memory is in use already.
        """
        check_new_limits(vcpu, memory_bytes)
        controllers = self._parts.cgroup.controllers
        asked = [name for name, value in (("cpu", vcpu), ("memory", memory_bytes)) if value is not None]
        if not all(name in controllers for name in asked):
            raise SandboxUnavailable(
                "limits of a living sandbox cannot be changed here: no control groups can be written; run as "
                "root, or have one delegated to this user"
            )
        self._must_live()
        memory = None if memory_bytes is None else memory_bytes + SENTRY_BYTES
        wanted = messages.ChangeLimits(job=self._number, vcpu=vcpu, memory_bytes=memory)
        await (await self._parts.control.ask(wanted))

    # State

    async def archive_work(self, destination: Path) -> HashedBytes:
        """Write the work folder as an archive; see `PersistentSandbox.archive_work`.

        Raises:
            SandboxError: It could not be read.
            OSError: The disk is full or failed.
        """
        async with self._standing_still():
            return await archive.save(await self._start_tar(archive.PACK), destination)

    async def replace_work(self, source: Path) -> None:
        """Replace the content of the work folder; see `PersistentSandbox.replace_work`.

        Raises:
            InvalidArchiveError: The archive is damaged or holds what no work folder may; nothing has changed.
            SandboxError: It could not be unpacked; the work folder is incomplete.
            OSError: It does not fit (`EDQUOT`; the work folder is incomplete), or could not be read.
        """
        await asyncio.to_thread(examine, source, self._shape.work_bytes)
        async with self._standing_still():
            await self._help(_CLEAR, root=True)
            await archive.load(await self._start_tar(archive.UNPACK), source)

    async def _start_tar(self, words: Sequence[str]) -> RunningProcess:
        # What is unpacked shall be the tenant's; what is packed may be closed to him.
        return await self._start(words, root=words is archive.PACK)

    async def checkpoint(self, folder: Path) -> int:
        """Write files, memory and running processes into a new folder; see `PersistentSandbox.checkpoint`."""
        image = await asyncio.to_thread(gvisor_image.NewImage, folder, self._parts.uid)
        try:
            fd = image.descriptor()
            try:
                await self._checkpoint(fd)
            finally:
                os.close(fd)
            lasting = None if self.lasting is None else self._stream_of.get(self.lasting)
            return await asyncio.to_thread(image.complete, dataclasses.replace(self._shape, lasting=lasting))
        finally:
            await asyncio.to_thread(image.discard)

    async def _checkpoint(self, fd: int) -> None:
        options = ["--image-path", f"/proc/self/fd/{CHECKPOINT_FD}", "--leave-running", "--compression=none"]
        async with self._changing:
            self._must_live()
            if self.frozen:
                await self._hold_all(False)
            try:
                await self._channel.hold()
                try:
                    await self._runsc(["checkpoint", *options], {CHECKPOINT_FD: fd})
                finally:
                    self._channel.release()
            finally:
                if self.frozen and not self._ended.is_set():
                    await self._hold_all(True)

    async def _runsc(self, words: Sequence[str], extra_fds: Mapping[int, int]) -> None:
        parts = self._parts
        if self._bundle is None:
            raise SandboxError("the sandbox was never started")
        await commands.run(parts.control, parts.program, self._bundle, parts.uid, words, extra_fds)

    # Its end

    async def wait_ended(self) -> None:
        """Return when the sandbox has ended by itself or was closed."""
        await self._ended.wait()

    async def close(self) -> None:
        """Save the work folder if it has a disk to be kept, kill everything; see `PersistentSandbox.close`."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)
            self._saving = None
        if not self._closed and self._ready and self._spec.work_disk is not None and not self._ended.is_set():
            await self._save(self._spec.work_disk)
        self._closed = True
        if not self._number:
            self.ended(Ending(None, error="the sandbox was never started"))
            return
        if not self._ended.is_set():
            await self._kill()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            raise SandboxError(f"the sandbox was not gone within {_CLOSE_TIMEOUT_S:g} s") from None

    async def _keep_saved(self, disk: Path) -> None:
        """Save the work folder now and then, without holding up the tenant, for when the server is killed.

        What such an archive holds may be of different moments; the one that `close` makes is of one.
        """
        pause, saved_at = SAVE_EVERY_S, time.time()
        while not self._ended.is_set():
            await asyncio.sleep(pause)
            began, started = time.time(), self._loop.time()
            try:
                if not self.frozen and await self._changed_since(saved_at):
                    async with self._changing:
                        self._must_go_on()
                        tar = await self._start(_PACK_LOOSELY, root=True)
                    await archive.save(tar, disk)
                    saved_at = began
            except (SandboxError, OSError) as error:
                if not self._ended.is_set():
                    logger.warning("the work folder of a gVisor sandbox could not be saved: %s", error)
            pause = max(SAVE_EVERY_S, _SAVE_SHARE * (self._loop.time() - started))

    async def _changed_since(self, moment: float) -> bool:
        words = ["find", "/work", "-xdev", "-newermt", f"@{moment - _CLOCK_SLACK_S:.3f}", "-print", "-quit"]
        async with self._changing:
            self._must_go_on()
            return bool((await self._help(words, root=True)).stdout.data)

    async def _save(self, disk: Path) -> None:
        try:
            async with asyncio.timeout(_SAVE_TIMEOUT_S):
                await self.archive_work(disk)
        except (SandboxError, OSError) as error:
            logger.warning("the work folder of a gVisor sandbox could not be saved: %s", error)

    def _must_live(self) -> None:
        if not self._ready or self._closed or self._ended.is_set():
            raise SandboxError("the sandbox has ended")

    def _must_go_on(self) -> None:
        self._must_live()
        if self.frozen:
            raise SandboxError("the sandbox is frozen; unfreeze it first")


def _shut(fd: int) -> None:
    """Tell the other end of a socket pair that nothing more comes, and close this copy."""
    try:
        with socket.socket(fileno=fd) as sock:
            sock.shutdown(socket.SHUT_WR)
    except OSError:
        return
