"""The warm pool: programs see what they see in a cold run, each sandbox is used once, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.sandbox.support import (
    children_of,
    descendants,
    eventually,
    groups_of,
    launcher_of,
    launchers,
    system_python,
)
from tests.support import REPO, SOURCE

from unsandbox.sandbox import (
    BubblewrapBackend,
    EndReason,
    Limits,
    Outcome,
    PoolConfig,
    SandboxError,
    SandboxFile,
    SandboxSpec,
    load_languages,
    pool_for,
)
from unsandbox.sandbox.host.warm.pool import PoolState
from unsandbox.sandbox.host.warm.sandbox import WarmJob
from unsandbox.sandbox.native.first_process import NO_PROGRAMS, NativePrograms, native_programs
from unsandbox.sandbox.zygote.main import KIND_ANY, KIND_BASH, KIND_NODE

MIB = 1 << 20
TABLE = load_languages()


def programs(language: str) -> dict[str, Any]:
    """Return the programs of a language by name. Those that are no text stand here."""
    return tomllib.loads((REPO / f"tests/sandbox/bubblewrap/programs/{language}.toml").read_text())


# Most programs here want no folder.
CONFIG = replace(pool_for(TABLE, 2, 8, Limits()), folders=())
FOUR = replace(CONFIG, most=4)


# Whether there is machine code, and whether interpreters end quickly: programs see no difference.
SETTINGS = {
    "as always": (None, True),
    "without machine code": (NO_PROGRAMS, True),
    "without quick ends": (None, False),
    "without either": (NO_PROGRAMS, False),
}


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="session",
    params=[
        pytest.param(setting, marks=[] if name == "as always" else pytest.mark.slow, id=name)
        for name, setting in SETTINGS.items()
    ],
)
async def warm(request) -> AsyncIterator[BubblewrapBackend]:
    native, quick_end = request.param
    async with pooled(replace(CONFIG, quick_end=quick_end), native) as opened:
        yield opened


@contextlib.asynccontextmanager
async def pooled(config: PoolConfig, native: NativePrograms | None = None) -> AsyncIterator[BubblewrapBackend]:
    async with BubblewrapBackend(pool=config, native=native) as opened:
        await eventually(lambda: opened.pool.state is PoolState.SERVING)
        yield opened


async def run_in(backend: BubblewrapBackend, spec: SandboxSpec, *, expect_warm: bool) -> Outcome:
    job = await backend.start(spec)
    assert isinstance(job, WarmJob) == expect_warm
    return await job.wait()


PYTHON: dict[str, str | bytes] = programs("python") | {
    "encoding declared": b"# -*- coding: latin-1 -*-\nprint('\xe4')",
    "bad encoding": b"# coding: nonsense\nprint(1)",
    "byte order mark": b"\xef\xbb\xbfprint('bom')",
    "not UTF-8": b"print('\xff')",
    "carriage returns": b"print(1)\r\nif True:\r\n    print(2)\r\n",
    "zip file": b"PK\x05\x06" + bytes(18),
    "what ends a zip file": b"print(1)  # PK\x05\x06 and more",
}


def python_spec(code: str | bytes, **fields: object) -> SandboxSpec:
    spec = TABLE["python"].build_spec(
        code, stdin=b"one\ntwo\n", input_files={"in.txt": b"data"}, env={"EXTRA": "ä"}, **fields
    )
    helper = SandboxFile("/work/helper.py", b"x = 5\n")
    return SandboxSpec(
        **{name: getattr(spec, name) for name in spec.__slots__} | {"files": [*spec.files, helper]}
    )


@pytest.mark.parametrize("name", PYTHON)
async def test_a_python_program_sees_no_difference(backend, warm, name):
    spec = python_spec(PYTHON[name])
    cold, hot = await asyncio.gather(
        run_in(backend, spec, expect_warm=False), run_in(warm, spec, expect_warm=True)
    )
    assert without_addresses(hot) == without_addresses(cold)


def without_addresses(outcome: Outcome) -> list[object]:
    texts = [stream.data.decode("utf-8", "replace") for stream in (outcome.stdout, outcome.stderr)]
    texts = [
        # The kernel may be about to tell the first process of another's end.
        re.sub(
            r"(?<=sh: )\d+: |(?<=test in )[0-9.]+|(?<=SigQ:).{1,2}\d+(?=/)",
            "",
            re.sub(r"0x[0-9a-f]+|\d{15}", "ADDRESS", text),
        )
        for text in texts
    ]
    return [*texts, outcome.exit_code, outcome.reason]


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
    code = "import os; open('/tmp/mark', 'x'); open('/work/mark', 'x'); print(os.readlink('/proc/self/ns/net'), os.readlink('/proc/self/ns/user'))"
    outcomes = [await run_in(warm, python_spec(code), expect_warm=True) for _ in range(6)]
    assert len({outcome.stdout.data for outcome in outcomes}) == 6


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


# What is left


def zygotes(pool: BubblewrapBackend) -> list[int]:
    """Numbers of the zygote processes below a backend's launcher."""
    (launcher,) = [
        pid
        for pid in launchers()
        if str(pool.host.runtime).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return [
        pid
        for monitor in children_of(launcher)
        for pid in children_of(monitor)
        if Path(f"/proc/{pid}/cmdline").read_bytes() == b"python3\0/work/main.py\0"
    ]


async def test_nothing_grows_with_the_number_of_jobs():
    async with pooled(replace(CONFIG, most=2)) as backend:
        spec = python_spec("print('ok')")

        async def some(count: int) -> None:
            for _ in range(count):
                await run_in(backend, spec, expect_warm=True)
            await eventually(lambda: backend.pool.waiting == 2 and not backend.pool.queues[KIND_ANY].making)

        def left() -> list[object]:
            (launcher,) = [
                pid
                for pid in launchers()
                if str(backend.host.runtime).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            (zygote,) = zygotes(backend)
            return [
                len(descendants(launcher)),
                len(
                    [group for folder in groups_of(backend.host.runtime.name) for group in folder.glob("job-*")]
                ),
                [len(os.listdir(f"/proc/{pid}/fd")) for pid in (launcher, zygote)],
                len(Path(f"/proc/{zygote}/mountinfo").read_text().splitlines()),
            ]

        await some(5)
        await eventually(lambda: len(descendants_of(backend)) == 7)
        before, own = left(), len(os.listdir("/proc/self/fd"))
        await some(100)
        await eventually(lambda: left() == before)
        # Other pools of this process may have shrunk meanwhile.
        assert len(os.listdir("/proc/self/fd")) <= own


def descendants_of(pool: BubblewrapBackend) -> list[int]:
    return [
        pid
        for launcher in launchers()
        if str(pool.host.runtime).encode() in Path(f"/proc/{launcher}/cmdline").read_bytes()
        for pid in (launcher, *descendants(launcher))
    ]


async def test_a_killed_zygote_gets_a_successor():
    async with pooled(FOUR) as backend:
        await eventually(lambda: backend.pool.waiting >= 2)
        job = await backend.start(SandboxSpec(run=["sleep", "1000"]))
        family = descendants(zygotes(backend)[0])
        os.kill(zygotes(backend)[0], signal.SIGKILL)
        outcome = await asyncio.wait_for(job.wait(), 5)
        assert outcome.exit_code == 137
        await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))
        await run_in(backend, python_spec("pass"), expect_warm=True)


async def test_a_killed_launcher_takes_waiting_sandboxes_along():
    backend = BubblewrapBackend(pool=FOUR)
    await backend.open()
    await eventually(lambda: backend.pool.state is PoolState.SERVING and backend.pool.waiting >= 2)
    job = await backend.start(SandboxSpec(run=["sleep", "1000"]))
    launcher, *family = descendants_of(backend)
    os.kill(launcher, signal.SIGKILL)
    with pytest.raises(SandboxError, match="launcher"):
        await asyncio.wait_for(job.wait(), 5)
    await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))
    outcome = await (await backend.start(python_spec("print('on')"))).wait()
    assert outcome.stdout.data == b"on\n"
    await backend.close()


async def test_zygotes_are_replaced_in_time():
    config = replace(FOUR, forks_per_zygote=5)
    async with pooled(config) as backend:
        long = await backend.start(SandboxSpec(run=["sleep", "1000"]))
        first = zygotes(backend)
        for _ in range(12):
            await run_in(backend, python_spec("pass"), expect_warm=True)
        # The old one stays as long as its last job.
        await eventually(lambda: first[0] in zygotes(backend) and len(zygotes(backend)) >= 2)
        long.cancel()
        await long.wait()
        for _ in range(CONFIG.most):
            await run_in(backend, python_spec("pass"), expect_warm=True)
        await eventually(lambda: first[0] not in zygotes(backend))


@pytest.mark.parametrize("turns", range(4))
async def test_a_pool_that_is_closed_while_it_makes_sandboxes_lets_go_of_everything(turns):
    async with pooled(CONFIG) as backend:
        await eventually(lambda: backend.pool.waiting >= 2)
        shelf = backend.pool.queues[KIND_ANY]
        shelf.target = 8
        backend.pool.refill(shelf)
        made = list(shelf.making)
        assert made
        for _ in range(turns):
            await asyncio.sleep(0)
    assert [(one.control.fileno(), one.stdout_fd, one.stderr_fd, one.pidfd) for one in made] == [
        (-1,) * 4
    ] * len(made)
    # Of what was to be sent, sockets that nobody closed would warn now.
    gc.collect()


async def test_a_template_that_does_not_serve_is_given_up(monkeypatch):
    from unsandbox.sandbox.bubblewrap import template as module

    monkeypatch.setattr(module.Template, "files", lambda *_: {"/work/main.py": b"print('no zygote')"})
    async with BubblewrapBackend(pool=CONFIG) as backend:
        outcome = await asyncio.wait_for((await backend.start(python_spec("print('cold')"))).wait(), 20)
        assert outcome.stdout.data == b"cold\n"


def are_others(backend: BubblewrapBackend, before: list[int]) -> bool:
    return zygotes(backend) not in ([], before)


async def test_a_pool_that_served_comes_back_after_failures(monkeypatch):
    from unsandbox.sandbox.host.warm import pool as module

    monkeypatch.setattr(module, "_REST_S", 0.5)
    async with pooled(CONFIG) as backend:
        for _ in range(5):
            before = zygotes(backend)
            for zygote in before:
                os.kill(zygote, signal.SIGKILL)
            await eventually(partial(are_others, backend, before))
        await eventually(lambda: backend.pool.state is PoolState.SERVING and backend.pool.waiting > 0)
        await run_in(backend, python_spec("pass"), expect_warm=True)


async def test_a_pool_without_isolation_serves_nothing(monkeypatch):
    """What the zygote's sandboxes promise is looked at before the first job, not believed."""
    from unsandbox.sandbox.bubblewrap.template import Template

    files = Template.files

    def without_dropping(self, *about):
        found = files(self, *about)
        code = found["/work/.lockdown"].replace(b"yield from self._give_up_all()", b"pass")
        assert code != found["/work/.lockdown"]
        return {**found, "/work/.lockdown": code}

    monkeypatch.setattr(Template, "files", without_dropping)
    async with BubblewrapBackend(pool=CONFIG) as backend:
        await eventually(lambda: backend.pool.state is PoolState.CLOSED)
        outcome = await run_in(
            backend, python_spec("print(open('/proc/self/status').read())"), expect_warm=False
        )
        assert b"CapEff:\t0000000000000000" in outcome.stdout.data


@pytest.mark.parametrize(
    "native", [replace(native_programs(), spawner=None), NO_PROGRAMS], ids=["spawner", "all"]
)
async def test_where_a_forked_interpreter_does_the_work(native):
    """As on machines for which there are no instructions."""
    async with pooled(CONFIG, native) as backend:
        look = (
            "import os; print(os.getpid(), os.getppid(), sorted(os.listdir('/proc/self/fd')), os.getresuid())"
        )
        for _ in range(2):
            outcome = await run_in(backend, python_spec(look), expect_warm=True)
            assert outcome.stdout.data == b"2 1 ['0', '1', '2', '3'] (1000, 1000, 1000)\n"
        script = TABLE["bash"].build_spec("echo $PPID $$; exit 7")
        await run_in(backend, script, expect_warm=True)
        await eventually(lambda: backend.pool.queues[KIND_BASH].ready)
        outcome = await run_in(backend, script, expect_warm=True)
        assert (outcome.stdout.data, outcome.exit_code) == (b"1 2\n", 7)
        late = TABLE["bash"].build_spec("exec > >(sleep 0.2; cat); echo late; exit 7")
        outcome = await run_in(backend, late, expect_warm=True)
        assert (outcome.stdout.data, outcome.exit_code, outcome.output_cut) == (b"late\n", 7, False)


@pytest.mark.parametrize("by", ["instructions", "a fork"])
async def test_a_step_that_fails_is_named(monkeypatch, caplog, by):
    """Then there is no sandbox, rather than one with a step left out."""
    from unsandbox.sandbox.bubblewrap.template import Template

    files = Template.files

    def broken(self, *about):
        found = files(self, *about)
        code = found["/work/.lockdown"].replace(
            b'call("chdir", at(b"/work"))', b'call("chdir", at(b"/nowhere"))'
        )
        assert code != found["/work/.lockdown"]
        return {**found, "/work/.lockdown": code}

    monkeypatch.setattr(Template, "files", broken)
    native = replace(native_programs(), spawner=None) if by == "a fork" else None
    async with BubblewrapBackend(pool=CONFIG, native=native) as backend:
        await eventually(lambda: backend.pool.state is PoolState.RESTING)
        assert "error chdir: No such file or directory" in caplog.text
        await run_in(backend, python_spec("pass"), expect_warm=False)


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


# Compiled programs are used again


def c_spec(code: str, scope: str = "me", **fields: object) -> SandboxSpec:
    return replace(TABLE["c"].build_spec(code, **fields), cache_scope=scope)


WARNING = '#include <stdio.h>\nint main(void) { int x = %d; x = x; printf("hello\\n"); return f(); } int f() { return 3; }\n'


async def test_a_program_is_compiled_once_per_key_source_and_compiler(warm):
    cache = warm.pool.source.compiled
    spec = c_spec(WARNING % 1)
    begin = len(cache)
    first = await run_in(warm, spec, expect_warm=True)
    assert len(cache) == begin + 1
    again = await run_in(warm, spec, expect_warm=True)
    # What the compiler said is said again.
    assert without_addresses(again) == without_addresses(first)
    assert b"implicit declaration" in first.stderr.data
    assert first.exit_code == 3
    assert again.cpu_s < first.cpu_s / 2
    assert len(cache) == begin + 1
    for other in (
        c_spec(WARNING % 2),
        c_spec(WARNING % 1, "another key"),
        replace(spec, compile_env={"CPATH": "/tmp"}),
        replace(spec, compile=[*(spec.compile or ()), "-O2"]),
    ):
        assert cache.find(cache.key_of(other)) is None
    assert cache.key_of(replace(spec, cache_scope="")) is None


async def test_artifacts_of_a_program_that_was_compiled_before(warm):
    spec = c_spec(WARNING % 3, return_artifacts=True)
    outcomes = [await run_in(warm, spec, expect_warm=True) for _ in range(2)]
    assert outcomes[0].artifacts == outcomes[1].artifacts
    assert outcomes[0].artifacts[0].data.startswith(b"\x7fELF")
    assert outcomes[0].artifacts[0].mode == outcomes[1].artifacts[0].mode


async def test_a_program_that_changes_itself_is_kept_as_it_was_compiled(warm):
    code = '#include <stdio.h>\n#include <stdlib.h>\nint main(void) { puts("x"); return system("rm /work/main; echo bad > /work/main"); }'
    outcomes = [await run_in(warm, c_spec(code), expect_warm=True) for _ in range(3)]
    assert [outcome.stdout.data for outcome in outcomes] == [b"x\n"] * 3


async def test_what_does_not_compile_is_not_kept(warm):
    cache = warm.pool.source.compiled
    begin = len(cache)
    for _ in range(2):
        outcome = await run_in(warm, c_spec("int main(void) { no }"), expect_warm=True)
        assert (outcome.compile_failed, outcome.exit_code) == (True, 1)
    links = replace(c_spec("x"), compile=["ln", "-s", "/etc/passwd", "/work/main"], run=["echo", "ok"])
    folder = replace(c_spec("y"), compile=["mkdir", "/work/main"], run=["echo", "ok"])
    pipes = replace(c_spec("z"), compile=["mkfifo", "/work/main"], run=["echo", "ok"])
    for spec in (links, folder, pipes):
        assert (await run_in(warm, spec, expect_warm=True)).stdout.data == b"ok\n"
    assert len(cache) == begin


def test_the_cache_keeps_its_bounds():
    from unsandbox.sandbox.host.compile_cache import CompileCache, Compiled

    cache = CompileCache(TABLE.system, most_bytes=10_000, most_each=3000, most_per_key=5000)
    keys = [(owner, bytes([number])) for owner in "ab" for number in range(4)]
    for key in keys:
        cache.keep(key, Compiled(bytes(1000), 0o755))
    assert [key for key in keys if cache.find(key)] == [*keys[1:4], *keys[5:8]]
    cache.keep(("c", b""), Compiled(bytes(2600), 0o755))
    assert cache.find(("c", b"")) is None
    cache.keep(("c", b"1"), Compiled(bytes(2400), 0o755))
    assert cache.find(("c", b"1"))
    assert cache.held_bytes <= 10_000
    assert cache.find(keys[1]) is None


# JavaScript in a node that waits

JAVASCRIPT: dict[str, str | bytes] = programs("javascript") | {
    "large": "/*" + "x" * 300_000 + "*/ console.log('large')",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(warm) -> AsyncIterator[BubblewrapBackend]:
    if not TABLE["javascript"].installed():
        pytest.skip("node is not installed")
    await run_in(warm, TABLE["javascript"].build_spec(""), expect_warm=True)
    return warm


@pytest.mark.parametrize("name", JAVASCRIPT)
async def test_a_javascript_program_sees_no_difference(backend, node, name):
    spec = TABLE["javascript"].build_spec(JAVASCRIPT[name], input_files={"a.json": b'{"b": 5}'})
    await eventually(lambda: node.pool.queues[KIND_NODE].ready, 10)
    waits = node.pool.queues[KIND_NODE].ready[0]
    hot = await run_in(node, spec, expect_warm=True)
    assert waits.used
    cold = await run_in(backend, spec, expect_warm=False)
    hot_view, cold_view = (re.sub(r"(node:\d+)", "node", repr(without_addresses(one))) for one in (hot, cold))
    assert hot_view == cold_view


async def test_a_javascript_program_with_its_own_variables_or_input_gets_them(node):
    code = "console.log(process.env.X, require('fs').readFileSync(0, 'utf8'))"
    spec = TABLE["javascript"].build_spec(code, env={"X": "1"}, stdin=b"in")
    assert (await run_in(node, spec, expect_warm=True)).stdout.data == b"1 in\n"


# Bash that waits

BASH: dict[str, str | bytes] = programs("bash") | {
    "large": "#" + "x" * 100_000 + "\necho large",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bash(warm) -> AsyncIterator[BubblewrapBackend]:
    await run_in(warm, TABLE["bash"].build_spec(""), expect_warm=True)
    return warm


@pytest.mark.parametrize("name", BASH)
async def test_a_bash_script_sees_no_difference(backend, bash, name):
    spec = TABLE["bash"].build_spec(BASH[name])
    await eventually(lambda: bash.pool.queues[KIND_BASH].ready, 20)
    waits = bash.pool.queues[KIND_BASH].ready[0]
    hot = await run_in(bash, spec, expect_warm=True)
    assert waits.used
    cold = await run_in(backend, spec, expect_warm=False)
    assert without_addresses(hot) == without_addresses(cold)


ORDINARY = """
import asyncio, json, sys
sys.path[:0] = {paths!r}
from unsandbox.sandbox import BubblewrapBackend, Limits, SandboxSpec, load_languages, pool_for
def limits(**fields):
    return Limits(memory_bytes=256 << 20, **fields)
async def main():
    table = load_languages()
    async with BubblewrapBackend(pool=pool_for(table, 2, 2, limits())) as backend:
        while backend.pool.state.value == "starting": await asyncio.sleep(0.01)
        found = []
        async def run(code, **fields):
            job = await backend.start(table["python"].build_spec(code, return_artifacts=True, limits=limits(wall_s=fields.get("wall_s", 10))))
            outcome = await job.wait()
            return [type(job).__name__, outcome.reason, outcome.exit_code, outcome.stdout.data.decode(), len(outcome.artifacts)]
        print(json.dumps([
            await run("import os; print(os.getuid(), os.getpid()); open('/tmp/artifacts/a', 'w').write('x'); raise SystemExit(3)"),
            await run("import pty, os; print(os.ttyname(pty.openpty()[1]))"),
            await run("import os, time\\nfor _ in range(10):\\n if os.fork() == 0:\\n  x = bytearray(40 << 20); x[::4096] = bytes(len(x[::4096])); time.sleep(30)\\ntime.sleep(30)"),
            await run("while True: pass", wall_s=0.3),
        ]))
asyncio.run(main())
"""


@pytest.mark.root
@pytest.mark.parametrize(
    "wrapper", [[], ["unshare", "--user", "--map-root-user", "--mount"]], ids=["user", "container"]
)
async def test_the_pool_of_an_ordinary_user(readable_copy, wrapper):
    code = ORDINARY.format(paths=[str(readable_copy)])
    process = await asyncio.create_subprocess_exec(
        *wrapper, system_python(), "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        user=65534, group=65534, extra_groups=[], env={"PATH": "/usr/bin", "HOME": "/nonexistent"}, cwd="/",
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b""), err.decode()
    assert json.loads(out) == [
        ["WarmJob", "exited", 3, "1000 2\n", 1],
        ["WarmJob", "exited", 0, "/dev/pts/0\n", 0],
        ["WarmJob", "memory", 137, "", 0],
        ["WarmJob", "timeout", None, "", 0],
    ]


HOLDER = """
import asyncio, dataclasses, sys
sys.path[:0] = [{path!r}]
from unsandbox.sandbox import BubblewrapBackend, Limits, SandboxSpec, load_languages, pool_for
async def main():
    pool = dataclasses.replace(pool_for(load_languages(), 2, 2, Limits()), folders=())
    async with BubblewrapBackend(pool=pool) as backend:
        while not (backend.pool.state.value == "serving" and backend.pool.waiting): await asyncio.sleep(0.01)
        job = await backend.start(SandboxSpec(run=["sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000"]))
        print(type(job).__name__, backend.host.runtime, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_kill_minus_9_of_the_server_leaves_nothing_that_waits():
    code = HOLDER.format(path=str(SOURCE))
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    kind, runtime = (await server.stdout.readline()).decode().split()
    assert kind == "WarmJob"
    family = descendants(server.pid)
    # At least launcher, monitor and zygote, and two processes of the job.
    assert len(family) >= 5
    server.kill()
    await server.wait()
    await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), 8)
    await eventually(lambda: not Path(runtime).exists())
    await eventually(lambda: groups_of(Path(runtime).name) == [])
