"""The launcher's record of one sandbox. Standard library only."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import dataclass

from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.cgroups import Group, Usage
from unsandbox.sandbox.launcher.messages import Start, StartZygote


@dataclass(slots=True)
class Job:
    """One sandbox: the monitor that the launcher forked and the sandbox's first process below it."""

    request: Start
    monitor: int
    info_fd: int
    group: Group | None
    first: int | None = None
    info: bytes = b""
    exit_status: int | None = None
    rusage: resource.struct_rusage | None = None
    killed: bool = False
    peak: int = 0
    out_of_memory: bool = False
    error: str | None = None
    first_gone: bool = False

    @property
    def number(self) -> int:
        """The number that the server gave it."""
        return self.request.job

    @property
    def zygote(self) -> bool:
        """Whether it is a zygote: the warm sandboxes forked from it are counted, not the zygote itself."""
        return isinstance(self.request, StartZygote)

    def reported_child(self) -> int | None:
        """Return the pid of the first process that the monitor reported; None after noting an error."""
        info = json.loads(self.info)
        self.error = info.get("error")
        return int(info["child-pid"]) if "child-pid" in info else None

    def over(self) -> bool:
        """Whether no process of the sandbox is left: a monitor reaps the first process before it exits."""
        if self.exit_status is None:
            return False
        alone = self.request.single_process
        return alone or self.first is None or self.first_gone or os.WIFEXITED(self.exit_status)

    def ending(self) -> messages.Ended:
        """Return the message to the server about the end of the sandbox."""
        usage = self.group.usage() if self.group else Usage()
        cpu_s, peak = usage.cpu_s, usage.peak_memory_bytes
        if cpu_s is None and self.rusage is not None:
            cpu_s = self.rusage.ru_utime + self.rusage.ru_stime
        if peak is None and self.rusage is not None:
            peak = max(self.peak, self.rusage.ru_maxrss * 1024)
        return messages.Ended(
            job=self.number,
            exit_code=os.waitstatus_to_exitcode(self.exit_status or 0),
            cpu_s=cpu_s,
            peak_memory_bytes=peak,
            out_of_memory=self.out_of_memory or usage.oom_kills > 0,
            error=self.error,
        )
