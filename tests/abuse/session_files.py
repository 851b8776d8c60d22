"""Files of a session, through the API: out of the sandbox, into what never ends, and by a helper that lies."""

from __future__ import annotations

import base64
import contextlib
import io
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.abuse.served import Result, Target, add, attack

FILES, LIAR = "files of sessions", "helper of sessions"
INSIDE = "the kernel resolves paths inside the sandbox, as its user"
REGULAR = "regular files only, opened without waiting"
FRAMES = "bounds on frames, strict types"
SECRET = b"secret-of-the-host-41c7"
WELL = (200, 400, 403, 404, 409, 413, 422, 429, 507)
"""Answers that say what is wrong; others are a fault of the server."""


def file(target: Target, operation: str, /, **members: Any) -> tuple[int, dict[str, Any]]:
    """Work on a file of the target's session."""
    return target.call("POST", f"/sessions/{target.session}/files/{operation}", members)


def execute(target: Target, command: str, **members: Any) -> dict[str, Any]:
    """Run a command in the target's session."""
    body = {"command": command, "timeout": 20_000} | members
    status, answer = target.call("POST", f"/sessions/{target.session}/exec", body)
    assert status == 200, answer
    return answer


def content(answer: dict[str, Any]) -> bytes:
    """Return the bytes of a file that was read."""
    return base64.b64decode(answer.get("content_base64") or "")


@contextlib.contextmanager
def canary() -> Iterator[Path]:
    """Put a file into the host's `/tmp` that every user of the host may read."""
    with tempfile.NamedTemporaryFile(prefix="abuse-host-", dir="/tmp") as made:
        made.write(SECRET)
        made.flush()
        Path(made.name).chmod(0o644)
        yield Path(made.name)


# Out of the sandbox

READS = {
    "by its path": "{}",
    "by a link": "/work/link",
    "by a link in a folder's place": "/work/tmp-link/{0.name}",
    "by a chain of links": "/work/chain-9",
    "by dots": "/work/../../../../../../..{}",
    "by the root of the first process": "/proc/1/root{}",
    "by the root of the helper": "/proc/self/root{}",
    "by the helper's working folder": "/proc/self/cwd/../../..{}",
    "by the root of a thread": "/proc/thread-self/root{}",
    "by a link to a process's root": "/work/root-link{}",
    "by a doubled slash": "//{}",
}
PREPARE = """cd /work; rm -f link *-link chain-*
ln -s {0} link; ln -s /tmp tmp-link; ln -s /proc/1/root root-link; ln -s {0} chain-0
for n in 1 2 3 4 5 6 7 8 9; do ln -s chain-$((n-1)) chain-$n; done"""

ENDLESS = {
    "a FIFO": "/work/fifo",
    "a socket": "/work/socket",
    "a device of zeros": "/dev/zero",
    "a device of chance": "/dev/urandom",
    "a terminal": "/dev/tty",
    "the helper's own requests": "/proc/self/fd/0",
    "the helper's own answers": "/proc/self/fd/1",
    "a link to itself": "/work/self",
    "memory of the helper": "/proc/self/mem",
    "a folder": "/work",
}

NAMES = {
    "of 4,000 letters": "a" * 4000,
    "of 256 letters": "a" * 256,
    "of 2,000 folders": "d/" * 2000,
    "with a zero byte": "a\0b",
    "with a lone surrogate": "a\ud800",
    "with direction marks and an escape": "\u202e\x1b[2J\n",
    "of nothing": "",
    "of another user's home": "~root/x",
}

TRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "an offset of 2^63": ("read", {"path": "f", "offset": (1 << 63) - 1}),
    "an offset beyond 2^64": ("read", {"path": "f", "offset": 1 << 70}),
    "a negative offset": ("read", {"path": "f", "offset": -1}),
    "a length of a petabyte": ("read", {"path": "f", "length": 1 << 50}),
    "a hole in a write": ("write", {"path": "f2", "content": "x", "offset": 1 << 40}),
    "an upload that climbs": ("write", {"path": "f", "upload": "../../etc/passwd", "content": "x"}),
    "an upload that hides": ("write", {"path": "f", "upload": ".unsandbox-/../../x", "content": "x"}),
    "an upload of another file": ("abort", {"path": "/etc/passwd", "upload": ".unsandbox-x"}),
    "a mode beyond the bits": ("chmod", {"path": "f", "mode": 1 << 40}),
    "a depth of 2^31": ("list", {"path": "/", "depth": 1 << 31}),
    "a million entries at once": ("list", {"path": "/", "limit": 1_000_000}),
    "a pattern that is absolute": ("glob", {"path": "/work", "pattern": "/etc/shadow*"}),
    "a pattern of 500 stars": ("glob", {"path": "/work", "pattern": "**/" * 500 + "x"}),
    "a pattern of brackets": ("glob", {"path": "/work", "pattern": "[" * 4000}),
    "a pattern that backtracks": ("glob", {"path": "/work", "pattern": "*a" * 200 + "!"}),
    "base64 that is none": ("write", {"path": "f", "content_base64": "a" * 5}),
    "a folder into itself": ("copy", {"path": "/work", "target": "/work/x"}),
    "the root moved": ("move", {"path": "/", "target": "/work/root"}),
    "everything removed": ("remove", {"path": "/usr", "recursive": True}),
    "a password file of the system": ("write", {"path": "/etc/passwd", "content": "root::0:0::/:/bin/sh\n"}),
    "a program of the system": ("write", {"path": "/usr/bin/python3", "content": "#!/bin/sh\n"}),
    "a core pattern": ("write", {"path": "/proc/sys/kernel/core_pattern", "content": "|/x", "append": True}),
    "its own priority in the killer": (
        "write",
        {"path": "/proc/1/oom_score_adj", "content": "-1000", "append": True},
    ),
}


def declare() -> None:
    """Declare the families."""
    for way, path in READS.items():
        add(f"file of the host {way}", FILES, path, INSIDE, _read_host(path))
    for what, path in ENDLESS.items():
        add(f"reading {what}", FILES, path, REGULAR, _read_endless(path))
        add(f"writing to {what}", FILES, path, REGULAR, _write_endless(path))
    for what, name in NAMES.items():
        add(
            f"file with a name {what}",
            FILES,
            ascii(name[:30]),
            "checked at the edge, or by the kernel",
            _named(name),
        )
    for what, (operation, members) in TRIES.items():
        add(f"files: {what}", FILES, f"{operation} {ascii(members)[:60]}", INSIDE, _tried(operation, members))
    for what, member in MEMBERS.items():
        add(f"unpacking {what}", FILES, what, "names are resolved below the folder", _unpacked(member))
    for what, frame in FRAMES_OF_A_LIAR.items():
        add(f"helper that answers {what}", LIAR, what, FRAMES, _lied(frame))


def _read_host(path: str) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        with canary() as secret:
            execute(target, PREPARE.format(secret))
            gained, seen = [], set()
            place = path.format(secret)
            for operation, more in (
                ("read", {}),
                ("stat", {}),
                ("copy", {"target": "/work/taken"}),
                ("realpath", {"strict": True}),
            ):
                status, answer = file(target, operation, path=place, **more)
                seen.add(status)
                if status == 200 or SECRET in content(answer):
                    gained.append(operation)
        return (f"{gained}" if gained else None), f"status {sorted(seen)}"

    return go


def _read_endless(path: str) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        execute(target, "cd /work; rm -f fifo socket self; mkfifo fifo; ln -s self self;"
                "python3 -c 'import socket; socket.socket(1).bind(\"socket\")'")  # fmt: skip
        began = time.monotonic()
        status, answer = file(target, "read", path=path)
        if time.monotonic() - began > 30 or status not in WELL:
            return f"status {status}, {time.monotonic() - began:.0f} s", ""
        return (f"{len(content(answer))} bytes" if status == 200 else None), f"status {status}"

    return go


def _write_endless(path: str) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        execute(target, "cd /work; rm -f fifo socket self; mkfifo fifo; ln -s self self;"
                "python3 -c 'import socket; socket.socket(1).bind(\"socket\")'")  # fmt: skip
        seen = [file(target, "write", path=path, content="x", append=append)[0] for append in (False, True)]
        # The helper must be in step afterwards: what it is asked next it answers.
        status, _ = file(target, "stat", path="/work")
        # Whoever replaces a link to nothing makes a file, and a socket or FIFO is refused.
        strange = [one for one in seen if one not in WELL]
        return (f"status {strange}, then {status}" if strange or status != 200 else None), f"status {seen}"

    return go


def _named(name: str) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        seen = []
        for operation, more in (
            ("write", {"content": "x"}),
            ("stat", {}),
            ("list", {}),
            ("remove", {"recursive": True}),
        ):
            status, answer = file(target, operation, path=f"/work/names/{name}" if name else name, **more)
            seen.append(status)
            if status not in WELL:
                return f"{operation}: {status} {str(answer)[:80]}", ""
        execute(target, "rm -rf /work/names")
        return None, f"status {sorted(set(seen))}"

    return go


def _tried(operation: str, members: dict[str, Any]) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        execute(target, "cd /work; echo good > f")
        status, answer = file(target, operation, **members)
        intact = execute(
            target,
            "test -x /usr/bin/python3 && grep -c root:x /etc/passwd /etc/passwd | head -1; cat /proc/1/oom_score_adj",
        )
        taken = "root::" in str(intact.get("stdout")) or "-1000" in str(intact.get("stdout"))
        if status not in WELL or taken or "/etc/shadow" in str(answer):
            return f"status {status} {str(answer)[:80]}", ""
        return None, f"status {status}"

    return go


# Archives


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, target, mode
    member.size = 4 if kind == tarfile.REGTYPE else 0
    return member


MEMBERS = {
    "a name that climbs": [_member("../out")],
    "an absolute name": [_member("/work/out")],
    "a name through a link": [_member("l", tarfile.SYMTYPE, "/work"), _member("l/out")],
    "a name through two links": [_member("l", tarfile.SYMTYPE, "m"), _member("m", tarfile.SYMTYPE, ".."), _member("l/out")],
    "a hard link to a file outside": [_member("out", tarfile.LNKTYPE, "../f")],
    "a device": [_member("null", tarfile.CHRTYPE)],
    "a FIFO": [_member("fifo", tarfile.FIFOTYPE)],
    "a program with set-user-id": [_member("suid", mode=0o6755)],
    "a thousand nested folders": [_member("d/" * 900 + "x")],
    "a folder that replaces itself by a link": [_member("d", tarfile.DIRTYPE), _member("d", tarfile.SYMTYPE, ".."), _member("d/out")],
}  # fmt: skip


def _unpacked(members: list[tarfile.TarInfo]) -> Callable[[Target], Result]:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"evil") if member.size else None)
    encoded = base64.b64encode(data.getvalue()).decode()

    def go(target: Target) -> Result:
        execute(target, "cd /work; rm -rf un out; echo good > f")
        file(target, "write", path="/work/a.tar", content_base64=encoded)
        status, answer = file(target, "unpack", path="/work/un", archive="/work/a.tar")
        found = execute(target, "cd /work; ls out; find un -type b -o -type c -o -type p -o -perm -4000; cat f")
        seen = str(found.get("stdout")).split()
        execute(target, "rm -rf /work/un /work/out")
        if seen != ["good"] or status not in WELL:
            return f"status {status}, {seen} {str(answer)[:60]}", ""
        return None, f"status {status}"

    return go


# A helper that lies: the tenant is the same user in the sandbox, and may write into its answers.

HEAD = "__import__('struct').pack('>II', {}, {})"
FRAMES_OF_A_LIAR = {
    "four gigabytes": HEAD.format("0xFFFFFFFF", "0xFFFFFFFF"),
    "a list": HEAD.format(2, 0) + " + b'[]'",
    "no JSON": HEAD.format(4, 0) + " + b'!!!!'",
    "a number of a million digits": HEAD.format(1_000_000, 0) + " + b'9' * 1000000",
    "a million brackets": HEAD.format(1_000_000, 0) + " + b'[' * 1000000",
    "two million lists": HEAD.format("6000002", 0) + " + b'[' + b'[],' * 1999999 + b'[]]  '",
    "members of other types": HEAD.format(24, 0) + ' + b\'{"entries":5,"size":"x"}\'',
    "an error that is none": HEAD.format(22, 0) + ' + b\'{"errno":[],"error":1}\'',
    "byte by byte": "[" + HEAD.format(200_000, 0) + "]",
    "more than was asked": HEAD.format(2, 0) + " + b'{}' + b'x' * 3000000",
}
LIAR_CODE = """
import glob, os, threading, time
def send(path):
    fd = os.open(path, os.O_WRONLY)
    data = {}
    if isinstance(data, list):
        data = data[0] + b"{}" + b" " * 199998
        for n in range(len(data)): os.write(fd, data[n:n+1])
    else:
        while data: data = data[os.write(fd, data):]
found = []
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        if b"Works on files inside a sandbox" in open(path, "rb").read():
            found.append(path.replace("cmdline", "fd/1"))
    except OSError: pass
for path in found: threading.Thread(target=send, args=(path,), daemon=True).start()
print(len(found), flush=True)
time.sleep(3)
"""


def _lied(frame: str) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        file(target, "stat", path="/work")
        before, answers = target.memory(), []
        program = base64.b64encode(LIAR_CODE.replace("{}", frame).encode()).decode()
        body = {
            "argv": ["python3", "-c", f"import base64; exec(base64.b64decode('{program}'))"],
            "timeout": 8000,
        }

        def lie() -> None:
            target.call("POST", f"/sessions/{target.session}/exec", body)

        thread = threading.Thread(target=lie)
        thread.start()
        worst = 0.0
        while thread.is_alive():
            began = time.monotonic()
            target.call("GET", "/health")
            worst = max(worst, time.monotonic() - began)
            answers.append(file(target, "stat", path="/work"))
        kept = target.memory() - before
        status, answer = file(target, "stat", path="/work")
        if (status, answer.get("type")) != (200, "directory"):
            return f"then: {status} {str(answer)[:60]}", ""
        if kept > 150 << 20:
            return f"{kept >> 20} MiB", ""
        seen = sorted({status for status, _ in answers})
        return (f"held for {worst:.1f} s" if worst > 10 else None), f"status {seen}, then right"

    return go


@attack(
    LIAR, "modules in the tenant's folders that the helper may import", "no site, no working folder in its path"
)
def modules_for_the_helper(target: Target) -> Result:
    names = "json os glob tarfile shutil struct sitecustomize usercustomize"
    execute(
        target,
        f"cd /work; for m in {names}; do echo 'open(\"/work/ran\", \"w\")' > $m.py; done; pkill -f '[W]orks on files' ; true",
    )
    file(target, "list", path="/work")
    status, _ = file(target, "stat", path="/work/ran")
    execute(target, f"cd /work; for m in {names}; do rm -f $m.py; done")
    return (None if status == 404 else f"status {status}"), "not imported"


@attack(
    LIAR,
    "a helper that is stopped in the middle of a request",
    "four at most, 120 s each; others are not touched",
)
def stopped_helper(target: Target) -> Result:
    file(target, "stat", path="/work")
    execute(target, "pkill -STOP -f '[W]orks on files'; true")
    threads = [
        threading.Thread(target=file, args=(target, "stat"), kwargs={"path": "/work"}) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    well = target.well()
    execute(target, "pkill -KILL -f '[W]orks on files'; true")
    for thread in threads:
        thread.join(40)
    stuck = sum(thread.is_alive() for thread in threads)
    return (f"{stuck} still wait" if stuck or not well else None), "others are served"


@attack(FILES, "a file that becomes a link to the host's while it is read", INSIDE)
def file_race(target: Target) -> Result:
    with canary() as secret:
        loop = f"cd /work; echo good > good; ln -sf {secret} bad; while :; do cp good r; mv r race; cp -P bad r; mv r race; done"
        target.call("POST", f"/sessions/{target.session}/processes", {"command": loop, "process_id": "race"})
        taken = [content(file(target, "read", path="/work/race")[1]) for _ in range(30)]
        target.call("DELETE", f"/sessions/{target.session}/processes/race")
    return ("the canary" if SECRET in b"".join(taken) else None), "a file of its own, or none"


@attack(FILES, "a sparse file of a terabyte, read and packed", "parts of 1 MiB at most; the disk's size")
def sparse_file(target: Target) -> Result:
    execute(target, "mkdir -p /work/s; truncate -s 1T /work/s/sparse || truncate -s 1G /work/s/sparse")
    before = target.memory()
    status, answer = file(target, "read", path="/work/s/sparse", offset=1 << 29, length=1 << 20)
    grown, size = target.memory() - before, len(content(answer))
    execute(target, "rm -rf /work/s")
    return (
        f"{size} bytes, {grown} more" if size > 1 << 20 or grown > 50 << 20 else None
    ), f"status {status}, {size} bytes"


@attack(
    FILES,
    "20,000 files and 1,500 nested folders: listed, searched, removed",
    "10,000 entries; the sandbox's own time",
)
def many_files(target: Target) -> Result:
    execute(target, "mkdir -p /work/m && cd /work/m && seq 20000 | xargs touch; d=/work/n; mkdir $d; cd $d; "
            "for n in $(seq 1500); do mkdir d && cd d || break; done; true")  # fmt: skip
    seen = [
        file(target, "list", path="/work/m", limit=10_000)[0],
        file(target, "list", path="/work/n", depth=1000)[0],
        file(target, "glob", path="/work/n", pattern="**")[0],
        file(target, "copy", path="/work/n", target="/work/n2")[0],
        file(target, "remove", path="/work/n", recursive=True)[0],
    ]
    execute(target, "rm -rf /work/m /work/n /work/n2")
    strange = [status for status in seen if status not in WELL]
    return (f"status {seen}" if strange or not target.well() else None), f"status {seen}"


@attack(FILES, "files and processes of another key's session", "found only by the key that owns them")
def session_of_another_key(target: Target) -> Result:
    other, seen = target.other_keys, set()
    for path, body in (
        ("files/read", {"path": "/work/f"}),
        ("files/write", {"path": "/work/f", "content": "x"}),
        ("exec", {"command": "id"}),
        ("processes", {"command": "id"}),
        ("processes/race/output", {}),
    ):
        status, _ = target.serve.call(other, "POST", f"/sessions/{target.session}/{path}", body)
        seen.add(status)
    return (None if seen == {404} else f"status {seen}"), "status 404"
