"""Ports of a session that visitors reach, and signed URLs of its files."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest

from unsandbox import AsyncLiveSession, ExposedPort, InvalidRequestError, NotFoundError
from unsandbox._compat.aio import in_thread

SERVER = """
import http.server
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{self.path} {self.headers}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 8000), Echo)
print("listening", flush=True)
server.serve_forever()
"""


class Answer:
    """An answer, read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.text = self.body.decode("latin-1")


def ask(
    url: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    host: str = "",
) -> Answer:
    """Send one request to the server of a URL, under the host name of the URL or another one."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=60)
    try:
        target = f"{place.path or '/'}?{place.query}" if place.query else place.path or "/"
        connection.request(method, target, body, {"Host": host or place.netloc, **(headers or {})})
        return Answer(connection.getresponse())
    finally:
        connection.close()


async def listening(session: AsyncLiveSession) -> None:
    """Start the program that answers on port 8000."""
    await session.files.write("server.py", SERVER)
    process = await session.start(["python3", "server.py"], stdin=b"", detach=True)
    assert b"listening" in (await process.read(wait=60)).stdout


async def test_a_port_needs_its_token(workspace: AsyncLiveSession) -> None:
    await listening(workspace)
    port = await workspace.ports.expose(8000)
    assert re.match(r"http://8000-[a-z0-9-]+\.localhost:\d+\Z", port.url or "")
    assert (await workspace.ports.expose(8000)).token == port.token
    assert [one.port for one in await workspace.ports.list()] == [8000]
    token = port.token or ""
    refused = [
        {},
        {"X-Unsandbox-Token": token[:-1]},
        {"X-Unsandbox-Token": "x" * 5000},
        {"Cookie": "unsandbox_token="},
    ]
    for headers in refused:
        answer = await in_thread(ask, port.url, "GET", headers)
        assert (answer.status, b"port_token_required" in answer.body) == (401, True)
    # It is not passed on, wherever it comes from.
    for address, headers in (
        ("/a?x=1", {"X-Unsandbox-Token": token}),
        (f"/a?unsandbox_token={token}&x=1", {}),
        ("/a?x=1", {"Cookie": f"one=1; unsandbox_token={token}; two=2"}),
    ):
        answer = await in_thread(ask, f"{port.url}{address}", "GET", headers)
        assert (answer.status, answer.text.split()[0]) == (200, "/a?x=1")
        assert token not in answer.text
        assert ("one=1; two=2" in answer.text) == ("Cookie" in headers)
    await workspace.ports.close(8000)
    assert (await in_thread(ask, port.url, "GET", {"X-Unsandbox-Token": token})).status == 404
    assert (await workspace.ports.expose(8000)).token != token


async def test_a_browser_keeps_the_token_as_a_cookie(workspace: AsyncLiveSession) -> None:
    await listening(workspace)
    port = await workspace.ports.expose(8000)
    page = {"Accept": "text/html"}
    for path in ("/x?y=1", "//evil.example/x?y=1"):
        first = await in_thread(ask, f"{port.url}{path}&unsandbox_token={port.token}", "GET", page)
        assert (first.status, first.headers["Location"]) == (303, f"{port.url}{path}")
        assert "HttpOnly; SameSite=Lax" in first.headers["Set-Cookie"]
    cookie = {"Cookie": first.headers["Set-Cookie"].partition(";")[0]}
    assert (await in_thread(ask, port.url, "GET", cookie | page)).status == 200
    # Other web pages, whose requests have the cookie as well.
    for foreign in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "websocket"},
    ):
        assert (await in_thread(ask, port.url, "GET", cookie | foreign)).status == 401
    opened = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert (await in_thread(ask, port.url, "GET", cookie | opened)).status == 200


async def test_public_ports_and_foreign_host_names(workspace: AsyncLiveSession) -> None:
    closed = await workspace.ports.expose(8000, public=True)
    answer = await in_thread(ask, closed.url)
    assert (answer.status, b"port_closed" in answer.body) == (502, True)
    await listening(workspace)
    port = await workspace.ports.expose(8000, public=True)
    assert (port.token, port.url_with_token) == (None, f"{port.url}/")
    assert (await in_thread(ask, port.url)).status == 200
    name = urlsplit(port.url or "").hostname or ""
    for host in ("evil.example", f"{name}.evil.example", "127.0.0.1.nip.io", f"a.{name}", f"{name} evil", ""):
        answer = await in_thread(ask, port.url, "GET", {}, None, host or "0")
        assert answer.status in {400, 404, 421}, host
    for host in (name.replace("8000-", "8001-"), name.replace("8000-", "08000-"), name.replace("8000-", "")):
        assert (await in_thread(ask, port.url, "GET", {}, None, host)).status == 404
    await workspace.freeze()
    answer = await in_thread(ask, port.url)
    assert (answer.status, b"session_frozen" in answer.body) == (503, True)


async def test_a_port_ends_with_its_session(workspace: AsyncLiveSession) -> None:
    port = await workspace.ports.expose(8000, public=True)
    await workspace.delete()
    assert (await in_thread(ask, port.url)).status == 404
    assert ExposedPort(url="http://h", token="t").url_with_token == "http://h/?unsandbox_token=t"


async def test_a_signed_url_reads_and_writes_one_file(workspace: AsyncLiveSession) -> None:
    files = workspace.files
    data = bytes(range(256)) * 30_000
    place = await files.url("a dir/é.bin", write=True)
    assert (await in_thread(ask, place, "PUT", {}, data)).status == 201
    assert await files.read("a dir/é.bin") == data
    link = await files.url("/work/a dir/é.bin")
    answer = await in_thread(ask, link)
    assert (answer.status, answer.body == data) == (200, True)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''%C3%A9.bin"
    part = await in_thread(ask, link, "GET", {"Range": "bytes=256-511"})
    assert (part.status, part.body) == (206, bytes(range(256)))
    assert part.headers["Content-Range"] == f"bytes 256-511/{len(data)}"
    assert (await in_thread(ask, link, "GET", {"Range": f"bytes={len(data)}-"})).status == 416
    for inverted in ("bytes=5-2", "bytes=7-0"):
        assert (await in_thread(ask, link, "GET", {"Range": inverted})).status == 200
    head = await in_thread(ask, link, "HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(data)))
    assert (await in_thread(ask, await files.url("none"))).status == 404
    assert (await in_thread(ask, await files.url("."))).status == 409
    assert (await in_thread(ask, await files.url("/etc/x", write=True), "PUT", {}, b"x")).status == 403
    assert (await in_thread(ask, await files.url("empty", write=True), "PUT", {}, b"")).status == 201
    assert (await in_thread(ask, await files.url("empty"))).body == b""


async def test_a_signed_url_is_for_nothing_else(workspace: AsyncLiveSession) -> None:
    await workspace.files.write("mine", "x")
    await workspace.files.write("other", "secret")
    link = await workspace.files.url("mine")
    changed = [
        link.replace("mine", "other"),
        link.replace("path=", "path=/work/"),
        f"{link}&path=other",
        link.replace("path=mine", "path=other&path=mine"),
        re.sub(r"expires=(\d+)", lambda match: f"expires={int(match[1]) + 1}", link),
        re.sub(r"expires=\d+", "expires=99999999999", link),
        re.sub(r"expires=\d+", "expires=x", link),
        re.sub(r"signature=.", "signature=%C3%A9", link),
        re.sub(r"&signature=.*", "", link),
        re.sub(r"key=[^&]*", "key=unsb-pk-none", link),
        link.replace(
            workspace.id, f"{workspace.id[:-1]}0" if workspace.id[-1] != "0" else f"{workspace.id[:-1]}1"
        ),
    ]
    for url in changed:
        assert (await in_thread(ask, url)).status == 401, url
    assert (await in_thread(ask, link, "PUT", {}, b"y")).status == 401
    assert (await in_thread(ask, await workspace.files.url("mine", write=True))).status == 401
    # It is no credential for the rest of the API.
    assert (await in_thread(ask, link.replace("/files/content", ""))).status == 401
    short = await workspace.files.url("mine", expires=1)
    assert (await in_thread(ask, short)).status in {200, 401}
    ends = int(re.search(r"expires=(\d+)", short)[1])
    while time.time() <= ends:
        await in_thread(time.sleep, 0.1)
    assert (await in_thread(ask, short)).status == 401
    for seconds in (0, -1, 8 * 86400):
        with pytest.raises(InvalidRequestError):
            await workspace.files.url("mine", expires=seconds)
    await workspace.delete()
    assert (await in_thread(ask, link)).status == 404
    with pytest.raises(NotFoundError):
        await workspace.files.read("mine")
