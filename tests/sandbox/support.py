"""Looks at the machine from outside: what sandboxes have left on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unsandbox.sandbox import BubblewrapBackend, SandboxSpec
from unsandbox.sandbox.host.running_job import SandboxJob


async def eventually(condition: Callable[[], object], within_s: float = 3.0) -> None:
    """Wait until `condition` holds; fail after `within_s` seconds."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "condition did not come true"
        await asyncio.sleep(0.005)


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Numbers of the children of a process, theirs, and so on."""
    found = children_of(pid)
    for child in found:
        found += children_of(child)
    return found


def launchers(pid: int | None = None) -> list[int]:
    """Numbers of the launcher processes that this process (or `pid`) has started."""
    found = []
    for child in children_of(pid or os.getpid()):
        with contextlib.suppress(OSError):
            if b"unsandbox.sandbox.launcher.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def launcher_of(backend: BubblewrapBackend) -> int:
    """Number of the launcher process of an open backend."""
    folder = str(backend.host.runtime).encode()
    (found,) = [pid for pid in launchers() if folder in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found


async def started(backend: BubblewrapBackend, *command: str, **fields: Any) -> SandboxJob:
    """Start a job; return when its program runs."""
    runs = asyncio.Event()
    job = await backend.start(
        SandboxSpec(run=["sh", "-c", 'echo; exec "$@"', "sh", *command], **fields), lambda *_: runs.set()
    )
    async with asyncio.timeout(20):
        await runs.wait()
    return job


def sandbox_processes() -> list[int]:
    """Numbers of all processes in sandboxes of this process; zygotes and what waits below them left out."""
    return [
        child for launcher in launchers() for child in children_of(launcher)
        if not Path(f"/proc/{child}/cmdline").read_bytes().endswith(b"\0python3\0/work/main.py\0")
    ]  # fmt: skip


def groups_of(name: str) -> list[Path]:
    """Control groups anywhere whose name starts with `name`."""
    return [Path(folder, child) for folder, children, _ in os.walk("/sys/fs/cgroup") for child in children
            if child.startswith(name)]  # fmt: skip


def system_python() -> str:
    found = shutil.which("python3.11", path="/usr/bin") or shutil.which("python3", path="/usr/bin")
    if found is None:
        pytest.skip("no system Python, and the one of the tests may lie in a closed folder")
    return found
