"""A warm sandbox and its job, seen from the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import weakref
from collections.abc import Callable
from dataclasses import replace

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host.job_script import MARK_START
from unsandbox.sandbox.host.job_streams import JobStreams, receive
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.running_job import ArtifactReader, SandboxJob
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.launcher.cgroups import Group, used_cpu_s
from unsandbox.sandbox.spec import Captured, OutputSink, SandboxSpec

_MAX_REPORTS = 256
_COMPILED = b"compiled\n"
"""The message that carries the descriptor of the compiled program."""


class WarmSandbox:
    """A warm sandbox: being created, ready, or in use; implements `JobEvents`."""

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
        """CPU time of the preparation, which is not charged to the job."""
        self.sent_at: float | None = None
        """Monotonic time just before the job was sent."""
        self._job: weakref.ref[WarmJob] | None = None
        self.dismissed = False
        """Whether the pool has dismissed it."""
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

    @property
    def used(self) -> bool:
        """Whether a job has got it."""
        return self._job is not None

    @property
    def job(self) -> WarmJob | None:
        """The job that has got it, as long as anybody wants that: it holds the output of its program."""
        return None if self._job is None else self._job()

    def start(self, job: WarmJob) -> None:
        """Give it to a job."""
        self._job = weakref.ref(job)

    def started(self, pid: int, pidfd: int) -> None:
        """Record that the sandbox's first process exists."""
        self.pid, self.pidfd = pid, pidfd
        self._check()

    def ended(self, ending: Ending) -> None:
        """Record that no process of the sandbox is left, or that it could not be created."""
        if (job := self.job) is not None:
            job.ended(ending)
        elif not self.used:
            self.discard()
        self._on_over(self, ending.error or self._error)

    def hand_over(self) -> None:
        """Stop watching the socket, because a job takes over the descriptors."""
        if self._watching:
            self._loop.remove_reader(self.control.fileno())
            self._watching = False

    def discard(self) -> None:
        """Close the descriptors, which ends a sandbox that waits for a job."""
        self.hand_over()
        self._said_ready = False
        self.control.close()
        for fd in (self.stdout_fd, self.stderr_fd, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.stdout_fd = self.stderr_fd = self.pidfd = -1

    def dismiss(self) -> None:
        """Discard a sandbox that the pool does not need any more."""
        self.dismissed = True
        self.discard()

    def kill(self) -> None:
        """Kill the sandbox in any state."""
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
        # The sandbox is ending, and the launcher will report it. Until then there is nothing to read.
        self._said_ready = False
        self.hand_over()

    def _check(self) -> None:
        if self.ready:
            self._on_ready(self)


class WarmJob(SandboxJob):
    """A job in a warm sandbox. It ends with the report of the first process, not with the sandbox."""

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
        """Take over a warm sandbox.

        Args:
            prepared: The sandbox.
            spec: The specification of the job.
            discard_fd: Descriptor for output that is dropped.
            sink: Receives output as it is written.
            on_over: Called when the result is known.
            on_compiled: Called once with a descriptor of the compiled program and the compiler's messages; the
                program starts when this returns.
            reader: See `SandboxJob`.

        Raises:
            SandboxError: The sandbox already had a job.
        """
        if prepared.used:
            raise SandboxError("a warm sandbox serves one job only")
        self._on_compiled = on_compiled
        self._prepared = prepared
        self._used_cpu_s: float | None = None
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
        prepared.start(self)
        self.started(pid, pidfd)

    def ended(self, ending: Ending) -> None:
        """Record that no process of the sandbox is left; see `SandboxJob.ended`."""
        used = self._used_cpu_s if ending.cpu_s is None else max(0.0, ending.cpu_s - self._prepared.cpu_s)
        super().ended(replace(ending, cpu_s=used))

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far, without those of the preparation."""
        used = None if self._prepared.group is None else self._prepared.group.cpu_s()
        return None if used is None else max(0.0, used - self._prepared.cpu_s)

    def _look_again(self) -> None:
        # The first process has closed the output, so the streams end with the last process that holds it.
        self._look_later()

    def begin(self, said: bytes = b"") -> None:
        """Start the job's clock, because the job was sent.

        Args:
            said: Output of the compile step of an earlier run of the same program.
        """
        if self._spec.compile_apart:
            self._compile_output = Captured(said, len(said))
        self._take_report(MARK_START + b" ")
        # The program may have started before this line runs.
        self._started_at = self._prepared.sent_at or self._started_at

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            self._control.send(word)

    def _receive(self, size: int) -> bytes:
        if self._on_compiled is None:
            # It closes all descriptors that are attached.
            return super()._receive(size)
        data, fds, self._sent_at = receive(self._control, size, 1)
        try:
            # Accept one descriptor, and only with this exact message: anything else may be a tenant's.
            if data == _COMPILED and fds:
                self._take_compiled(fds[0], self._on_compiled)
        finally:
            for fd in fds:
                os.close(fd)
        return data

    def _take_compiled(self, fd: int, tell: Callable[[int, Captured], None]) -> None:
        self._on_compiled = None
        # All output of the compiler is in the pipe by now.
        self._streams["stderr"].read_now()
        tell(fd, self._streams["stderr"].result())
        with contextlib.suppress(OSError):
            self._control.send(b"go")

    def _wind_up(self) -> None:
        if self._ended_at is not None and not self._lingering and not self._wound_up and self.cpu_s() is None:
            # No control group counts it, and the processes will be gone.
            self._used_cpu_s = used_cpu_s(self._prepared.pid)
        super()._wind_up()
        group = self._prepared.group
        if self._wound_up and self._exit_code is not None and self._ending is None and group is not None:
            # Only the first process is left, and it is being killed: the usage is complete.
            usage = group.usage(ended_well=self._exit_code == 0)
            if usage.cpu_s is None:
                return  # The launcher has just removed the group, and its report of the usage follows.
            self.ended(Ending(0, usage.cpu_s, usage.peak_memory_bytes, usage.oom_kills > 0))
