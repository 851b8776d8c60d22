"""Programs see the processors and the memory of their sandbox's limits, and sandboxes share the machine fairly."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections import Counter

import pytest

from unsandbox.sandbox import BubblewrapBackend, GvisorBackend, Limits, load_languages, pool_for
from unsandbox.sandbox.host.machine_view import MachineView, Processors
from unsandbox.sandbox.host.warm.sandbox import WarmJob
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSpec

MIB = 1 << 20
CPUS = len(os.sched_getaffinity(0))
TABLE = load_languages()
SAY = """
nproc
grep -c ^processor /proc/cpuinfo
grep -c '^cpu[0-9]' /proc/stat
awk '/MemTotal/ { print $2 }' /proc/meminfo
awk '{ print $1 }' /proc/loadavg
free -m | awk '/Mem/ { print $2 }'
python3 -c 'import os; print(os.cpu_count(), len(os.sched_getaffinity(0)))'
"""
SAYS = {
    "bash": SAY,
    "python": f"import subprocess; print(subprocess.check_output(['bash', '-c', {SAY!r}], text=True))",
    "perl": f"exec 'bash', '-c', q{{{SAY}}}",
    "javascript": f"console.log(require('child_process').execFileSync('bash', ['-c', {SAY!r}], {{encoding: 'utf8'}}))",
}
BACKENDS = pytest.mark.parametrize(
    "backend_class",
    [BubblewrapBackend, pytest.param(GvisorBackend, marks=[pytest.mark.gvisor, pytest.mark.slow])],
)


def expected(vcpu, memory_mib):
    cpus = str(min(vcpu, CPUS))
    return [cpus, cpus, cpus, str(memory_mib << 10), "0.00", str(memory_mib), cpus, cpus]


async def run(backend, name, limits, warm):
    spec = TABLE[name].build_spec(SAYS[name], limits=limits)
    while True:
        job = await backend.start(spec)
        outcome = await job.wait()
        if not warm or isinstance(job, WarmJob):
            return outcome
        await asyncio.sleep(0.2)


@BACKENDS
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_programs_see_the_limits(backend_class, warm):
    pool = pool_for(TABLE, 2, most=8, limits=Limits()) if warm else None
    async with backend_class(pool=pool) as backend, asyncio.timeout(120):
        for name in SAYS if backend_class is BubblewrapBackend else ["bash"]:
            for vcpu, memory_mib in ((1, 2048), (1, 300), (2, 4096)):
                if backend_class is GvisorBackend and vcpu > 1 and warm:
                    continue
                limits = Limits(vcpu=vcpu, memory_bytes=memory_mib * MIB)
                outcome = await run(backend, name, limits, warm)
                assert outcome.stdout.data.decode().split() == expected(vcpu, memory_mib), outcome


async def test_the_files_cannot_be_changed_or_removed_from_inside(backend):
    code = (
        "for f in cpuinfo stat meminfo loadavg; do (echo 1 > /proc/$f) 2>/dev/null && echo $f; done; ls -A /run"
    )
    outcome = await (await backend.start(TABLE["bash"].build_spec(code))).wait()
    assert outcome.stdout.data == b""


@pytest.mark.cgroups
@pytest.mark.root
async def test_a_boost_changes_what_programs_see(backend):
    spec = PersistentSpec(limits=PersistentLimits(vcpu=1, memory_bytes=512 * MIB))
    sandbox = await backend.open_persistent(spec)
    try:
        seen = await sandbox.run(["bash", "-c", SAY])
        assert seen.stdout.data.decode().split() == expected(1, 512)
        await sandbox.set_limits(vcpu=2, memory_bytes=1024 * MIB)
        seen = await sandbox.run(["bash", "-c", SAY])
        assert seen.stdout.data.decode().split() == expected(2, 1024)
    finally:
        await sandbox.close()


@pytest.mark.gvisor
async def test_a_persistent_sandbox_of_gvisor_sees_its_processors():
    async with GvisorBackend() as backend:
        sandbox = await backend.open_persistent(PersistentSpec(limits=PersistentLimits(vcpu=1)))
        seen = await sandbox.run(["nproc"])
        assert seen.stdout.data == b"1\n"


@pytest.mark.skipif(CPUS < 2, reason="there is one processor")
async def test_sandboxes_are_spread(backend):
    code = "import os, time; print(os.sched_getaffinity(0)); time.sleep(1.5)"
    limits = Limits(vcpu=1)
    jobs = [await backend.start(TABLE["python"].build_spec(code, limits=limits)) for _ in range(2 * CPUS)]
    outcomes = [await job.wait() for job in jobs]
    used = Counter(outcome.stdout.data for outcome in outcomes)
    assert sorted(used.values()) == [2] * CPUS


class BusyGroup:
    """A control group with one process, and with CPU time as if it were busy."""

    def __init__(self, share):
        self.process = subprocess.Popen(["sleep", "60"])
        self.share = share
        self.began = time.monotonic()

    def threads(self):
        return [self.process.pid]

    def cpu_s(self):
        return self.share * (time.monotonic() - self.began)


@pytest.mark.skipif(CPUS < 2, reason="there is one processor")
@pytest.mark.parametrize(
    ("shares", "moved"), [((0.5, 0.45), 1), ((0.5, 0.05), None), ((0.3, 0.3), None), ((1.0, 0.0), None)]
)
def test_a_busy_sandbox_leaves_a_full_processor(tmp_path, shares, moved):
    view = MachineView(tmp_path / "view")
    last = max(os.sched_getaffinity(0))
    held = [Processors(view, (last,)) for _ in shares]
    try:
        for processors, share in zip(held, shares, strict=True):
            processors.group = BusyGroup(share)  # type: ignore[assignment]
        for _ in range(3):
            view.balance()
            time.sleep(0.05)
        for number, processors in enumerate(held):
            own = os.sched_getaffinity(processors.group.process.pid)
            assert (processors.cpus != (last,), own != os.sched_getaffinity(0)) == (
                number == moved,
                number == moved,
            )
    finally:
        for processors in held:
            processors.group.process.kill()
            processors.group.process.wait()


def test_a_sandbox_with_all_processors_is_not_bound(tmp_path):
    view = MachineView(tmp_path / "view")
    assert view.assign(CPUS).cpus == ()
    assert view.assign(CPUS + 4).cpus == ()
