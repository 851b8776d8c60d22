"""gVisor found, judged and fetched; killed servers; an ordinary user. What stays on the machine is nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sandbox.bubblewrap.test_lifecycle import alive
from tests.sandbox.support import descendants, eventually, groups_of, system_python
from tests.support import SOURCE

from unsandbox.sandbox import GvisorBackend, SandboxUnavailable
from unsandbox.sandbox.gvisor import install, runsc

HOLDER = """
import asyncio, json, sys
sys.path[:0] = {paths!r}
from unsandbox.sandbox import GvisorBackend, SandboxSpec
from unsandbox.sandbox.persistent_spec import PersistentSpec
async def main():
    backend = GvisorBackend()
    await backend.open()
    job = await backend.start(SandboxSpec(run=["sh", "-c", "trap '' TERM; echo up; setsid sleep 1000 & sleep 1000"]))
    live, frozen = await asyncio.gather(backend.open_persistent(PersistentSpec()), backend.open_persistent(PersistentSpec()))
    await live.spawn(["sh", "-c", "setsid sleep 1000 & while :; do :; done"])
    await frozen.spawn(["sleep", "1000"])
    await frozen.freeze()
    while not job._streams["stdout"].result().data:
        await asyncio.sleep(0.01)
    print(json.dumps(dict(runtime=str(backend.host.runtime))), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.gvisor
async def test_kill_minus_9_of_the_server_leaves_nothing():
    mounts = Path("/proc/self/mountinfo").read_text()
    code = HOLDER.format(paths=[str(SOURCE)])
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    runtime = Path(json.loads(await server.stdout.readline())["runtime"])
    family = descendants(server.pid)
    # A launcher, and of each sandbox at least runsc, gofer and sentry.
    assert len(family) >= 10
    assert len(list(runtime.glob("gvisor-*"))) == 3
    server.kill()
    await server.wait()
    await eventually(lambda: not any(alive(pid) for pid in family), 10)
    await eventually(lambda: not runtime.exists(), 10)
    await eventually(lambda: groups_of(runtime.name) == [], 10)
    assert str(runtime) not in Path("/proc/self/mountinfo").read_text()
    assert str(runtime) not in mounts


@pytest.mark.gvisor
async def test_a_killed_launcher_takes_its_sandboxes_along_and_gets_a_successor():
    from unsandbox.sandbox import SandboxError, SandboxSpec
    from unsandbox.sandbox.persistent_spec import PersistentSpec

    async with GvisorBackend() as backend:
        sandbox = await backend.open_persistent(PersistentSpec())
        family = [pid for pid in descendants(os.getpid()) if str(backend.host.runtime).encode() in cmdline(pid)]
        launcher = next(pid for pid in family if b"launcher" in cmdline(pid))
        os.kill(launcher, 9)
        await asyncio.wait_for(sandbox.wait_ended(), 5)
        with pytest.raises(SandboxError, match="ended"):
            await sandbox.run(["true"])
        await eventually(lambda: not any(alive(pid) for pid in family), 10)
        outcome = await (await backend.start(SandboxSpec(run=["echo", "on"]))).wait()
        assert outcome.stdout.data == b"on\n"


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


ORDINARY = """
import asyncio, json, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from unsandbox.sandbox import GvisorBackend, SandboxSpec, Limits
from unsandbox.sandbox.persistent_spec import PersistentSpec
MIB = 1 << 20
async def main():
    backend = GvisorBackend()
    report = await backend.open()
    async def run(*command, **fields):
        spec = SandboxSpec(run=command, limits=Limits(wall_s=20, memory_bytes=200 * MIB), **fields)
        outcome = await (await backend.start(spec)).wait()
        return [outcome.reason, outcome.exit_code, outcome.stdout.data.decode(), [a.data.decode() for a in outcome.artifacts]]
    results = dict(
        hello=await run("sh", "-c", "id -u; cat; echo a > /tmp/artifacts/a; exit 3", stdin=b"in", collect_artifacts=True),
        memory=await run("python3", "-c", "x = bytearray(1 << 30)\\nfor i in range(0, 1 << 30, 4096): x[i] = 1"),
        probe=[[c.name, c.ok, c.enforced_by] for c in report.checks],
    )
    sandbox = await backend.open_persistent(PersistentSpec())
    await sandbox.run(["sh", "-c", "(n=0; while :; do n=$((n+1)); echo $n > m; mv m n; sleep 0.01; done) >/dev/null 2>&1 &"])
    await sandbox.run(["sh", "-c", "until [ -s n ] && [ $(cat n) -ge 20 ]; do sleep 0.01; done"])
    await sandbox.freeze()
    await sandbox.unfreeze()
    image = Path({folder!r}, "image")
    await sandbox.checkpoint(image)
    await sandbox.close()
    again = await backend.open_persistent(PersistentSpec(hot_image=image))
    results["restored"] = int((await again.run(["cat", "n"])).stdout.data)
    runtime = backend.host.runtime
    await backend.close()
    results["gone"] = not runtime.exists()
    print(json.dumps(results))
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.gvisor
@pytest.mark.root
async def test_as_an_ordinary_user(readable_copy):
    folder = readable_copy / "state"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    process = await asyncio.create_subprocess_exec(
        system_python(), "-c", ORDINARY.format(paths=[str(readable_copy)], folder=str(folder)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, user=65534, group=65534, extra_groups=[],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", runsc.VARIABLE: str(runsc.find().path)}, cwd="/",
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    results = json.loads(out)
    assert results["hello"] == ["exited", 3, "1000\nin", ["a\n"]]
    assert results["memory"][:2] == ["memory", 137]
    assert results["restored"] >= 20
    assert results["gone"]
    checks = {name: (ok, by) for name, ok, by in results["probe"]}
    assert all(ok for name, (ok, _) in checks.items() if name.startswith("isolation"))
    assert checks["limit: memory"] == (True, "watchdog")
    assert checks["limit: CPU"] == (False, "nothing")


# Finding it


def fake(folder: Path, said: str, mode: int = 0o755) -> Path:
    program = folder / "runsc"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(mode)
    return program


def test_the_environment_names_the_program(monkeypatch, tmp_path):
    program = fake(tmp_path, "runsc version 7 -pass-fd -bundle")
    monkeypatch.setenv(runsc.VARIABLE, str(program))
    assert runsc.find().path == program
    assert runsc.candidates() == [program]


@pytest.mark.parametrize(
    ("said", "mode", "words"),
    [
        ("runsc version release-20221219.0", 0o755, "lacks -pass-fd and -bundle; release 20240729 or newer"),
        ("-pass-fd -bundle", 0o644, "cannot be run"),
        pytest.param("-pass-fd -bundle", 0o777, "can be changed by other users", marks=pytest.mark.root),
    ],
)
def test_what_cannot_be_used_is_told(monkeypatch, tmp_path, said, mode, words):
    monkeypatch.setenv(runsc.VARIABLE, str(fake(tmp_path, said, mode)))
    with pytest.raises(SandboxUnavailable, match=words) as raised:
        runsc.find()
    assert "un doctor --install-gvisor" in str(raised.value)


async def test_a_program_that_only_looks_right_is_found_out(monkeypatch, tmp_path):
    """Features are asked for first; then the probe runs a sandbox, and believes nothing else."""
    monkeypatch.setenv(runsc.VARIABLE, str(fake(tmp_path, "runsc version 7 -pass-fd -bundle")))
    tmp_path.chmod(0o755)
    with pytest.raises(SandboxUnavailable, match=r"runsc 7 .*(could not be set up|did not finish)"):
        await GvisorBackend().open()


def test_without_apt(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match=r"fetched by Debian's apt.*UNSANDBOX_RUNSC"):
        install.install(tmp_path)


def test_sources_of_apt_in_both_styles(tmp_path):
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://commented.example/debian bookworm main\n"
        "deb http://one.example/debian bookworm main contrib\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://two.example/debian bookworm main\n"
        "deb http://one.example/debian bookworm-updates main\ndeb-src http://src.example bookworm main\n"
    )
    (parts / "a.sources").write_text(
        "Types: deb\n# a remark\nURIs: http://three.example/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n\n"
        "Types: deb\nURIs: http://off.example/debian\nSuites: bookworm\nEnabled: no\n\n"
        "Types: deb\nURIs: http://sec.example/debian\nSuites: bookworm-security\n"
    )
    assert list(install.debian_sources(tmp_path, "bookworm", "bookworm-backports")) == [
        "deb http://one.example/debian bookworm-backports main",
        "deb [arch=amd64 signed-by=/k.gpg] http://two.example/debian bookworm-backports main",
        "deb [signed-by=/usr/share/keyrings/k.gpg] http://three.example/debian bookworm-backports main",
    ]


def test_no_source_for_this_release(tmp_path):
    with pytest.raises(SandboxUnavailable, match="no archive of"):
        install.install(tmp_path / "here", sources=tmp_path)
