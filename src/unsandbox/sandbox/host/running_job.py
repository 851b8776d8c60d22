"""One running sandbox, seen from the server: its streams, its clock, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host.artifacts import Collector, open_root
from unsandbox.sandbox.host.blocking import run_long
from unsandbox.sandbox.host.job_script import (
    LOOK_AGAIN,
    MARK_COMPILE_FAILED,
    MARK_COMPILED,
    MARK_END,
    MARK_RAN,
    MARK_START,
)
from unsandbox.sandbox.host.job_streams import JobStreams, receive
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.stream_capture import StreamCapture
from unsandbox.sandbox.launcher.cgroups import Group
from unsandbox.sandbox.layout import ARTIFACT_FOLDER
from unsandbox.sandbox.spec import (
    EXIT_KILLED,
    Artifact,
    Captured,
    EndReason,
    Outcome,
    OutputSink,
    SandboxSpec,
)

Collected = tuple[Sequence[Artifact], Sequence[str]]
"""Artifacts, and the names left out with the reasons."""
ArtifactReader = Callable[["SandboxJob"], Collected]

SETUP_TIMEOUT_S = 60.0
QUIET_S = 1.0
"""How long processes that outlive the program may hold its output without writing."""
LINGER_S = 5.0
"""How long they may hold it in total."""
_LOOK_S = 0.05
_STOP_TIMEOUT_S = 5.0
_MAX_REPORT = 4096
"""Maximum bytes of reports. The script writes far less; a tenant who reaches the socket may write more."""
_LAST_REPORTS = 4
_OUT_OF_CPU_TIME = 128 + signal.SIGXCPU
_CPU_LOOK_S = 0.01


class SandboxJob:
    """A job from its request to its outcome; implements `RunningJob` and the launcher's `JobEvents`."""

    def __init__(
        self,
        spec: SandboxSpec,
        streams: JobStreams,
        *,
        discard_fd: int,
        sink: OutputSink | None,
        on_over: Callable[[SandboxJob], None],
        reader: ArtifactReader | None = None,
    ) -> None:
        """Watch a sandbox that is about to be requested.

        Args:
            spec: The specification of the job.
            streams: The connections to the sandbox; the job owns them from now on.
            discard_fd: Descriptor for output that is dropped.
            sink: Receives output as it is written.
            on_over: Called when the job is over and its sandbox is gone.
            reader: Reads the artifacts while the job script waits, in a worker thread; by default through the
                first process's root in `/proc`.
        """
        # The sandbox has its files by now: do not hold them on disk or in memory while it runs.
        self._spec = spec = replace(spec, files=())
        self._reader = reader or (lambda job: read_through_proc(job, spec))
        self._loop = asyncio.get_running_loop()
        self._outcome: Outcome | SandboxError
        """Set when the job is over."""
        self._over = asyncio.Event()
        self._on_over = on_over
        self._reason: EndReason | None = None
        self._pid = self._pidfd = -1
        self.group: Group | None = None
        """The control group with its usage, once the sandbox was requested."""
        self._reports = b""
        self._reported = 0
        self._sent_at = 0.0
        """The time at which the last report was sent."""
        self._started_at: float | None = None
        self._ended_at: float | None = None
        self._exit_code: int | None = None
        self._lingering = self._output_cut = False
        self._heard = 0
        self._quiet_since = 0.0
        self._compile_failed = False
        self._compiling = spec.compile is not None
        self._compile_output: Captured | None = None
        self._cpu_before = 0.0
        """CPU time that is not the program's: of the set-up and the compile step."""
        self._cpu_timer: asyncio.TimerHandle | None = None
        self._wound_up = False
        self._ending: Ending | None = None
        self._collecting: asyncio.Task[None] | None = None
        self._artifacts: Sequence[Artifact] = ()
        self._skipped: Sequence[str] = ()
        self._control = control = streams.control
        control.setblocking(False)
        self._loop.add_reader(control.fileno(), self._report_readable)
        self._timer = self._loop.call_later(SETUP_TIMEOUT_S, self._kill)
        self._streams = {
            name: StreamCapture(
                name,
                fd,
                keep_bytes=spec.limits.output_bytes,
                flood_bytes=spec.limits.flood_bytes,
                discard_fd=discard_fd,
                sink=sink,
                on_flood=lambda: self._end_early(EndReason.OUTPUT_FLOOD),
                on_end=self._stream_ended,
            )
            for name, fd in (("stdout", streams.stdout_fd), ("stderr", streams.stderr_fd))
        }
        self._streams["stderr"].muted = spec.compile_apart and self._compiling

    async def wait(self) -> Outcome:
        """Return the outcome; see `RunningJob`.

        Raises:
            SandboxError: The sandbox could not be set up, or was lost.
        """
        await self._over.wait()
        if isinstance(self._outcome, SandboxError):
            raise self._outcome
        return self._outcome

    def cancel(self) -> None:
        """Kill the whole process tree now; the result of a program that has ended does not change."""
        # If the job waits for output of remaining processes, the next check ends the wait.
        self._quiet_since = float("-inf")
        self._end_early(EndReason.CANCELLED)

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far; see `RunningJob.cpu_s`."""
        return None if self.group is None else self.group.cpu_s()

    def abandon(self) -> None:
        """Give up a job whose sandbox was never requested."""
        self.ended(Ending(None, error="the sandbox was never started"))

    def _end_early(self, reason: EndReason) -> None:
        if self._reason is None and self._ended_at is None and not self._over.is_set():
            self._reason = reason
            self._ended_at = time.monotonic()
            self._wind_up()

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        else:
            # The set-up takes too long, and there is nothing to kill yet.
            self.ended(Ending(None, error=f"the sandbox was not ready within {SETUP_TIMEOUT_S:g} s"))

    # What the launcher says

    def started(self, pid: int, pidfd: int) -> None:
        """Record that the sandbox's first process exists, and take over `pidfd`."""
        if self._over.is_set():
            # The job was given up already.
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            return
        self._pid, self._pidfd = pid, pidfd
        # Under load this may come after the script's reports.
        self._wind_up()

    def ended(self, ending: Ending) -> None:
        """Record that no process of the sandbox is left, so that both streams will end."""
        if self._ending is None:
            self._ending = ending
            if ending.exit_code is None:
                # The sandbox was lost or never existed: the pipes may never reach their ends.
                for stream in self._streams.values():
                    stream.close()
            # A short program's last reports may still lie in the socket.
            for _ in range(_LAST_REPORTS):
                self._read_reports()
            self._maybe_finish()

    # What the job script says

    def _report_readable(self) -> None:
        if not self._read_reports():
            self._loop.remove_reader(self._control.fileno())

    def _read_reports(self) -> bool:
        """Read the script's reports, which are not trusted; return False when no more can come."""
        if self._control.fileno() < 0:
            return False
        try:
            data = self._receive(_MAX_REPORT)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        self._reported += len(data)
        self._reports += data
        *lines, self._reports = self._reports.split(b"\n")
        for line in lines:
            self._take_report(line)
        return bool(data) and self._reported < _MAX_REPORT

    def _receive(self, size: int) -> bytes:
        data, _, self._sent_at = receive(self._control, size)
        return data

    def _take_report(self, line: bytes) -> None:
        mark, _, number = line.partition(b" ")
        code = int(number) if number.isdigit() and len(number) <= 3 else None
        if mark == MARK_START and self._started_at is None:
            self._started_at = self._sent_at or time.monotonic()
            limits = self._spec.limits
            apart = self._compiling and limits.compile_s is not None
            self._limit_time(limits.compile_s if apart and limits.compile_s else limits.wall_s)
            if not self._compiling:
                self._limit_cpu_time()
        elif mark == MARK_COMPILED and self._ended_at is None and self._compiling:
            self._compiling = False
            self._compiled()
        elif mark == MARK_RAN and code is not None and (self._ended_at is None or self._lingering):
            if self._ended_at is None:
                self._program_ended(code)
                self._lingering, self._quiet_since = True, time.monotonic()
            self._look_later()
        elif mark in (MARK_COMPILE_FAILED, MARK_END) and code is not None:
            if self._ended_at is None:
                self._program_ended(code)
                self._compile_failed = mark == MARK_COMPILE_FAILED
            self._lingering = False
            self._timer.cancel()
            self._wind_up()

    def _limit_time(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, lambda: self._end_early(EndReason.TIMEOUT))

    def _compiled(self) -> None:
        """The compile step is over; where its output is wanted apart, the program waits for this."""
        if self._spec.limits.compile_s is not None:
            self._limit_time(self._spec.limits.wall_s)
        self._limit_cpu_time()
        if self._spec.compile_apart:
            self._streams["stderr"].read_now()
            self._compile_output = self._streams["stderr"].take()
            self._say(b"go\n")

    def _limit_cpu_time(self) -> None:
        """Begin to look at the CPU time that the program uses, if that is limited and counted."""
        if self._spec.limits.cpu_s is not None:
            self._cpu_before = self.cpu_s() or 0.0
            self._look_at_cpu_time()

    def _look_at_cpu_time(self) -> None:
        limits, used = self._spec.limits, self.cpu_s()
        if limits.cpu_s is None or used is None or self._ended_at is not None:
            return
        left = limits.cpu_s - (used - self._cpu_before)
        if left <= 0:
            self._end_early(EndReason.CPU_TIME)
        else:
            # It cannot be used up sooner.
            wait = max(_CPU_LOOK_S, left / limits.vcpu)
            self._cpu_timer = self._loop.call_later(wait, self._look_at_cpu_time)

    def _program_ended(self, code: int) -> None:
        self._ended_at = max(self._sent_at or time.monotonic(), self._started_at or 0.0)
        self._exit_code = code

    # What the program left running

    def _look_after_output(self) -> None:
        """Let processes that outlive the program finish their output, within the limits."""
        now = time.monotonic()
        heard = sum(stream.total_bytes for stream in self._streams.values())
        if heard != self._heard:
            self._heard, self._quiet_since = heard, now
        over = all(stream.ended for stream in self._streams.values())
        late = now - self._quiet_since >= QUIET_S or now - (self._ended_at or now) >= LINGER_S
        if over or late:
            self._stop_lingering()
        else:
            self._look_again()

    def _look_later(self) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(_LOOK_S, self._look_after_output)

    def _look_again(self) -> None:
        # Only the script can tell whether tenant processes hold the output: the sandbox program holds it too.
        self._say(LOOK_AGAIN)

    def _stop_lingering(self) -> None:
        self._lingering = False
        self._output_cut = not all(stream.ended for stream in self._streams.values())
        self._timer.cancel()
        self._timer = self._loop.call_later(_STOP_TIMEOUT_S, self._kill)
        self._say(b"stop\n")

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            # The shell reads single bytes, and the rest of a packet would be lost.
            for byte in word:
                self._control.send(bytes([byte]))

    def _stream_ended(self) -> None:
        if self._lingering and all(stream.ended for stream in self._streams.values()):
            self._stop_lingering()
        self._maybe_finish()

    def _wind_up(self) -> None:
        """After the report of the end: read the artifacts, then kill the sandbox.

        A program that took over the script may forge the report; without the kill it would run on forever.
        """
        if self._ended_at is None or self._lingering or self._pidfd < 0 or self._wound_up:
            return
        self._wound_up = True
        wanted = self._spec.collect_artifacts or self._spec.artifact_paths
        if wanted and self._exit_code is not None and not self._compile_failed:
            self._collecting = self._loop.create_task(self._collect())
        else:
            self._kill()

    # Artifacts

    async def _collect(self) -> None:
        try:
            self._artifacts, self._skipped = await run_long(self._reader, self)
        finally:
            self._collecting = None
            self._kill()
            self._maybe_finish()

    @property
    def process(self) -> tuple[int, int]:
        """Pid and pidfd of the first process; -1 before it exists."""
        return self._pid, self._pidfd

    # The end

    def _maybe_finish(self) -> None:
        streams = self._streams.values()
        if (
            self._ending is None
            or self._collecting is not None
            or not all(stream.ended for stream in streams)
            or self._over.is_set()
        ):
            return
        self._timer.cancel()
        if self._cpu_timer is not None:
            self._cpu_timer.cancel()
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if error := self._setup_error(self._ending):
            self._outcome = SandboxError(error)
        else:
            self._outcome = self._result(self._ending)
        # Output is large: it must not wait for the garbage collector, which looks for cycles now and then.
        self._streams = {}
        self._over.set()
        self._on_over(self)

    def _setup_error(self, ending: Ending) -> str | None:
        if self._reason is not None or (ending.out_of_memory and not ending.error):
            return None
        if ending.error:
            return ending.error
        if self._started_at is None:
            said = self._streams["stderr"].result().data.decode("utf-8", "replace").strip()
            return f"the sandbox could not be set up: {said or f'exit status {ending.exit_code}'}"
        return None

    def _result(self, ending: Ending) -> Outcome:
        reason, code = self._reason or EndReason.EXITED, self._exit_code
        if self._reason is not None:
            code = None
        elif code is None:
            # The script was killed before it could report: by the kernel, or by the tenant.
            code = EXIT_KILLED
        if reason is EndReason.EXITED and ending.out_of_memory and code != 0:
            reason = EndReason.MEMORY
        if reason is EndReason.EXITED and self._spec.limits.cpu_s is not None and code == _OUT_OF_CPU_TIME:
            reason, code = EndReason.CPU_TIME, None
        started = self._started_at
        ended = self._ended_at or time.monotonic()
        # A job cancelled during its set-up may still have reported a start.
        wall_s = max(0.0, ended - started) if started is not None else 0.0
        stderr = self._streams["stderr"].result()
        compile_output = self._compile_output
        if self._spec.compile_apart and self._compiling:
            compile_output, stderr = stderr, Captured()
        return Outcome(
            reason=reason,
            exit_code=code,
            stdout=self._streams["stdout"].result(),
            stderr=stderr,
            compile_output=compile_output,
            wall_s=wall_s,
            cpu_s=ending.cpu_s,
            peak_memory_bytes=ending.peak_memory_bytes,
            compile_failed=self._compile_failed,
            compiling=self._compiling,
            artifacts=tuple(self._artifacts),
            artifacts_skipped=tuple(self._skipped),
            output_cut=self._output_cut,
        )


def read_through_proc(job: SandboxJob, spec: SandboxSpec) -> Collected:
    """Read the artifacts below the root of the first process while it waits; runs in a worker thread."""
    pid, pidfd = job.process
    try:
        root = open_root(pid, pidfd)
    except OSError as error:
        return [], [f"all: {error.strerror}"]
    try:
        collector = Collector(root, spec.limits)
        collector.collect(ARTIFACT_FOLDER if spec.collect_artifacts else None, spec.artifact_paths)
        return collector.artifacts, collector.skipped
    finally:
        os.close(root)
