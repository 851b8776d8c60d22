"""The life of a warm pool: successors, failures, other users, and nothing left."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.sandbox.bubblewrap.warm_jobs import CONFIG, FOUR, TABLE, pooled, python_spec, run_in
from tests.sandbox.support import children_of, descendants, eventually, groups_of, launchers, system_python
from tests.support import SOURCE

from unsandbox.sandbox import BubblewrapBackend, SandboxError, SandboxSpec
from unsandbox.sandbox.host.warm.pool import PoolState
from unsandbox.sandbox.native.first_process import NO_PROGRAMS, native_programs
from unsandbox.sandbox.zygote.main import KIND_ANY, KIND_BASH

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
        used = []
        async def run(code, **fields):
            job = await backend.start(table["python"].build_spec(code, return_artifacts=True, limits=limits(wall_s=fields.get("wall_s", 10))))
            outcome = await job.wait()
            used.append(outcome.cpu_s)
            return [type(job).__name__, outcome.reason, outcome.exit_code, outcome.stdout.data.decode(), len(outcome.artifacts),
                    outcome.cpu_s is not None, outcome.peak_memory_bytes > 1 << 20]
        print(json.dumps([[
            await run("import os; print(os.getuid(), os.getpid(), os.getpriority(os.PRIO_PROCESS, 0)); open('/tmp/artifacts/a', 'w').write('x'); raise SystemExit(3)"),
            await run("import pty, os; print(os.ttyname(pty.openpty()[1]))"),
            await run("import os, time\\nfor _ in range(10):\\n if os.fork() == 0:\\n  x = bytearray(40 << 20); x[::4096] = bytes(len(x[::4096])); time.sleep(30)\\ntime.sleep(30)"),
            await run("while True: pass", wall_s=0.3),
            await run("import time\\nwhile time.process_time() < 0.2: pass\\nimport subprocess\\n"
                      "subprocess.run(['sh', '-c', 'i=0; while [ $i -lt 99999 ]; do i=$((i+1)); done'])"),
        ], used[0] < used[4] / 4, used[4] >= 0.2]))
asyncio.run(main())
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("wrapper", "user", "priority"),
    [
        ([], 65534, 0),
        (["unshare", "--user", "--map-root-user", "--mount"], 65534, 0),
        # Without the right to raise their priority.
        (["nice", "-n", "7"], 65534, 7),
        (["nice", "-n", "7"], 0, 7),
        (["nice", "-n", "7", "setpriv", "--bounding-set=-sys_nice", "--inh-caps=-all"], 0, 7),
        (["setpriv", "--bounding-set=-sys_nice,-net_admin", "--inh-caps=-all"], 0, 0),
        (["setpriv", "--bounding-set=-sys_admin,-sys_nice,-net_admin", "--inh-caps=-all"], 0, 0),
    ],
    ids=["user", "container", "nice", "nice root", "nice root in docker", "privileged", "root in docker"],
)
async def test_the_pool_of_other_hosts(readable_copy, wrapper, user, priority):
    code = ORDINARY.format(paths=[str(readable_copy)])
    process = await asyncio.create_subprocess_exec(
        *wrapper, system_python(), "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        user=user, group=user, extra_groups=[], env={"PATH": "/usr/bin", "HOME": "/nonexistent"}, cwd="/",
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b""), err.decode()
    outcomes, *cpu_times = json.loads(out)
    assert outcomes == [
        ["WarmJob", "exited", 3, f"1000 2 {priority}\n", 1, True, True],
        ["WarmJob", "exited", 0, "/dev/pts/0\n", 0, True, True],
        # A control group kills the processes that are too many, and the parent sleeps on.
        ["WarmJob", *(["memory", 137] if user else ["timeout", None]), "", 0, True, True],
        ["WarmJob", "timeout", None, "", 0, True, True],
        ["WarmJob", "exited", 0, "", 0, True, True],
    ]
    assert cpu_times == [True, True]


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
