"""The embedded engine in programs that are not as usual: patched by gevent, ending, without standard descriptors."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_serve import traces
from tests.support import UN, eventually

ENV = os.environ | {"UNSANDBOX_API_BASE": "local"}
RUN = "un.execute_code('bash', {!r})['stdout']"


def program(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        **options,
    )


PROGRAMS = {
    "gevent": """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, un
ticks = 0
jobs = [gevent.spawn(un.execute_code, "bash", f"sleep 0.5; echo {n}") for n in range(3)]
while not all(job.ready() for job in jobs):
    gevent.sleep(0.02)
    ticks += 1
print("".join(job.get()["stdout"] for job in jobs).split() == ["0", "1", "2"] and ticks > 10)
""",
    "threads that outlive the main thread": """
import threading, un
said = []
def work(number):
    said.append(un.execute_code("bash", f"sleep 0.2; echo {number}")["stdout"])
    if len(said) == 3:
        print(sorted(said) == ["0\\n", "1\\n", "2\\n"])
for number in range(3):
    threading.Thread(target=work, args=(number,)).start()
""",
    "a thread that goes on with an engine of before": """
import threading, un
files = {f"{number}.bin": bytes(3 << 20) for number in range(4)}
un.execute_code("bash", "true")
def work():
    threading.main_thread().join()
    # Large files and artifacts are read in threads of the engine's.
    code = "cat /tmp/input/*.bin | wc -c; head -c 9000000 /dev/zero > /tmp/artifacts/big"
    found = un.execute_code("bash", code, input_files=files, return_artifacts=True)
    print(found["stdout"] == "12582912\\n" and found["artifacts"][0]["size"] == 9000000)
threading.Thread(target=work).start()
""",
    "a function of atexit": """
import atexit
@atexit.register
def late():
    import un
    print(un.execute_code("bash", "echo late")["stdout"] == "late\\n")
""",
    "a function of atexit behind an engine": """
import atexit
@atexit.register
def late():
    print(un.execute_code("bash", "echo late")["stdout"] == "late\\n")
import un
un.execute_code("bash", "true")
""",
    "closed standard descriptors": """
import os, sys
keep = os.dup(1)
for number in (0, 1, 2):
    os.close(number)
import un
found = un.execute_code("bash", "cat; echo out; echo err >&2")
os.write(keep, str((found["stdout"], found["stderr"]) == ("out\\n", "err\\n")).encode())
os._exit(0)
""",
    "128 descriptors": """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
import un
print([un.execute_code("python", "print(1)")["stdout"] for _ in range(3)] == ["1\\n"] * 3)
""",
    "an interpreter without a name": """
import sys
sys.executable = ""
import un
print(un.execute_code("bash", "echo 1")["stdout"] == "1\\n")
""",
    "an interpreter that is another program": """
import sys
sys.executable = "/usr/bin/true"
import un
print(un.execute_code("bash", "echo 1")["stdout"] == "1\\n")
""",
}


SLOW = {"a function of atexit", "an interpreter without a name"}
"""Others are alike: each starts an interpreter with an engine."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PROGRAMS]
)
def test_the_engine_runs_in(name: str) -> None:
    done = program(PROGRAMS[name])
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")


def test_an_engine_in_a_child_process_ends_with_its_parent() -> None:
    code = """
import gevent.monkey
gevent.monkey.patch_all()
import os, un
from unsandbox import local
job = un.execute_async("bash", "sleep 600")
print(local._running._process.pid, flush=True)
os.read(0, 1)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    eventually(lambda: not Path(f"/proc/{child}").exists(), 30)
    assert not traces(child)


CLOSED = [*(pytest.param(one, marks=pytest.mark.slow) for one in ("<&-", "2>&-")), ">&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
def test_un_without_standard_descriptors(closed: str, tmp_path: Path) -> None:
    command = f'"$@" {closed}'
    words = [*UN, "--local", "-s", "bash", f"echo out; touch {tmp_path}; exit 3"]
    done = subprocess.run(
        ["bash", "-c", command, "bash", *words], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout == ("" if ">&-" in closed.split() else "out\n")


@pytest.mark.parametrize("closed", CLOSED)
def test_a_server_without_standard_descriptors(closed: str, tmp_path: Path) -> None:
    command = f'exec "$@" {closed}'
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    words = [*UN, "serve", "--port", str(port), "--data", str(tmp_path / "data")]
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def serves() -> bool:
        assert process.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        assert eventually(serves, 60)
    finally:
        process.terminate()
        written, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    if ">&-" not in closed.split():
        assert json.loads(written)["url"].startswith("http://")
