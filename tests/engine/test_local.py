"""The embedded engine: started once, stopped with its process, leaving nothing behind however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.cli.test_serve import sandboxes, traces
from tests.support import eventually

PRELUDE = """
import json, sys, time, threading, urllib.request
from tests.support import signature_headers
from unsandbox import local

def run(server, code, path="/execute"):
    body = json.dumps({"language": "bash", "code": code}).encode()
    headers = signature_headers(server.public_key, server.secret_key, "POST", path, body)
    with urllib.request.urlopen(urllib.request.Request(server.url + path, body, headers)) as answer:
        return json.load(answer)
"""


def program(text: str) -> list[str]:
    return [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(text)]


def run(text: str) -> str:
    process = subprocess.Popen(program(text), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
    assert not traces(process.pid)
    return out


def test_one_engine_per_process_and_nothing_left_at_exit():
    out = run("""
        servers = []
        threads = [threading.Thread(target=lambda: servers.append(local.ensure_started())) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(len({server.url for server in servers}), run(servers[0], "echo $((6*7))")["stdout"])
        print(servers[0].secret_key in repr(servers[0]))
    """)
    assert out.split() == ["1", "42", "False"]


def test_it_can_be_stopped_and_started_again():
    out = run("""
        first = local.ensure_started()
        local.stop()
        second = local.ensure_started()
        print(first.public_key != second.public_key, run(second, "echo again")["stdout"])
    """)
    assert out.split() == ["True", "again"]


def test_exit_does_not_wait_for_jobs():
    out = run("""
        server = local.ensure_started()
        print(run(server, "sleep 600", "/execute/async")["status"])
    """)
    assert out.split() in (["pending"], ["running"])


def test_a_forked_child_has_an_engine_of_its_own():
    out = run("""
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of fork beside threads
        mine = local.ensure_started()
        child = os.fork()
        if child == 0:
            theirs = local.ensure_started()
            print(theirs.url != mine.url, run(theirs, "echo child")["stdout"].strip(), flush=True)
            local.stop()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(run(mine, "echo parent")["stdout"])
    """)
    assert out.split() == ["True", "child", "parent"]


def test_killed_with_9_nothing_stays_even_with_a_forked_child_alive():
    process = subprocess.Popen(
        program("""
            import os, warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            server = local.ensure_started()
            run(server, "sleep 600", "/execute/async")
            child = os.fork()
            if child == 0:
                time.sleep(600)
            print(server.url, child, flush=True)
            time.sleep(600)
        """),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url, child = process.stdout.readline().split()
    try:
        tree = eventually(lambda: len(found := sandboxes(process.pid)) > 2 and found)
        tree.remove(int(child))
        assert traces(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in tree))
        eventually(lambda: not traces(process.pid))
        assert f":{int(url.rpartition(':')[2]):04X} " not in listening()
    finally:
        os.kill(int(child), signal.SIGKILL)


def listening() -> str:
    """Return the lines of listening TCP sockets."""
    return "\n".join(line for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line)
