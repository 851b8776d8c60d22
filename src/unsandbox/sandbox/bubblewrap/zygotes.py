"""The zygotes of a pool, from which warm sandboxes are forked: one serves until the next one takes over."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from unsandbox.sandbox.bubblewrap.job_message import PYTHON
from unsandbox.sandbox.bubblewrap.resources import BubblewrapResources
from unsandbox.sandbox.bubblewrap.template import Template
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host.descriptors import DescriptorStack, input_file, memory_file, pipe
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.warm.sandbox import WarmSandbox
from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.launcher.fd_numbers import ARGS_FD, ZYGOTE_FILE_FD
from unsandbox.sandbox.launcher.messages import StartZygote


@dataclass(eq=False)
class Zygote:
    """One zygote; implements `JobEvents`.

    Attributes:
        on_ended: Called when the zygote and all its forks have ended.
        number: Its number at the launcher; 0 before it is requested.
        forks: Number of sandboxes that were requested from it.
        alive: The sandboxes that have not ended.
        gone: Whether it has ended.
    """

    on_ended: Callable[[Zygote, str | None], None]
    number: int = 0
    forks: int = 0
    alive: set[WarmSandbox] = field(default_factory=set)
    gone: bool = False

    def started(self, pid: int, pidfd: int) -> None:
        """Record that the zygote exists."""
        del pid
        os.close(pidfd)

    def ended(self, ending: Ending) -> None:
        """Record that the zygote and all its forks have ended."""
        self.gone = True
        self.on_ended(self, ending.error)


class Zygotes:
    """Starts zygotes, and ends the old ones.

    Args:
        resources: The resources of the backend.
        template: The template that they are started in.
        files: Their files, by path.
        bounds: The limits of their sandboxes.
        forks_each: Number of forks after which a new zygote takes over.
        on_started: Called when sandboxes can be requested.
        on_failed: Called with the reason when a zygote has ended unexpectedly.
    """

    def __init__(
        self,
        resources: BubblewrapResources,
        template: Template,
        files: Mapping[str, bytes],
        bounds: Bounds,
        forks_each: int,
        *,
        on_started: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self._resources = resources
        self._template = template
        self._files = files
        self._bounds = bounds
        self._forks_each = forks_each
        self._on_started, self._on_failed = on_started, on_failed
        self._current: Zygote | None = None
        self._next: Zygote | None = None
        self._resting = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def serving(self) -> bool:
        """Whether a zygote accepts requests."""
        return self._current is not None

    async def open(self) -> None:
        """Start the first one."""
        self._resting = False
        self._current = Zygote(self._ended)
        await self._start(self._current)

    def rest(self) -> None:
        """End the zygotes; a zygote whose sandboxes have jobs ends with the last job."""
        self._resting = True
        zygotes, self._current, self._next = (self._current, self._next), None, None
        for zygote in zygotes:
            if zygote is not None:
                self._retire(zygote)

    def pick(self) -> Zygote | None:
        """Return the zygote for the next sandbox; None if none is available now."""
        zygote = self._current
        if zygote is not None and zygote.forks >= self._forks_each and self._next is None:
            self._next = Zygote(self._ended)
            self._run(self._start(self._next))
        if self._next is not None and self._next.number and not self._next.forks:
            # A single sandbox, to find out whether the new zygote works.
            return self._next
        return zygote if zygote is not None and zygote.number else None

    def became_ready(self, sandbox: WarmSandbox) -> None:
        """Handle a ready sandbox; the first one of the next zygote lets that zygote take over."""
        if self._next is not None and sandbox in self._next.alive:
            # The old one ends with its last sandbox.
            old, self._current, self._next = self._current, self._next, None
            if old:
                self._retire(old)

    def lost(self, zygote: Zygote, sandbox: WarmSandbox) -> None:
        """Handle the end of a sandbox."""
        zygote.alive.discard(sandbox)
        if zygote is not self._current and zygote is not self._next:
            self._retire(zygote)

    def _ended(self, zygote: Zygote, why: str | None) -> None:
        """Start a zygote in place of one that has ended."""
        if self._resting or zygote not in (self._current, self._next):
            return
        if zygote is self._next:
            self._next = None
        else:
            self._current = None
        # This callback may make the pool call `rest`.
        self._on_failed(f"the zygote has ended: {why or 'killed'}")
        if self._current is None and not self._resting:
            self._run(self.open())

    async def _start(self, zygote: Zygote) -> None:
        host = self._resources.host
        try:
            with DescriptorStack() as sent:
                fds = self._descriptors(sent)
                request = StartZygote(
                    program=str(self._resources.program),
                    argv=("bwrap", "--args", str(ARGS_FD), "--", *PYTHON),
                    fds=tuple(fds),
                    bounds=self._bounds,
                    nice=self._template.nice,
                    uid=self._template.uid,
                )
                zygote.number = await host.control.start(zygote, request, list(fds.values()))
        except (OSError, SandboxError) as error:
            zygote.ended(Ending(None, error=str(error)))
            return
        if self._resting:
            self._retire(zygote)
        else:
            self._on_started()

    def _descriptors(self, sent: DescriptorStack) -> dict[int, int]:
        # The same kind of files that programs will have there; nothing is written to them.
        ends = [pipe(None) for _ in range(2)]
        for read, _ in ends:
            sent.add(read)
        numbers = {path: fd for fd, path in enumerate(self._files, ZYGOTE_FILE_FD)}
        return {
            0: sent.add(input_file(b"")),
            1: sent.add(ends[0][1]),
            2: sent.add(ends[1][1]),
            ARGS_FD: sent.add(memory_file(self._template.arguments(numbers))),
            **{numbers[path]: sent.add(memory_file(data)) for path, data in self._files.items()},
        }

    def _retire(self, zygote: Zygote) -> None:
        if not zygote.alive and not zygote.gone and zygote.number:
            self._run(self._kill(zygote.number))

    async def _kill(self, number: int) -> None:
        with contextlib.suppress(SandboxError):
            await self._resources.host.control.kill(number)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
