"""The process that makes the connections of a sandbox with a network: its life, and hosts that cannot have it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sandbox.launcher.network.attempts import INSIDE, SEMITRUSTED, alive, tools
from tests.sandbox.launcher.network.internet import PORT
from tests.sandbox.support import children_of, eventually, launcher_of, launchers, started, system_python
from tests.support import SOURCE

from unsandbox.sandbox import (
    BubblewrapBackend,
    Limits,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
)
from unsandbox.sandbox.persistent_spec import PersistentSpec

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("slirp4netns"), reason="slirp4netns is not installed"),
]


async def test_slirp4netns_may_do_nothing_and_is_counted(backend, internet):
    await eventually(lambda: tools() == [])
    job = await started(backend, "sleep", "1000", network=SEMITRUSTED)
    (tool,) = tools()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{tool}/status").read_text().splitlines())
    words = {name: value.split() for name, value in status.items()}
    sandbox_user = Path(f"/proc/{job.process[0]}").stat().st_uid
    assert sandbox_user >= 10_000
    assert set(words["Uid"]) == {str(sandbox_user)} == set(words["Gid"])
    assert words["Groups"] == []
    # What binding to low ports takes, in a user namespace that owns none of the host's network.
    assert words["CapEff"] == words["CapBnd"] == ["0000000000000400"]
    assert (words["NoNewPrivs"], words["Seccomp"]) == (["1"], ["2"])
    assert sorted(os.listdir(f"/proc/{tool}/root")) == ["etc", "run"]
    assert Path(f"/proc/{tool}/environ").read_bytes() == b""
    assert Path(f"/proc/{tool}/cgroup").read_text() == Path(f"/proc/{job.process[0]}/cgroup").read_text()
    assert Path(f"/proc/{tool}/ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino
    opened = [os.readlink(f"/proc/{tool}/fd/{fd}") for fd in os.listdir(f"/proc/{tool}/fd")]
    assert not [
        path
        for path in opened
        if not path.startswith(("/dev/net/tun", "/tun", "/dev/null", "pipe:", "net:", "socket:"))
    ], opened
    assert os.stat("/dev/net/tun").st_rdev == os.makedev(10, 200)
    job.cancel()
    await job.wait()
    await eventually(lambda: not alive(tool))


async def test_the_tenant_does_not_see_it(python):
    outcome = await python(
        "import os; print(sorted(p for p in os.listdir('/proc') if p.isdigit()))", network=SEMITRUSTED
    )
    assert len(json.loads(outcome.stdout.data.decode().replace("'", '"'))) <= 2


@pytest.mark.parametrize("how", ["exit", "cancel", "timeout"])
async def test_it_ends_with_the_job(backend, how, still_well):
    command = ["true"] if how == "exit" else ["sh", "-c", "trap '' TERM; sleep 1000"]
    limits = Limits(wall_s=0.3 if how == "timeout" else 20)
    job = await backend.start(SandboxSpec(run=command, network=SEMITRUSTED, limits=limits))
    if how == "cancel":
        await eventually(lambda: tools())
        job.cancel()
    await job.wait()
    await eventually(lambda: tools() == [])
    await still_well()


async def test_many_at_once(attempt, internet):
    results = await asyncio.gather(*(attempt({"to": internet.public}) for _ in range(12)))
    assert results == [[f"tcp {internet.public} {internet.near}"]] * 12
    await eventually(lambda: tools() == [])


async def test_when_it_dies_the_job_goes_on_without(backend, internet):
    code = f"PORT = {PORT}\n{INSIDE}\n" + f"""
print(attempt({{"to": {internet.public!r}}}), flush=True)
sys.stdin.read(1)
while (got := attempt({{"to": {internet.public!r}}})).startswith("tcp"): pass
print(got)
"""  # fmt: skip
    said = []
    spec = SandboxSpec(run=["/usr/bin/python3", "-c", code], network=SEMITRUSTED, limits=Limits(wall_s=20))
    job = await backend.start(spec, lambda stream, data: said.append(data))
    await eventually(lambda: said, 10)
    for tool in tools():
        os.kill(tool, signal.SIGKILL)
    outcome = await job.wait()
    assert outcome.exit_code == 0
    assert outcome.stdout.data.decode().splitlines()[1] in ("ENETUNREACH", "TimeoutError", "EHOSTUNREACH")


async def test_a_killed_launcher_leaves_nothing():
    backend = BubblewrapBackend()
    await backend.open()
    try:
        launcher = launcher_of(backend)
        job = await started(backend, "sleep", "1000", network=SEMITRUSTED)
        # The probe's goes.
        await eventually(lambda: len(tools(launcher)) == 1)
        (tool,) = tools(launcher)
        first = job.process[0]
        os.kill(launcher, signal.SIGKILL)
        with pytest.raises(SandboxError):
            await job.wait()
        await eventually(lambda: not alive(tool) and not alive(first))
        outcome = await (await backend.start(SandboxSpec(run=["echo", "on"], network=SEMITRUSTED))).wait()
        assert outcome.stdout.data == b"on\n"
    finally:
        await backend.close()


HOLDER = """
import asyncio, sys
sys.path[:0] = {paths!r}
from unsandbox.sandbox import BubblewrapBackend, SandboxSpec
from unsandbox.sandbox.spec import NetworkMode
async def main():
    backend = BubblewrapBackend()
    await backend.open()
    spec = SandboxSpec(run=["sleep", "1000"], network=NetworkMode.SEMITRUSTED)
    print("open", flush=True)
    jobs = await asyncio.gather(*(backend.start(spec) for _ in range(8)))
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("awaited", [1, 4, 8])
async def test_a_killed_server_leaves_nothing(awaited):
    """Killed in the midst of setting up, or afterwards."""
    before = set(os.listdir("/sys/class/net"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER.format(paths=[str(SOURCE)]), stdout=subprocess.PIPE
    )
    assert await process.stdout.readline() == b"open\n"
    (launcher,) = launchers(process.pid)
    await eventually(lambda: len(tools(launcher)) >= awaited, 10)
    family = children_of(launcher)
    process.kill()
    await process.wait()
    await eventually(lambda: not any(alive(pid) for pid in (launcher, *family)), 10)
    assert {name for name in os.listdir("/sys/class/net") if name.startswith("tap")} <= before


# Sandboxes that stay


async def test_a_live_sandbox_has_it_too(backend, internet):
    sandbox = await backend.open_persistent(PersistentSpec(network=SEMITRUSTED))
    try:
        await eventually(lambda: len(tools()) == 1)
        (tool,) = tools()
        code = f"PORT = {PORT}\n{INSIDE}\nprint(attempt({{'to': sys.argv[1]}}))"

        async def reached(address):
            outcome = await sandbox.run(["/usr/bin/python3", "-c", code, address])
            return outcome.stdout.data.decode().strip()

        tcp = f"tcp {internet.public} {internet.near}"
        assert await reached(internet.public) == tcp
        assert await reached(internet.private[0]) == "EACCES"
        assert await reached(internet.near) == "EACCES"
        await sandbox.freeze()
        await sandbox.unfreeze()
        assert await reached(internet.public) == tcp
        assert tools() == [tool]
    finally:
        await sandbox.close()
    await eventually(lambda: not alive(tool))


# A server that is an ordinary user


ORDINARY = """
import asyncio, json, os, sys
sys.path[:0] = {paths!r}
from unsandbox.sandbox import BubblewrapBackend, SandboxSpec
from unsandbox.sandbox.spec import NetworkMode
code = {code!r}
async def main():
    async with BubblewrapBackend() as backend:
        print(backend.network_refusal(NetworkMode.SEMITRUSTED))
        if backend.network_refusal(NetworkMode.SEMITRUSTED) is None:
            spec = SandboxSpec(run=["/usr/bin/python3", "-c", code], network=NetworkMode.SEMITRUSTED)
            outcome = await (await backend.start(spec)).wait()
            print(outcome.stdout.data.decode(), outcome.stderr.data.decode())
asyncio.run(main())
"""
OPEN_TUN = "mount -t tmpfs none /dev/net; mknod /dev/net/tun c 10 200; chmod 0666 /dev/net/tun"
NO_TUN = "mount -t tmpfs none /dev/net"


@pytest.mark.parametrize("tun", [OPEN_TUN, "true", NO_TUN])
async def test_as_an_ordinary_user(internet, readable_copy, tun):
    """It takes a device node that such a user may open; the tests make one that only they see."""
    addresses = [internet.public, internet.private[0], internet.near]
    inside = f"PORT = {PORT}\n{INSIDE}\nfor address in {addresses}: print(attempt({{'to': address}}))"
    code = ORDINARY.format(paths=[str(readable_copy)], code=inside)
    drop = 'exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all "$@"'
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "sh", "-ec", f"{tun}; {drop}", "sh", system_python(), "-c", code,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": "/usr/bin:/sbin:/bin"}, cwd="/",
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    refusal, *results = out.decode().split("\n")
    if tun == OPEN_TUN:
        assert refusal == "None"
        assert results[:3] == [f"tcp {internet.public} {internet.near}", "EACCES", "EACCES"]
    elif tun == NO_TUN:
        assert "/dev/net/tun cannot be opened (No such file or directory): l" in refusal
    else:
        if os.stat("/dev/net/tun").st_mode & 0o006 == 0o006:
            pytest.skip("every user may open the device here")
        assert "/dev/net/tun cannot be opened (Permission denied): let users open it: chmod 0666" in refusal


# Refusals


async def test_without_slirp4netns_it_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("unsandbox.sandbox.bubblewrap.outbound.PATH", str(tmp_path))
    async with BubblewrapBackend() as backend:
        with pytest.raises(
            SandboxUnavailable, match=r"semitrusted.*slirp4netns is not installed.*apt-get install"
        ):
            await backend.start(SandboxSpec(run=["true"], network=SEMITRUSTED))
        outcome = await (await backend.start(SandboxSpec(run=["echo", "ok"]))).wait()
        assert outcome.stdout.data == b"ok\n"


@pytest.mark.parametrize("program", ["/bin/false", "/bin/true", "/nonexistent"])
async def test_when_the_network_cannot_be_made_the_program_does_not_run(monkeypatch, program):
    monkeypatch.setattr("unsandbox.sandbox.bubblewrap.outbound.shutil.which", lambda *_, **__: program)
    async with BubblewrapBackend() as backend:
        why = backend.network_refusal(SEMITRUSTED)
        assert why is not None
        assert "network failed" in why
        with pytest.raises(SandboxUnavailable, match="network failed"):
            await backend.start(SandboxSpec(run=["true"], network=SEMITRUSTED))
