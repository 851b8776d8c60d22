"""Programs find every signal at its default, however the server was started: by `nohup`, with `&`, by a thread."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from tests.support import SOURCE

# What a program inherits, as an interpreter sees it: gVisor's /proc tells nothing of signals. CPython itself
# ignores two at its start.
READ = """
import signal
ignored = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
print(sorted(ignored - {signal.SIGPIPE, signal.SIGXFSZ}), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
"""

PROGRAM = """
import asyncio, json, sys
source, kind, read = sys.argv[1:]
sys.path[:0] = [source]
from unsandbox.sandbox import BubblewrapBackend, GvisorBackend, Limits, SandboxSpec, load_languages, pool_for
from unsandbox.sandbox.persistent_spec import PersistentSpec
TABLE = load_languages()
INPUT = {"read.py": read.encode()}
JOBS = {
    "python": read,
    "bash": "python3 /tmp/input/read.py",
    "perl": "exec 'python3', '/tmp/input/read.py'",
    "javascript": "console.log(require('child_process').execFileSync('python3', ['/tmp/input/read.py'], {encoding: 'utf8'}))",
}
async def job(backend, spec, warm=None):
    while True:
        job = await backend.start(spec)
        outcome = await job.wait()
        if warm in (None, type(job).__name__):
            return outcome.stdout.data.decode().strip() or outcome.stderr.data.decode()
async def main():
    backend, warm = {"bubblewrap": (BubblewrapBackend, "WarmJob"), "gvisor": (GvisorBackend, "GvisorJob")}[kind]
    async with backend(pool=pool_for(TABLE, 2, 4, Limits())) as opened:
        cold = SandboxSpec(run=["python3", "-c", read], limits=Limits(tmpfs_bytes=1 << 20))
        found = {"cold": await job(opened, cold)}
        for name, code in JOBS.items():
            if TABLE[name].installed():
                found[name] = await job(opened, TABLE[name].build_spec(code, input_files=INPUT), warm)
        sandbox = await opened.open_persistent(PersistentSpec())
        found["persistent"] = (await sandbox.run(["python3", "-c", read])).stdout.data.decode().strip()
        await sandbox.close()
    print(json.dumps(found))
asyncio.run(main())
"""


def ignore_and_block() -> None:
    # An ignored SIGCHLD would take the exit codes of children from every parent, shells too.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1})


@pytest.mark.parametrize(
    "backend", ["bubblewrap", pytest.param("gvisor", marks=[pytest.mark.gvisor, pytest.mark.slow])]
)
def test_programs_find_every_signal_at_its_default(backend):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(SOURCE), backend, READ],
        preexec_fn=ignore_and_block, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"cold", "python", "bash", "persistent"} <= set(found)
    assert found == dict.fromkeys(found, "[] []")
