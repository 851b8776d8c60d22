"""Live sandboxes whose server or launcher is killed, at any moment, frozen or not: what stays is nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sandbox.bubblewrap.test_lifecycle import alive
from tests.sandbox.support import children_of, eventually, groups_of, launcher_of, launchers
from tests.support import SOURCE

from unsandbox.sandbox import BubblewrapBackend, SandboxError
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSpec

MIB = 1 << 20

HOLDER = """
import asyncio, json, os, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from unsandbox.sandbox import BubblewrapBackend
from unsandbox.sandbox.persistent_spec import PersistentSpec, PersistentLimits
LIMITS = PersistentLimits(work_bytes=32 << 20)
async def main():
    backend = BubblewrapBackend()
    await backend.open()
    sandboxes = [await backend.open_persistent(PersistentSpec(limits=LIMITS, work_disk=disk)) for disk in (None, Path({disk!r}))]
    for sandbox in sandboxes:
        await sandbox.run(["sh", "-c", "echo kept > note; sync; setsid sleep 1000 >/dev/null 2>&1 &"])
        await sandbox.spawn(["sh", "-c", "trap '' TERM HUP INT; while :; do echo x >> grows; done"])
        await sandbox.spawn(["bash", "-i"], terminal=(80, 24))
    if {frozen!r}:
        for sandbox in sandboxes:
            await sandbox.freeze()
    print(json.dumps(dict(runtime=str(backend.host.runtime))), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def family_of(pid: int) -> list[int]:
    found = children_of(pid)
    for child in found:
        found += children_of(child)
    return found


def loops_of(folder: Path) -> list[str]:
    """Loop devices whose image lies in `folder`, or has no name any more."""
    found = []
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            name = device.read_text()
        except OSError:
            continue
        if name.startswith(str(folder)):
            found.append(name)
    return found


async def holder(folder: Path, *, frozen: bool) -> tuple[asyncio.subprocess.Process, Path, list[int]]:
    code = HOLDER.format(paths=[str(SOURCE)], disk=str(folder / "disk"), frozen=frozen)
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert server.stdout is not None
    runtime = Path(json.loads(await server.stdout.readline())["runtime"])
    family = family_of(server.pid)
    assert len(family) >= 11
    return server, runtime, family


async def nothing_left(folder: Path, runtime: Path, family: list[int]) -> None:
    await eventually(lambda: not any(alive(pid) for pid in family))
    await eventually(lambda: loops_of(folder) == [], 10)
    assert str(runtime) not in Path("/proc/mounts").read_text()


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
async def test_kill_minus_9_of_the_server(backend, tmp_path, frozen):
    server, runtime, family = await holder(tmp_path, frozen=frozen)
    server.kill()
    await server.wait()
    await nothing_left(tmp_path, runtime, family)
    await eventually(lambda: not runtime.exists())
    await eventually(lambda: groups_of(runtime.name) == [])
    # The disk that had a name is found again, although nobody had time to unmount it.
    again = await backend.open_persistent(
        PersistentSpec(limits=PersistentLimits(work_bytes=32 * MIB), work_disk=tmp_path / "disk")
    )
    assert (await again.run(["cat", "note"])).stdout.data == b"kept\n"
    await again.close()


async def test_kill_minus_9_of_launcher_and_server(tmp_path):
    server, runtime, family = await holder(tmp_path, frozen=True)
    (launcher,) = launchers(server.pid)
    os.kill(launcher, signal.SIGKILL)
    server.kill()
    await server.wait()
    await nothing_left(tmp_path, runtime, family)
    # Nobody is left to remove these; the next server's launcher does.
    os.utime(runtime, (0, 0))
    async with BubblewrapBackend():
        await eventually(lambda: not runtime.exists())
        await eventually(lambda: groups_of(runtime.name) == [])


MIDST = """
import asyncio, os, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from unsandbox.sandbox import BubblewrapBackend
from unsandbox.sandbox.persistent_spec import PersistentSpec, PersistentLimits
async def main():
    backend = BubblewrapBackend()
    await backend.open()
    await backend.prove_persistent()
    print(backend.host.runtime, flush=True)
    async def one(number):
        limits = PersistentLimits(work_bytes=16 << 20)
        sandbox = await backend.open_persistent(PersistentSpec(limits=limits, work_disk=Path({folder!r}) / str(number)))
        while True:
            await sandbox.run(["true"])
            await sandbox.freeze()
            await sandbox.archive_work(Path({folder!r}) / f"archive-{{number}}")
            await sandbox.unfreeze()
    await asyncio.gather(*(one(number) for number in range(6)))
asyncio.run(main())
"""


@pytest.mark.parametrize(("both", "delay_s"), [(False, 0.03), (True, 0.3), (False, 0.4)])
async def test_kill_minus_9_in_the_midst_of_everything(tmp_path, both, delay_s):
    """While sandboxes are made, entered, frozen, archived."""
    code = MIDST.format(paths=[str(SOURCE)], folder=str(tmp_path))
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    runtime = Path((await server.stdout.readline()).decode().strip())
    (launcher,) = launchers(server.pid)
    await asyncio.sleep(delay_s)
    if both:
        os.kill(launcher, signal.SIGKILL)
    server.kill()
    await server.wait()
    await eventually(lambda: not alive(launcher), 10)

    if not both:
        await eventually(lambda: loops_of(tmp_path) == [], 10)
        assert not runtime.exists()
        assert groups_of(runtime.name) == []
        return
    # A sandbox that had just been forked waits for its monitor for ever; the next server's launcher finds it.
    os.utime(runtime, (0, 0))
    async with BubblewrapBackend():
        await eventually(lambda: groups_of(runtime.name) == [], 5)
        await eventually(lambda: loops_of(tmp_path) == [], 10)
        assert not runtime.exists()


async def test_a_killed_launcher_ends_its_sandboxes_and_a_new_one_makes_others(tmp_path):
    backend = BubblewrapBackend()
    await backend.open()
    spec = PersistentSpec(limits=PersistentLimits(work_bytes=32 * MIB), work_disk=tmp_path / "disk")
    sandbox = await backend.open_persistent(spec)
    process = await sandbox.spawn(["sleep", "1000"])
    os.kill(launcher_of(backend), signal.SIGKILL)
    await asyncio.wait_for(sandbox.wait_ended(), 5)
    with pytest.raises(SandboxError, match="launcher"):
        await process.wait()
    process.close()
    for call in (sandbox.freeze, sandbox.unfreeze, lambda: sandbox.run(["true"]), lambda: sandbox.connect(80)):
        with pytest.raises(SandboxError, match="ended"):
            await call()
    await sandbox.close()
    other = await backend.open_persistent(spec)
    assert (await other.run(["echo", "on"])).stdout.data == b"on\n"
    await backend.close()
    await asyncio.wait_for(other.wait_ended(), 1)
    assert loops_of(tmp_path) == []


async def test_closing_a_backend_closes_its_sandboxes_in_the_midst_of_everything(tmp_path):
    backend = BubblewrapBackend()
    await backend.open()
    runtime = backend.host.runtime
    sandbox = await backend.open_persistent(
        PersistentSpec(limits=PersistentLimits(work_bytes=64 * MIB), work_disk=tmp_path / "disk")
    )
    (tmp_path / "saved").mkdir()
    await sandbox.run(["sh", "-c", "head -c 40000000 /dev/urandom > x"])
    works = [
        asyncio.create_task(work)
        for work in (
            sandbox.run(["sleep", "1000"]),
            sandbox.archive_work(tmp_path / "saved" / "archive"),
            sandbox.run(["sleep", "1000"]),
            backend.open_persistent(PersistentSpec()),
        )
    ]
    await asyncio.sleep(0.05)
    await asyncio.wait_for(backend.close(), 20)
    results = await asyncio.gather(*works, return_exceptions=True)
    assert not [
        result for result in results if isinstance(result, Exception) and not isinstance(result, SandboxError)
    ]
    assert not runtime.exists()
    assert groups_of(runtime.name) == []
    assert loops_of(tmp_path) == []
    # Finished or not there, but never half.
    assert {path.name for path in (tmp_path / "saved").iterdir()} <= {"archive"}


async def test_a_sandbox_whose_first_process_dies_has_ended(backend):
    sandbox = await backend.open_persistent(PersistentSpec())
    process = await sandbox.spawn(["sleep", "1000"])
    os.kill(sandbox.process[0], signal.SIGKILL)
    await asyncio.wait_for(sandbox.wait_ended(), 3)
    assert await process.wait() == 137
    process.close()
    with pytest.raises(SandboxError, match="ended"):
        await sandbox.put_files([])
    await sandbox.close()


async def test_many_open_and_close_at_once(backend):
    """Also those whose opening is given up."""
    limits = PersistentLimits(work_bytes=16 * MIB)

    async def one(number: int) -> bytes:
        sandbox = await backend.open_persistent(PersistentSpec(limits=limits))
        outcome = await sandbox.run(["echo", str(number)])
        await sandbox.close()
        return outcome.stdout.data

    tasks = [asyncio.create_task(one(number)) for number in range(12)]
    given_up = [asyncio.create_task(backend.open_persistent(PersistentSpec(limits=limits))) for _ in range(4)]
    for number, task in enumerate(given_up):
        await asyncio.sleep(0.01 * number)
        task.cancel()
    assert [int(data) for data in await asyncio.gather(*tasks)] == list(range(12))
    results = await asyncio.gather(*given_up, return_exceptions=True)
    for sandbox in results:
        if not isinstance(sandbox, BaseException):
            await sandbox.close()
    await eventually(lambda: not backend.persistent)


# Limits of the living


@pytest.mark.cgroups
async def test_limits_change_while_it_lives(backend):
    sandbox = await backend.open_persistent(
        PersistentSpec(limits=PersistentLimits(memory_bytes=128 * MIB, vcpu=1))
    )
    want = ["/usr/bin/python3", "-c", "x = b'x' * (200 << 20); print('fits')"]
    assert (await sandbox.run(want)).exit_code in (1, 137)
    await sandbox.set_limits(memory_bytes=512 * MIB)
    assert (await sandbox.run(want)).stdout.data == b"fits\n"
    await sandbox.set_limits(memory_bytes=64 * MIB)
    assert (await sandbox.run(want)).exit_code in (1, 137)
    busy = "import time\nend = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
    await sandbox.set_limits(vcpu=0.2, memory_bytes=256 * MIB)
    used = float((await sandbox.run(["/usr/bin/python3", "-c", busy])).stdout.data)
    assert used < 0.25
    for name in ("vcpu", "memory_bytes"):
        with pytest.raises(ValueError, match=name):
            await sandbox.set_limits(**{name: 0})
    await sandbox.close()
