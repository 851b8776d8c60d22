"""Backends that come and go, well-behaved or killed: what stays on the machine is nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import uvloop
from tests.sandbox.support import (
    descendants,
    eventually,
    groups_of,
    launcher_of,
    launchers,
    started,
    system_python,
)
from tests.support import SOURCE

from unsandbox.sandbox import (
    BubblewrapBackend,
    EndReason,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
    rootfs,
)
from unsandbox.sandbox.launcher import cleanup
from unsandbox.sandbox.persistent_spec import PersistentSpec

HOLDER = """
import asyncio, json, os, sys
sys.path[:0] = {paths!r}
from unsandbox.sandbox import BubblewrapBackend, SandboxSpec, Limits
async def main():
    backend = BubblewrapBackend()
    report = await backend.open()
    jobs = [await backend.start(SandboxSpec(run=["bash", "-c", script])) for script in {scripts!r}]
    await asyncio.sleep(0.2)
    print(json.dumps(dict(runtime=str(backend.host.runtime), checks=[[c.name, c.enforced_by] for c in report.checks])), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def test_kill_minus_9_of_the_server_leaves_nothing():
    scripts = ["sleep 1000", "trap '' TERM HUP INT; setsid sleep 1000 & while :; do sleep 1; done", "yes"]
    code = HOLDER.format(paths=[str(SOURCE)], scripts=scripts)
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    report = json.loads(await server.stdout.readline())
    runtime = Path(report["runtime"])
    await eventually(lambda: len(descendants(server.pid)) >= 8, 20)
    family = descendants(server.pid)
    assert runtime.is_dir()
    server.kill()
    await server.wait()
    await eventually(lambda: not any(alive(pid) for pid in family))
    await eventually(lambda: not runtime.exists())
    await eventually(lambda: groups_of(runtime.name) == [])


async def test_a_forked_child_of_the_server_does_not_keep_it_alive():
    code = HOLDER.format(paths=[str(SOURCE)], scripts=["sleep 1000"])
    fork = "if os.fork() == 0: import signal; signal.pause()"
    code = code.replace("await asyncio.sleep(0.2)", f"await asyncio.sleep(0.2)\n    {fork}")
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE, start_new_session=True
    )
    runtime = Path(json.loads(await server.stdout.readline())["runtime"])
    family = [pid for launcher in launchers(server.pid) for pid in (launcher, *descendants(launcher))]
    assert len(family) >= 3
    try:
        server.kill()
        await eventually(lambda: not any(alive(pid) for pid in family))
        assert not runtime.exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        await server.wait()


async def test_close_ends_running_jobs_and_removes_everything():
    backend = BubblewrapBackend()
    await backend.open()
    runtime = backend.host.runtime
    wrote = asyncio.Event()
    job = await backend.start(SandboxSpec(run=["sh", "-c", "echo partial; sleep 1000"]), lambda *_: wrote.set())
    async with asyncio.timeout(20):
        await wrote.wait()
    launcher = launcher_of(backend)
    family = [launcher, *descendants(launcher)]
    await backend.close()
    await backend.close()
    outcome = await job.wait()
    assert (outcome.reason, outcome.stdout.data) == (EndReason.CANCELLED, b"partial\n")
    assert not any(alive(pid) for pid in family)
    assert not runtime.exists()
    assert groups_of(runtime.name) == []


async def test_a_killed_launcher_takes_its_sandboxes_along_and_gets_a_successor():
    backend = BubblewrapBackend()
    await backend.open()
    runtime = backend.host.runtime
    launcher = launcher_of(backend)
    job = await started(backend, "sleep", "1000")
    family = descendants(launcher)
    os.kill(launcher, signal.SIGKILL)
    with pytest.raises(SandboxError, match="launcher"):
        await asyncio.wait_for(job.wait(), 5)
    await eventually(lambda: not any(alive(pid) for pid in family))
    # Many come at once: one of them starts the new launcher, the others wait for it.
    jobs = await asyncio.gather(*(backend.start(SandboxSpec(run=["echo", "on"])) for _ in range(5)))
    outcomes = await asyncio.gather(*(job.wait() for job in jobs))
    assert [outcome.stdout.data for outcome in outcomes] == [b"on\n"] * 5
    assert not runtime.exists()
    assert groups_of(runtime.name) == []
    await backend.close()


@pytest.mark.parametrize("kind", ["in a group", "of the runtime folder"])
async def test_a_new_launcher_ends_what_the_killed_one_left(kind):
    """A sandbox that was being made when its launcher was killed, and that no signal has told."""
    async with BubblewrapBackend() as backend:
        runtime = backend.host.runtime
        launcher = launcher_of(backend)
        job = await started(backend, "sleep", "1000")
        program = Path(shutil.copy("/bin/sleep", runtime / "program" / "sleep"))
        left = subprocess.Popen([program if kind == "of the runtime folder" else "sleep", "1000"])
        if kind == "in a group":
            files = [file for group in groups_of(runtime.name) for file in group.rglob("cgroup.procs")]
            occupied = [file for file in files if file.read_text().strip()]
            if not occupied:
                left.kill()
                left.wait()
                pytest.skip("no control groups")
            occupied[0].write_text(str(left.pid))
        os.kill(launcher, signal.SIGKILL)
        with pytest.raises(SandboxError, match="launcher"):
            await asyncio.wait_for(job.wait(), 5)
        assert left.poll() is None
        outcome = await (await backend.start(SandboxSpec(run=["echo", "on"]))).wait()
        assert outcome.stdout.data == b"on\n"
        assert left.wait(5) == -signal.SIGKILL
        assert groups_of(runtime.name) == []
        assert not runtime.exists()


@pytest.mark.parametrize("round_", range(6))
async def test_kill_minus_9_in_the_midst_of_setting_up(round_):
    """A sandbox whose monitor dies too early waits for it for ever, unless somebody looks for orphans."""
    start = "asyncio.gather(*(backend.start(SandboxSpec(run=['sleep', '1000'])) for _ in range(12)))"
    code = HOLDER.format(paths=[str(SOURCE)], scripts=[]).replace(
        "asyncio.sleep(60)", f"{start}; await asyncio.sleep(60)"
    )
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    runtime = Path(json.loads(await server.stdout.readline())["runtime"])
    (launcher,) = launchers(server.pid)
    await eventually(lambda: len(descendants(launcher)) >= 2 * (round_ + 1))
    inside = {int(pid) for group in groups_of(runtime.name) for file in group.rglob("cgroup.procs")
              for pid in file.read_text().split()}  # fmt: skip
    server.kill()
    await server.wait()
    await eventually(lambda: not alive(launcher), 8)
    assert not [pid for pid in inside if alive(pid)]
    assert not runtime.exists()
    assert groups_of(runtime.name) == []


async def test_groups_and_folders_of_dead_servers_are_swept():
    process = subprocess.Popen(["true"])
    process.wait()
    stale = Path("/tmp") / f"unsandbox-{process.pid}-0123456789ab"
    stale.mkdir()
    (stale / "file").write_text("x")
    held = Path("/tmp") / f"unsandbox-{process.pid}-aaaaaaaaaaaa"
    new = Path("/tmp") / f"unsandbox-{process.pid}-bbbbbbbbbbbb"
    held.mkdir()
    new.mkdir()
    for folder in (stale, held):
        os.utime(folder, (0, 0))
    lock = cleanup.hold(held)
    other = Path("/tmp") / f"unsandbox-{process.pid}-x-y"
    other.mkdir()
    try:
        async with BubblewrapBackend():
            assert not stale.exists()
            assert other.exists()
            assert held.exists()
            assert new.exists()
    finally:
        os.close(lock)
        for folder in (other, held, new):
            folder.rmdir()


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_each_kind_of_loop_in_a_thread_that_ends(runner):
    """Jobs must not die because of which thread started them, and a loop's end must not matter to the next one."""
    results = []

    async def main():
        async with BubblewrapBackend() as backend:
            job = await backend.start(SandboxSpec(run=["sh", "-c", "sleep 0.1; echo ok"], stdin=b"x"))
            results.append((await job.wait()).stdout.data)

    for _ in range(2):
        thread = threading.Thread(target=runner, args=(main(),))
        thread.start()
        thread.join()
    assert results == [b"ok\n", b"ok\n"]


async def test_two_backends_at_once(backend):
    async with BubblewrapBackend() as second:
        jobs = [await one.start(SandboxSpec(run=["id", "-u"])) for one in (backend, second) * 3]
        assert {(await job.wait()).stdout.data for job in jobs} == {b"1000\n"}


@pytest.mark.root
async def test_users_of_live_sandboxes_differ(backend):
    jobs = [await started(backend, "sleep", "60") for _ in range(3)]
    uids = [Path(f"/proc/{job.process[0]}").stat().st_uid for job in jobs]
    assert len(set(uids)) == 3
    assert all(uid >= 200_000 for uid in uids)
    for job in jobs:
        job.cancel()
        await job.wait()


async def test_the_report_says_what_is_in_force():
    async with BubblewrapBackend() as backend:
        pass
    report = await backend.open()
    await backend.close()
    checks = {check.name: check for check in report.checks}
    assert report.usable
    assert all(check.ok for name, check in checks.items() if name.startswith("isolation"))
    assert checks["limit: memory"].enforced_by in {"cgroup v1", "cgroup v2", "RLIMIT_DATA and watchdog"}


async def test_without_bubblewrap(monkeypatch):
    monkeypatch.setattr(rootfs, "_find_wheel", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="pip install"):
        await BubblewrapBackend().open()


async def test_a_sandbox_program_that_fails_is_told_with_its_words(monkeypatch, tmp_path):

    def broken(runtime):
        program = runtime / "bwrap"
        program.write_text(
            "#!/bin/sh\necho 'bwrap: Creating new namespace failed: Operation not permitted' >&2; exit 1\n"
        )
        program.chmod(0o755)
        return program

    monkeypatch.setattr(rootfs, "install_program", broken)
    with pytest.raises(
        SandboxUnavailable, match=r"Creating new namespace failed.*\(.*(user\.max_user_namespaces|un doctor)"
    ):
        await BubblewrapBackend().open()


async def test_a_sandbox_program_that_cannot_be_executed(monkeypatch):
    monkeypatch.setattr(rootfs, "install_program", lambda runtime: runtime / "missing")
    with pytest.raises(SandboxUnavailable, match="cannot start the sandbox program"):
        await BubblewrapBackend().open()


@pytest.mark.root
async def test_a_folder_that_others_cannot_reach_is_refused(tmp_path):
    tmp_path.chmod(0o700)
    with pytest.raises(SandboxUnavailable, match="cannot reach"):
        await BubblewrapBackend(tmp_path).open()


ORDINARY = """
import asyncio, json, os, sys
sys.path[:0] = {paths!r}
from unsandbox.sandbox import BubblewrapBackend, SandboxSpec, SandboxFile, Limits
MIB = 1 << 20
async def main():
    backend = BubblewrapBackend()
    report = await backend.open()
    async def run(*command, **fields):
        limits = fields.pop("limits", Limits(wall_s=10, memory_bytes=256 * MIB))
        outcome = await (await backend.start(SandboxSpec(run=command, limits=limits, **fields))).wait()
        return [outcome.reason, outcome.exit_code, outcome.stdout.data.decode(), [a.data.decode() for a in outcome.artifacts],
                outcome.peak_memory_bytes]
    many = "import os, time\\nfor _ in range(10):\\n if os.fork() == 0:\\n  x = bytearray(40 << 20)\\n  time.sleep(30)\\ntime.sleep(30)"
    bomb = "import os, time\\nn = 0\\ntry:\\n while os.fork(): n += 1\\n time.sleep(30)\\nexcept OSError: print(n)"
    results = dict(
        hello=await run("sh", "-c", "id -u; cat; echo a > /tmp/artifacts/a; exit 3", stdin=b"in", collect_artifacts=True),
        one=await run("python3", "-c", "bytearray(1 << 30)"),
        many=await run("python3", "-c", many),
        grows=await run("python3", "-c", "a = []\\nwhile True: a.append(b'x' * (1 << 20))"),
        forks=await run("python3", "-c", bomb, limits=Limits(wall_s=10, processes=40)),
        time=await run("sleep", "60", limits=Limits(wall_s=0.3)),
        probe=[[c.name, c.ok, c.enforced_by] for c in report.checks],
    )
    runtime = backend.host.runtime
    await backend.close()
    results["gone"] = not runtime.exists()
    print(json.dumps(results))
asyncio.run(main())
"""


@pytest.mark.root
async def test_as_an_ordinary_user(readable_copy):
    process = await asyncio.create_subprocess_exec(
        system_python(), "-c", ORDINARY.format(paths=[str(readable_copy)]), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        user=65534, group=65534, extra_groups=[], env={"PATH": "/usr/bin", "HOME": "/nonexistent"}, cwd="/",
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    results = json.loads(out)
    assert results["hello"][:4] == ["exited", 3, "1000\nin", ["a\n"]]
    assert results["one"][1] == 1
    assert results["many"][:2] == ["memory", 137]
    assert results["many"][4] > 200 << 20
    # As where a control group counts, and not a MemoryError.
    assert results["grows"][:2] == ["memory", 137]
    assert results["forks"][0] == "exited"
    assert 30 <= int(results["forks"][2]) <= 40
    assert results["time"][0] == "timeout"
    assert results["gone"]
    checks = {name: (ok, by) for name, ok, by in results["probe"]}
    assert checks["limit: memory"] == (True, "RLIMIT_DATA and watchdog")
    assert checks["limit: processes"] == (True, "RLIMIT_NPROC")
    assert checks["limit: CPU"] == (False, "nothing")
    assert checks["limit: separate users"] == (False, "nothing")


async def in_a_container(copy: Path, user: int | None) -> tuple[int | None, str, str]:
    """Run a server as root of a user namespace that knows only `user` of the host."""
    code = HOLDER.format(paths=[str(copy)], scripts=["id -u"]).replace(
        "await asyncio.sleep(60)", "await backend.close()"
    )
    identity = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    process = await asyncio.create_subprocess_exec(
        "unshare", "--user", "--map-root-user", "--mount", system_python(), "-c", code,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": "/usr/bin"}, cwd="/", **identity,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.root
async def test_as_root_of_a_container_that_is_an_ordinary_user_outside(readable_copy):
    status, out, err = await in_a_container(readable_copy, 65534)
    assert status == 0, err
    report = json.loads(out)
    assert ["limit: separate users", "nothing"] in report["checks"]
    assert not Path(report["runtime"]).exists()


@pytest.mark.root
async def test_as_root_of_a_container_that_is_root_outside_it_is_refused(readable_copy):
    """Without another user to run as, a sandbox could read what only root may: the probe finds out."""
    status, _, err = await in_a_container(readable_copy, None)
    assert status == 1
    assert "isolation is incomplete" in err
    assert "vmallocinfo" in err


async def test_groups_that_somebody_tidied_away_are_made_again():
    async with BubblewrapBackend() as backend:
        groups = groups_of(backend.host.runtime.name)
        # The groups of the sandbox that `open` ran may take the kernel a moment to let go of.
        await eventually(lambda: not any(child.is_dir() for group in groups for child in group.iterdir()))
        for group in groups:
            group.rmdir()
        outcome = await (await backend.start(SandboxSpec(run=["echo", "ok"]))).wait()
        assert outcome.stdout.data == b"ok\n"
        sandbox = await backend.open_persistent(PersistentSpec())
        assert (await sandbox.run(["echo", "live"])).stdout.data == b"live\n"
        await sandbox.close()
        assert sorted(groups_of(backend.host.runtime.name)) == sorted(groups)


async def test_a_server_without_descriptors_to_spare():
    code = f"""
import asyncio, resource, sys
sys.path[:0] = {[str(SOURCE)]!r}
from unsandbox.sandbox import BubblewrapBackend, SandboxSpec, SandboxError
async def main():
    async with BubblewrapBackend() as backend:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        async def one():
            try:
                return (await (await backend.start(SandboxSpec(run=["sleep", "0.5"]))).wait()).exit_code
            except SandboxError as error:
                assert "many open files" in str(error), error
                return "refused"
        results = await asyncio.gather(*(one() for _ in range(40)))
        assert "refused" in results and 0 in results, results
        assert await one() == 0
        assert backend.running == 0
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=subprocess.PIPE)
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, err) == (0, b"")
