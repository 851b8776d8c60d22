"""Sandboxes that stay, on gVisor: the suite of live programs, freezing, archives, and images with memory."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import termios
from fcntl import ioctl
from pathlib import Path

import pytest
import pytest_asyncio
from tests.sandbox.bubblewrap.test_persistent_files import (  # noqa: F401 - run here too
    test_a_frozen_sandbox_is_archived_and_stays_frozen,
    test_an_archive_is_taken_at_one_moment,
    test_an_archive_that_cannot_be_written_leaves_nothing,
    test_connect_reaches_the_loopback_inside,
    test_connect_to_nothing_is_a_connection_error,
)
from tests.sandbox.bubblewrap.test_persistent_programs import (  # noqa: F401 - run here too
    TRACE,
    read_until,
    test_a_frozen_sandbox_can_be_closed_at_once,
    test_collect_reads_regular_files_only,
    test_death_by_signal_and_kill,
    test_environment_and_folder,
    test_everything_goes_with_the_sandbox,
    test_files_are_written_as_the_user,
    test_files_through_links_stay_inside,
    test_output_is_bounded_and_counted,
    test_pipes_stay_open_for_whoever_wants_to_talk,
    test_run_returns_output_and_exit_code,
    test_state_stays_from_one_program_to_the_next,
    test_timeout_kills_the_group_and_what_is_left_in_the_session,
    test_what_cannot_be_started_is_told,
)
from tests.sandbox.bubblewrap.test_persistent_programs import live as live
from tests.sandbox.support import eventually, groups_of

from unsandbox.sandbox import GvisorBackend, SandboxError, SandboxFile, SandboxUnavailable
from unsandbox.sandbox.gvisor import persistent, work_folder
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSpec
from unsandbox.sandbox.spec import NetworkMode

pytestmark = pytest.mark.gvisor
MIB = 1 << 20

COUNTER = """
import time
secret = "only in memory"
n = 0
while True:
    n += 1
    with open("/work/n", "w") as file: file.write(f"{n} {secret}")
    time.sleep(0.01)
"""
SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    served = 0
    def do_GET(self):
        Handler.served += 1
        self.send_response(200); self.end_headers(); self.wfile.write(b"%d" % Handler.served)
    def log_message(self, *a): print("request", flush=True)
http.server.HTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(backend):
    limits = PersistentLimits(memory_bytes=256 * MIB, processes=64, work_bytes=32 * MIB)
    sandbox = await backend.open_persistent(PersistentSpec(limits=limits))
    yield sandbox
    await sandbox.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend():
    async with GvisorBackend() as opened:
        yield opened


async def count(sandbox) -> int:
    for _ in range(100):
        words = (await sandbox.run(["cat", "/work/n"])).stdout.data.split()
        if len(words) == 4:
            return int(words[0])
    raise AssertionError("no counter")


async def get(sandbox, port: int = 8000) -> bytes:
    sock = socket.socket(fileno=await sandbox.connect(port))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return said.rpartition(b"\r\n\r\n")[2]


async def listening(sandbox, port: int = 8000) -> None:
    for _ in range(200):
        try:
            os.close(await sandbox.connect(port))
        except ConnectionError:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError("nobody listens")


def cpu_ticks(backend, sandbox) -> int:
    """All that the processes of a sandbox have used so far, gVisor's included."""
    total = 0
    for folder in groups_of(backend.host.runtime.name):
        for process in folder.glob(f"job-{sandbox.number}/**/cgroup.procs"):
            for pid in process.read_text().split():
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
    return total


async def test_no_network_but_loopback(backend, live):
    with pytest.raises(SandboxUnavailable, match="bubblewrap"):
        await backend.open_persistent(PersistentSpec(network=NetworkMode.SEMITRUSTED))
    outcome = await live.run(["cat", "/proc/net/dev"])
    assert [
        line.split(":")[0].strip() for line in outcome.stdout.data.decode().splitlines() if ":" in line
    ] == ["lo"]


async def test_the_first_process_is_out_of_reach(fresh):
    await fresh.run(["sh", "-c", "for s in KILL TERM STOP HUP CHLD; do kill -$s 1; done; kill -KILL -1"])
    look = "cat /proc/1/fd/0; echo forged > /proc/1/fd/1; head -c 1 /proc/1/mem"
    outcome = await fresh.run(["sh", "-c", look])
    assert outcome.stderr.data.count(b"Permission denied") == 3
    assert (await fresh.run(["/usr/bin/python3", "-c", TRACE])).stdout.data == b"-1\n"
    assert (await fresh.run(["id", "-u"])).stdout.data == b"1000\n"
    caps = await fresh.run(["grep", "-E", "Cap(Inh|Prm|Eff)", "/proc/self/status"])
    assert caps.stdout.data.split()[1::2] == [b"0" * 16] * 3


async def test_a_terminal_is_one_of_the_sandbox(live):
    process = await live.spawn(["bash", "-i"], terminal=(101, 31), env={"PS1": "> "})
    assert process.stdin_fd is None
    os.write(process.terminal_fd, b"tty; stty size; echo $TERM; echo en''d\n")
    said = await read_until(process.terminal_fd, b"\nend")
    assert b"/dev/pts/" in said
    assert b"31 101" in said
    assert b"xterm-256color" in said
    ioctl(process.terminal_fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    # Said by what is to be interrupted, so that it is in the foreground for sure.
    os.write(process.terminal_fd, b"sh -c 'stty size; echo go''ing; exec sleep 1000'\n")
    assert b"40 120" in await read_until(process.terminal_fd, b"\ngoing")
    os.write(process.terminal_fd, b"\x03")
    await read_until(process.terminal_fd, b"> ")
    os.write(process.terminal_fd, b"exit 7\n")
    assert await asyncio.wait_for(process.wait(), 10) == 7
    process.close()


async def test_a_closed_terminal_hangs_its_programs_up(live):
    process = await live.spawn(
        ["sh", "-c", "trap 'echo hung > /tmp/hung; exit 3' HUP; echo ready; sleep 1000"], terminal=(80, 24)
    )
    await read_until(process.terminal_fd, b"ready")
    process.close()
    # The shell gets its signal when the program in the foreground is dead of it.
    assert await asyncio.wait_for(process.wait(), 10) == 3


async def test_a_fork_bomb_stays_inside(fresh):
    code = "import os, time\nn = 0\ntry:\n  while os.fork(): n += 1\nexcept OSError: print(n, flush=True)\ntime.sleep(30)"
    process = await fresh.spawn(["/usr/bin/python3", "-c", code])
    made = await read_until(process.stdout_fd, b"\n", 20)
    assert 20 <= int(made) <= 64
    process.kill()
    process.close()
    assert (await fresh.run(["echo", "well"])).stdout.data == b"well\n"


async def test_too_much_memory_ends_the_sandbox(backend):
    sandbox = await backend.open_persistent(PersistentSpec(limits=PersistentLimits(memory_bytes=100 * MIB)))
    outcome = await sandbox.run(["/usr/bin/python3", "-c", "x = b'x' * (600 << 20)"])
    assert outcome.exit_code == 137
    await asyncio.wait_for(sandbox.wait_ended(), 5)
    with pytest.raises(SandboxError, match="ended"):
        await sandbox.run(["true"])
    await sandbox.close()


async def test_the_work_folder_is_on_disk_with_a_quota(backend):
    limits = PersistentLimits(memory_bytes=16 * MIB, work_bytes=150 * MIB)
    sandbox = await backend.open_persistent(PersistentSpec(limits=limits))
    # More than its memory, and not more than its quota.
    outcome = await sandbox.run(
        ["sh", "-c", "head -c 120M /dev/zero > big && head -c 60M /dev/zero > more; stat -c %s big more"]
    )
    big, more = map(int, outcome.stdout.data.split())
    assert (big, outcome.stderr.data.count(b"No space left")) == (120 * MIB, 1)
    assert more <= 30 * MIB
    sandbox.disk_used()
    await eventually(lambda: sandbox.disk_used() > 140 * MIB)
    await sandbox.close()


@pytest.mark.cgroups
async def test_limits_of_a_living_sandbox(backend, fresh):
    burn = "import time\ns = time.process_time(); e = time.monotonic() + 1\nwhile time.monotonic() < e: pass\nprint(time.process_time() - s)"
    await fresh.set_limits(vcpu=0.2, memory_bytes=400 * MIB)
    slow = float((await fresh.run(["/usr/bin/python3", "-c", burn])).stdout.data)
    await fresh.set_limits(vcpu=1)
    fast = float((await fresh.run(["/usr/bin/python3", "-c", burn])).stdout.data)
    # gVisor's own clock of a process ticks also while the group is throttled; the work done does not.
    assert slow <= fast + 0.2
    assert (await fresh.run(["/usr/bin/python3", "-c", "x = b'x' * (300 << 20)"])).exit_code == 0


async def test_a_frozen_sandbox_uses_no_cpu_and_goes_on_afterwards(backend, fresh):
    process = await fresh.spawn(["/usr/bin/python3", "-c", COUNTER])
    await count(fresh)
    await fresh.freeze()
    await fresh.freeze()
    assert fresh.frozen
    before = cpu_ticks(backend, fresh)
    await asyncio.sleep(0.3)
    assert cpu_ticks(backend, fresh) == before
    with pytest.raises(SandboxError, match="frozen"):
        await fresh.spawn(["true"])
    await fresh.put_files([SandboxFile("/work/new", b"while frozen")])
    await fresh.unfreeze()
    await fresh.unfreeze()
    first = await count(fresh)
    while await count(fresh) == first:
        pass
    assert (await fresh.run(["cat", "/work/new"])).stdout.data == b"while frozen"
    process.kill()
    assert await process.wait() == 137
    process.close()


async def test_connections_into_the_sandbox(fresh):
    with pytest.raises(ConnectionError, match="8000"):
        await fresh.connect(8000)
    server = await fresh.spawn(["/usr/bin/python3", "-c", SERVER])
    await listening(fresh)
    assert sorted(await asyncio.gather(*(get(fresh) for _ in range(10)))) == sorted(
        b"%d" % n for n in range(1, 11)
    )
    server.kill()
    server.close()


async def test_archive_and_replace(backend, tmp_path):
    sandbox = await backend.open_persistent(PersistentSpec())
    script = """
mkdir -p a/b; echo x > a/b/file; chmod 600 a/b/file; ln -s a/b/file link; ln a/b/file hard; mkfifo pipe
head -c 3M /dev/urandom > data; echo closed > closed; chmod 0 closed; md5sum data"""
    summed = (await sandbox.run(["sh", "-c", script])).stdout.data
    archive = tmp_path / "work.tar.zst"
    assert (await sandbox.archive_work(archive)).size == archive.stat().st_size > 3 * MIB
    await sandbox.run(["sh", "-c", "rm -rf data a; echo later > other; mkdir shut; touch shut/x; chmod 0 shut"])
    await sandbox.replace_work(archive)
    look = "md5sum data; cat link; stat -c %a:%U:%h a/b/file; ls -A; chmod 600 closed; cat closed"
    said = (await sandbox.run(["sh", "-c", look])).stdout.data
    assert said == summed + b"x\n600:sandbox:2\na\nclosed\ndata\nhard\nlink\npipe\nclosed\n"
    await sandbox.close()
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


async def test_a_work_disk_outlives_its_sandbox(backend, tmp_path):
    spec = PersistentSpec(work_disk=tmp_path / "disk")
    for expected in (b"1\n", b"2\n"):
        sandbox = await backend.open_persistent(spec)
        assert (await sandbox.run(["sh", "-c", "echo >> lines; wc -l < lines"])).stdout.data == expected
        await sandbox.close()


@pytest.mark.slow
async def test_a_work_disk_is_saved_now_and_then(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(work_folder, "SAVE_EVERY_S", 0.1)
    monkeypatch.setattr(work_folder, "_SAVE_SHARE", 1)
    disk = tmp_path / "disk"
    sandbox = await backend.open_persistent(PersistentSpec(work_disk=disk))
    writer = await sandbox.spawn(["sh", "-c", "while :; do date > changing; done"])
    await sandbox.run(["sh", "-c", "echo kept > note"])
    await eventually(disk.exists, 10)
    first = disk.stat().st_mtime_ns
    await eventually(lambda: disk.stat().st_mtime_ns > first, 10)
    # Nothing of the server's is asked: as if it had been killed.
    await backend.host.control.kill(sandbox.number)
    await sandbox.wait_ended()
    await sandbox.close()
    writer.close()
    again = await backend.open_persistent(PersistentSpec(work_disk=disk))
    assert (await again.run(["cat", "note"])).stdout.data == b"kept\n"
    await again.close()
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


async def test_a_checkpoint_holds_memory_processes_and_sockets(backend, tmp_path):
    sandbox = await backend.open_persistent(PersistentSpec())
    await sandbox.spawn(["/usr/bin/python3", "-c", COUNTER])
    await sandbox.spawn(["/usr/bin/python3", "-c", SERVER])
    terminal = await sandbox.spawn(
        ["sh", "-c", "while :; do echo tick > /work/tick; sleep 0.05; done"], terminal=(80, 24)
    )
    await listening(sandbox)
    assert await get(sandbox) == b"1"
    image = tmp_path / "image"
    before = await count(sandbox)
    size = await sandbox.checkpoint(image)
    assert MIB < size == sum(file.stat().st_size for file in image.iterdir())
    # It goes on, its server and terminal too.
    assert await get(sandbox) == b"2"
    while await count(sandbox) < before + 20:
        pass
    assert terminal.terminal_fd is not None
    terminal.close()
    await sandbox.close()
    for _ in range(3):
        again = await backend.open_persistent(PersistentSpec(hot_image=image))
        assert before <= await count(again) < before + 150
        first = await count(again)
        while await count(again) == first:
            pass
        # The listening socket and what the server had counted.
        assert await get(again) == b"2"
        await again.run(["rm", "-f", "/work/tick"])
        await eventually_there(again, "/work/tick")
        await again.close()
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


async def eventually_there(sandbox, path: str) -> None:
    for _ in range(100):
        if (await sandbox.run(["test", "-e", path])).exit_code == 0:
            return
    raise AssertionError(f"{path} did not come")


@pytest.mark.slow
async def test_a_checkpoint_of_a_checkpoint_and_of_a_frozen_sandbox(backend, tmp_path):
    sandbox = await backend.open_persistent(PersistentSpec())
    await sandbox.spawn(["/usr/bin/python3", "-c", COUNTER])
    await count(sandbox)
    await sandbox.freeze()
    await sandbox.checkpoint(tmp_path / "one")
    assert sandbox.frozen
    await sandbox.close()
    second = await backend.open_persistent(PersistentSpec(hot_image=tmp_path / "one"))
    # Not frozen any more.
    reached = await count(second)
    while await count(second) == reached:
        pass
    await second.checkpoint(tmp_path / "two")
    await second.close()
    third = await backend.open_persistent(PersistentSpec(hot_image=tmp_path / "two"))
    assert await count(third) >= reached
    await third.close()


async def test_images_that_cannot_be_restored(backend, tmp_path):
    with pytest.raises(SandboxUnavailable, match="not a gVisor checkpoint"):
        await backend.open_persistent(PersistentSpec(hot_image=tmp_path))
    about = {"format": 1, "runsc": "other", "tmpfs_bytes": 1, "work_bytes": 1, "mounts": []}
    (tmp_path / "unsandbox.json").write_text(json.dumps(about))
    with pytest.raises(SandboxUnavailable, match="written by runsc other"):
        await backend.open_persistent(PersistentSpec(hot_image=tmp_path))
    (tmp_path / "unsandbox.json").write_text(json.dumps(about | {"runsc": backend.version}))
    with pytest.raises(SandboxError, match="could not be set up"):
        await backend.open_persistent(PersistentSpec(hot_image=tmp_path))


async def test_a_disk_that_is_full_at_the_start(backend, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(persistent, "write_configuration", full)
    before = len(backend.persistent)
    with pytest.raises(OSError, match="No space"):
        await backend.open_persistent(PersistentSpec())
    assert len(backend.persistent) == before


async def test_a_first_process_that_breaks_the_rules_ends_its_sandbox(backend):
    sandbox = await backend.open_persistent(PersistentSpec())
    sandbox.channel.feed(b"?" * 9)
    with pytest.raises(SandboxError, match="broke the rules"):
        await sandbox.run(["true"])
    await asyncio.wait_for(sandbox.wait_ended(), 5)
    assert "broke the rules" in sandbox.channel.broken
    await sandbox.close()


async def test_nothing_is_left(backend, live):
    # The one that the tests of this module share is still there.
    await eventually(lambda: backend.running == 0 and len(backend.persistent) == 1)
    (shared,) = backend.persistent
    assert len(list(backend.host.runtime.glob("gvisor-*"))) == 1
    mine = groups_of(backend.host.runtime.name)
    await eventually(
        lambda: {group.name for folder in mine for group in folder.glob("job-*")} == {f"job-{shared.number}"}
    )
