"""Programs in a sandbox that stays: pipes, terminals, signals, files, freezing, and what they must not see."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import termios
from fcntl import ioctl
from pathlib import Path

import pytest
import pytest_asyncio
from tests.sandbox.support import children_of, eventually, groups_of, launchers

from unsandbox.sandbox import InvalidSpecError, SandboxError, SandboxFile
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSpec

MIB = 1 << 20


async def read_until(fd: int, wanted: bytes, within_s: float = 5.0) -> bytes:
    """Read a non-blocking descriptor until `wanted` came (or the other end is closed)."""
    data = bytearray()

    def more() -> bool:
        try:
            data.extend(part := os.read(fd, 65536))
        except BlockingIOError:
            return False
        except OSError:  # A terminal whose last program is gone.
            return True
        return wanted in data or not part

    await eventually(more, within_s)
    return bytes(data)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def live(backend):
    """One sandbox for the tests that leave it as it was."""
    sandbox = await backend.open_persistent(
        PersistentSpec(limits=PersistentLimits(memory_bytes=512 * MIB, processes=64), env={"FROM": "spec"})
    )
    yield sandbox
    await sandbox.close()


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(backend):
    """A sandbox of its own for each test."""
    sandbox = await backend.open_persistent(
        PersistentSpec(limits=PersistentLimits(memory_bytes=256 * MIB, processes=64))
    )
    yield sandbox
    await sandbox.close()


async def test_run_returns_output_and_exit_code(live):
    outcome = await live.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"x" * 300_000)
    assert outcome.stdout.data == b"x" * 300_000
    assert (outcome.stderr.data, outcome.exit_code, outcome.timed_out) == (b"err\n", 3, False)


async def test_state_stays_from_one_program_to_the_next(live):
    await live.run(["sh", "-c", "echo kept > note"])
    assert (await live.run(["cat", "/work/note"])).stdout.data == b"kept\n"


async def test_environment_and_folder(live):
    outcome = await live.run(["sh", "-c", "echo $FROM $HERE $HOME $PWD"], env={"HERE": "call"}, cwd="/tmp")
    assert outcome.stdout.data == b"spec call /work /tmp\n"
    assert (await live.run(["env"], env={"FROM": "\udcff=\n"})).stdout.data.count(b"FROM=\xff=\n") == 1


async def test_output_is_bounded_and_counted(live):
    outcome = await live.run(["head", "-c", "3000000", "/dev/zero"], output_bytes=1000)
    assert (len(outcome.stdout.data), outcome.stdout.total_bytes) == (1000, 3_000_000)


async def test_timeout_kills_the_group_and_what_is_left_in_the_session(live):
    script = "setsid sleep 1001 & bash -mc 'sleep 1002 &'; sleep 1003"
    outcome = await live.run(["sh", "-c", script], timeout_s=0.5)
    assert (outcome.timed_out, outcome.exit_code) == (True, 137)
    left = (await live.run(["ps", "-eo", "args"])).stdout.data.decode()
    # Who makes a session of his own goes on, as under any shell.
    assert [name for name in ("1001", "1002", "1003") if f"sleep {name}" in left] == ["1001"]
    await live.run(["pkill", "sleep"])


async def test_death_by_signal_and_kill(live):
    assert (await live.run(["sh", "-c", "kill -SEGV $$"])).exit_code == 128 + signal.SIGSEGV
    process = await live.spawn(["sleep", "1000"])
    process.kill(signal.SIGTERM)
    assert [await process.wait(), await process.wait()] == [128 + signal.SIGTERM] * 2
    process.kill()
    process.close()


@pytest.mark.parametrize(
    ("argv", "options", "error", "words"),
    [
        (["/no/such"], {}, SandboxError, "No such file"),
        (["no-such"], {}, SandboxError, "No such file"),
        (["/etc/passwd"], {}, SandboxError, "Permission denied"),
        (["true"], {"cwd": "/root/x"}, SandboxError, "No such file"),
        (["true"], {"cwd": "x"}, InvalidSpecError, "cwd"),
        ([], {}, InvalidSpecError, "argv"),
        (["a\0b"], {}, InvalidSpecError, "NUL"),
        (["true"], {"env": {"": "x"}}, InvalidSpecError, "env"),
        (["true"], {"terminal": (0, 10)}, InvalidSpecError, "terminal"),
    ],
)
async def test_what_cannot_be_started_is_told(live, argv, options, error, words):
    with pytest.raises(error, match=words):
        await live.spawn(argv, **options)


async def test_a_terminal_is_one_of_the_sandbox(live):
    process = await live.spawn(["bash", "-i"], terminal=(101, 31), env={"PS1": "> "})
    assert process.stdin_fd is None
    os.write(process.terminal_fd, b"tty; stty size; echo $TERM; ps -o tty= -p $$; echo en''d\n")
    said = await read_until(process.terminal_fd, b"\nend")
    assert b"/dev/pts/" in said
    assert b"31 101" in said
    assert b"xterm-256color" in said
    ioctl(process.terminal_fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    os.write(process.terminal_fd, b"stty size; sh -c 'echo slee''ps; exec sleep 1000'\n")
    assert b"40 120" in await read_until(process.terminal_fd, b"sleeps")
    # At an interrupt the shell throws away what was typed; so wait for its prompt.
    os.write(process.terminal_fd, b"\x03")
    await read_until(process.terminal_fd, b"> ")
    os.write(process.terminal_fd, b"echo aft''er\n")
    await read_until(process.terminal_fd, b"after")
    os.write(process.terminal_fd, b"exit 7\n")
    assert await process.wait() == 7
    process.close()


async def test_pipes_stay_open_for_whoever_wants_to_talk(live):
    process = await live.spawn(["cat"])
    for word in (b"one\n", b"two\n"):
        os.write(process.stdin_fd, word)
        assert await read_until(process.stdout_fd, word) == word
    process.close()
    assert await process.wait() == 0


async def test_files_are_written_as_the_user(live):
    await live.put_files(
        [
            SandboxFile("/work/a/b/run.sh", b"#!/bin/sh\necho ran\n", 0o755),
            SandboxFile("/tmp/x", b"\0" * 70_000),
        ]
    )
    assert (await live.run(["/work/a/b/run.sh"])).stdout.data == b"ran\n"
    said = (
        await live.run(["stat", "-c", "%n %a %U %s", "/work/a/b", "/work/a/b/run.sh", "/tmp/x"])
    ).stdout.data
    assert said.split(b"\n")[0].startswith(b"/work/a/b 755 sandbox")
    assert b"/work/a/b/run.sh 755 sandbox 19" in said
    assert b"/tmp/x 644 sandbox 70000" in said
    await live.put_files([SandboxFile("/work/a/b/run.sh", b"new")])
    assert (await live.run(["cat", "/work/a/b/run.sh"])).stdout.data == b"new"


async def test_files_through_links_stay_inside(live, tmp_path):
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    tmp_path.chmod(0o777)
    canary.chmod(0o666)
    await live.run(["sh", "-c", f"ln -sfn {tmp_path} /work/way; ln -sf {canary} /work/link; ln -s /proc/self/fd/0 /work/in; mkfifo /work/fifo"])  # fmt: skip
    for path in ("/work/link", "/work/in", "/work/fifo"):
        await live.put_files([SandboxFile(path, b"in")])
        assert (await live.run(["sh", "-c", f"[ -L {path} ] || cat {path}"])).stdout.data == b"in"
    await live.put_files([SandboxFile("/work/way/canary", b"out")])
    assert canary.read_text() == "untouched"
    with pytest.raises(InvalidSpecError):
        await live.put_files([SandboxFile("/etc/passwd", b"")])


async def test_collect_reads_regular_files_only(live):
    await live.run(
        ["sh", "-c", "mkdir -p /tmp/artifacts; cd /tmp/artifacts; echo a > a; ln -s /etc/shadow b; mkfifo c"]
    )
    found, skipped = await live.collect()
    assert [(file.filename, file.data) for file in found] == [("a", b"a\n")]
    assert sorted(skipped) == ["b: symbolic link", "c: FIFO"]


async def test_a_frozen_sandbox_uses_no_cpu_and_goes_on_afterwards(fresh):
    process = await fresh.spawn(["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; done"])
    await read_until(process.stdout_fd, b"\n100\n")
    await fresh.freeze()
    await fresh.freeze()
    assert fresh.frozen
    (pid,) = [child for launcher in launchers() for child in children_of(launcher)
              if b"while" in Path(f"/proc/{child}/cmdline").read_bytes()]  # fmt: skip

    def ticks() -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]

    before = ticks()
    await asyncio.sleep(0.1)
    assert ticks() == before
    with pytest.raises(SandboxError, match="frozen"):
        await fresh.spawn(["true"])
    # Files can be put into it nevertheless.
    await fresh.put_files([SandboxFile("/work/new", b"while frozen")])
    await fresh.unfreeze()
    await fresh.unfreeze()
    await read_until(process.stdout_fd, b"\n", 5)
    assert (await fresh.run(["cat", "/work/new"])).stdout.data == b"while frozen"
    process.close()


async def test_a_frozen_sandbox_can_be_closed_at_once(backend):
    sandbox = await backend.open_persistent(PersistentSpec())
    process = await sandbox.spawn(["sh", "-c", "trap '' TERM; while :; do :; done"])
    await sandbox.freeze()
    await asyncio.wait_for(sandbox.close(), 3)
    await sandbox.close()
    assert await process.wait() == 137
    process.close()
    with pytest.raises(SandboxError, match="ended"):
        await sandbox.spawn(["true"])


async def test_everything_goes_with_the_sandbox(backend):
    before = {child for launcher in launchers() for child in children_of(launcher)}
    sandbox = await backend.open_persistent(PersistentSpec())
    family = {child for launcher in launchers() for child in children_of(launcher)} - before
    assert family
    await sandbox.run(
        [
            "sh",
            "-c",
            "setsid sleep 1000 >/dev/null 2>&1 & setsid sh -c 'trap \"\" TERM HUP; sleep 1000' >/dev/null 2>&1 &",
        ]
    )
    await sandbox.close()
    await asyncio.wait_for(sandbox.wait_ended(), 1)
    await eventually(lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()])
    name = f"job-{sandbox.number}"
    await eventually(
        lambda: not [group for group in groups_of(name) if backend.host.runtime.name in str(group)]
    )


TRACE = "import ctypes; print(ctypes.CDLL(None).ptrace(16, 1, 0, 0))"


async def test_programs_can_neither_kill_nor_trace_the_first_process(fresh):
    # Inside, as the sandbox's user.
    await fresh.run(["sh", "-c", "for s in KILL TERM STOP HUP CHLD; do kill -$s 1; done; kill -KILL -1"])
    look = "ps -o stat= -p 1; ls /proc/1/fd; cat /proc/1/environ /proc/1/maps"
    outcome = await fresh.run(["sh", "-c", look])
    assert outcome.stdout.data.split() == [b"Ss"]
    assert outcome.stderr.data.count(b"Permission denied") == 3
    assert (await fresh.run(["/usr/bin/python3", "-c", TRACE])).stdout.data == b"-1\n"


async def test_orphans_are_reaped(fresh):
    await fresh.run(["sh", "-c", "for i in 1 2 3 4 5; do sh -c 'sleep 0.01 & exec true' & done; wait"])
    for _ in range(100):
        if (await fresh.run(["ps", "-eo", "args="])).stdout.data.count(b"sleep") == 0:
            break
    assert b"Z" not in (await fresh.run(["ps", "-eo", "stat="])).stdout.data


WATCH = """
while :; do
  for p in /proc/[0-9]*; do cat $p/cmdline $p/environ $p/maps 2>/dev/null; ls -l $p/fd 2>/dev/null; done
done | tr '\\0' '\\n' | grep -aEf /tmp/pattern
"""


async def test_nothing_of_the_server_is_visible(backend, monkeypatch):
    monkeypatch.setenv("UNSANDBOX_TEST_SECRET", "canary-in-the-environment")
    pattern = SandboxFile("/tmp/pattern", b"unsandbox|launcher|canary|socket|memfd|work/wt|python\n")
    sandbox = await backend.open_persistent(PersistentSpec(files=[pattern]))
    look = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; ls -l /proc/self/fd; cat /proc/self/status"
    said = (await sandbox.run(["sh", "-c", look])).stdout.data.decode(errors="replace")
    # Others look on while programs enter.
    watcher = await sandbox.spawn(["sh", "-c", WATCH])
    for _ in range(20):
        await sandbox.run(["true"])
    watcher.kill()
    await watcher.wait()
    seen = await read_until(watcher.stdout_fd, b"never")
    watcher.close()
    await sandbox.close()
    assert seen == b""
    assert "canary" not in said
    assert "unsandbox" not in said
    assert [line.split()[-3] for line in said.splitlines() if " -> " in line] == ["0", "1", "2", "3"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{name}:\t0000000000000000" in said
    assert "NoNewPrivs:\t1" in said
    assert "Seccomp:\t2" in said


async def test_new_namespaces_and_mounts_are_refused(live):
    code = (
        "import ctypes; c = ctypes.CDLL(None); print(c.unshare(0x10000000), c.unshare(0x20000), "
        "c.mount(b'x', b'/tmp', b'tmpfs', 0, 0), c.syscall(56, 0x10000011, 0, 0, 0, 0), c.setns(0, 0))"
    )
    assert (await live.run(["/usr/bin/python3", "-c", code])).stdout.data == b"-1 -1 -1 -1 -1\n"


BOMB = """
import os, time
n = 0
try:
    while os.fork():
        n += 1
    time.sleep(30)
except OSError:
    print(n, flush=True)
    time.sleep(30)
"""


async def test_a_fork_bomb_stays_inside(fresh):
    outcome = await fresh.run(["/usr/bin/python3", "-c", BOMB], timeout_s=1)
    assert outcome.timed_out
    assert 20 <= int(outcome.stdout.data) <= 64
    assert (await fresh.run(["echo", "well"])).stdout.data == b"well\n"


async def test_too_much_memory_is_killed(fresh):
    outcome = await fresh.run(["/usr/bin/python3", "-c", "x = b'x' * (600 << 20)"])
    assert outcome.exit_code in (1, 137)
    assert (await fresh.run(["echo", "well"])).stdout.data == b"well\n"


async def test_many_programs_side_by_side(live):
    outcomes = await asyncio.gather(*(live.run(["sh", "-c", f"echo {number}"]) for number in range(20)))
    assert [int(outcome.stdout.data) for outcome in outcomes] == list(range(20))
