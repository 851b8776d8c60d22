"""The program inside a sandbox that runs the interpreter of a context, and the lines to and from it."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from unsandbox.engine.background import Background
from unsandbox.engine.errors import Conflict, InvalidRequest
from unsandbox.engine.workspace.process import EXIT_MISSING, EXIT_UNUSABLE, ProcessSettings, SessionProcess
from unsandbox.engine.workspace.process_table import ProcessTable
from unsandbox.sandbox.layout import ENVIRONMENT

logger = logging.getLogger("unsandbox.engine.workspace")

MAX_LINE = 16 << 20
"""Bytes of one line of the guest."""
MAX_VALUES = 200_000
"""Values in a line."""
_MOST_NONSENSE = 100
"""Lines that are no events; after more, the program is ended."""
EVENTS_AT_ONCE = 100
"""Lines that are parsed before others have a turn."""
_READ = 1 << 20
_LOG = 4 << 20
"""Bytes of its output that are kept; lines are read as they come."""
_SHOWN = 2000
_BOOT = (
    "import sys; file = sys.stdin.buffer; source = file.read(int(file.readline())); "
    "exec(compile(source, 'unsandbox-kernel', 'exec'))"
)
_MISSING = (
    "this session has no Python with ipykernel; on the server, type `un env build data`, then create the "
    "session with env_name='data'"
)


class KernelProgram:
    """One process of a session that speaks in lines of JSON.

    Args:
        processes: The processes of the session.
        cwd: Its working directory.
        on_line: Called with each line, which is not trusted, and its length.
        on_end: Called once when it has ended, with an error for a client that waits for its start.
    """

    def __init__(
        self,
        processes: ProcessTable,
        cwd: str,
        on_line: Callable[[Mapping[str, Any], int], None],
        on_end: Callable[[Exception], None],
    ) -> None:
        self._processes = processes
        self._nonsense = 0
        self._cwd = cwd
        self._on_line = on_line
        self._on_end = on_end
        self._process: SessionProcess | None = None
        self._background = Background()

    async def start(self, env: Mapping[str, str], *, environment: bool) -> None:
        """Start it, with the Python of the session's environment or with that of the system."""
        python = f"{ENVIRONMENT}/bin/python3" if environment else "/usr/bin/python3"
        argv = (python, "-c", _BOOT)
        settings = ProcessSettings(
            process_id=f"kernel_{secrets.token_hex(8)}",
            argv=argv,
            argv_digest=hashlib.sha256("\0".join(argv).encode()).digest(),
            cwd=self._cwd,
            terminal=None,
            timeout_s=None,
            detach=True,
            output_bytes=_LOG,
            keep_first=False,
        )
        self._process, _ = await self._processes.start(settings, env)
        source = _source()
        self._processes.feed(self._process, b"%d\n" % len(source) + source, eof=False)
        self._background.start(self._read(self._process))

    def say(self, message: Mapping[str, Any]) -> None:
        """Send a line."""
        if self._process is not None:
            self._processes.feed(self._process, json.dumps(message).encode() + b"\n", eof=False)

    async def close(self) -> None:
        """End it and everything that it started."""
        if self._process is not None:
            await self._processes.end(self._process.settings.process_id)

    async def _read(self, process: SessionProcess) -> None:
        log, position, pending = process.outputs["stdout"], 0, bytearray()
        while len(pending) <= MAX_LINE:
            at, data = log.read(position, _READ)
            if at > position:
                break  # It writes faster than lines are read.
            if not data:
                if process.ended.is_set():
                    break
                await process.changed()
                continue
            position = at + len(data)
            pending += data
            if b"\n" in data:
                *lines, rest = pending.split(b"\n")
                pending = rest
                if not await self._take_all(lines):
                    break
            await asyncio.sleep(0)
        if process.exit_code in (EXIT_MISSING, EXIT_UNUSABLE):
            problem: Exception = missing()
        else:
            said = process.outputs["stderr"].read(0, _SHOWN)[1].decode("utf-8", "replace").strip()
            problem = Conflict(f"the interpreter ended at its start: {said}", code="context_failed")
        self._on_end(problem)
        process.kill("killed")

    async def _take_all(self, lines: list[bytearray]) -> bool:
        """Handle lines, and let others have a turn; return whether most of them were events."""
        for number, line in enumerate(lines):
            if number % EVENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
            message = parse_event(line)
            if message is None:
                # The tenant writes there, or has replaced the program.
                self._nonsense += 1
                if self._nonsense > _MOST_NONSENSE:
                    return False
                continue
            try:
                self._on_line(message, len(line))
            except (ValueError, TypeError, KeyError):
                logger.debug("an event of an interpreter was dropped")
        return True


def parse_event(line: bytes | bytearray) -> dict[str, Any] | None:
    """Return the object in a line of a program in a sandbox; None if there is none, or it costs too much.

    Args:
        line: The line. A parser takes long for many small values, not for a large one such as a picture.
    """
    if sum(map(line.count, (b"[", b"{", b","))) > MAX_VALUES:
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def missing() -> InvalidRequest:
    """Return the error of a session without an interpreter."""
    return InvalidRequest(_MISSING, code="no_interpreter")


@functools.cache
def _source() -> bytes:
    return resources.files("unsandbox.sandbox.guest").joinpath("jupyter.py").read_bytes()
