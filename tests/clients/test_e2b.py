"""The wire of E2B, with its unchanged clients."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.clients.conftest import ENVIRONMENTS, SCRIPTS, python_of
from tests.support import CLIENTS, Serve, eventually, self_signed, un

from unsandbox import e2b

BASE = {
    "env": "bar 1\n/home/user\n",
    "exit": [3, "out\n"],
    "callbacks": ["a\n", "b\n"],
    "listed": True,
    "live": "1\n2\n3\nhello\n",
    "kill": [True, False],
    "killed": -1,
    "timeout": "TimeoutException",
    "cwd": "InvalidArgumentException",
    "root": "AuthenticationException",
    "pty": True,
    "bytes": True,
    "info": ["x.bin", "/home/user/d/x.bin", 7_000_000, "-rw-r--r--", "user"],
    "make_dir": [False, True],
    "renamed": "/home/user/d/y.bin",
    "exists": [True, False],
    "list": None,
    "missing": True,
    "removed": False,
    "written": ["/home/user/m1", "/tmp/m2"],
    "seen_inside": "12",
    "link": "2",
    "signed": "1",
    "unsigned": [401],
    "metadata": {"a": "b c"},
    "lasts": True,
    "query": [True, []],
    "template": "SandboxException",
    "key": "AuthenticationException",
    "connected": "again\n",
    "fork": ["1", "1"],
    "metrics": [1, True, True],
    "paused": [False, "paused"],
    "resumed": "1",
    "end": [True, False, False],
    "gone": True,
    "async": ["async\n", ["async\n"], "g"],
}
CODE = {
    "state": [None, "2"],
    "logs": ["a\n", "b\n"],
    "error": ["ZeroDivisionError", "division by zero", True],
    "syntax": "SyntaxError",
    "env": ["bar", "1"],
    "env_after": "no",
    "await": "7",
    "html": ["<b>t</b>", True],
    "count": True,
    "context": ["/tmp", "NameError"],
    "file": "1,2\n1,2\n",
    "late": "TimeoutException",
    "after": "1",
    "streamed": "0\n1\n2\n",
    "unicode": "é",
    "language": "SandboxException",
    "async": ["20", "21", "22"],
}
JAVASCRIPT = {
    "code": "2",
    "command": "hi\n",
    "file": ["x", ["a.txt"]],
    "context": "/tmp",
    "live": "yes\n",
    "exit": 3,
    "late": "TimeoutError",
    "after": "4",
    "end": [True, True, False],
}


def variables(served: Serve) -> dict[str, str]:
    public, secret = served.keys()
    return e2b.environ(served.first_line["e2b_url"], public_key=public, secret_key=secret)


def sessions(served: Serve) -> int:
    return served.call(served.keys(), "GET", "/sessions")[1]["count"]


@pytest.fixture(
    scope="module", params=["bubblewrap", pytest.param("gvisor", marks=[pytest.mark.gvisor, pytest.mark.slow])]
)
def e2b_served(request, tmp_path_factory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("data"), "--e2b-port", "0", "--isolation", request.param) as server:
        yield server


def without_lists(seen: dict[str, Any]) -> dict[str, Any]:
    listed = seen.pop("list", [])
    seen.setdefault("fork", ["1", "1"])  # Older packages cannot.
    assert {"/home/user/d", "/home/user/d/y.bin", "/home/user/e/f"} <= set(listed)
    return seen | {"list": None}


@pytest.mark.parametrize(
    "name",
    [
        "e2b",
        pytest.param("e2b-2.40", marks=pytest.mark.slow),
        pytest.param("e2b-2.13", marks=pytest.mark.slow),
    ],
)
def test_the_package_e2b(e2b_served, run_client, name):
    seen = run_client(name, "e2b_base.py", **variables(e2b_served))
    assert without_lists(seen) == BASE
    assert sessions(e2b_served) == 0


@pytest.mark.parametrize("name", ["e2b", pytest.param("e2b-2.40", marks=pytest.mark.slow)])
def test_the_package_e2b_code_interpreter(e2b_served, run_client, name):
    seen = run_client(name, "e2b_code.py", **variables(e2b_served))
    assert {**seen, "logs": ["".join(seen["logs"])]} == {**CODE, "logs": ["".join(CODE["logs"])]}
    assert sessions(e2b_served) == 0


@pytest.mark.slow
def test_the_npm_package(e2b_served):
    packages = ENVIRONMENTS / "npm"
    node = shutil.which("node")
    if node is None or not (packages / "node_modules").exists():
        pytest.skip(f"{CLIENTS}: npm")
    script = packages / "e2b_node.mjs"
    shutil.copy(SCRIPTS / "e2b_node.mjs", script)
    done = subprocess.run(
        [node, script], capture_output=True, text=True, timeout=110, env=os.environ | variables(e2b_served)
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == JAVASCRIPT


def test_the_embedded_engine_serves_them_too(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, subprocess, sys\n"
        "from unsandbox import e2b\n"
        "environment = os.environ | e2b.environ() | {'PYTHONPATH': ''}\n"
        "code = 'from e2b import Sandbox; s = Sandbox.create(allow_internet_access=False); '\n"
        "code += 'print(s.commands.run(\"echo hi\").stdout, s.kill())'\n"
        "sys.exit(subprocess.run([sys.argv[1], '-c', code], env=environment).returncode)\n"
    )
    done = subprocess.run(
        [sys.executable, program, python_of("e2b")], capture_output=True, text=True, timeout=110
    )
    assert done.stdout == "hi\n True\n", done.stderr


CHURN = """
import sys
from concurrent.futures import ThreadPoolExecutor
from e2b import Sandbox

def one(number):
    sandbox = Sandbox.create(allow_internet_access=False, timeout=60)
    assert sandbox.commands.run(f"sleep 300 & echo {number}").stdout == f"{number}\\n"
    if sys.argv[2] == "kill":
        sandbox.kill()
    else:
        print("begun", flush=True)

with ThreadPoolExecutor(4) as pool:
    list(pool.map(one, range(int(sys.argv[1]))))
print("done")
"""


def left_over(served: Serve) -> tuple[int, int, int]:
    """Return how many processes of sandboxes, mounts and folders of sessions there are."""
    children = subprocess.run(["pgrep", "-fc", "sleep 300"], capture_output=True, text=True, check=False)
    mounts = sum("sandbox" in line for line in Path("/proc/mounts").read_text().splitlines())
    folders = sum(1 for _ in (served.data / "sessions").iterdir())
    return int(children.stdout or 0), mounts, folders


@pytest.mark.slow
def test_a_hundred_sandboxes_leave_nothing(e2b_served):
    before = left_over(e2b_served)
    done = subprocess.run(
        [python_of("e2b"), "-c", CHURN, "100", "kill"],
        capture_output=True,
        text=True,
        timeout=115,
        env=os.environ | {"PYTHONPATH": ""} | variables(e2b_served),
    )
    assert done.stdout == "done\n", done.stderr
    assert sessions(e2b_served) == 0
    eventually(lambda: left_over(e2b_served) == before)


@pytest.mark.slow
def test_a_client_that_is_killed_leaves_nothing_after_the_timeout(e2b_served):
    before = left_over(e2b_served)
    program = CHURN.replace("timeout=60", "timeout=4")
    process = subprocess.Popen(
        [python_of("e2b"), "-c", program, "1000", "keep"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": ""} | variables(e2b_served),
    )
    for _ in range(8):
        assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    eventually(lambda: sessions(e2b_served) == 0, 30)
    eventually(lambda: left_over(e2b_served) == before)


def ask(
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    context: ssl.SSLContext | None = None,
    **headers: str,
):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_strangers_are_refused_in_the_shapes_of_each_part(e2b_served):
    url, key = e2b_served.first_line["e2b_url"], variables(e2b_served)["E2B_API_KEY"]
    for wrong in ("", "e2b_00", key[:-2] + "00", "x" * 5000):
        status, body = ask(f"{url}/v2/sandboxes", X_API_KEY=wrong)
        assert (status, json.loads(body)["code"]) == (401, 401)
    new = json.dumps({"templateID": "base", "allow_internet_access": False}).encode()
    status, body = ask(f"{url}/v2/sandboxes", "POST", new, X_API_KEY=key)
    assert status == 201
    sandbox = json.loads(body)
    try:
        named = {"E2b_Sandbox_Id": sandbox["sandboxID"]}
        for token in ("", "0" * 64, key):
            status, body = ask(
                f"{url}/filesystem.Filesystem/Stat", "POST", b"{}", X_Access_Token=token, **named
            )
            assert (status, json.loads(body)["code"]) == (401, "unauthenticated")
            assert ask(f"{url}/files?path=a", X_Access_Token=token, **named)[0] == 401
            assert ask(f"{url}/execute", "POST", b"{}", E2B_Traffic_Access_Token=token, **named)[0] == 401
        ours = {"X_Access_Token": sandbox["envdAccessToken"], **named}
        status, body = ask(f"{url}/filesystem.Filesystem/Stat", "POST", b'{"path": ".", "new": 1}', **ours)
        assert status == 200
        status, body = ask(f"{url}/filesystem.Filesystem/Stat", "POST", b"[", **ours)
        assert (status, json.loads(body)["code"]) == (400, "invalid_argument")
        gone = {**ours, "E2b_Sandbox_Id": "i0"}
        status, body = ask(f"{url}/files?path=a", **gone)
        assert (status, json.loads(body)["message"]) == (502, "The sandbox was not found")
        assert ask(f"{url}/sandboxes/{sandbox['sandboxID']}/snapshots", "POST", X_API_KEY=key)[0] == 501
    finally:
        assert ask(f"{url}/sandboxes/{sandbox['sandboxID']}", "DELETE", X_API_KEY=key)[0] == 204


def test_the_port_has_the_bounds_of_the_api(e2b_served):
    url = e2b_served.first_line["e2b_url"]
    lines = {f"X-{number}": "a" * 4000 for number in range(40)}
    assert ask(f"{url}/v2/sandboxes", **lines)[0] == 431


@contextlib.contextmanager
def opened(served: Serve, keys: tuple[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """A sandbox of a key: its URL and the headers of its calls."""
    url = served.first_line["e2b_url"]
    key = e2b.environ(url, public_key=keys[0], secret_key=keys[1])["E2B_API_KEY"]
    new = json.dumps({"templateID": "base", "allow_internet_access": False}).encode()
    status, body = ask(f"{url}/v2/sandboxes", "POST", new, X_API_KEY=key)
    assert status == 201
    sandbox = json.loads(body)
    yield url, {"E2b_Sandbox_Id": sandbox["sandboxID"], "X_Access_Token": sandbox["envdAccessToken"]}
    ask(f"{url}/sandboxes/{sandbox['sandboxID']}", "DELETE", X_API_KEY=key)


def test_costly_requests_of_a_key_are_refused(e2b_served):
    with opened(e2b_served, e2b_served.keys()) as (url, ours):
        many = b"--b\r\n" + b"\r\n--b\r\n" * 100_000
        form = {"Content_Type": "multipart/form-data; boundary=b", **ours}
        assert ask(f"{url}/files?path=x", "POST", many, **form)[0] == 400
        contexts = [ask(f"{url}/contexts", "POST", b"{}", **ours)[0] for _ in range(65)]
        assert contexts == [200] * 64 + [429]
        long = json.dumps({"cwd": "x" * 5000}).encode()
        assert ask(f"{url}/contexts", "POST", long, **ours)[0] in (400, 429)
        assert ask(f"{url}/files?path=.bashrc", Authorization="Basic %%%%", **ours)[0] == 401
        assert ask(f"{url}/files?path=/etc/passwd", Range="bytes=3-1", **ours)[0] == 416
        assert ask(f"{url}/files?path=x", "POST", b"x", X_Access_Token="\xff", E2b_Sandbox_Id="i0")[0] in (
            401,
            502,
        )


def test_tokens_end_with_their_key(e2b_served):
    data = str(e2b_served.data)
    made = json.loads(un("keys", "create", "--data", data, "--json").stdout)
    keys = made["public_key"], made["secret_key"]
    with opened(e2b_served, keys) as (url, ours):
        stat = f"{url}/filesystem.Filesystem/Stat"
        assert ask(stat, "POST", b'{"path": "."}', **ours)[0] == 200
        un("keys", "revoke", "--data", data, keys[0])
        eventually(lambda: ask(stat, "POST", b'{"path": "."}', **ours)[0] == 401)


@pytest.mark.slow
def test_sandboxes_are_found_by_host_names_over_tls(tmp_path):
    certificate, key_file = self_signed(tmp_path)
    options = ["--tls-cert", certificate, "--tls-key", key_file, "--e2b-port", "0"]
    context = ssl.create_default_context(cafile=certificate)
    with Serve(tmp_path / "data", *options) as served:
        url, key = (
            served.first_line["e2b_url"].replace("127.0.0.1", "localhost"),
            variables(served)["E2B_API_KEY"],
        )
        new = json.dumps({"templateID": "base", "allow_internet_access": False}).encode()
        status, body = ask(f"{url}/v2/sandboxes", "POST", new, context, X_API_KEY=key)
        assert status == 201
        sandbox = json.loads(body)
        ours = {
            "X_Access_Token": sandbox["envdAccessToken"],
            "Host": f"49983-{sandbox['sandboxID']}.e2b.example",
        }
        assert ask(f"{url}/health", context=context, **ours)[0] == 204
        status, body = ask(f"{url}/files?path=/etc/hostname", context=context, **ours)
        assert (status, body) == (200, b"sandbox\n")
        assert ask(f"{url}/health", context=context, Host="49983-i0.e2b.example")[0] == 502
