"""Sandboxes that stay, on bubblewrap: made by the launcher like a job's, entered for each program."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from unsandbox.sandbox.bubblewrap.connector import Connector
from unsandbox.sandbox.bubblewrap.persistent_setup import (
    BackendResources,
    Program,
    persistent_arguments,
    persistent_request,
    program_details,
)
from unsandbox.sandbox.bubblewrap.work_folder import WorkFolder
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.host import artifacts
from unsandbox.sandbox.host.blocking import run_to_end
from unsandbox.sandbox.host.descriptors import memory_file, pipe
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.process import SandboxProcess, communicate, reports
from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.fd_numbers import ARGS_FD, IMAGE_FD, INIT_FD, READY_FD, SECCOMP_FD
from unsandbox.sandbox.launcher.messages import Answered, Ask
from unsandbox.sandbox.layout import ARTIFACT_FOLDER, WORK
from unsandbox.sandbox.native.first_process import READY
from unsandbox.sandbox.persistent_spec import CommandOutcome, HashedBytes, PersistentSpec, RunningProcess
from unsandbox.sandbox.spec import MIB, Artifact, Limits, SandboxFile
from unsandbox.sandbox.storage.archive import archive_of, must_have_room
from unsandbox.sandbox.storage.archive_check import examine
from unsandbox.sandbox.validation import check_files, check_new_limits, check_port

_SETUP_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 10.0


class BubblewrapSandbox:
    """One live sandbox; implements `PersistentSandbox` and the launcher's `JobEvents`."""

    backend = "bubblewrap"

    def __init__(
        self, spec: PersistentSpec, parts: BackendResources, *, on_over: Callable[[BubblewrapSandbox], None]
    ) -> None:
        """Make nothing yet; `open` does. `on_over` is called when nothing of it is left."""
        self.frozen = False
        self.lasting: RunningProcess | None = None
        self._spec = spec
        self._parts = parts
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._work = WorkFolder(spec, parts, self._start_helper, self._end)
        self.end_reason = ""
        """Why it ended when that was our doing."""
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._pid = self._pidfd = -1
        self._ending: Ending | None = None
        self._ended = asyncio.Event()
        self._release: asyncio.Task[None] | None = None
        self._ready = False
        self._closed = False
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connector = Connector(self._start_connector)

    # Its beginning

    async def open(self) -> None:
        """Have it made; returns when programs can be started in it.

        Raises:
            SandboxError: It could not be set up.
        """
        await self._work.open()
        said = memory_file(b"")
        try:
            await self._make(said)
        finally:
            os.close(said)
            self._work.disk.handed_over()
        self._work.entered(self._pid, self._pidfd)
        if self._spec.work_archive is not None:
            await self.replace_work(self._spec.work_archive)
        if self._spec.low_ports:
            await self._open_low_ports()
        if self._spec.files:
            await self.put_files(self._spec.files)

    async def _make(self, said: int) -> None:
        here, there = socket.socketpair()
        here.setblocking(False)
        disk = self._work.disk
        with contextlib.ExitStack() as sent, here:
            sent.enter_context(there)

            def send(fd: int) -> int:
                sent.callback(os.close, fd)
                return fd

            descriptors = {
                0: send(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)),
                1: said,
                2: said,
                READY_FD: there.fileno(),
                ARGS_FD: send(memory_file(persistent_arguments(self._spec, self._parts, disk))),
                SECCOMP_FD: send(memory_file(self._parts.filter)),
                INIT_FD: send(os.open(self._parts.init, os.O_RDONLY | os.O_CLOEXEC)),
            }
            if disk.image is not None:
                descriptors[IMAGE_FD] = disk.image
            request = persistent_request(self._spec, self._parts, disk, list(descriptors))
            self._number = await self._parts.control.start(self, request, list(descriptors.values()))
            sent.close()
            try:
                async with asyncio.timeout(_SETUP_TIMEOUT_S):
                    self._ready = await self._loop.sock_recv(here, 16) == READY
                    if self._ready:
                        await self._first
            except TimeoutError:
                raise SandboxError(f"the sandbox was not ready within {_SETUP_TIMEOUT_S:g} s") from None
        if not self._ready:
            await self._ended.wait()
            raise SandboxError(f"the sandbox could not be set up: {self._setup_error(said)}")

    def _setup_error(self, said: int) -> str:
        text = os.pread(said, 4096, 0).decode("utf-8", "replace").strip()
        ending = self._ending or Ending(None)
        return ending.error or text or f"exit status {ending.exit_code}"

    # What the launcher says

    def started(self, pid: int, pidfd: int) -> None:
        """The first process exists; `pidfd` is ours now."""
        self._pid, self._pidfd = pid, pidfd
        if not self._first.done():
            self._first.set_result(None)

    def ended(self, ending: Ending) -> None:
        """No process of the sandbox is left."""
        if self._ending is not None:
            return
        self._ending = ending
        self._connector.close()
        if not self._first.done():
            self._first.set_exception(SandboxError("the sandbox has ended"))
            self._first.exception()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._work.left()
        if ending.out_of_memory and not self.end_reason:
            self.end_reason = "it used more memory than its limit"
        self._ended.set()
        self._release = self._loop.create_task(self._wind_up())
        self._release.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _wind_up(self) -> None:
        try:
            await run_to_end(self._work.disk.release)
        finally:
            self._on_over(self)

    # Programs

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = WORK,
        terminal: tuple[int, int] | None = None,
    ) -> RunningProcess:
        """Start a program; see `PersistentSandbox.spawn`."""
        return await self._spawn(Program(argv, env or {}, cwd, terminal))

    async def _spawn(self, program: Program) -> SandboxProcess:
        program.check()
        self._must_live()
        # What is being started when all is frozen would never report.
        async with self._changing:
            self._must_live()
            if self.frozen:
                raise SandboxError("the sandbox is frozen; unfreeze it first")
            return await self._enter(messages.Spawn(job=self._number), program)

    async def _start_helper(self, argv: Sequence[str], capabilities: int = 0) -> SandboxProcess:
        """Start a program of ours, out of the tenant's sight, which also runs while all else is frozen."""
        self._must_live()
        return await self._enter(
            messages.SpawnHelper(job=self._number), Program(argv, {}, "/", helper=capabilities)
        )

    async def _enter(self, request: Ask, program: Program) -> SandboxProcess:
        details = program_details(program, self._spec, self._parts)
        with_pipes = program.terminal is None
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as kept, here:
            with contextlib.ExitStack() as sent:
                fds = [memory_file(details), there.fileno()]
                sent.callback(os.close, fds[0])
                sent.enter_context(there)
                ends: dict[str, int] = {}
                for name, ours in (("stdin", 1), ("stdout", 0), ("stderr", 0)) if with_pipes else ():
                    both = pipe(self._parts.uid)
                    kept.callback(os.close, both[ours])
                    sent.callback(os.close, both[1 - ours])
                    os.set_blocking(both[ours], False)
                    ends[f"{name}_fd"] = both[ours]
                    fds.append(both[1 - ours])
                exited = await self._parts.control.ask(request, fds)
            pid = 0
            try:
                async with asyncio.timeout(_START_TIMEOUT_S):
                    async for message, received in reports(here):
                        for fd in received:
                            kept.callback(os.close, fd)
                            ends["terminal_fd"] = fd
                        match message:
                            case messages.Failed():
                                raise SandboxError(f"the program cannot be started: {message.error}")
                            case messages.Entered():
                                pid = message.pid
            except TimeoutError:
                # Tenants can stop it before it is a program.
                self._send_signal(pid, exited, signal.SIGKILL, True)
                raise SandboxError(f"the program was not started within {_START_TIMEOUT_S:g} s") from None
            except asyncio.CancelledError:
                self._send_signal(pid, exited, signal.SIGKILL, True)
                raise
            if not pid or not (with_pipes or "terminal_fd" in ends):
                await exited
                raise SandboxError("the program ended while it was being started")
            kept.pop_all()
            return SandboxProcess(exited, functools.partial(self._send_signal, pid, exited), **ends)

    def _send_signal(self, pid: int, exited: asyncio.Future[Answered], number: int, session: bool) -> None:
        async def send() -> None:
            with contextlib.suppress(SandboxError):
                wanted = messages.Signal(job=self._number, pid=pid, signal=number, session=session)
                await (await self._parts.control.ask(wanted))

        if not self._ended.is_set() and (session or not exited.done()):
            task = self._loop.create_task(send())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

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
        """Run a program to its end; see `PersistentSandbox.run`.

        What it left running in the background goes on, but what that writes later is lost.
        """
        process = await self._spawn(Program(argv, env or {}, cwd))
        return await communicate(
            process,
            stdin,
            timeout_s=timeout_s,
            output_bytes=output_bytes,
            discard_fd=self._parts.discard_fd,
        )

    # Files

    async def put_files(self, files: Sequence[SandboxFile]) -> None:
        """Write files as the sandbox's user; see `PersistentSandbox.put_files`.

        Raises:
            InvalidSpecError: A path is not below /work, /tmp or /dev/shm.
            SandboxError: A file could not be written.
        """
        check_files(files)
        # By tar, inside: whatever a link leads to, it leads to a place in the sandbox.
        words = ["tar", "--extract", "--no-overwrite-dir", "--keep-directory-symlink", "--no-same-permissions"]
        packed = await asyncio.to_thread(archive_of, files)
        outcome = await communicate(
            await self._start_helper(words),
            packed,
            timeout_s=None,
            output_bytes=MIB,
            discard_fd=self._parts.discard_fd,
        )
        if outcome.exit_code != 0:
            said = outcome.stderr.data.decode("utf-8", "replace").strip()
            must_have_room(said, "the files could not be written")
            raise SandboxError(f"the files could not be written: {said}")

    async def collect(self, folder: str = ARTIFACT_FOLDER) -> tuple[list[Artifact], list[str]]:
        """Return the regular files in a folder; see `PersistentSandbox.collect`."""
        self._must_live()
        root = artifacts.open_root(self._pid, self._pidfd)
        try:
            collector = artifacts.Collector(root, Limits())
            await asyncio.to_thread(collector.collect, folder, ())
        finally:
            os.close(root)
        return collector.artifacts, collector.skipped

    # The work folder

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far; see `PersistentSandbox.cpu_s`."""
        group = self._parts.cgroup.group_of(self._number)
        return None if group is None or self._ended.is_set() else group.cpu_s()

    def disk_used(self) -> int:
        """Return the bytes that the work folder takes; see `PersistentSandbox.disk_used`.

        Where it is a folder without a quota of its own, as it was when it was looked at last.
        """
        return self._work.used()

    async def _end(self, reason: str) -> None:
        self.end_reason = reason
        await self._parts.control.kill(self._number)

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
            InvalidArchiveError: The archive is damaged or holds what no work folder may; nothing has changed.
            SandboxError: It could not be unpacked; the work folder is incomplete.
            OSError: It does not fit (`EDQUOT`; the work folder is incomplete), or could not be read.
        """
        await run_to_end(functools.partial(examine, archive, self._spec.limits.work_bytes))
        async with self._standing_still():
            await self._work.replace(archive)

    @contextlib.asynccontextmanager
    async def _standing_still(self) -> AsyncIterator[None]:
        """For a while no program of the tenant runs, and none is started."""
        async with self._changing:
            self._must_live()
            if not self.frozen:
                await (await self._parts.control.ask(messages.Freeze(job=self._number)))
            try:
                yield
            finally:
                if not self.frozen and not self._ended.is_set():
                    await (await self._parts.control.ask(messages.Unfreeze(job=self._number)))

    # Connections

    async def _open_low_ports(self) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here:
            with there:
                asked = await self._parts.control.ask(messages.OpenLowPorts(job=self._number), [there.fileno()])
            async for message, _ in reports(here):
                if isinstance(message, messages.Failed):
                    raise SandboxUnavailable(
                        f"ports below 1024 cannot be opened here ({message.error}); use higher ones"
                    )
            await asked

    async def connect(self, port: int) -> int:
        """Return a connected socket to a port inside; see `PersistentSandbox.connect`."""
        check_port(port)
        self._must_live()
        return await self._connector.connect(port)

    async def _start_connector(self, orders: int) -> asyncio.Future[Answered]:
        return await self._parts.control.ask(messages.Connect(job=self._number), [orders])

    async def checkpoint(self, folder: Path) -> int:
        """Refuse: memory and processes cannot be saved here.

        Raises:
            SandboxUnavailable: Always.
        """
        raise SandboxUnavailable(
            f"{folder.name}: bubblewrap sandboxes cannot be checkpointed with memory and processes; make the "
            "session or service with isolation gvisor"
        )

    # Freezing and limits

    async def freeze(self) -> None:
        """Stop every process where it is; see `PersistentSandbox.freeze`."""
        async with self._changing:
            self._must_live()
            await (await self._parts.control.ask(messages.Freeze(job=self._number)))
            self.frozen = True

    async def unfreeze(self) -> None:
        """Let every process go on; see `PersistentSandbox.unfreeze`."""
        async with self._changing:
            self._must_live()
            await (await self._parts.control.ask(messages.Unfreeze(job=self._number)))
            self.frozen = False

    async def set_limits(self, *, vcpu: float | None = None, memory_bytes: int | None = None) -> None:
        """Change limits of the living sandbox; see `PersistentSandbox.set_limits`.

        Raises:
            InvalidSpecError: A limit is not positive.
            SandboxError: The kernel refuses, as when more memory is in use already.
        """
        check_new_limits(vcpu, memory_bytes)
        controllers = self._parts.cgroup.controllers
        asked = [name for name, value in (("cpu", vcpu), ("memory", memory_bytes)) if value is not None]
        if missing := [name for name in asked if name not in controllers]:
            raise SandboxUnavailable(
                f"limits of a living sandbox cannot be changed: no control group of {' or '.join(missing)} "
                "can be written; run as root, or have one delegated to this user"
            )
        self._must_live()
        wanted = messages.ChangeLimits(job=self._number, vcpu=vcpu, memory_bytes=memory_bytes)
        await (await self._parts.control.ask(wanted))

    # Its end

    async def wait_ended(self) -> None:
        """Return when the sandbox has ended by itself or was closed."""
        await self._ended.wait()

    async def close(self) -> None:
        """Kill everything in it and release what it held; see `PersistentSandbox.close`."""
        self._closed = True
        if not self._number:
            # Never asked for.
            self.ended(Ending(None, error="the sandbox was never started"))
        if not self._ended.is_set():
            with contextlib.suppress(SandboxError):
                await self._parts.control.kill(self._number)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            raise SandboxError(f"the sandbox was not gone within {_CLOSE_TIMEOUT_S:g} s") from None
        if self._release is not None:
            await asyncio.shield(self._release)

    def _must_live(self) -> None:
        if not self._ready or self._closed or self._ended.is_set():
            raise SandboxError(f"the sandbox has ended{self.end_reason and ': '}{self.end_reason}")
