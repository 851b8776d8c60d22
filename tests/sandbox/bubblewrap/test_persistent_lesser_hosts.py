"""Persistent sandboxes on hosts with less: an ordinary user, no control groups, other freezers, no loop devices."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.sandbox.support import eventually, launcher_of, system_python

from unsandbox.sandbox import BubblewrapBackend, SandboxError, SandboxUnavailable
from unsandbox.sandbox.bubblewrap.persistent import BubblewrapSandbox
from unsandbox.sandbox.host import launcher_client
from unsandbox.sandbox.launcher.cgroups import children
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSandbox, PersistentSpec

MIB = 1 << 20


ORDINARY = """
import asyncio, json, os, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from unsandbox.sandbox import BubblewrapBackend, SandboxUnavailable, SandboxError, SandboxFile
from unsandbox.sandbox.persistent_spec import PersistentSpec, PersistentLimits
folder = Path({folder!r})
async def main():
    results = {{}}
    async with BubblewrapBackend() as backend:
        limits = PersistentLimits(work_bytes=8 << 20, processes=40, memory_bytes=256 << 20)
        sandbox = await backend.open_persistent(PersistentSpec(limits=limits, work_disk=folder / "disk"))
        async def sh(script):
            outcome = await sandbox.run(["sh", "-c", script], timeout_s=20)
            return [outcome.exit_code, outcome.stdout.data.decode(), outcome.stderr.data.decode()]
        results["id"] = await sh("id -u; pwd; touch x; stat -c %U x; grep Cap /proc/self/status | sort -u -k2")
        results["hidden"] = await sh("cat /proc/1/environ; ls /proc/1/fd; kill -9 1; echo $?")
        terminal = await sandbox.spawn(["tty"], terminal=(80, 24))
        await terminal.wait()
        results["tty"] = os.read(terminal.terminal_fd, 100).decode()
        terminal.close()
        await sandbox.put_files([SandboxFile("/work/a/f", b"data")])
        counter = await sandbox.spawn(["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; done"])
        while not (await sh("cat /tmp/count"))[1].strip(): pass
        await sandbox.freeze()
        await asyncio.sleep(0.05)
        await sandbox.archive_work(folder / "archive")
        await sandbox.unfreeze()
        before = (await sh("cat /tmp/count"))[1]
        for _ in range(100):
            after = (await sh("cat /tmp/count"))[1]
            if after.strip() and after != before: break
        results["goes on"] = [before, after]
        counter.kill()
        await sh("mkdir closed; echo x > closed/x; chmod 0 closed; rm -r a")
        await sandbox.replace_work(folder / "archive")
        results["replaced"] = await sh("ls; cat a/f")
        results["file too large"] = await sh("head -c 20000000 /dev/zero > big; stat -c %s big; rm big")
        try:
            await sandbox.set_limits(vcpu=1)
        except SandboxUnavailable as error:
            results["limits"] = str(error)
        server = await sandbox.spawn(["/usr/bin/python3", "-m", "http.server", "-b", "127.0.0.1", "8000"])
        for _ in range(200):
            try:
                os.close(await sandbox.connect(8000))
                results["connected"] = True
                break
            except ConnectionError:
                await asyncio.sleep(0.02)
        await sh("for i in 1 2 3; do head -c 4000000 /dev/zero > part$i; done")
        await asyncio.wait_for(sandbox.wait_ended(), 20)
        try:
            await sandbox.run(["true"])
        except SandboxError as error:
            results["too much"] = str(error) + repr(sandbox._ending)
        await sandbox.close()
        results["kept"] = sorted(os.listdir(folder / "disk"))
        many = await backend.open_persistent(PersistentSpec(limits=PersistentLimits(memory_bytes=200 << 20)))
        await many.spawn(["/usr/bin/python3", "-c", "import os, time\\nfor _ in range(10):\\n if os.fork() == 0:\\n  x = bytearray(40 << 20)\\n  time.sleep(30)\\ntime.sleep(30)"])
        await asyncio.wait_for(many.wait_ended(), 20)
        results["memory"] = many.end_reason
        await many.close()
        nameless = await backend.open_persistent(PersistentSpec())
        await nameless.run(["sh", "-c", "mkdir -p a/b; touch a/b/c; chmod 500 a/b; chmod 0 a"])
        runtime = backend.host.runtime
        frozen = await backend.open_persistent(PersistentSpec())
        await frozen.spawn(["sh", "-c", "while :; do :; done"])
        await frozen.freeze()
    results["gone"] = not runtime.exists()
    print(json.dumps(results))
asyncio.run(main())
"""


@pytest.mark.root
async def test_as_an_ordinary_user(readable_copy, tmp_path):
    folder = Path("/tmp") / f"live-test-{os.getpid()}"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    try:
        code = ORDINARY.format(paths=library_paths(readable_copy), folder=str(folder))
        process = await asyncio.create_subprocess_exec(
            system_python(), "-W", "ignore", "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            user=65534, group=65534, extra_groups=[], env={"PATH": "/usr/bin", "HOME": "/nonexistent"}, cwd="/",
        )  # fmt: skip
        out, err = await process.communicate()
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)
    assert process.returncode == 0, err.decode()
    results = json.loads(out)
    assert results["id"][1].splitlines()[:3] == ["1000", "/work", "sandbox"]
    assert "0000000000000000" in results["id"][1]
    assert results["hidden"][1] == "0\n"
    assert results["hidden"][2].count("Permission denied") == 2
    assert results["tty"].startswith("/dev/pts/")
    assert results["goes on"][0] != results["goes on"][1]
    assert results["replaced"][1] == "a\nx\ndata"
    assert int(results["file too large"][1]) <= 8 * MIB
    assert "control group" in results["limits"]
    assert results["connected"]
    assert "grew beyond" in results["too much"]
    assert "part3" in results["kept"]
    assert results["memory"] == "it used more memory than its limit"
    assert results["gone"]


def library_paths(copy: Path) -> list[str]:
    """Where an ordinary user finds the libraries of archives: beside the copy of the package."""
    import shutil

    import zstandard

    source = Path(zstandard.__file__).parent
    if not (copy / source.name).exists():
        shutil.copytree(source, copy / source.name)
        for path in (copy / source.name).rglob("*"):
            path.chmod(0o755)
        (copy / source.name).chmod(0o755)
    return [str(copy)]


def patched(bootstrap: str, patch: str) -> str:
    """Have the launcher run some lines before it begins."""
    return bootstrap.replace("from unsandbox", f"exec({patch!r})\nfrom unsandbox")


@pytest.mark.parametrize("kind", ["v1", "stop"])
async def test_other_freezers(monkeypatch, tmp_path, kind):
    """As on machines without a v2 hierarchy, and without any."""
    from unsandbox.sandbox.launcher import hierarchy

    if kind == "v1" and not [base for name, base in hierarchy.freezer_bases() if name == "v1"]:
        pytest.skip("no v1 freezer")
    patch = (
        "from unsandbox.sandbox.launcher import hierarchy\n"
        f"bases = [base for base in hierarchy.freezer_bases() if base[0] == {kind!r}]\n"
        "hierarchy.freezer_bases = lambda: bases\n"
    )
    monkeypatch.setattr(launcher_client, "BOOTSTRAP", patched(launcher_client.BOOTSTRAP, patch))
    async with BubblewrapBackend() as backend:
        if backend.host.cgroup.version == 2:
            pytest.skip("a v2 hierarchy has its freezer")
        assert backend.host.cgroup.freezer == kind
        sandbox = await backend.open_persistent(PersistentSpec())
        process = await sandbox.spawn(
            ["sh", "-c", "trap '' TERM; i=0; while :; do i=$((i+1)); echo $i > /tmp/n; done"]
        )
        stopped = await sandbox.spawn(["sh", "-c", "kill -STOP $$; sleep 1000"])
        for _ in range(100):
            if (await sandbox.run(["cat", "/tmp/n"])).stdout.data.strip():
                break
        await sandbox.freeze()
        programs = [
            pid
            for pid in children(launcher_of(backend))
            if b"trap" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

        def ticks() -> list[list[str]]:
            return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in programs]

        assert len(programs) == 1
        before = ticks()
        await sandbox.archive_work(tmp_path / "archive")
        await asyncio.sleep(0.05)
        assert ticks() == before
        await sandbox.unfreeze()
        await eventually(lambda: ticks() != before)
        # What the tenant had stopped himself stays so.
        said = await sandbox.run(["ps", "-eo", "stat,args"])
        assert any(
            line.split()[0].startswith(b"T") for line in said.stdout.data.splitlines() if b"STOP" in line
        )
        await sandbox.freeze()
        await asyncio.wait_for(sandbox.close(), 3)
        assert await process.wait() == 137
        process.close()
        stopped.close()


def uses_disk(sandbox: PersistentSandbox) -> bool:
    return sandbox.disk_used() > 0


@pytest.mark.root
async def test_no_image_where_none_can_be_mounted(monkeypatch, tmp_path):
    """Root in a container without loop devices: a folder, looked at from time to time."""
    from unsandbox.sandbox.bubblewrap import backend as bubblewrap

    monkeypatch.setattr(bubblewrap, "images_usable", lambda: "no loop devices")
    # Only root gets to it.
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with BubblewrapBackend() as backend:
        spec = PersistentSpec(limits=PersistentLimits(work_bytes=8 * MIB), work_disk=closed / "disk")
        for round_ in range(2):
            sandbox = await backend.open_persistent(spec)
            other = await backend.open_persistent(PersistentSpec())
            outcome = await sandbox.run(["sh", "-c", "echo x >> x; stat -c %U x; wc -l < x"])
            assert outcome.stdout.data == f"sandbox\n{round_ + 1}\n".encode()
            await eventually(partial(uses_disk, sandbox))
            if round_:
                await sandbox.run(["sh", "-c", "for i in 1 2 3; do head -c 4000000 /dev/zero > part$i; done"])
                await asyncio.wait_for(sandbox.wait_ended(), 10)
                assert isinstance(sandbox, BubblewrapSandbox)
                assert "grew beyond" in sandbox.end_reason
            await other.close()
            await sandbox.close()
            # The next one has another user.
            await backend.open_persistent(PersistentSpec())
    image = BubblewrapBackend()
    monkeypatch.undo()
    async with image:
        with pytest.raises(SandboxUnavailable, match="folder"):
            await image.open_persistent(spec)


@pytest.mark.root
async def test_a_container_that_shows_devices_which_it_cannot_use(monkeypatch, caplog):
    """Images are tried, found out not to work, and done without; said, not in silence."""
    patch = (
        "from unsandbox.sandbox.launcher import disk_mount\n"
        "def broken(*_): raise OSError(1, 'Operation not permitted')\n"
        "disk_mount._attach = broken\n"
    )
    monkeypatch.setattr(launcher_client, "BOOTSTRAP", patched(launcher_client.BOOTSTRAP, patch))
    async with BubblewrapBackend() as backend:
        checks = {check.name: check for check in await backend.prove_persistent()}
        assert checks["persistent: sandboxes"].ok
        assert not checks["persistent: disk quota"].ok
        assert "cannot be mounted: Operation not permitted" in checks["persistent: disk quota"].detail
        sandbox = await backend.open_persistent(PersistentSpec())
        assert (await sandbox.run(["stat", "-c", "%U", "/work"])).stdout.data == b"sandbox\n"
        await sandbox.close()
    assert "no disk quota" in caplog.text


async def test_what_a_machine_has_for_live_sandboxes_is_told(backend):
    checks = {check.name: check for check in await backend.prove_persistent()}
    assert list(checks) == [
        "persistent: sandboxes",
        "persistent: freeze",
        "persistent: disk quota",
        "persistent: archives",
    ]
    assert checks["persistent: sandboxes"].ok
    assert checks["persistent: archives"].ok
    assert checks["persistent: disk quota"].ok is (os.geteuid() == 0)


async def test_live_sandboxes_that_cannot_be_had_are_refused(monkeypatch):
    """Something is visible inside that must not be: none is made until that is mended."""
    from unsandbox.sandbox.host import probe

    real = probe.judge

    def leaky(said: str):
        return [
            check if "files" not in check.name else replace(check, ok=False, detail="a leak")
            for check in real(said)
        ]

    async with BubblewrapBackend() as backend:
        with monkeypatch.context() as patch:
            patch.setattr(probe, "judge", leaky)
            with pytest.raises(SandboxUnavailable, match="a leak"):
                await backend.open_persistent(PersistentSpec())
        await (await backend.open_persistent(PersistentSpec())).close()


@pytest.mark.root
async def test_a_kernel_without_id_mapped_mounts(monkeypatch, tmp_path):
    """Files change their owner instead, and back again when the kernel can."""
    patch = "from unsandbox.sandbox.launcher import disk_mount\ndisk_mount._mapped_copy = lambda *_: None\n"
    spec = PersistentSpec(limits=PersistentLimits(work_bytes=16 * MIB), work_disk=tmp_path / "disk")
    for before, old in enumerate((True, False, True)):
        with monkeypatch.context() as context:
            if old:
                context.setattr(launcher_client, "BOOTSTRAP", patched(launcher_client.BOOTSTRAP, patch))
            async with BubblewrapBackend() as backend:
                # Whoever comes later has another user.
                for _ in range(before):
                    await backend.open_persistent(PersistentSpec())
                sandbox = await backend.open_persistent(spec)
                script = "mkdir -p a/b; echo x >> a/b/c; stat -c %U . a a/b a/b/c"
                assert (await sandbox.run(["sh", "-c", script])).stdout.data == b"sandbox\n" * 4


async def test_a_program_that_tenants_stop_before_it_starts_is_given_up(backend, monkeypatch):
    from unsandbox.sandbox.bubblewrap import programs as live

    monkeypatch.setattr(live, "_START_TIMEOUT_S", 1.0)
    sandbox = await backend.open_persistent(PersistentSpec())
    stopper = "while :; do for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = $$ ] || kill -STOP $p 2>/dev/null; done; done"
    process = await sandbox.spawn(["sh", "-c", stopper])
    given_up = 0
    for _ in range(10):
        try:
            (await sandbox.spawn(["true"])).close()
        except SandboxError as error:
            assert "not started within" in str(error)
            given_up += 1
            break
    assert given_up
    await asyncio.wait_for(sandbox.freeze(), 3)
    await sandbox.unfreeze()
    process.close()
    await asyncio.wait_for(sandbox.close(), 3)


@pytest.mark.root
async def test_more_sandboxes_than_the_machine_has_loop_devices_at_first(backend):
    limits = PersistentLimits(work_bytes=16 * MIB)
    sandboxes = await asyncio.gather(
        *(backend.open_persistent(PersistentSpec(limits=limits)) for _ in range(12))
    )
    outcomes = await asyncio.gather(
        *(sandbox.run(["stat", "-f", "-c", "%T", "/work"]) for sandbox in sandboxes)
    )
    assert {outcome.stdout.data for outcome in outcomes} == {b"ext2/ext3\n"}
    await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))
