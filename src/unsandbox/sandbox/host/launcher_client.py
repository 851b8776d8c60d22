"""The server's side of the launcher: starts it, sends it requests, and passes its answers to the jobs."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from unsandbox._interpreter import interpreter
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.host.descriptors import readable, writable
from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.cgroups import Group, Hierarchy, group_name
from unsandbox.sandbox.launcher.cleanup import instance_name
from unsandbox.sandbox.launcher.messages import (
    FDS_PER_MESSAGE,
    MAX_MESSAGE,
    Answered,
    Ask,
    Message,
    PrepareWarm,
    Start,
)

_SANDBOX = Path(__file__).resolve().parent.parent
_READY_TIMEOUT_S = 20.0
_EXIT_TIMEOUT_S = 10.0

# Makes the package importable without running its __init__, which would load all of asyncio and more.
BOOTSTRAP = """
import sys, types
for name, path in (("unsandbox", {package!r}), ("unsandbox.sandbox", {sandbox!r})):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from unsandbox.sandbox.launcher.process import main
main()
"""


@dataclass(frozen=True, slots=True)
class CgroupReport:
    """The control groups that the launcher can use; version 0 means none.

    `freezer` is the way to freeze a persistent sandbox: `v2`, `v1`, or `stop` (signals).
    """

    version: int
    controllers: Sequence[str]
    freezer: str = "stop"
    parents: Mapping[str, str] = field(default_factory=dict)
    """For each controller, the folder with the groups of this backend."""
    refusal: str = ""
    """The reason for version 0, as in `delegation.Refusal`."""
    detail: str = ""
    """The group or the error message that belongs to the reason."""

    def hierarchy(self) -> Hierarchy | None:
        """Return the hierarchy for `cgroups.Group`; None without control groups."""
        parents = {name: Path(folder) for name, folder in self.parents.items()}
        return Hierarchy(self.version, parents) if parents else None

    def group_of(self, number: int) -> Group | None:
        """Return the group of a sandbox, to read its usage; None without control groups."""
        hierarchy = self.hierarchy()
        return None if hierarchy is None else Group(hierarchy, group_name(number))


@dataclass(frozen=True, slots=True)
class Ending:
    """The launcher's report of a sandbox that has ended, in seconds and bytes.

    `exit_code` is that of the sandbox program: negative for a signal, None if the sandbox could not be started.
    """

    exit_code: int | None
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    out_of_memory: bool = False
    error: str | None = None


class JobEvents(Protocol):
    """Callbacks of a job, called on the event loop."""

    def started(self, pid: int, pidfd: int) -> None:
        """The sandbox's first process exists; `pidfd` now belongs to the job."""

    def ended(self, ending: Ending) -> None:
        """No process of the sandbox is left."""


class LauncherControl:
    """The connection to one launcher process, used on the event loop that started it."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs: dict[int, JobEvents] = {}
        self._asks: dict[int, asyncio.Future[Answered]] = {}
        self._ready: asyncio.Future[CgroupReport] | None = None
        self.lost = False
        """Whether the launcher has died unexpectedly, so that a new one is needed."""
        self._dead: tuple[str, ...] = ()
        self._name = ""
        self._sending = asyncio.Lock()
        self._last = self._last_ask = 0

    async def open(self, runtime: Path, token: str) -> CgroupReport:
        """Start the launcher and return which control groups it can use.

        Raises:
            SandboxUnavailable: It did not start.
        """
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        code = BOOTSTRAP.format(package=str(_SANDBOX.parent), sandbox=str(_SANDBOX))
        self._name = instance_name(os.getpid(), token)
        command = [interpreter(), "-I", "-S", "-c", code, str(os.getpid()), str(runtime), token, *self._dead]
        with theirs:
            # A thread may start it, because the launcher watches the server's process and not the thread.
            self._process = await asyncio.to_thread(_spawn, command, theirs.fileno())
        self._socket = ours
        loop.add_reader(ours.fileno(), self._receive)
        try:
            return await asyncio.wait_for(asyncio.shield(self._ready), _READY_TIMEOUT_S)
        except (TimeoutError, SandboxError) as error:
            await self.close()
            raise SandboxUnavailable(
                f"the launcher process did not start: {str(error) or 'no answer'}"
            ) from error

    def successor(self) -> LauncherControl:
        """Return an unopened replacement for this object, whose launcher has died.

        The new launcher first kills and removes everything that the dead one left.
        """
        control = LauncherControl()
        control._dead = (*self._dead, self._name) if self._name else self._dead
        return control

    async def start(self, job: JobEvents, request: Start | PrepareWarm, fds: Sequence[int]) -> int:
        """Request one sandbox and return its number. The caller still owns the descriptors.

        Args:
            job: Receives the events of the sandbox.
            request: The request; its number is filled in here.
            fds: The descriptors to send with it.

        Raises:
            SandboxError: The launcher is gone, or the request is too long for it.
        """
        self._last += 1
        number = self._last
        self._jobs[number] = job
        try:
            async with self._sending:
                batches = [fds[i : i + FDS_PER_MESSAGE] for i in range(0, len(fds), FDS_PER_MESSAGE)] or [()]
                for batch in batches[:-1]:
                    await self._send(messages.MoreDescriptors(number), batch)
                await self._send(replace(request, job=number), batches[-1])
        except BaseException:
            self._jobs.pop(number, None)
            raise
        return number

    async def ask(self, request: Ask, fds: Sequence[int] = ()) -> asyncio.Future[Answered]:
        """Send a request about a persistent sandbox; return the future of its answer.

        Args:
            request: The request; its number is filled in here.
            fds: The descriptors to send with it.

        The future fails with `SandboxError` if the launcher cannot carry out the request or dies.

        Raises:
            SandboxError: The launcher is gone.
        """
        self._last_ask += 1
        number = self._last_ask
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        # The caller may have stopped waiting: retrieve the exception, so that asyncio does not log it.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._asks[number] = future
        try:
            async with self._sending:
                await self._send(replace(request, ask=number), fds)
        except BaseException:
            del self._asks[number]
            raise
        return future

    async def watch(self, job: int) -> None:
        """Let the launcher check the memory use of a warm sandbox where no control group limits it.

        Raises:
            SandboxError: The launcher is gone.
        """
        async with self._sending:
            await self._send(messages.Watch(job))

    async def kill(self, job: int) -> None:
        """Let the launcher kill a sandbox, frozen or not; `JobEvents.ended` follows.

        Raises:
            SandboxError: The launcher is gone.
        """
        async with self._sending:
            await self._send(messages.Kill(job))

    async def close(self) -> None:
        """Stop the launcher, which kills its sandboxes and cleans up; return when it has ended."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._lost("the backend was closed")
        if self._process is not None:
            process, self._process = self._process, None
            await _await_exit(process)

    async def _send(self, message: Message, fds: Sequence[int] = ()) -> None:
        try:
            packet = messages.encode(message)
        except messages.MessageError as error:
            raise SandboxError(f"cannot send to the launcher process: {error}") from error
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while True:
            if self._socket is None:
                raise SandboxError("the launcher process is gone")
            try:
                self._socket.sendmsg([packet], ancillary)
            except BlockingIOError:
                await writable(self._socket.fileno())
            except OSError as error:
                raise SandboxError(f"cannot reach the launcher process: {error}") from error
            else:
                return

    def _receive(self) -> None:
        # A bounded number of messages, so that a burst of them does not block the event loop.
        for _ in range(32):
            if self._socket is None:
                return
            fds: list[int] = []
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE, 4, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._give_up_launcher("the launcher process has died")
                return
            try:
                self._dispatch(messages.decode(data), fds)
            except messages.MessageError as error:
                self._give_up_launcher(f"the launcher process sent what is no message ({error})")
                return
            finally:
                for fd in fds:
                    os.close(fd)

    def _give_up_launcher(self, why: str) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self.lost = True
        self._lost(why)

    def _dispatch(self, message: Message, fds: list[int]) -> None:
        """Pass a message to its job; descriptors that the job takes over are removed from `fds`."""
        match message:
            case messages.Ready():
                if self._ready is not None and not self._ready.done():
                    self._ready.set_result(
                        CgroupReport(
                            message.cgroup_version,
                            sorted(message.cgroup_parents),
                            message.freezer,
                            message.cgroup_parents,
                            message.cgroup_refusal,
                            message.cgroup_detail,
                        )
                    )
            case messages.First() if not fds and message.job in self._jobs:
                # The kernel drops a descriptor for which this process has no room.
                self._give_up(message.job, "too many open files in this process")
            case messages.First() if (job := self._jobs.get(message.job)) is not None:
                job.started(message.pid, fds.pop(0))
            case messages.Answered():
                self._answered(message)
            case messages.Ended() if (job := self._jobs.pop(message.job, None)) is not None:
                job.ended(
                    Ending(
                        message.exit_code,
                        message.cpu_s,
                        message.peak_memory_bytes,
                        message.out_of_memory,
                        message.error,
                    )
                )

    def _answered(self, answer: Answered) -> None:
        future = self._asks.pop(answer.ask, None)
        if future is None or future.done():
            return
        if answer.error is not None:
            future.set_exception(SandboxError(answer.error))
        else:
            future.set_result(answer)

    def _give_up(self, number: int, why: str) -> None:
        """Let the launcher kill a sandbox whose descriptor was lost, and end its job."""
        job = self._jobs.pop(number)
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(messages.encode(messages.Kill(number)))
        job.ended(Ending(None, error=why))

    def _lost(self, why: str) -> None:
        """End every waiting job and request with an error: their sandboxes die with the launcher."""
        if self._ready and not self._ready.done():
            self._ready.set_exception(SandboxError(why))
            self._ready.exception()
        asks, self._asks = self._asks, {}
        for future in asks.values():
            if not future.done():
                future.set_exception(SandboxError(why))
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.ended(Ending(None, error=why))


def _spawn(command: Sequence[str], fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=fd, stdout=subprocess.DEVNULL, env={}, cwd="/", close_fds=True, start_new_session=True
    )


async def _await_exit(process: subprocess.Popen[bytes]) -> None:
    """Wait for the launcher's end without a thread, because none can be started while the interpreter exits."""
    pidfd = os.pidfd_open(process.pid)
    try:
        async with asyncio.timeout(_EXIT_TIMEOUT_S):
            await readable(pidfd)
    except TimeoutError:
        process.kill()
    finally:
        os.close(pidfd)
        process.wait(_EXIT_TIMEOUT_S)
