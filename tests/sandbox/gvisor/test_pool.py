"""gVisor sandboxes that wait: what holds for those made for one job holds for them, and each serves one job."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from tests.sandbox.bubblewrap.test_abuse import (  # noqa: F401 - run here too
    test_artifacts_of_a_program_that_daemonised_are_complete,
    test_what_stays_possible,
)
from tests.sandbox.bubblewrap.test_running import (  # noqa: F401 - run here too
    test_a_daemon_that_holds_the_pipes_does_not_hold_the_job,
    test_compile_then_run,
    test_environment_is_clean_and_the_callers_wins,
    test_files_folders_modes_and_owner,
    test_no_descriptor_is_inherited_but_the_three,
    test_output_arrives_while_the_program_runs,
    test_output_of_processes_that_outlive_the_program_is_waited_for,
    test_standard_streams_can_be_opened_by_name,
    test_stdin,
    test_who_does_not_hold_the_output_is_killed_at_once,
    test_who_writes_without_end_is_killed_later,
)
from tests.sandbox.gvisor.test_jobs import (  # noqa: F401 - run here too
    test_artifacts_that_point_elsewhere,
    test_memory_bomb,
    test_the_kernel_is_not_the_hosts,
    test_timeout_kills_what_ignores_sigterm_and_keeps_its_output,
)
from tests.sandbox.support import eventually, launchers
from tests.support import eventually as wait_until

from unsandbox.protocol.contents import Content
from unsandbox.sandbox import (
    EndReason,
    GvisorBackend,
    Limits,
    SandboxFile,
    SandboxSpec,
    load_languages,
    pool_for,
)
from unsandbox.sandbox.gvisor.pool import GvisorJob
from unsandbox.sandbox.host.artifacts import Selection
from unsandbox.sandbox.host.warm.pool import PoolState

pytestmark = pytest.mark.gvisor
MIB = 1 << 20
TABLE = load_languages()
SLOW = 40.0
"""A sandbox takes a second or two to make on a machine with much else to do."""


class WarmOnly(GvisorBackend):
    """Runs every job in a sandbox that was waiting; waits for one."""

    async def start(self, spec, sink=None):
        if self.pool is None or spec.limits.tmpfs_bytes != Limits().tmpfs_bytes:
            return await super().start(spec, sink)
        await eventually(lambda: self.pool.waiting, SLOW)
        job = await super().start(spec, sink)
        assert isinstance(job, GvisorJob)
        return job


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def backend():
    async with WarmOnly(pool=pool_for(TABLE, 2, 16, Limits())) as opened:
        await eventually(lambda: opened.pool.state is PoolState.SERVING, SLOW)
        yield opened
        assert opened.pool.state is PoolState.SERVING


@pytest.fixture
def still_well(backend, run):
    async def check() -> None:
        await eventually(lambda: backend.running == 0, SLOW)
        assert (await run("echo", "next")).stdout.data == b"next\n"

    return check


async def test_each_language_finds_what_it_needs_without_waiting_for_a_kernel(backend):
    for name, code in (("python", "print('hello')"), ("bash", "echo hello"), ("perl", 'print "hello\\n"')):
        outcome = await (await backend.start(TABLE.resolve(name).build_spec(code))).wait()
        assert (outcome.stdout.data, outcome.stderr.data, outcome.exit_code) == (b"hello\n", b"", 0)


async def test_a_program_arrives_byte_for_byte(backend):
    # Without a NUL byte the shell writes it, else tar.
    for data in (bytes(range(1, 256)) * 20, bytes(range(256)), b"", b"-n '\\n' %s \\0101", b"x" * 200_000):
        spec = SandboxSpec(run=["cat", "/work/it's here"], files=[SandboxFile("/work/it's here", data)])
        outcome = await (await backend.start(spec)).wait()
        assert outcome.stdout.data == data
    spec = SandboxSpec(run=["stat", "-c", "%a %U", "/work/a"], files=[SandboxFile("/work/a", b"1")])
    assert (await (await backend.start(spec)).wait()).stdout.data == b"644 sandbox\n"


async def test_no_sandbox_is_used_twice_and_none_sees_another(backend):
    seen = set()
    for _ in range(3):
        script = (
            "cat /work/mark /tmp/mark 2>/dev/null; echo mine > /work/mark; echo mine > /tmp/mark; ls -di /work"
        )
        outcome = await (await backend.start(SandboxSpec(run=["sh", "-c", script]))).wait()
        assert b"mine" not in outcome.stdout.data
        seen.add(outcome)
    assert len(seen) == 3


async def test_without_input_it_is_the_null_device(run):
    assert (await run("sh", "-c", "readlink /proc/self/fd/0; cat")).stdout.data == b"/dev/null\n"


async def test_limits_of_the_job_and_not_of_the_pool_count(backend):
    spec = SandboxSpec(
        run=["sh", "-c", "ulimit -n; exec python3 -c 'x = bytearray(200 << 20)'"],
        limits=Limits(memory_bytes=64 * MIB, open_files=77, wall_s=30),
    )
    outcome = await (await backend.start(spec)).wait()
    assert (outcome.stdout.data, outcome.reason) == (b"77\n", EndReason.MEMORY)


async def test_what_does_not_fit_gets_a_sandbox_of_its_own(backend):
    odd = SandboxSpec(run=["echo", "cold"], limits=Limits(tmpfs_bytes=8 * MIB))
    job = await backend.start(odd)
    assert not isinstance(job, GvisorJob)
    assert (await job.wait()).stdout.data == b"cold\n"


async def test_cancel_and_what_a_lost_sandbox_does_to_a_job(backend):
    job = await backend.start(SandboxSpec(run=["sleep", "1000"]))
    job.cancel()
    assert (await job.wait()).reason is EndReason.CANCELLED
    await eventually(lambda: backend.pool.waiting, SLOW)
    doomed = list(backend.pool.queues[0].ready)
    for waiting in doomed:
        os.kill(waiting.pid, 9)
    await eventually(lambda: not set(doomed) & set(backend.pool.queues[0].ready), SLOW)
    # They died while they waited: the job gets another, or one of its own.
    job = await GvisorBackend.start(backend, SandboxSpec(run=["echo", "well"]))
    assert (await job.wait()).stdout.data == b"well\n"


async def test_artifacts_are_whole_also_when_their_sandbox_is_gone_before_they_are_read(backend, monkeypatch):
    await eventually(lambda: backend.pool.waiting, SLOW)
    waiting = list(backend.pool.queues[0].ready)
    begun = threading.Event()
    take = Selection.take

    def take_late(selection: Selection, size: int, read: Callable[[int], bytes]) -> bytes | Content:
        begun.wait()
        wait_until(lambda: not own.bundle.exists(), SLOW)
        return take(selection, size, read)

    monkeypatch.setattr(Selection, "take", take_late)
    script = "cd /tmp/artifacts; echo one > a; echo two > b"
    job = await backend.start(SandboxSpec(run=["sh", "-c", script], collect_artifacts=True))
    (own,) = [sandbox for sandbox in waiting if sandbox.job is job]
    begun.set()
    outcome = await job.wait()
    assert [artifact.data for artifact in outcome.artifacts] == [b"one\n", b"two\n"]
    assert not outcome.artifacts_skipped


async def test_nothing_is_left_and_nothing_is_made_before_the_first_job():
    config = pool_for(TABLE, 0, 8, Limits())
    async with GvisorBackend(pool=replace(config, most=8)) as backend:
        runtime = backend.host.runtime
        assert backend.pool.waiting == 0
        job = await backend.start(SandboxSpec(run=["true"]))
        assert not isinstance(job, GvisorJob)
        await job.wait()
        await eventually(lambda: backend.pool.state is PoolState.SERVING and backend.pool.waiting == 1, SLOW)
        job = await backend.start(SandboxSpec(run=["true"]))
        assert isinstance(job, GvisorJob)
        await job.wait()
        await eventually(lambda: backend.pool.waiting == 1, SLOW)
        bundles = [path for path in runtime.iterdir() if path.name.startswith("gvisor-")]
        assert len(bundles) == 1
    await eventually(lambda: not runtime.exists())
    assert not any(str(runtime).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in launchers())
