"""A service's bootstrap that leads to internal servers, and archives that lead out of a work folder or never end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import socket
import tarfile
import tempfile
import threading
from pathlib import Path

import zstandard
from tests.abuse.served import CANARY, Result, Target, add, attack

from unsandbox.engine.errors import InvalidRequest
from unsandbox.engine.services.bootstrap import fetch_script, is_elsewhere
from unsandbox.sandbox.errors import InvalidArchiveError
from unsandbox.sandbox.storage.archive_check import examine

SSRF, ARCHIVES = "bootstrap to internal servers", "archives"
PUBLIC = "every address is checked to be public"

# `{port}` is that of a server on this machine which must not be reached.
PLACES = {
    "loopback": "http://127.0.0.1:{port}/",
    "loopback by name": "http://localhost:{port}/",
    "loopback by a name with a dot": "http://localhost.:{port}/",
    "loopback of IPv6": "http://[::1]:{port}/",
    "loopback in IPv6": "http://[::ffff:127.0.0.1]:{port}/",
    "loopback by translation": "http://[64:ff9b::7f00:1]:{port}/",
    "loopback as a number": "http://2130706433:{port}/",
    "loopback in hex": "http://0x7f000001:{port}/",
    "loopback in octal": "http://0177.0.0.1:{port}/",
    "loopback in short": "http://127.1:{port}/",
    "loopback with zeros": "http://127.000.000.001:{port}/",
    "zero address": "http://0.0.0.0:{port}/",
    "zero address in short": "http://0:{port}/",
    "unspecified of IPv6": "http://[::]:{port}/",
    "wide digits": "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11:{port}/",
    "behind a user": "http://example.com@127.0.0.1:{port}/",
    "behind a fragment": "http://127.0.0.1:{port}/#@example.com/",
    "behind a backslash": "http://127.0.0.1:{port}\\@example.com/",
    "behind spaces": "  http://127.0.0.1:{port}/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata of IPv6": "http://[fd00:ec2::254]/latest/",
    "link local": "http://[fe80::1%25eth0]:{port}/",
    "private 10": "http://10.0.0.1/",
    "private 172": "http://172.17.0.1/",
    "private 192": "http://192.168.1.1/",
    "carrier": "http://100.64.0.1/",
    "multicast": "http://224.0.0.1/",
    "file": "file:///etc/shadow",
    "gopher": "gopher://127.0.0.1:{port}/_x",
    "ftp": "ftp://127.0.0.1:{port}/x",
    "header by line end": "http://127.0.0.1:{port}/\r\nX-A: b",
}


def declare() -> None:
    """Declare one attack for each place."""
    for name, url in PLACES.items():
        add(f"bootstrap from {name}", SSRF, url.replace(":{port}", "").strip(), PUBLIC, _bootstrap(url))


def _bootstrap(url: str) -> object:
    def go(target: Target) -> Result:
        place = url.format(port=target.inner.getsockname()[1])
        status, answer = target.call(
            "POST", "/services", {"name": "inner", "bootstrap_url": place, "network": "zerotrust"}
        )
        if reached := _reached(target.inner):
            return f"{reached} reached the inner server", ""
        if status == 200:
            target.call("DELETE", "/services/inner")
            return f"it was fetched: {answer}", ""
        return (None if status in (400, 413) else f"status {status}"), str(answer.get("error"))

    return go


def _reached(inner: socket.socket) -> str:
    try:
        sock, peer = inner.accept()
    except BlockingIOError:
        return ""
    sock.close()
    return str(peer)


class _Inner(threading.Thread):
    """Answers requests with what it is given, and counts them."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(daemon=True)
        self.asked, self._answer = 0, answer
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.start()

    def run(self) -> None:
        while True:
            try:
                sock, _ = self.server.accept()
            except OSError:
                return
            self.asked += 1
            # Whoever asked may have had enough.
            with sock, contextlib.suppress(OSError):
                sock.recv(65536)
                sock.sendall(self._answer)

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


def _http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@attack(SSRF, "a public server that redirects to an inner one", "each redirect is checked anew")
def redirect_to_an_inner_server(target: Target) -> Result:
    inner = _Inner(_http(CANARY))
    outer = _Inner(_http(b"", f"Location: http://127.0.0.1:{inner.port}/", status="302 Found"))
    asked: list[str] = []

    def only_the_first(address: str) -> bool:
        # There is no public server in reach of a test: the first address counts as one.
        asked.append(address)
        return len(asked) == 1

    try:
        script = asyncio.run(fetch_script(f"http://127.0.0.1:{outer.port}/", only_the_first))
    except InvalidRequest as refusal:
        return ("the inner server was asked" if inner.asked else None), refusal.message[-60:]
    finally:
        inner.close()
        outer.close()
    return script.decode(), ""


@attack(
    SSRF,
    "a name that is public when it is checked and inner when it is used (DNS rebinding)",
    "resolved once; the checked address is used",
)
def dns_rebinding(target: Target) -> Result:
    inner = _Inner(_http(CANARY))
    asked = 0

    async def go() -> bytes:
        loop = asyncio.get_running_loop()

        async def resolve(host: str, port: int, **_: object) -> list[object]:
            nonlocal asked
            asked += 1
            address = "203.0.113.77" if asked == 1 else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        loop.getaddrinfo = resolve  # type: ignore[method-assign, assignment]
        async with asyncio.timeout(3):
            return await fetch_script(
                f"http://rebind.example:{inner.port}/", lambda address: address != "127.0.0.1"
            )

    try:
        script = asyncio.run(go())
    except (InvalidRequest, TimeoutError):
        return ("the inner server was asked" if inner.asked else None), f"resolved {asked} time(s)"
    finally:
        inner.close()
    return script.decode(), ""


@attack(SSRF, "a name with a public and an inner address", "one that is not public spoils all")
def public_and_inner_address(target: Target) -> Result:
    inner = _Inner(_http(CANARY))

    async def go() -> bytes:
        async def resolve(host: str, port: int, **_: object) -> list[object]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in ("1.1.1.1", "127.0.0.1")
            ]

        asyncio.get_running_loop().getaddrinfo = resolve  # type: ignore[method-assign, assignment]
        return await fetch_script(f"http://both.example:{inner.port}/", is_elsewhere)

    try:
        return asyncio.run(go()).decode(), ""
    except InvalidRequest as refusal:
        return ("the inner server was asked" if inner.asked else None), refusal.message[-60:]
    finally:
        inner.close()


@attack(SSRF, "a script that never ends", "limit of a script")
def endless_script(target: Target) -> Result:
    inner = _Inner(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(8 << 20))
    try:
        return f"{len(asyncio.run(fetch_script(f'http://127.0.0.1:{inner.port}/', lambda _: True)))} bytes", ""
    except Exception as refusal:  # noqa: BLE001 - any refusal will do
        return None, type(refusal).__name__
    finally:
        inner.close()


# Archives


def _archive(*members: tuple[str, bytes, str], kind: bytes = tarfile.REGTYPE) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, type_, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type_, link
            tar.addfile(info)
    return file.getvalue()


def _examine(name: str, tried: str, data: bytes, by: str = "the archive is looked through first") -> None:
    def go(target: Target) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "archive")
            file.write_bytes(data)
            try:
                examine(file, 1 << 20)
            except InvalidArchiveError as refusal:
                return None, re.sub(r":.*", "", str(refusal))
        return "taken", ""

    add(name, ARCHIVES, tried, by, go)


def _bomb(size: int) -> bytes:
    info = tarfile.TarInfo("zeros")
    info.size = size
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    parts = [packer.compress(info.tobuf()), *(packer.compress(bytes(1 << 20)) for _ in range(size >> 20))]
    return b"".join(parts) + packer.flush()


_FILE, _LINK, _HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
_examine("archive that climbs", "../../etc/cron.d/x", _archive(("../../etc/cron.d/x", _FILE, "")))
_examine("archive that climbs later", "a/../../x", _archive(("a/../../x", _FILE, "")))
_examine("archive with an absolute name", "/etc/passwd", _archive(("/etc/passwd", _FILE, "")))
_examine(
    "archive through a link",
    "a link to /etc, then a file in it",
    _archive(("l", _LINK, "/etc"), ("l/passwd", _FILE, "")),
)
_examine(
    "archive that replaces a link",
    "a link, then a file of its name",
    _archive(("l", _LINK, "/etc/passwd"), ("l", _FILE, "")),
)
_examine("archive with a hard link out", "a hard link to /etc/shadow", _archive(("h", _HARD, "/etc/shadow")))
_examine(
    "archive with a climbing hard link",
    "a hard link to ../../etc/shadow",
    _archive(("h", _HARD, "../../etc/shadow")),
)
_examine("archive with a device", "a block device", _archive(("disk", tarfile.BLKTYPE, "")))
_examine("archive bomb", "30 KB of zstd that unfold to 300 MB, where one may be kept", _bomb(300 << 20))
_examine("archive with an endless header", "a header of a gigabyte", b"".join([
    _archive(("x", b"x", ""))[:124], b"10000000000\0", _archive(("x", b"x", ""))[136:512]]) + bytes(4096))  # fmt: skip
_examine(
    "archive that is cut off",
    "half an archive",
    zstandard.ZstdCompressor().compress(_archive(("a", _FILE, "")))[:40],
)
