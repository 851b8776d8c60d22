"""Warm sandboxes, seen from the server: one that is ready for a job, and its one job."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host.job_script import MARK_START
from unsandbox.sandbox.host.job_streams import JobStreams
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.running_job import ArtifactReader, SandboxJob
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.launcher.cgroups import Group
from unsandbox.sandbox.spec import Captured, OutputSink, SandboxSpec

_MAX_REPORTS = 256
_COMPILED = b"compiled\n"
"""The message with the descriptor of what was compiled."""


class WarmSandbox:
    """A sandbox on its way to be ready, ready, or in use; implements `JobEvents`."""

    def __init__(
        self,
        streams: JobStreams,
        slot: Slot,
        *,
        on_ready: Callable[[WarmSandbox], None],
        on_over: Callable[[WarmSandbox, str | None], None],
    ) -> None:
        self.control = control = streams.control
        self.stdout_fd, self.stderr_fd = streams.stdout_fd, streams.stderr_fd
        self.slot = slot
        self.number = 0
        self.pid = self.pidfd = -1
        self.group: Group | None = None
        self.cpu_s = 0.0
        """What the preparation has used of the processors; no job pays for it."""
        self.sent_at: float | None = None
        """Monotonic time just before the job was sent."""
        self.job: WarmJob | None = None
        self.dismissed = False
        """Whether nobody needs it any more."""
        self._said_ready = False
        self._watching = True
        self._error: str | None = None
        self._on_ready, self._on_over = on_ready, on_over
        self._loop = asyncio.get_running_loop()
        control.setblocking(False)
        self._loop.add_reader(control.fileno(), self._read)

    @property
    def ready(self) -> bool:
        """Whether a job can be sent."""
        return self._said_ready and self.pidfd >= 0

    def started(self, pid: int, pidfd: int) -> None:
        """The sandbox's first process exists."""
        self.pid, self.pidfd = pid, pidfd
        self._check()

    def ended(self, ending: Ending) -> None:
        """No process of the sandbox is left, or it could not be made."""
        if self.job is not None:
            self.job.ended(ending)
        else:
            self.discard()
        self._on_over(self, ending.error or self._error)

    def hand_over(self) -> None:
        """Stop looking at the socket: a job takes the descriptors."""
        if self._watching:
            self._loop.remove_reader(self.control.fileno())
            self._watching = False

    def discard(self) -> None:
        """Close the descriptors: a sandbox that waits for a job ends by that."""
        self.hand_over()
        self._said_ready = False
        self.control.close()
        for fd in (self.stdout_fd, self.stderr_fd, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.stdout_fd = self.stderr_fd = self.pidfd = -1

    def dismiss(self) -> None:
        """Let go of it: it is not needed any more."""
        self.dismissed = True
        self.discard()

    def kill(self) -> None:
        """Kill everything in it, whatever it does."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.discard()

    def _read(self) -> None:
        try:
            data = self.control.recv(_MAX_REPORTS)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data == b"ready\n":
            self._said_ready = True
            if self.group is not None:
                self.cpu_s = self.group.cpu_s() or 0.0
            self._check()
            return
        if data:
            self._error = data.decode("utf-8", "replace").strip()
        # It ends, and the launcher will say so. Until then nothing more is to be read.
        self._said_ready = False
        self.hand_over()

    def _check(self) -> None:
        if self.ready:
            self._on_ready(self)


class WarmJob(SandboxJob):
    """A job in a sandbox that was waiting: it ends when the first process says so, not when it is torn down."""

    def __init__(
        self,
        prepared: WarmSandbox,
        spec: SandboxSpec,
        *,
        discard_fd: int,
        sink: OutputSink | None,
        on_over: Callable[[SandboxJob], None],
        on_compiled: Callable[[int, Captured], None] | None = None,
        reader: ArtifactReader | None = None,
    ) -> None:
        """Take a sandbox that waits.

        Args:
            prepared: The sandbox.
            spec: What it will be sent.
            discard_fd: Where output goes that is not kept.
            sink: Sees output as it comes.
            on_over: Called when the result is known.
            on_compiled: Called once with a descriptor of what the compile step made, and what it said; the
                program does not run before this returns.
            reader: As of `SandboxJob`.

        Raises:
            SandboxError: It has had a job already.
        """
        if prepared.job is not None:
            raise SandboxError("a warm sandbox serves one job only")
        self._on_compiled = on_compiled
        self._prepared = prepared
        prepared.hand_over()
        super().__init__(
            spec,
            JobStreams(prepared.control, prepared.stdout_fd, prepared.stderr_fd),
            discard_fd=discard_fd,
            sink=sink,
            on_over=on_over,
            reader=reader,
        )
        pid, pidfd = prepared.pid, prepared.pidfd
        prepared.stdout_fd = prepared.stderr_fd = prepared.pidfd = -1
        prepared.job = self
        self.started(pid, pidfd)

    def ended(self, ending: Ending) -> None:
        """No process of the sandbox is left; see `SandboxJob.ended`."""
        if ending.cpu_s is not None:
            ending = Ending(
                ending.exit_code,
                max(0.0, ending.cpu_s - self._prepared.cpu_s),
                ending.peak_memory_bytes,
                ending.out_of_memory,
                ending.error,
            )
        super().ended(ending)

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far, without those of the preparation."""
        used = None if self._prepared.group is None else self._prepared.group.cpu_s()
        return None if used is None else max(0.0, used - self._prepared.cpu_s)

    def _look_again(self) -> None:
        # Its first process has let go of the output: what ends the streams is the last one that holds it.
        self._look_later()

    def begin(self) -> None:
        """The job was sent: its time runs."""
        self._take_report(MARK_START + b" ")
        # This process may have slept since it sent the job, and the program not.
        self._started_at = self._prepared.sent_at or self._started_at

    def _receive(self, size: int) -> bytes:
        if self._on_compiled is None:
            # What else is attached is closed by the kernel.
            return super()._receive(size)
        data, fds, _, _ = socket.recv_fds(self._control, size, 1, socket.MSG_CMSG_CLOEXEC)
        try:
            # One descriptor is taken, and only with the very message: whatever else comes may be a tenant's.
            if data == _COMPILED and fds:
                self._take_compiled(fds[0], self._on_compiled)
        finally:
            for fd in fds:
                os.close(fd)
        return data

    def _take_compiled(self, fd: int, tell: Callable[[int, Captured], None]) -> None:
        self._on_compiled = None
        # Whatever the compiler wrote lies in the pipe by now.
        self._streams["stderr"].read_now()
        tell(fd, self._streams["stderr"].result())
        with contextlib.suppress(OSError):
            self._control.send(b"go")

    def _wind_up(self) -> None:
        super()._wind_up()
        group = self._prepared.group
        if self._wound_up and self._exit_code is not None and self._ending is None and group is not None:
            # All its processes but the first are gone, and that one is being killed: the count is complete.
            usage = group.usage(ended_well=self._exit_code == 0)
            if usage.cpu_s is None:
                return  # The launcher has just removed the group, and is about to say what it counted.
            self.ended(Ending(0, usage.cpu_s, usage.peak_memory_bytes, usage.oom_kills > 0))
