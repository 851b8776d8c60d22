"""Without machine code, and without quick ends of interpreters: slower, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import pytest_asyncio
from tests.sandbox.bubblewrap.test_pool import ENDINGS, PYTHON
from tests.sandbox.bubblewrap.warm_jobs import CONFIG, TABLE, pooled, python_spec, run_in, without_addresses
from tests.sandbox.support import eventually
from tests.support import REPO

from unsandbox.engine.backends import default_backend
from unsandbox.engine.config import EngineConfig
from unsandbox.errors import EngineError
from unsandbox.sandbox import BubblewrapBackend, SandboxError
from unsandbox.sandbox.launcher import fd_numbers
from unsandbox.sandbox.native import first_process, reaper
from unsandbox.sandbox.native.first_process import NO_PROGRAMS, native_programs
from unsandbox.sandbox.persistent_spec import PersistentSpec
from unsandbox.sandbox.zygote.main import KIND_ANY


def test_machine_code_is_what_the_sources_say():
    if shutil.which("as") is None or shutil.which("objcopy") is None:
        pytest.skip("binutils are not installed")
    checked = subprocess.run(
        [sys.executable, REPO / "scripts" / "assemble.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"waiter.{os.uname().machine}.S: same" in checked.stdout or os.uname().machine != "x86_64"


def test_every_machine_has_what_it_can_have():
    everything = native_programs("x86_64")
    assert everything.persistent
    assert everything.waiter
    assert everything.spawner
    assert native_programs("aarch64").persistent[18] == 183
    assert everything.forker
    assert native_programs("aarch64").spawner is None
    assert native_programs("aarch64").forker is None
    assert native_programs("sparc") == NO_PROGRAMS
    assert (reaper.READY_FD, reaper.LIFE_FD) == (fd_numbers.READY_FD, fd_numbers.LIFE_FD)


@pytest.mark.parametrize("programs", [native_programs(), NO_PROGRAMS], ids=["machine code", "python"])
def test_the_first_process_of_a_persistent_sandbox_ends_with_its_launcher(programs, tmp_path):
    """By the end of a pipe, for the kernel's signal may have been asked for too late."""
    code, _ = first_process.persistent_first_process(programs)
    file = tmp_path / "first"
    file.write_bytes(code)
    file.chmod(0o755)
    command = [str(file)] if programs.persistent else ["/usr/bin/python3", "-I", "-S", str(file)]
    ready_read, ready_write = os.pipe()
    life_read, life_write = os.pipe()
    actions = [
        (os.POSIX_SPAWN_DUP2, ready_write, 200),
        (os.POSIX_SPAWN_DUP2, life_read, 201),
        (os.POSIX_SPAWN_DUP2, 200, fd_numbers.READY_FD),
        (os.POSIX_SPAWN_DUP2, 201, fd_numbers.LIFE_FD),
    ]
    pid = os.posix_spawn(command[0], command, {}, file_actions=actions)
    for fd in (ready_write, life_read):
        os.close(fd)
    assert os.read(ready_read, 16) == first_process.READY
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.close(life_write)
    assert os.waitpid(pid, 0) == (pid, 0)
    os.close(ready_read)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plain():
    async with pooled(replace(CONFIG, quick_end=False), NO_PROGRAMS) as opened:
        yield opened


@pytest.mark.parametrize("name", ["hello", "frames", "big output", "faulthandler", "gc", "unittest"])
async def test_a_python_program_sees_no_difference(backend, plain, name):
    cold = await run_in(backend, python_spec(PYTHON[name]), expect_warm=False)
    hot = await run_in(plain, python_spec(PYTHON[name]), expect_warm=True)
    assert without_addresses(hot) == without_addresses(cold)


@pytest.mark.parametrize("name", ["a failure", "output from a destructor", "a thread that writes"])
async def test_an_interpreter_ends_as_usual(backend, plain, name):
    cold = await run_in(backend, python_spec(ENDINGS[name]), expect_warm=False)
    hot = await run_in(plain, python_spec(ENDINGS[name]), expect_warm=True)
    assert without_addresses(hot) == without_addresses(cold)


async def test_memory_is_prepared_without_quick_ends_too(plain):
    await eventually(lambda: plain.pool.queues[KIND_ANY].ready, 20)
    code = "import sys; print(hasattr(sys, 'unsandbox')); import atexit; print(atexit._ncallbacks())"
    outcome = await run_in(plain, python_spec(code), expect_warm=True)
    assert outcome.stdout.data == b"False\n0\n"


@pytest.mark.parametrize("name", ["javascript", "bash", "c"])
async def test_other_languages_run(backend, plain, name):
    language = TABLE[name]
    if not language.installed():
        pytest.skip(f"{name} is not installed")
    spec = language.build_spec(language.hello)
    cold = await run_in(backend, spec, expect_warm=False)
    hot = await run_in(plain, spec, expect_warm=True)
    assert without_addresses(hot) == without_addresses(cold)


@pytest_asyncio.fixture(loop_scope="session")
async def sandbox(plain):
    opened = await plain.open_persistent(PersistentSpec())
    yield opened
    await opened.close()


async def test_a_persistent_sandbox_works(sandbox):
    outcome = await sandbox.run(["sh", "-c", "ps -o stat=,comm= -p 1; echo to > file; exit 3"])
    assert (outcome.stdout.data.split(), outcome.exit_code) == ([b"Ss", b"init"], 3)
    await sandbox.freeze()
    await sandbox.unfreeze()
    assert (await sandbox.run(["cat", "file"])).stdout.data == b"to\n"
    # Orphans are reaped.
    await sandbox.run(["sh", "-c", "for i in 1 2 3; do sh -c 'sleep 0.01 & exec true' & done; wait"])
    seen = b"Z"
    for _ in range(200):
        if b"Z" not in (seen := (await sandbox.run(["ps", "-eo", "stat=,args="])).stdout.data):
            break
    assert b"Z" not in seen


async def test_nothing_inside_reaches_its_first_process(sandbox):
    await sandbox.run(["sh", "-c", "for s in $(seq 1 64); do kill -$s 1; done; kill -KILL -1"])
    look = "ls /proc/1/fd; cat /proc/1/environ /proc/1/maps /proc/1/mem"
    outcome = await sandbox.run(["sh", "-c", look])
    assert (outcome.stdout.data, outcome.stderr.data.count(b"Permission denied")) == (b"", 4)
    trace = "import ctypes; print(ctypes.CDLL(None).ptrace(16, 1, 0, 0))"
    assert (await sandbox.run(["/usr/bin/python3", "-c", trace])).stdout.data == b"-1\n"
    assert sorted(os.listdir(f"/proc/{sandbox.process[0]}/fd"), key=int) == [str(fd_numbers.LIFE_FD)]


async def test_where_there_is_no_python_either_none_is_made(small_system):
    """And with machine code no python is needed."""
    (small_system.usr / "bin" / "python3").unlink(missing_ok=True)
    async with BubblewrapBackend(system=small_system, native=NO_PROGRAMS) as backend:
        with pytest.raises(SandboxError, match="python3"):
            await backend.open_persistent(PersistentSpec())
    if native_programs().persistent is not None:
        async with BubblewrapBackend(system=small_system) as backend:
            await (await backend.open_persistent(PersistentSpec())).close()


async def test_the_switches_of_the_environment(monkeypatch):
    assert (EngineConfig().native, EngineConfig().quick_end) == (True, True)
    monkeypatch.setenv("UNSANDBOX_NATIVE", "0")
    monkeypatch.setenv("UNSANDBOX_QUICK_END", "0")
    config = EngineConfig(pool=1)
    backend = default_backend(config, TABLE)
    assert isinstance(backend, BubblewrapBackend)
    assert backend.native == NO_PROGRAMS
    assert backend.pool_config is not None
    assert backend.pool_config.quick_end is False
    monkeypatch.setenv("UNSANDBOX_NATIVE", "no")
    with pytest.raises(EngineError, match=r"UNSANDBOX_NATIVE must be 1 .* or 0"):
        EngineConfig()


SEEN = """
import os, resource
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(os.getppid(), os.getsid(0) == os.getpid() == os.getpgid(0), os.getresuid(), os.listdir("/proc/self/fd")[:4])
print(*(status[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Groups")))
print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NPROC), os.getcwd())
"""


@pytest.mark.parametrize(
    "argv", [["/usr/bin/python3", "-c", SEEN], ["missing"], ["/etc"]], ids=["run", "127", "126"]
)
async def test_programs_are_the_same_however_they_are_forked(argv):
    answers: list[object] = []
    for forker in (native_programs().forker, None, b"\xb8\xfb\xff\xff\xff\x48\x98\xc3"):  # The last one: -EIO.
        backend = BubblewrapBackend(native=replace(native_programs(), forker=forker))
        await backend.open()
        try:
            sandbox = await backend.open_persistent(PersistentSpec())
            try:
                outcome = await sandbox.run(argv)
                answers.append((outcome.exit_code, outcome.stdout.data, outcome.stderr.data))
            except SandboxError as error:
                answers.append(str(error))
            await sandbox.close()
        finally:
            await backend.close()
    assert answers[0] == answers[1] == answers[2]
    assert argv[0] == "/usr/bin/python3" or "cannot start the program" in str(answers[0])


@pytest.mark.skipif(native_programs().forker is None, reason="this machine forks with fork(2)")
async def test_a_program_that_is_stopped_before_it_runs_leaves_nothing():
    """Its parent waits for it in the kernel, and ends with it."""
    backend = BubblewrapBackend()
    await backend.open()
    try:
        sandbox = await backend.open_persistent(PersistentSpec())
        killer = await sandbox.spawn(
            ["/bin/sh", "-c", "trap '' TERM; while :; do kill -9 -1 2>/dev/null; done"], env={}
        )
        for _ in range(40):
            try:
                process = await sandbox.spawn(["/bin/true"])
            except SandboxError:
                continue
            await process.wait()
            process.close()
        killer.kill()
        await killer.wait()
        killer.close()
        process = await sandbox.spawn(["/bin/true"])
        assert await process.wait() == 0
        process.close()
        await sandbox.close()
    finally:
        await backend.close()
