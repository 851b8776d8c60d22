"""Processes and ports of a session, through the API: floods, bytes that nobody reads, names, leases."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.abuse.http import _frame, _upgrade
from tests.abuse.served import Result, Target, add, attack
from tests.abuse.session_files import WELL, execute
from tests.support import signature_headers

PROCESSES, PORTS = "processes of sessions", "ports of sessions"
MIB = 1 << 20
BOUNDS = "bounds of the protocol, checked at the edge"

START: dict[str, dict[str, Any]] = {
    "no program": {},
    "two programs": {"argv": ["id"], "command": "id"},
    "an empty program": {"argv": [""]},
    "no arguments": {"argv": []},
    "a zero byte in an argument": {"argv": ["id", "a\0b"]},
    "an argument of a mebibyte": {"argv": ["echo", "x" * MIB]},
    "a hundred thousand arguments": {"argv": ["x"] * 100_000},
    "an environment of 2 MiB": {"command": "id", "env": {f"A{n}": "x" * 100_000 for n in range(20)}},
    "a variable with a zero byte": {"command": "id", "env": {"A": "x\0y"}},
    "a variable that is named like two": {"command": "id", "env": {"A=B": "x"}},
    "the user root": {"command": "id", "user": "root"},
    "the user 0": {"command": "id", "user": "0"},
    "a working folder that is a link to a process's root": {"command": "ls /etc/shadow && cat /etc/shadow", "cwd": "/proc/1/root"},
    "a working folder that is a FIFO": {"command": "id", "cwd": "/work/fifo"},
    "a working folder with a zero byte": {"command": "id", "cwd": "/work/\0"},
    "an id that climbs": {"command": "id", "process_id": "../x"},
    "an id of 10,000 letters": {"command": "id", "process_id": "a" * 10_000},
    "an id with a line end": {"command": "id", "process_id": "a\nb"},
    "output of a petabyte": {"command": "id", "output_bytes": 1 << 50},
    "a negative time limit": {"command": "id", "timeout": -1},
    "a time limit of a million years": {"command": "id", "timeout": 1 << 60},
    "a terminal of a million columns": {"command": "id", "terminal": {"columns": 1_000_000, "rows": 1}},
    "a terminal without size": {"command": "id", "terminal": {"columns": 0, "rows": 0}},
    "two standard inputs": {"command": "id", "stdin": "x", "stdin_base64": "eA=="},
    "standard input that is no base64": {"command": "id", "stdin_base64": "x"},
    "the mark of another process": {"command": "id", "env": {"UNSANDBOX_PROCESS": "other"}},
}  # fmt: skip
PORT_NAMES = ("0", "65536", "-1", "22a", "%00", "١٢", "80/..", "1e3", "9" * 100)


def declare() -> None:
    """Declare the families."""
    for what, members in START.items():
        add(f"process with {what}", PROCESSES, what, BOUNDS, _started(members))
    for what, (path, body) in REQUESTS.items():
        add(f"process: {what}", PROCESSES, str(body)[:60], BOUNDS, _asked(path, body))
    for name in PORT_NAMES:
        add(
            f"port {name[:8]!a}", PORTS, f"a port called {name[:20]!a}", "a number from 1 to 65535", _port(name)
        )


REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a signal that there is not": ("signal", {"signal": 65}),
    "a negative signal, for a group": ("signal", {"signal": -9}),
    "output before the beginning": ("output", {"stdout_offset": -1}),
    "output behind the end of numbers": ("output", {"stdout_offset": (1 << 63) - 1, "wait": 0}),
    "a wait of a year": ("output", {"wait": 3e7}),
    "input after a gap": ("stdin", {"data_base64": "eA==", "offset": 1 << 40}),
    "2 MiB of input at once": ("stdin", {"data_base64": base64.b64encode(bytes(2 * MIB)).decode()}),
    "a size for no terminal": ("resize", {"columns": 80, "rows": 24}),
}


def _started(members: dict[str, Any]) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        execute(target, "rm -f /work/fifo; mkfifo /work/fifo")
        status, answer = target.call("POST", f"/sessions/{target.session}/exec", {"timeout": 5000} | members)
        said = str(answer.get("stdout"))
        if status not in WELL or "uid=0" in said or "root:" in said:
            return f"status {status} {str(answer)[:80]}", ""
        return None, f"status {status}, exit {answer.get('exit_code')}"

    return go


def _asked(path: str, body: dict[str, Any]) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        with started(target, "exec sleep 1000", stdin_open=True) as name:
            status, answer = target.call("POST", f"/sessions/{target.session}/processes/{name}/{path}", body)
            ended = target.call("GET", f"/sessions/{target.session}/processes/{name}")[1].get("status")
        return (
            None if status in WELL and ended == "running" else f"status {status} {answer}"
        ), f"status {status}"

    return go


@contextlib.contextmanager
def started(target: Target, command: str, count: int = 1, **members: Any) -> Iterator[str]:
    """Start processes that go on; the first one's name is yielded, and all are ended afterwards."""
    names = [f"abuse-{os.urandom(4).hex()}" for _ in range(count)]
    for name in names:
        body = {"command": command, "process_id": name, "detach": True} | members
        target.call("POST", f"/sessions/{target.session}/processes", body)
    try:
        yield names[0]
    finally:
        for name in names:
            target.call("DELETE", f"/sessions/{target.session}/processes/{name}")


def descriptors(target: Target) -> int:
    """How many descriptors the server has open."""
    return len(os.listdir(f"/proc/{target.serve.process.pid}/fd"))


def on_disk(target: Target) -> int:
    """Bytes of unnamed files that the server has open."""
    total = 0
    for link in Path(f"/proc/{target.serve.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(link).endswith("(deleted)"):
                total += link.stat().st_blocks * 512
    return total


@attack(PROCESSES, "two hundred processes in one session", "64 at a time")
def processes_without_number(target: Target) -> Result:
    names, seen = [f"many-{n}" for n in range(70)], []
    for name in names:
        body = {"command": "exec sleep 1000", "process_id": name}
        seen.append(target.call("POST", f"/sessions/{target.session}/processes", body)[0])
    for name in names:
        target.call("DELETE", f"/sessions/{target.session}/processes/{name}")
    made = seen.count(200)
    return (
        None if made <= 64 and set(seen) <= {200, 429} else f"{made} processes, {set(seen)}"
    ), f"{made} made"


@attack(
    PROCESSES,
    "a fork bomb in a process, which is then ended",
    "limit of processes; its mark finds its children",
)
def fork_bomb_in_a_process(target: Target) -> Result:
    with started(target, "b() { b | b & }; b; setsid sleep 7654399 & wait"):
        time.sleep(1)
        well = target.well()
    left = execute(target, "pgrep -fc 'sleep [7]654399'; true").get("stdout")
    return (None if well and str(left).strip() == "0" else f"{left} left"), "ended with all children"


@attack(
    PROCESSES,
    "twelve processes that write for ever and keep 64 MiB each",
    "two files a stream; 1 GiB for a key",
)
def output_of_many(target: Target) -> Result:
    files, before, disk = descriptors(target), target.memory(), on_disk(target)
    with started(target, "yes & yes >&2", 12, output_bytes=64 * MIB):
        time.sleep(4)
        well = target.well()
        files, grown, disk = descriptors(target) - files, target.memory() - before, on_disk(target) - disk
    broken = files > 300 or grown > 60 * MIB or disk > 1100 * MIB or not well
    seen = f"{files} descriptors, {grown // MIB} MiB of memory, {disk // MIB} MiB of disk"
    return (seen if broken else None), seen


@attack(PROCESSES, "sixty processes with arguments of a megabyte", "4,096 characters of them are remembered")
def long_arguments(target: Target) -> Result:
    before = target.memory()
    argv = ["sleep", "1000", *["x" * 100_000] * 10]
    names = [f"long-{n}" for n in range(60)]
    for name in names:
        body = {"argv": argv, "process_id": name, "detach": True}
        target.call("POST", f"/sessions/{target.session}/processes", body)
    grown = target.memory() - before
    listed = len(str(target.call("GET", f"/sessions/{target.session}/processes")[1]))
    for name in names:
        target.call("DELETE", f"/sessions/{target.session}/processes/{name}")
    seen = f"{grown // MIB} MiB, a list of {listed // 1024} KiB"
    return (seen if grown > 40 * MIB or listed > 2 * MIB else None), seen


@attack(PROCESSES, "input of 150 MiB for a process that reads nothing", "16 MiB for a key")
def input_that_nobody_reads(target: Target) -> Result:
    before, seen = target.memory(), []
    body = {"data_base64": base64.b64encode(bytes(MIB)).decode()}
    with started(target, "exec sleep 1000", stdin_open=True) as name:

        def write() -> None:
            with contextlib.suppress(OSError):
                seen.append(target.call("POST", f"/sessions/{target.session}/processes/{name}/stdin", body)[0])

        threads = [threading.Thread(target=write) for _ in range(150)]
        for thread in threads:
            thread.start()
        time.sleep(6)
        grown, well = target.memory() - before, target.well()
    for thread in threads:
        thread.join(20)
    told = f"{grown // MIB} MiB; {seen.count(429)} refused"
    return (told if grown > 120 * MIB or not well else None), told


@attack(PROCESSES, "a hundred calls that wait for one silent process", "nothing but a waiting request each")
def many_waiters(target: Target) -> Result:
    with started(target, "exec sleep 1000") as name, contextlib.ExitStack() as stack:
        path = f"/sessions/{target.session}/processes/{name}/output"
        for _ in range(100):
            sock = stack.enter_context(target.connect())
            sock.sendall(target.signed("POST", path, b'{"wait": 60}'))
        well = target.well()
    return (None if well else "others are not served"), "others are served"


@attack(
    PROCESSES,
    "a process that ends its standard output, its mark and its session",
    "the pids of the sandbox; its end",
)
def unmarked_child(target: Target) -> Result:
    with started(target, "env -i setsid sleep 7654388 >/dev/null 2>&1 &", detach=False):
        pass
    limit = execute(
        target,
        "for n in $(seq 300); do env -i setsid sleep 60 & done 2>/dev/null; jobs | wc -l; pkill sleep; true",
    )
    made = int(str(limit.get("stdout") or "0").strip() or 0)
    return (None if target.well() else "others are not served"), f"{made} of them, within the session's limit"


@attack(PROCESSES, "one id for two programs, and an id that was cancelled", "an id names one program")
def ids_used_twice(target: Target) -> Result:
    path = f"/sessions/{target.session}/processes"
    with started(target, "exec sleep 1000") as name:
        other = target.call("POST", path, {"command": "id", "process_id": name})[0]
    cancelled = target.call("DELETE", f"{path}/never-started")[0]
    then = target.call("POST", path, {"command": "id", "process_id": "never-started"})[0]
    return (
        None if (other, cancelled, then) == (409, 200, 409) else f"{other} {cancelled} {then}"
    ), "status 409"


@attack(
    PROCESSES,
    "three hundred ids that are cancelled before they start",
    "a thousand are remembered, for a minute",
)
def cancelled_ids(target: Target) -> Result:
    before = target.memory()
    for number in range(300):
        target.call("DELETE", f"/sessions/{target.session}/processes/{'c' * 50}{number}")
    grown = target.memory() - before
    return (f"{grown} bytes" if grown > 10 * MIB else None), f"{grown // 1024} KiB"


# Ports


def _port(name: str) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        sock, answer = _viewer(target, name)
        sock.close()
        return ("open" if b" 101 " in answer else None), answer[9:12].decode()

    return go


def _viewer(
    target: Target, port: int | str, keys: tuple[str, str] | None = None
) -> tuple[socket.socket, bytes]:
    path = f"/sessions/{target.session}/ports/{port}"
    signed = signature_headers(*(keys or target.keys), "GET", path, b"")
    signed.pop("Content-Type")
    extra = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
    return _upgrade(target, path, f"127.0.0.1:{target.address[1]}", extra)


LISTENER = """
import socket, sys, threading, time
server = socket.create_server(("127.0.0.1", {port}), backlog=4)
print("ready", flush=True)
{then}
"""


@contextlib.contextmanager
def listening(target: Target, port: int, then: str) -> Iterator[None]:
    """Let a program in the session listen on a port."""
    code = base64.b64encode(LISTENER.format(port=port, then=then).encode()).decode()
    with started(target, f"exec python3 -c \"exec(__import__('base64').b64decode('{code}'))\"") as name:
        body = {"wait": 10.0}
        target.call("POST", f"/sessions/{target.session}/processes/{name}/output", body)
        yield


@attack(PORTS, "ports of the machine: the server's, and one of an inner server", "connected inside the sandbox")
def ports_of_the_machine(target: Target) -> Result:
    seen = {}
    for port in (target.address[1], target.inner.getsockname()[1], 22):
        sock, answer = _viewer(target, port)
        sock.close()
        seen[port] = answer[9:12].decode()
    return (f"{seen}" if "101" in seen.values() else None), "nothing listens there"


@attack(PORTS, "a port of another key's session", "found only by the key that owns it")
def port_of_another_key(target: Target) -> Result:
    sock, answer = _viewer(target, 8000, target.other_keys)
    sock.close()
    return ("open" if b" 101 " in answer else None), answer[9:12].decode()


@attack(PORTS, "a port that pours for viewers that do not read", "a minute; small buffers")
def viewers_that_do_not_read(target: Target) -> Result:
    pour = "def pour(c):\n  while 1: c.sendall(bytes(65536))\nwhile 1: threading.Thread(target=pour, args=(server.accept()[0],)).start()"
    before = target.memory()
    with listening(target, 9101, pour), contextlib.ExitStack() as stack:
        opened = 0
        for _ in range(20):
            sock, answer = _viewer(target, 9101)
            stack.enter_context(sock)
            opened += b" 101 " in answer
        time.sleep(2)
        grown, well = target.memory() - before, target.well()
    told = f"{opened} viewers, {grown // MIB} MiB"
    return (told if grown > 40 * MIB or not well or not opened else None), told


@attack(
    PORTS,
    "a program that accepts and does not read what a viewer sends",
    "small buffers, then the viewer waits",
)
def port_that_does_not_read(target: Target) -> Result:
    before = target.memory()
    with listening(target, 9102, "held = []\nwhile 1: held.append(server.accept()[0])"):
        sock, answer = _viewer(target, 9102)
        sent = 0
        with sock, contextlib.suppress(OSError):
            sock.settimeout(2)
            for _ in range(200):
                sock.sendall(_frame(0x82, 1 << 19, bytes(1 << 19)))
                sent += 1 << 19
        grown = target.memory() - before
    told = f"{sent // MIB} MiB taken, {grown // MIB} MiB held"
    return (told if grown > 40 * MIB or b" 101 " not in answer else None), told


@attack(PORTS, "a frame of an exabyte, and fragments without end, to a port", "a mebibyte for a message")
def frames_to_a_port(target: Target) -> Result:
    kept = []
    with listening(
        target,
        9103,
        "while 1:\n  c = server.accept()[0]\n  threading.Thread(target=lambda c=c: [0 for _ in iter(lambda: c.recv(65536), b'')]).start()",
    ):
        for name, data in {
            "an exabyte": _frame(0x82, 1 << 60),
            "fragments": _frame(0x02, 1 << 16, bytes(1 << 16)) + 100 * _frame(0x00, 1 << 16, bytes(1 << 16)),
        }.items():
            sock, _ = _viewer(target, 9103)
            with sock, contextlib.suppress(OSError):
                sock.settimeout(10)
                sock.sendall(data)
                began = time.monotonic()
                while sock.recv(65536) and time.monotonic() - began < 9:
                    pass
                if time.monotonic() - began >= 9:
                    kept.append(name)
    return (f"kept open: {kept}" if kept else None), "closed"


@attack(PORTS, "a port whose queue is full, and that accepts nobody", "not longer than the connection takes")
def port_that_accepts_nobody(target: Target) -> Result:
    answers: list[bytes] = []

    def look() -> None:
        with contextlib.suppress(OSError):
            sock, answer = _viewer(target, 9104)
            answers.append(answer[9:12])
            sock.close()

    with listening(target, 9104, "time.sleep(1000)"):
        threads = [threading.Thread(target=look) for _ in range(20)]
        for thread in threads:
            thread.start()
        well = target.well()
        for thread in threads:
            thread.join(25)
    return (None if well else "others are not served"), f"{len(answers)} answered, others are served"
