"""The compile step of a job: what it sees, and what it cannot get at, though it may run code of its source."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import subprocess
from dataclasses import replace

import pytest
import pytest_asyncio
from tests.sandbox.bubblewrap.warm_jobs import CONFIG, pooled, run_in, without_addresses

from unsandbox.sandbox import Limits, SandboxSpec
from unsandbox.sandbox.host.compile_cache import read_program
from unsandbox.sandbox.host.job_streams import JobStreams
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.slots import SlotTable
from unsandbox.sandbox.host.warm.sandbox import WarmJob, WarmSandbox
from unsandbox.sandbox.native.first_process import NO_PROGRAMS


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def warm():
    async with pooled(CONFIG) as opened:
        yield opened


async def test_the_compile_step_sees_nothing_of_the_programs_variables(backend, warm):
    spec = SandboxSpec(
        compile=["sh", "-c", "/usr/bin/env > /work/seen"],
        run=["sh", "-c", "/bin/cat /work/seen; echo ran with $SECRET $OWN"],
        env={"SECRET": "its own", "OWN": "2", "PATH": "/tmp/input:/bin", "LD_PRELOAD": "/tmp/x.so", "A B": "c"},
        compile_env={"OWN": "1"},
    )
    cold = await run_in(backend, spec, expect_warm=False)
    hot = await run_in(warm, spec, expect_warm=True)
    for outcome in (cold, hot):
        *seen, last = outcome.stdout.data.decode().splitlines()
        assert last == "ran with its own 2"
        assert {line for line in seen if not line.startswith(("_=", "SHLVL="))} == {
            "PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin", "HOME=/work", "USER=sandbox",
            "LOGNAME=sandbox", "SHELL=/bin/bash", "LANG=C.UTF-8", "TMPDIR=/tmp", "TERM=dumb", "PWD=/work", "OWN=1",
        }  # fmt: skip


LOOK = """
import ctypes, os
parent = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
said = [libc.ptrace(16, parent, 0, 0), libc.ptrace(0x4206, parent, 0, 0)]
for place in (f"/proc/{parent}/fd", f"/proc/{parent}/mem", f"/proc/{parent}/environ", f"/proc/{parent}/maps"):
    try:
        said.append(os.listdir(place) if place.endswith("fd") else open(place, "rb").read(1))
    except OSError as error:
        said.append(type(error).__name__)
text = f"{said} {sorted(os.listdir('/proc/self/fd'))}"
open("/work/seen", "w").write(text)
"""


@pytest.mark.parametrize("native", [None, NO_PROGRAMS], ids=["machine code", "without"])
async def test_the_compile_step_can_neither_trace_nor_read_the_process_that_waits_for_it(native):
    spec = SandboxSpec(
        compile=["python3", "-c", LOOK],
        run=["sh", "-c", "cat /work/seen; cat /proc/self/status > /dev/null && ls /proc/self/fd > /dev/null"],
        compiled="/work/seen",
        cache_scope="somebody",
    )
    async with pooled(CONFIG, native) as backend:
        for _ in range(2):
            outcome = await run_in(backend, spec, expect_warm=True)
            denied = "[-1, -1, 'PermissionError', 'PermissionError', 'PermissionError', 'PermissionError']"
            assert outcome.stdout.data.decode() == f"{denied} ['0', '1', '2', '3']"
            assert (outcome.stderr.data, outcome.exit_code) == (b"", 0)


def test_a_file_that_cannot_be_read_is_no_program(tmp_path):
    for flags in (os.O_WRONLY | os.O_CREAT, os.O_PATH):
        fd = os.open(tmp_path / "program", flags)
        assert read_program(fd, 100) is None
        os.close(fd)
    (tmp_path / "program").write_bytes(b"x")
    fd = os.open(tmp_path / "program", os.O_RDONLY)
    assert read_program(fd, 100)[0] == b"x"
    os.close(fd)


async def test_descriptors_that_nobody_asked_for_are_closed_at_once(warm):
    """From whoever has got at the socket: many, without a word, with another word, after the one that counts."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    outputs = [os.pipe() for _ in range(2)]
    child = subprocess.Popen(["sleep", "1000"])
    streams = JobStreams(here, outputs[0][0], outputs[1][0])
    prepared = WarmSandbox(streams, SlotTable(None).take(), on_ready=lambda _: None, on_over=lambda *_: None)
    prepared.started(child.pid, os.pidfd_open(child.pid))
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    told: list[os.stat_result] = []
    job = WarmJob(
        prepared, SandboxSpec(run=["true"], limits=Limits(wall_s=30)), discard_fd=null, sink=None,
        on_over=lambda _: None, on_compiled=lambda fd, _: told.append(os.fstat(fd)),
    )  # fmt: skip
    job.begin()
    before = len(os.listdir("/proc/self/fd"))

    async def send(message: bytes, *fds: int) -> None:
        there.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before

    for _ in range(300):
        await send(b"x", null)
    for message in (b"compiled", b"\ncompiled\n", b"compiled\nx", b"compiled \n"):
        await send(message, null)
    assert told == []
    await send(b"compiled\n", null, null, null)
    assert len(told) == 1
    assert there.recv(10) == b"go"
    await send(b"compiled\n", null)
    assert len(told) == 1
    job.ended(Ending(0))
    for _, write in outputs:
        os.close(write)
    await job.wait()
    child.kill()
    child.wait()
    there.close()
    os.close(null)


async def test_a_program_is_compiled_as_before(backend, warm):
    if not os.access("/usr/bin/gcc", os.X_OK):
        pytest.skip("no C compiler")
    from tests.sandbox.bubblewrap.warm_jobs import c_spec

    spec = replace(c_spec("int main(void) { return 5; }"), env={"CPATH": "/nowhere"})
    cold = await run_in(backend, spec, expect_warm=False)
    hot = await run_in(warm, spec, expect_warm=True)
    again = await run_in(warm, spec, expect_warm=True)
    assert without_addresses(cold) == without_addresses(hot) == without_addresses(again)
    assert cold.exit_code == 5
