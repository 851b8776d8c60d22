"""Attacks on what a server shows: its port, the API, the ingress of services. Each runs once, on a real `un serve`."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.abuse.stage import Row
from tests.support import REPO, Serve, eventually, signature_headers, un

PLACE = "server"
APP = (REPO / "tests" / "server" / "apps" / "echo.py").read_text()
CANARY = b"canary-of-an-inner-server"
Result = tuple[str | None, str]


@dataclass
class Target:
    """A server with one key, a service that tells what it receives, and an inner server that must not be reached."""

    serve: Serve
    keys: tuple[str, str]
    inner: socket.socket
    reached: list[str] = field(default_factory=list)
    hostile: str = ""
    """Host name of a service that attacks its visitors, once there is one."""
    backup: Path | None = None
    with_codes: tuple[tuple[str, str], str] | None = None
    """A key that needs one-time codes, and their secret, once there is one."""
    tls: Serve | None = None
    on_close: list[Callable[[], None]] = field(default_factory=list)

    @functools.cached_property
    def session(self) -> str:
        """A session of the key."""
        status, answer = self.call("POST", "/sessions", {"network": "zerotrust"})
        assert status == 200, answer
        return str(answer["session_id"])

    @functools.cached_property
    def other_keys(self) -> tuple[str, str]:
        """Another key of the server."""
        made = json.loads(un("keys", "create", "--data", str(self.serve.data), "--json").stdout)
        return made["public_key"], made["secret_key"]

    @property
    def address(self) -> tuple[str, int]:
        place = urlsplit(self.serve.url)
        return str(place.hostname), int(place.port or 0)

    @property
    def host(self) -> str:
        """The name under which the service is reached."""
        return f"echo.localhost:{self.address[1]}"

    def connect(self, timeout: float = 20) -> socket.socket:
        return socket.create_connection(self.address, timeout)

    def send(self, data: bytes, *, until_closed: bool = False, timeout: float = 20) -> bytes:
        """Send bytes; return the answer to the first request, or all until the server closes."""
        with self.connect(timeout) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(data)
            answer = b""
            with contextlib.suppress(OSError):
                while chunk := sock.recv(65536):
                    answer += chunk
                    if not until_closed and _is_whole(answer):
                        break
        return answer

    def status(self, data: bytes) -> int:
        """Send bytes; return the status of the answer, 0 when there is none."""
        words = self.send(data).split(b" ", 2)
        return int(words[1]) if len(words) > 2 and words[0].startswith(b"HTTP/") else 0

    def call(self, method: str, target: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        return self.serve.call(self.keys, method, target, body)

    def signed(self, method: str, target: str, body: bytes, extra: str = "") -> bytes:
        """Return a request with a valid signature, as bytes."""
        headers = signature_headers(*self.keys, method, target, body)
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: 127.0.0.1:{self.address[1]}",
            f"Content-Length: {len(body)}",
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + f"\r\n{extra}\r\n").encode() + body

    def well(self) -> bool:
        """Whether it still serves others."""
        return self.call("GET", "/jobs")[0] == 200

    def memory(self) -> int:
        """Bytes that the server's process holds."""
        return int(Path(f"/proc/{self.serve.process.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    lengths = [
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    ]
    return bool(end) and bool(lengths) and len(body) >= lengths[0]


@dataclass(frozen=True)
class Served:
    """See `inside.Attack`; the function returns what was gained, or None and what was seen."""

    name: str
    subject: str
    tried: str
    by: str
    function: Callable[[Target], Result]


ATTACKS: list[Served] = []


def attack(
    subject: str, tried: str, by: str
) -> Callable[[Callable[[Target], Result]], Callable[[Target], Result]]:
    """Declare the function below an attack; its name is the attack's."""

    def declare(function: Callable[[Target], Result]) -> Callable[[Target], Result]:
        add(function.__name__.replace("_", " "), subject, tried, by, function)
        return function

    return declare


def add(name: str, subject: str, tried: str, by: str, function: Callable[[Target], Result]) -> None:
    """Declare one of a family of attacks."""
    ATTACKS.append(Served(name, subject, tried, by, function))


@contextlib.contextmanager
def opened() -> Iterator[Target]:
    """Start a server with a service, and an inner server that counts who reaches it."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as inner:
        inner.setblocking(False)
        with Serve(Path(folder, "data"), "--log-level", "info") as serve:
            target = Target(serve, serve.keys(), inner)
            body = {"name": "echo", "bootstrap_content": APP, "ports": [8000], "network": "zerotrust"}
            status, answer = target.call("POST", "/services", body)
            assert status == 200, answer
            ask = f"GET / HTTP/1.1\r\nHost: {target.host}\r\n\r\n".encode()
            eventually(lambda: target.status(ask) == 200, 60)
            yield target
            for close in target.on_close:
                close()
            serve.stop()


@functools.cache
def _declare_all() -> None:
    """Declare the attacks that are made of tables; once, also when the test is repeated."""
    from tests.abuse import api, hostile_services, http, kept, session_files, session_processes, ssrf
    from tests.abuse.sessions import outside

    http.declare()
    api.declare()
    ssrf.declare()
    hostile_services.declare()
    kept.declare()
    session_files.declare()
    session_processes.declare()
    outside.declare()


def all_rows() -> list[Row]:
    """Carry out every attack, one after the other; the log is looked at when the server has ended."""
    from tests.abuse import api

    _declare_all()
    with opened() as target:
        api.check_harmless(target)
        rows = [_carry_out(one, target) for one in ATTACKS]
        rows.append(Row("bringing down the server", "server", "all of the above", "bounds everywhere", PLACE,
                        None if target.well() else "it does not answer", "the next request is answered"))  # fmt: skip
    forged = [line for line in target.serve.log.splitlines() if line.startswith(api.FORGED) or "\x1b" in line]
    rows.append(Row("forged lines in the log", "log injection", "line ends and escapes in names, paths and headers",
                    "JSON and route names are logged, not what was sent", PLACE, "; ".join(forged) or None, "no such line"))  # fmt: skip
    return rows


def _carry_out(one: Served, target: Target) -> Row:
    began = time.monotonic()
    try:
        gained, saw = one.function(target)
    except Exception as error:  # noqa: BLE001 - it is told in the table
        gained, saw = f"failed in another way: {error!r}", ""
    if target.serve.process.poll() is not None:
        gained = "the server died"
    if not gained and time.monotonic() - began > 60:
        gained = "held for a minute"
    return Row(one.name, one.subject, one.tried, one.by, PLACE, gained, saw)


def refused(status: int, wanted: tuple[int, ...] = (400, 401, 404, 405, 413, 414, 421, 431)) -> Result:
    """Judge an answer that must be a refusal, or a closed connection."""
    return (
        None if status == 0 or status in wanted else f"status {status}"
    ), f"status {status}" if status else "closed"


def echoed(answer: bytes) -> dict[str, Any]:
    """Return what the service says that it received."""
    return dict(json.loads(answer.partition(b"\r\n\r\n")[2] or b"{}"))
