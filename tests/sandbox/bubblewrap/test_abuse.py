"""What limits leave of hostile programs, to the byte; the attacks themselves are in `tests/abuse`."""

from __future__ import annotations

import time

import pytest
import pytest_asyncio
from tests.sandbox.support import eventually, groups_of, sandbox_processes

from unsandbox.sandbox import BubblewrapBackend, EndReason, Limits, load_languages, pool_for
from unsandbox.sandbox.host.warm.pool import PoolState
from unsandbox.sandbox.persistent_spec import PersistentSpec

MIB = 1 << 20
CONFIG = pool_for(load_languages(), 2, 4, Limits())


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["cold", "warm"])
async def backend(request):
    """Every attempt twice: in a sandbox made for the job, and in one that was waiting."""
    if request.param == "cold":
        async with BubblewrapBackend() as opened:
            yield opened
        return
    async with BubblewrapBackend(pool=CONFIG) as opened:
        await eventually(lambda: opened.pool.state is PoolState.SERVING)
        yield opened
        assert opened.pool.state is PoolState.SERVING


async def test_what_stays_possible(python, run):
    code = """
import os, pty, threading, multiprocessing, subprocess, tempfile, mmap, ctypes
os.mkfifo('/tmp/f'); m, s = pty.openpty(); print(os.ttyname(s))
t = threading.Thread(target=lambda: None); t.start(); t.join()
print(subprocess.check_output(['echo', 'x']))
with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1]))
"""
    outcome = await python(code)
    assert outcome.stdout.data == b"/dev/pts/0\nb'x\\n'\n[1]\n", outcome.stderr.data


async def test_memory_bomb(python, still_well):
    outcome = await python(
        "x = bytearray(1 << 30)\nprint('got it')", limits=Limits(memory_bytes=100 * MIB, wall_s=20)
    )
    assert outcome.stdout.data == b""
    assert (outcome.reason, outcome.exit_code) == (EndReason.MEMORY, 137)
    assert outcome.peak_memory_bytes <= 101 * MIB
    await still_well()


@pytest.mark.parametrize("stream", ["1", "2"])
async def test_output_flood(run, still_well, stream):
    begin = time.monotonic()
    limits = Limits(output_bytes=MIB, flood_bytes=50 * MIB, wall_s=20)
    outcome = await run("sh", "-c", f"yes >&{stream}", limits=limits)
    captured = outcome.stdout if stream == "1" else outcome.stderr
    assert (outcome.reason, outcome.exit_code) == (EndReason.OUTPUT_FLOOD, None)
    assert captured.data == b"y\n" * (MIB // 2)
    # What it writes until the signal arrives comes on top.
    assert 50 * MIB < captured.total_bytes < 200 * MIB
    assert time.monotonic() - begin < 5
    await still_well()


async def test_a_flood_does_not_hold_the_event_loop(backend, run):
    import asyncio

    flood = asyncio.create_task(run("yes", limits=Limits(flood_bytes=1 << 40, wall_s=1)))
    longest = last = 0.0
    last = time.monotonic()
    while not flood.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert (await flood).reason is EndReason.TIMEOUT
    assert longest < 0.5


async def test_artifacts_that_point_elsewhere(run, tmp_path, still_well):
    canary = tmp_path / "canary"
    canary.write_text("secret")
    script = f"""
cd /tmp/artifacts
echo good > good.txt; chmod 700 good.txt; ln good.txt second-name
ln -s /etc/shadow shadow; ln -s {canary} canary; ln -s good.txt local; ln -s /proc/1/root/etc/passwd magic
mkfifo fifo; mkdir folder; echo in > folder/inside; ln -s / folder/root; ln -s ../folder folder/loop
(for i in 1 2 3 4 5; do mkdir $(printf %0250d 0); cd $(printf %0250d 0); done; echo no > x)
python3 -c 'import socket; socket.socket(1).bind("sock")'
truncate -s 10G sparse
printf x > "$(printf 'bad\\377name')"
"""
    outcome = await run(
        "sh", "-c", script, collect_artifacts=True, limits=Limits(artifact_bytes=1000, wall_s=10)
    )
    found = {artifact.filename: (artifact.data, artifact.mode) for artifact in outcome.artifacts}
    assert found == {
        "good.txt": (b"good\n", 0o700),
        "second-name": (b"good\n", 0o700),
        "bad\ufffdname": (b"x", 0o644),
        "folder/inside": (b"in\n", 0o644),
    }
    reasons = dict(line.rsplit(": ", 1) for line in outcome.artifacts_skipped)
    assert reasons.pop("sparse").startswith("too large")
    assert reasons.pop("/".join(["0" * 250] * 5 + ["x"])) == "name too long"
    assert reasons == {
        "shadow": "symbolic link", "canary": "symbolic link", "local": "symbolic link", "magic": "symbolic link",
        "fifo": "FIFO", "folder/root": "symbolic link", "folder/loop": "symbolic link", "sock": "socket or FIFO",
    }  # fmt: skip
    await still_well()


async def test_artifacts_of_a_program_that_daemonised_are_complete(run):
    script = (
        "(setsid sh -c 'while :; do echo more >> /tmp/artifacts/a; done' &) ; echo b > /tmp/artifacts/b; exit 5"
    )
    outcome = await run("sh", "-c", script, collect_artifacts=True)
    assert outcome.exit_code == 5
    assert {artifact.filename for artifact in outcome.artifacts} >= {"b"}


async def test_nothing_is_left_after_all_this(backend, still_well):
    await still_well()
    # One level below the backend's own groups; other servers may be at work on this machine.
    mine = groups_of(backend.host.runtime.name)
    waiting = 0 if backend.pool is None else CONFIG.most
    await eventually(lambda: all(len([*folder.glob("job-*")]) <= waiting for folder in mine))
    assert sandbox_processes() == []


SOCKET_BUFFERS = """
import socket
held, stalled, sockets, chunk = 0, 0, [], bytes(1 << 16)
try:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    while held < 600 << 20 and stalled < 20:
        before = held
        sender = socket.socket()
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        sender.connect(listener.getsockname())
        sockets += [sender, listener.accept()[0]]
        sender.settimeout(0.01)
        try:
            while True:
                held += sender.send(chunk)
        except TimeoutError:
            stalled += held - before < 1 << 20
except OSError as error:
    sockets.append(error)
print(held >> 20)
"""


@pytest.mark.cgroups
async def test_buffers_of_sockets_are_bounded(python):
    """Version 1 of control groups counts them apart from all other memory."""
    outcome = await python(SOCKET_BUFFERS)
    held = int(outcome.stdout.data or 0)
    assert held - outcome.peak_memory_bytes // MIB < 100


SETTINGS = """
import os
for folder, _, names in os.walk("/proc/sys"):
    for name in names:
        try:
            os.close(os.open(f"{folder}/{name}", os.O_WRONLY))
        except OSError:
            continue
        print(f"{folder}/{name}")
print(open("/proc/sys/kernel/hostname").read(), end="")
print(os.path.exists("/proc/pressure/cpu"))
open("/proc/self/oom_score_adj", "w").write("1000")
"""


async def test_no_setting_of_the_kernel_can_be_written(python, backend):
    """Not even those of the sandbox's own namespaces, which belong to its user."""
    outcome = await python(SETTINGS)
    assert (outcome.stdout.data, outcome.stderr.data) == (b"sandbox\nFalse\n", b"")
    sandbox = await backend.open_persistent(PersistentSpec())
    try:
        again = await sandbox.run(["/usr/bin/python3", "-c", SETTINGS])
    finally:
        await sandbox.close()
    assert (again.stdout.data, again.stderr.data) == (b"sandbox\nFalse\n", b"")
