"""The warm pool: programs see what they see in a cold run, and each sandbox is used once."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.sandbox.bubblewrap.warm_jobs import (
    CONFIG,
    MIB,
    TABLE,
    pooled,
    programs,
    python_spec,
    run_in,
    without_addresses,
)
from tests.sandbox.support import children_of, eventually, launcher_of

from unsandbox.sandbox import BubblewrapBackend, EndReason, Limits, SandboxFile, SandboxSpec, pool_for
from unsandbox.sandbox.zygote.main import KIND_ANY

PYTHON: dict[str, str | bytes] = programs("python") | {
    "encoding declared": b"# -*- coding: latin-1 -*-\nprint('\xe4')",
    "bad encoding": b"# coding: nonsense\nprint(1)",
    "byte order mark": b"\xef\xbb\xbfprint('bom')",
    "not UTF-8": b"print('\xff')",
    "carriage returns": b"print(1)\r\nif True:\r\n    print(2)\r\n",
    "zip file": b"PK\x05\x06" + bytes(18),
    "what ends a zip file": b"print(1)  # PK\x05\x06 and more",
}


@pytest.mark.parametrize("name", PYTHON)
async def test_a_python_program_sees_no_difference(backend, warm, name):
    spec = python_spec(PYTHON[name])
    cold, hot = await asyncio.gather(
        run_in(backend, spec, expect_warm=False), run_in(warm, spec, expect_warm=True)
    )
    assert without_addresses(hot) == without_addresses(cold)


@pytest.mark.parametrize("name", ["javascript", "bash", "perl", "c", "php"])
async def test_other_languages_are_executed_in_a_waiting_sandbox(backend, warm, name):
    language = TABLE[name]
    if not language.installed():
        pytest.skip(f"{name} is not installed")
    spec = language.build_spec(language.hello, return_artifacts=True)
    cold = await run_in(backend, spec, expect_warm=False)
    hot = await run_in(warm, spec, expect_warm=True)
    assert without_addresses(hot) == without_addresses(cold)
    assert [a.filename for a in hot.artifacts] == [a.filename for a in cold.artifacts]
    assert hot.stdout.data == b"hello\n"


COMMANDS = {
    "environment": (["env"], {}),
    "odd variables": (["env"], {"env": {"A B": "x", "PYTHONHASHSEED": "3", "LD_BIND_NOW": "1", "PATH": "/usr/bin", "X": "\udcff", "IFS": "x"}}),
    "arguments": (["sh", "-c", 'printf "<%s>" "$0" "$@"', "a b", "", "'", "\udcff"], {}),
    "descriptors": (["sh", "-c", "ls -l /proc/self/fd | wc -l; ulimit -n -u; umask; cat; echo end; exec >&2; echo err; exit 3"], {"stdin": b"in"}),
    "signals": (["grep", "^Sig", "/proc/self/status"], {}),
    "missing": (["no-such-program"], {}),
    "not executable": (["/etc/passwd"], {}),
    "killed": (["sh", "-c", "kill -9 $$"], {}),
    "compile": (["cat", "/work/out"], {"compile": ["sh", "-c", "echo to stdout; echo to stderr >&2; cat; echo ok > /work/out"], "stdin": b"x"}),
    "compile fails": (["echo", "no"], {"compile": ["sh", "-c", "echo why; exit 3"]}),
    "compile is killed": (["echo", "no"], {"compile": ["sh", "-c", "kill -9 $$"]}),
    "compile is missing": (["echo", "no"], {"compile": ["no-such-compiler"]}),
    "python with its own environment": (["python3", "/work/main.py"], {"env": {"PYTHONUTF8": "0", "PYTHONHASHSEED": "0"},
        "files": [SandboxFile("/work/main.py", b"import sys; print(sys.flags, hash('a'))")]}),
    "background": (["sh", "-c", "sleep 100 & setsid sleep 100 & echo done"], {}),
    "a filter of all output": (["bash", "-c", "exec > >(sed 's/^/> /') 2>&1; echo one; echo two >&2"], {}),
    "an orphan": (["sh", "-c", "sh -c '(sleep 0.3; echo two) &'; echo one; exit 3"], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_sees_no_difference(backend, warm, name):
    command, fields = COMMANDS[name]
    spec = SandboxSpec(run=command, **fields)
    cold = await run_in(backend, spec, expect_warm=False)
    hot = await run_in(warm, spec, expect_warm=True)
    if name in {"environment", "odd variables"}:
        assert sorted(hot.stdout.data.splitlines()) == sorted(cold.stdout.data.splitlines())
    else:
        assert without_addresses(hot) == without_addresses(cold)
    assert hot.compile_failed == cold.compile_failed


async def test_arguments_of_a_python_program(backend, warm):
    spec = TABLE["python"].build_spec("import sys; print(sys.argv, sys.orig_argv)", args=["a b", "", "\udcff"])
    spec = replace(spec, env={**spec.env, "PYTHONIOENCODING": "utf-8"})
    cold, hot = [await run_in(one, spec, expect_warm=one is warm) for one in (backend, warm)]
    assert without_addresses(hot) == without_addresses(cold)
    assert b"'a b', ''" in hot.stdout.data


async def test_files_folders_and_artifacts(backend, warm):
    files = [
        SandboxFile("/work/a/b/c", b"deep", 0o640),
        SandboxFile("/tmp/big", os.urandom(3 * MIB)),
        SandboxFile("/dev/shm/x", b"shm", 0o4755),
    ]
    script = "cd /; stat -c '%n %a %s %U' work/a work/a/b/c tmp/big dev/shm/x tmp/f; sha1sum tmp/big; echo a > tmp/artifacts/a"
    spec = SandboxSpec(run=["sh", "-c", script], files=files, folders=["/tmp/f"], collect_artifacts=True)
    cold = await run_in(backend, spec, expect_warm=False)
    hot = await run_in(warm, spec, expect_warm=True)
    assert without_addresses(hot) == without_addresses(cold)
    assert [(a.filename, a.data, a.mode) for a in hot.artifacts] == [("a", b"a\n", 0o644)]
    assert cold.artifacts == hot.artifacts


async def test_what_a_waiting_sandbox_cannot_be_goes_the_slow_way(warm):
    await run_in(warm, SandboxSpec(run=["true"], limits=Limits(processes=300)), expect_warm=False)
    await run_in(warm, SandboxSpec(run=["true"], limits=Limits(tmpfs_bytes=MIB)), expect_warm=False)
    await run_in(warm, SandboxSpec(run=["true"], system_paths=["/etc/os-release"]), expect_warm=False)


async def test_memory_and_processors_are_those_of_the_job(warm):
    limits = Limits(memory_bytes=64 * MIB)
    outcome = await run_in(
        warm, python_spec("x = bytearray(200 << 20)\nprint('no')", limits=limits), expect_warm=True
    )
    assert (outcome.reason, outcome.stdout.data) == (EndReason.MEMORY, b"")
    outcome = await run_in(
        warm, python_spec("x = bytearray(200 << 20)\nprint('ok')", limits=Limits()), expect_warm=True
    )
    assert outcome.stdout.data == b"ok\n"
    assert 200 * MIB < outcome.peak_memory_bytes < 240 * MIB
    busy = "import time\nt = time.process_time()\nb = time.monotonic()\nwhile time.monotonic() - b < 0.5: pass\nprint(time.process_time() - t)"
    outcome = await run_in(warm, python_spec(busy, limits=Limits(vcpu=0.2)), expect_warm=True)
    assert float(outcome.stdout.data) < 0.3
    assert 0.05 < outcome.cpu_s < 0.4


async def test_the_job_pays_for_its_own_time_only(warm):
    outcome = await run_in(warm, python_spec("pass"), expect_warm=True)
    assert 0 < outcome.cpu_s < 0.05
    assert 0 < outcome.wall_s < 1


async def test_each_sandbox_serves_once_and_is_separate(warm):
    # Mode x: it fails where another job has been. Namespaces cannot tell, as the kernel uses their numbers again.
    code = "for folder in '/tmp', '/work', '/dev/shm': open(folder + '/mark', 'x')"
    outcomes = [await run_in(warm, python_spec(code), expect_warm=True) for _ in range(6)]
    assert {outcome.exit_code for outcome in outcomes} == {0}


@pytest.mark.root
async def test_users_of_waiting_and_running_sandboxes_differ(warm):
    jobs = [await warm.start(SandboxSpec(run=["sleep", "60"])) for _ in range(4)]
    await eventually(lambda: warm.pool.waiting >= 2)
    pids = [job.process[0] for job in jobs] + [prepared.pid for prepared in warm.pool.queues[KIND_ANY].ready]
    uids = [Path(f"/proc/{pid}").stat().st_uid for pid in pids]
    assert len(set(uids)) == len(uids)
    assert min(uids) >= 10_000
    for job in jobs:
        job.cancel()
        await job.wait()


async def test_a_waiting_sandbox_holds_nothing(warm, monkeypatch):
    await eventually(lambda: warm.pool.waiting >= 2)
    for prepared in warm.pool.queues[KIND_ANY].ready:
        for pid in (prepared.pid, *children_of(prepared.pid)):
            names = {os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{pid}/fd")}
            assert names <= {"/dev/null", "socket", "pipe"}, names
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if ":\t" in line
            )
            assert status["CapEff"] == status["CapPrm"] == status["CapBnd"] == "0" * 16
            assert (status["Seccomp"], status["NoNewPrivs"], status["NSpid"].split()[-1]) == (
                "2",
                "1",
                str(1 + (pid != prepared.pid)),
            )
            assert b"UNSANDBOX" not in Path(f"/proc/{pid}/environ").read_bytes()


async def test_nothing_looks_into_the_first_process_or_ends_it(warm):
    look = "kill -9 1; cat /proc/1/environ /proc/1/maps; ls /proc/1/fd; readlink /proc/1/exe; cat /proc/1/cmdline; exit 3"
    job = await run_in(warm, SandboxSpec(run=["sh", "-c", look]), expect_warm=True)
    assert job.exit_code == 3
    assert job.stdout.data.rstrip(b"\0") == (b"init" if warm.native.waiter else b"python3\0/work/main.py")
    assert job.stderr.data.count(b"ermission denied") == 3


async def test_what_programs_will_write_to_is_ready_before(warm):
    """A waiting interpreter has copies of its own of what the rehearsal touched, not only of what it wrote itself."""
    await eventually(lambda: warm.pool.queues[KIND_ANY].ready, 20)
    (program,) = children_of(warm.pool.queues[KIND_ANY].ready[0].pid)
    rollup = Path(f"/proc/{program}/smaps_rollup").read_text()
    assert int(re.search(r"Private_Dirty: +(\d+) kB", rollup)[1]) > 1000


async def test_output_is_streamed_and_cancellation_ends_it(warm):
    seen: list[tuple[str, bytes]] = []
    job = await warm.start(
        python_spec("import time, sys\nprint('a'); print('b', file=sys.stderr); time.sleep(60)"),
        lambda stream, data: seen.append((stream, data)),
    )
    texts = {"stdout": b"a\n", "stderr": b"b\n"}
    await eventually(
        lambda: all(b"".join(d for s, d in seen if s == name) == text for name, text in texts.items())
    )
    job.cancel()
    outcome = await job.wait()
    assert (outcome.reason, outcome.exit_code, outcome.stdout.data) == (EndReason.CANCELLED, None, b"a\n")


async def test_what_nobody_can_look_after_is_killed(warm, monkeypatch):
    """The job is sent before all is ready to watch over it."""
    from unsandbox.sandbox.bubblewrap import pool as module

    taken = []

    def broken(prepared, *_, **__):
        taken.append(prepared.pid)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module, "WarmJob", broken)
        with pytest.raises(MemoryError):
            await warm.start(python_spec("import time; time.sleep(1000)"))
    await eventually(lambda: not Path(f"/proc/{taken[0]}").exists())


async def test_the_time_limit_ends_it(warm):
    outcome = await run_in(warm, python_spec("while True: pass", limits=Limits(wall_s=0.3)), expect_warm=True)
    assert outcome.reason is EndReason.TIMEOUT
    assert outcome.wall_s < 1


async def test_a_burst_is_served_and_the_pool_keeps_its_bounds(warm):
    spec = python_spec("print('ok')")
    outcomes = await asyncio.gather(*(run_in(warm, spec, expect_warm=True) for _ in range(40)))
    assert {outcome.stdout.data for outcome in outcomes} == {b"ok\n"}
    await eventually(lambda: warm.pool.waiting >= CONFIG.size)
    assert warm.pool.waiting <= CONFIG.most


async def test_the_pool_can_be_off():
    async with BubblewrapBackend(pool=pool_for(TABLE, 0, 8, Limits())) as backend:
        for _ in range(2):
            await run_in(backend, python_spec("pass"), expect_warm=False)
        # Neither a zygote nor a sandbox that waits.
        await eventually(lambda: children_of(launcher_of(backend)) == [])


ENDINGS = {
    "a child that goes on to the end": "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0); print('parent')\nelse: print('child')",
    "a child that holds the output": "import os, sys, time\nif os.fork() == 0:\n    time.sleep(60)\nprint('hello')",
    "a child that writes later": "import subprocess\nprint('hello', flush=True)\nsubprocess.Popen(['sh', '-c', 'sleep 0.2; echo late'])",
    "an orphan that writes later": "import subprocess\nprint('hello', flush=True)\nsubprocess.run(['sh', '-c', '(sleep 0.2; echo late) &'])",
    "a descriptor for more output": "import os\nfd = os.dup(1)\nimport atexit\natexit.register(os.write, fd, b'last\\n')\nprint('hello')",
    "no output": "import os\nos.close(1); os.close(2)",
    "a child that says that the end has come": "import os, time\npid = os.fork()\nif pid: os.waitpid(pid, 0); print('parent')\nelse: os.kill(1, 64); os._exit(0)",
    "a failure": "import atexit, sys\natexit.register(lambda: print('bye'))\nprint('hello'); sys.exit(3)",
    "output from a destructor": "class A:\n    def __del__(self): print('gone', flush=True)\na = A()\nprint('hello')",
    "much output": "print('x' * 3_000_000)",
    "a thread that writes": "import threading\nthreading.Thread(target=lambda: (threading.main_thread().join(), print('late'))).start()\nprint('hello')",
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_an_end_that_is_told_early_loses_nothing(backend, warm, name):
    """A program that ends well says so before its memory is taken down."""
    spec = python_spec(ENDINGS[name])
    for _ in range(3):
        hot = await run_in(warm, spec, expect_warm=True)
        cold = await run_in(backend, spec, expect_warm=False)
        assert (hot.exit_code, hot.stdout.data, hot.stderr.data) == (
            cold.exit_code,
            cold.stdout.data,
            cold.stderr.data,
        )
        assert hot.output_cut == cold.output_cut == ("holds" in name)
        assert ("later" in name) == (b"late\n" in hot.stdout.data and "thread" not in name)


async def test_no_signal_from_inside_ends_it(warm):
    code = "import os, time\n[os.kill(1, n) for n in range(1, 64)]\ntime.sleep(0.1)\nprint('hello')"
    outcome = await run_in(warm, python_spec(code), expect_warm=True)
    assert (outcome.exit_code, outcome.stdout.data) == (0, b"hello\n")


async def test_folders_made_in_advance_are_as_those_made_for_a_job(backend):
    spec = TABLE["perl"].build_spec("exec 'sh', '-c', 'cd /tmp; find . | sort; ls -ld . input artifacts';")
    async with pooled(pool_for(TABLE, 1, 1, Limits())) as pool:
        hot = await run_in(pool, spec, expect_warm=True)
        cold = await run_in(backend, spec, expect_warm=False)
        assert hot.stdout.data.startswith(b".\n./artifacts\n./input\n")
        assert without_times(hot.stdout.data) == without_times(cold.stdout.data)


def without_times(listing: bytes) -> bytes:
    return re.sub(rb"\w+ +\d+ \d\d:\d\d", b"", listing)


THREADS = """
import ctypes, os, signal, threading
libc = ctypes.CDLL(None, use_errno=True)
print(os.getpid() == threading.get_native_id() == libc.gettid(), libc.sched_getcpu() >= 0)
found = []
thread = threading.Thread(target=lambda: found.append(threading.get_native_id()))
thread.start(); thread.join()
print(found[0] != os.getpid(), os.waitstatus_to_exitcode(os.waitpid(os.fork() or os._exit(3), 0)[1]))
# Both send a signal to the number that the C library takes for its thread's.
signal.signal(signal.SIGUSR1, lambda *_: print('heard'))
signal.raise_signal(signal.SIGUSR1)
libc.abort()
"""


async def test_the_c_library_knows_its_thread(backend, warm):
    """What it told the kernel of its thread is told again by a fork that it did not make itself."""
    cold = await run_in(backend, python_spec(THREADS), expect_warm=False)
    hot = await run_in(warm, python_spec(THREADS), expect_warm=True)
    assert hot.stdout.data == b"True True\nTrue 3\nheard\n"
    assert (hot.exit_code, hot.stdout.data) == (cold.exit_code, cold.stdout.data) == (134, cold.stdout.data)
