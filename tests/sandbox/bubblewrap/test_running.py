"""What a job does and what its outcome says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from typing import Any

import pytest
from tests.sandbox.support import eventually, sandbox_processes

from unsandbox.sandbox import (
    BubblewrapBackend,
    EndReason,
    InvalidSpecError,
    Limits,
    SandboxError,
    SandboxFile,
    SandboxSpec,
)
from unsandbox.sandbox.host.descriptors import DescriptorStack
from unsandbox.sandbox.host.job_streams import receive, socket_pair
from unsandbox.sandbox.host.running_job import QUIET_S
from unsandbox.sandbox.launcher import messages

MIB = 1 << 20


async def test_output_and_exit_code(run):
    outcome = await run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert outcome.reason is EndReason.EXITED
    assert outcome.exit_code == 7
    assert (outcome.stdout.data, outcome.stderr.data) == (b"out\n", b"err\n")
    assert 0 < outcome.wall_s < 5
    assert outcome.cpu_s > 0
    assert outcome.peak_memory_bytes > 100_000


async def test_death_by_signal_is_128_plus_its_number_without_remarks_of_a_shell(run):
    outcome = await run("bash", "-c", "kill -SEGV $$")
    assert (outcome.exit_code, outcome.stdout.data, outcome.stderr.data) == (139, b"", b"")


async def test_a_program_that_is_not_there(run):
    outcome = await run("no-such-program")
    assert outcome.exit_code == 127
    assert b"not found" in outcome.stderr.data


async def test_binary_output_is_exact(python):
    outcome = await python("import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)")
    assert outcome.stdout.data == bytes(range(256)) * 1000


@pytest.mark.parametrize("data", [b"", b"x", b"\0\xff\n" * 200_000])
async def test_stdin(run, data):
    outcome = await run("cat", stdin=data)
    assert outcome.stdout.data == data


async def test_stdin_of_a_compile_step_is_empty(run):
    outcome = await run("cat", compile=["cat"], stdin=b"for the program")
    assert (outcome.stdout.data, outcome.stderr.data) == (b"for the program", b"")


async def test_a_program_that_leaves_its_input_unread(run):
    assert (await run("true", stdin=b"x" * MIB)).exit_code == 0


async def test_standard_streams_can_be_opened_by_name(run):
    outcome = await run("sh", "-c", "cat /dev/stdin; echo o >/dev/stdout; echo e >/dev/stderr", stdin=b"i")
    assert (outcome.stdout.data, outcome.stderr.data) == (b"io\n", b"e\n")


async def test_environment_is_clean_and_the_callers_wins(run, monkeypatch):
    monkeypatch.setenv("CANARY", "secret")
    outcome = await run(
        "env",
        env={"GREETING": "a b\n'c'", "HOME": "/tmp", "with-dash": "1", "-x": "2", "LD_LIBRARY_PATH": "/x y"},
    )
    text = outcome.stdout.data.decode()
    assert "GREETING=a b\n'c'\n" in text
    assert "HOME=/tmp\n" in text
    assert "with-dash=1\n-x=2\n" in text
    assert "LD_LIBRARY_PATH=/x y\n" in text
    assert "secret" not in text


async def test_a_preloaded_library_cannot_run_before_the_limits(run):
    files = [
        SandboxFile("/work/l.c", b'#include <stdio.h>\n__attribute__((constructor)) void f(){puts("loaded");}')
    ]
    outcome = await run(
        "true", compile=["gcc", "-shared", "-fPIC", "-o", "/work/l.so", "/work/l.c"], files=files
    )
    assert outcome.exit_code == 0
    script = "gcc -shared -fPIC -o /work/l.so /work/l.c && LD_PRELOAD=/work/l.so /usr/bin/true"
    assert (await run("sh", "-c", script, files=files)).stdout.data == b"loaded\n"
    # The loader complains once for each program that starts with it: the one program, not the job script.
    outcome = await run("/usr/bin/true", env={"LD_PRELOAD": "/work/missing.so"})
    assert outcome.stderr.data.count(b"cannot be preloaded") == 1


async def test_files_folders_modes_and_owner(run):
    files = [
        SandboxFile("/work/a/b/c.txt", b"deep"),
        SandboxFile("/work/run.sh", b"#!/bin/sh\nid -un\n", 0o755),
        SandboxFile("/tmp/input/data.bin", b"\0\1"),
        SandboxFile("/work/na\xefve \u2603.txt", b"name"),
    ]
    script = (
        "./run.sh; cat a/b/c.txt; od -An -tx1 /tmp/input/data.bin; ls; stat -c %a:%U run.sh /tmp /tmp/there"
    )
    outcome = await run("sh", "-c", script, files=files, folders=["/tmp/there"])
    assert outcome.stderr.data == b""
    assert outcome.stdout.data.decode().split("\n") == [
        "sandbox", "deep 00 01", "a", "na\xefve \u2603.txt", "run.sh", "755:sandbox", "1777:sandbox", "755:sandbox", "",
    ]  # fmt: skip


async def test_more_files_than_fit_in_one_message(run):
    files = [SandboxFile(f"/work/f{i}", str(i).encode()) for i in range(450)]
    outcome = await run("sh", "-c", "cat /work/f* | wc -c; ls | wc -l", files=files)
    assert outcome.stdout.data.split() == [str(sum(len(str(i)) for i in range(450))).encode(), b"450"]


async def test_files_that_need_more_memory_than_the_job_has(run):
    limits = Limits(memory_bytes=8 * MIB, wall_s=10)
    outcome = await run("true", files=[SandboxFile("/work/x", bytes(20 * MIB))], limits=limits)
    assert outcome.reason is EndReason.MEMORY


async def test_a_request_that_was_interrupted_half_way_does_not_mix_with_the_next(backend, run, monkeypatch):
    files = [SandboxFile(f"/work/f{i}", b"wrong") for i in range(450)]
    encode, sent = messages.encode, list[Any]()

    def interrupted(message):
        if sent:
            raise asyncio.CancelledError
        sent.append(message)
        return encode(message)

    with monkeypatch.context() as patch:
        patch.setattr(messages, "encode", interrupted)
        with pytest.raises(asyncio.CancelledError):
            await backend.start(SandboxSpec(run=["true"], files=files))
    assert len(sent) == 1
    outcome = await run("cat", "/work/f", files=[SandboxFile("/work/f", b"right")])
    assert outcome.stdout.data == b"right"


async def test_compile_then_run(run):
    source = SandboxFile("/work/m.c", b'#include <stdio.h>\nint main(){puts("hi");return 3;}')
    outcome = await run("/work/m", compile=["gcc", "-o", "/work/m", "/work/m.c"], files=[source])
    assert (outcome.exit_code, outcome.stdout.data, outcome.compile_failed) == (3, b"hi\n", False)


async def test_a_failed_compile_step_ends_the_job(run):
    outcome = await run("echo", "never", compile=["sh", "-c", "echo said; exit 4"], collect_artifacts=True)
    assert (outcome.reason, outcome.exit_code, outcome.compile_failed) == (EndReason.EXITED, 4, True)
    assert (outcome.stdout.data, outcome.stderr.data) == (b"", b"said\n")


async def test_no_descriptor_is_inherited_but_the_three(python):
    outcome = await python("import os; print(sorted(os.listdir('/proc/self/fd')))")
    # The fourth is the listing's own.
    assert outcome.stdout.data == b"['0', '1', '2', '3']\n"


async def test_descriptors_of_a_compile_step(run):
    outcome = await run("true", compile=["ls", "/proc/self/fd"])
    assert outcome.stderr.data.split() == [b"0", b"1", b"2", b"3"]


async def test_output_beyond_the_limit_is_counted_and_dropped(run):
    limits = Limits(output_bytes=1000, wall_s=10)
    outcome = await run("sh", "-c", "head -c 300000 /dev/zero; head -c 999 /dev/zero >&2", limits=limits)
    assert (len(outcome.stdout.data), outcome.stdout.total_bytes, outcome.stdout.dropped_bytes) == (
        1000,
        300_000,
        299_000,
    )
    assert (len(outcome.stderr.data), outcome.stderr.dropped_bytes) == (999, 0)
    assert outcome.exit_code == 0


async def test_the_sink_sees_what_is_kept_in_order(run):
    seen = {"stdout": b"", "stderr": b""}

    def sink(stream, data):
        assert data
        seen[stream] += data

    written = b"".join(b"%d\n" % i for i in range(1, 20001))
    limits = Limits(output_bytes=70_000, wall_s=10)
    outcome = await run("sh", "-c", "seq 20000; echo e >&2", limits=limits, sink=sink)
    assert seen == {"stdout": written[:70_000], "stderr": b"e\n"}
    assert outcome.stdout.data == seen["stdout"]
    assert outcome.stdout.total_bytes == len(written)


async def test_output_arrives_while_the_program_runs(backend):
    first = asyncio.Event()
    spec = SandboxSpec(run=["sh", "-c", "echo now; exec sleep 60"])
    job = await backend.start(spec, lambda *_: first.set())
    await asyncio.wait_for(first.wait(), 5)
    job.cancel()
    outcome = await job.wait()
    assert (outcome.reason, outcome.exit_code, outcome.stdout.data) == (EndReason.CANCELLED, None, b"now\n")


async def test_timeout_kills_what_ignores_sigterm_and_keeps_its_output(python, still_well):
    code = (
        "import os, signal, sys, time\n"
        "for n in range(1, 65):\n"
        "  try: signal.signal(n, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\n"
        "for _ in range(4):\n"
        "  if os.fork() == 0: os.setsid()\n"
        "print('partial', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    begin = time.monotonic()
    outcome = await python(code, limits=Limits(wall_s=0.5))
    assert time.monotonic() - begin < 2
    assert (outcome.reason, outcome.exit_code) == (EndReason.TIMEOUT, None)
    assert b"partial\n" in outcome.stdout.data
    assert 0.45 < outcome.wall_s < 1
    await still_well()


async def test_timeout_also_bounds_the_compile_step(run):
    outcome = await run("true", compile=["sleep", "60"], limits=Limits(wall_s=0.3))
    assert outcome.reason is EndReason.TIMEOUT


async def test_cancel_at_once_and_twice(backend, still_well):
    job = await backend.start(SandboxSpec(run=["sleep", "60"]))
    job.cancel()
    job.cancel()
    outcome = await asyncio.wait_for(job.wait(), 5)
    assert (outcome.reason, outcome.exit_code, outcome.wall_s) == (EndReason.CANCELLED, None, 0.0)
    await still_well()


async def test_cancel_after_the_end_changes_nothing(backend):
    job = await backend.start(SandboxSpec(run=["true"]))
    outcome = await job.wait()
    job.cancel()
    assert await job.wait() is outcome
    assert outcome.reason is EndReason.EXITED


async def test_many_can_wait_and_giving_up_does_not_harm(backend):
    job = await backend.start(SandboxSpec(run=["sh", "-c", "read x </dev/zero & sleep 0.3; echo done"]))
    impatient = asyncio.create_task(job.wait())
    await asyncio.sleep(0)
    impatient.cancel()
    first, second = await asyncio.gather(job.wait(), job.wait())
    assert first is second
    assert first.stdout.data == b"done\n"


async def test_a_daemon_that_holds_the_pipes_does_not_hold_the_job(run, still_well):
    outcome = await run("sh", "-c", "setsid sh -c 'trap \"\" TERM HUP; sleep 1000' & echo started")
    assert outcome.stdout.data == b"started\n"
    assert outcome.wall_s < 2
    await still_well()


FINISHING = {
    "a filter of all output": "exec > >(sed 's/^/> /') 2>&1; echo one; echo two >&2",
    "a job in the background": "(sleep 0.3; echo '> two') & echo '> one'",
    "an orphan": "sh -c '(sleep 0.3; echo \"> two\") &'; echo '> one'",
    "one in a session of its own": "setsid sh -c 'sleep 0.3; echo \"> two\"' & echo '> one'",
    "one that holds the error output": "(sleep 0.3; echo '> two' >&2) & echo '> one'; exec 2>&1",
}


@pytest.mark.parametrize("script", FINISHING.values(), ids=FINISHING)
async def test_output_of_processes_that_outlive_the_program_is_waited_for(run, script):
    outcome = await run("bash", "-c", script)
    assert outcome.stdout.data + outcome.stderr.data == b"> one\n> two\n"
    assert (outcome.exit_code, outcome.output_cut) == (0, False)


async def test_who_holds_the_output_and_writes_nothing_is_killed_soon(run, still_well):
    begin = time.monotonic()
    outcome = await run("sh", "-c", "sleep 1000 & echo started; exit 3")
    assert (outcome.exit_code, outcome.stdout.data, outcome.output_cut) == (3, b"started\n", True)
    assert QUIET_S <= time.monotonic() - begin < 15
    await still_well()


async def test_who_writes_without_end_is_killed_later(run, still_well):
    outcome = await run("sh", "-c", "(while :; do echo more; sleep 0.1; done) & exit 3")
    assert (outcome.reason, outcome.exit_code, outcome.output_cut) == (EndReason.EXITED, 3, True)
    assert outcome.stdout.data.count(b"more\n") > 10
    await still_well()


async def test_who_does_not_hold_the_output_is_killed_at_once(run):
    outcome = await run("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo started")
    assert (outcome.stdout.data, outcome.output_cut) == (b"started\n", False)


async def test_a_job_whose_output_is_still_held_can_be_cancelled(backend):
    heard = asyncio.Event()
    spec = SandboxSpec(run=["bash", "-c", "(while :; do echo more; sleep 0.1; done) & exit 3"])
    job = await backend.start(spec, lambda *_: heard.set())
    await heard.wait()
    job.cancel()
    assert (await job.wait()).reason in {EndReason.EXITED, EndReason.CANCELLED}


async def test_cpu_quota(python):
    code = "import time; e = time.monotonic() + 1\nwhile time.monotonic() < e: pass"
    outcome = await python(code, limits=Limits(vcpu=0.25, wall_s=10))
    assert outcome.cpu_s < 0.7


async def test_two_hundred_at_once_each_with_its_own_output(backend):
    async def one(number):
        spec = SandboxSpec(run=["sh", "-c", f"echo {number}; exit {number % 200}"])
        return await (await backend.start(spec)).wait()

    outcomes = await asyncio.gather(*(one(i) for i in range(200)))
    assert [outcome.stdout.data for outcome in outcomes] == [b"%d\n" % i for i in range(200)]
    assert [outcome.exit_code for outcome in outcomes] == list(range(200))


async def test_artifacts_where_descriptors_are_above_1023(run):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        outcome = await run("sh", "-c", "echo x > /tmp/artifacts/a", collect_artifacts=True)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [artifact.data for artifact in outcome.artifacts] == [b"x\n"]


async def test_artifacts_of_many_at_once(backend):
    async def one(number):
        script = f"echo {number} > /tmp/artifacts/{number}"
        return await (await backend.start(SandboxSpec(run=["sh", "-c", script], collect_artifacts=True))).wait()

    outcomes = await asyncio.gather(*(one(i) for i in range(100)))
    found = [[(artifact.filename, artifact.data) for artifact in outcome.artifacts] for outcome in outcomes]
    assert found == [[(str(i), b"%d\n" % i)] for i in range(100)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"run": []}, "empty"),
        ({"run": ["a\0b"]}, "NUL"),
        ({"run": ["a"], "compile": ["\0"]}, "NUL"),
        ({"run": ["a"], "env": {"A": "\0"}}, "NUL"),
        ({"run": ["a"], "env": {"A=B": "1"}}, "name"),
        ({"run": ["a"], "env": {"": "1"}}, "name"),
        ({"run": ["a"], "files": [SandboxFile("/etc/passwd", b"")]}, "plain path"),
        ({"run": ["a"], "files": [SandboxFile("/work/../etc/passwd", b"")]}, "plain path"),
        ({"run": ["a"], "files": [SandboxFile("work/x", b"")]}, "plain path"),
        ({"run": ["a"], "files": [SandboxFile("/work/", b"")]}, "plain path"),
        ({"run": ["a"], "files": [SandboxFile("/work/x\0", b"")]}, "NUL"),
        ({"run": ["a"], "files": [SandboxFile("/work/x", b""), SandboxFile("/work/x", b"")]}, "twice"),
        ({"run": ["a"], "files": [SandboxFile("/work/x", b""), SandboxFile("/work/x/y", b"")]}, "folder"),
        ({"run": ["a"], "files": [SandboxFile("/work/x", b"")], "folders": ["/work/x"]}, "folder"),
        ({"run": ["a"], "folders": ["/usr/x"]}, "plain path"),
        ({"run": ["a"], "files": [SandboxFile(f"/tmp/{i}", b"") for i in range(1001)]}, "more than 1000"),
        (
            {"run": ["a"], "files": [SandboxFile("/tmp/x", bytes(99))], "limits": Limits(tmpfs_bytes=98)},
            "do not fit",
        ),
        ({"run": ["a"], "system_paths": ["/etc/../root"]}, "below /etc"),
        ({"run": ["a"], "system_paths": ["shadow"]}, "below /etc"),
        ({"run": ["a"], "limits": Limits(wall_s=0)}, "wall_s"),
        ({"run": ["a"], "limits": Limits(wall_s=float("nan"))}, "wall_s"),
    ],
)
async def test_specifications_that_are_refused(backend, fields, message):
    with pytest.raises(InvalidSpecError, match=message):
        await backend.start(SandboxSpec(**fields))
    assert issubclass(InvalidSpecError, ValueError)


async def test_a_closed_backend_refuses():
    with pytest.raises(SandboxError, match="not open"):
        await BubblewrapBackend().start(SandboxSpec(run=["true"]))


async def test_nothing_stays_open_in_the_server(run, backend):
    await run("true")
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await run("echo", "x", collect_artifacts=True, stdin=b"1", files=[SandboxFile("/work/x", b"")])
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("number", [1, 2, 3, 10, 13, 15, 20, 26, 34, 64])
async def test_a_program_that_signals_its_whole_group_runs_on(run, number):
    program = f"trap 'echo caught' {number}; kill -{number} 0; echo after; trap - {number}; kill -9 $$"
    outcome = await run("bash", "-c", program)
    assert (outcome.stdout.data, outcome.exit_code) == (b"caught\nafter\n", 137)


async def test_the_time_is_the_programs_also_if_the_server_is_busy(run):
    task = asyncio.create_task(run("sleep", "0.3"))
    await eventually(sandbox_processes)
    # Both reports wait in the socket.
    while sandbox_processes():
        time.sleep(0.01)
    outcome = await task
    assert (outcome.exit_code, outcome.wall_s > 0.29) == (0, True), outcome.wall_s


def test_a_report_has_the_time_at_which_it_was_sent():
    with contextlib.ExitStack() as stack, DescriptorStack() as sent, DescriptorStack() as kept:
        here, there = socket_pair(sent, kept, socket.SOCK_SEQPACKET)
        theirs = stack.enter_context(socket.socket(fileno=os.dup(there)))
        before = time.monotonic()
        socket.send_fds(theirs, [b"end 0\n"], [0, 1])
        after = time.monotonic()
        while time.monotonic() < after + 0.05:
            pass
        opened = len(os.listdir("/proc/self/fd"))
        data, fds, at = receive(here, 100)
        assert (data, fds, before - 0.01 < at < after + 0.01) == (b"end 0\n", [], True)
        assert len(os.listdir("/proc/self/fd")) == opened
