"""Services as visitors reach them: a Python and a Node server inside, real HTTP and WebSocket clients outside."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import json
import os
import random
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import websockets
from tests.server.conftest import Wire, open_wire
from yarl import URL

from unsandbox.engine import Engine, EngineConfig
from unsandbox.engine.accounts.keys import KeyPair
from unsandbox.server import ServerConfig

pytestmark = pytest.mark.asyncio(loop_scope="session")

APPS = Path(__file__).with_name("apps")


class Visitor:
    """Sends plain requests to the server's own port, under the host name of a service."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.session = wire.session
        self.base = URL(wire.url)
        self.host = f"{name}.localhost:{self.base.port}"
        self.raw = (self.base.host, self.base.port)

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **options):
        place = URL(f"{self.base.origin()}{path}", encoded=True)
        return self.session.request(method, place, headers={"Host": self.host} | (headers or {}), **options)

    async def json(self, method: str, path: str, **options):
        async with self.ask(method, path, **options) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    def socket(self, path: str, **options):
        return self.session.ws_connect(self.base.join(URL(path)), headers={"Host": self.host}, **options)


async def serve_app(wire: Wire, name: str, app: str, **options) -> Visitor:
    body = {
        "name": name,
        "bootstrap_content": (APPS / app).read_text(),
        "ports": [8000],
        "network": "zerotrust",
    }
    answer = await wire.call("POST", "/services", body | options)
    assert answer.status == 200, answer.json
    assert answer.json["url"] == f"http://{name}.localhost:{URL(wire.url).port}"
    return Visitor(wire, name)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def python_app(wires: list[Wire]) -> AsyncIterator[Visitor]:
    yield await serve_app(wires[0], "echo", "echo.py")
    await wires[0].call("DELETE", "/services/echo")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node_app(wires: list[Wire]) -> AsyncIterator[Visitor]:
    yield await serve_app(wires[0], "web", "web.js")
    await wires[0].call("DELETE", "/services/web")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_a_request_arrives_as_it_was_sent(python_app, method):
    path = "/a%2Fb//c/../d?x=1&y=%20&z"
    body = None if method in {"GET", "OPTIONS"} else b"\x00\xffbytes"
    seen = await python_app.json(
        method, path, data=body, headers={"X-Mine": "1", "Authorization": "Bearer mine"}
    )
    headers = dict(seen["headers"])
    assert (seen["method"], seen["path"]) == (method, path)
    assert seen["body"].encode("latin-1") == (body or b"")
    assert headers["Host"] == python_app.host
    assert headers["X-Mine"] == "1"
    assert headers["Authorization"] == "Bearer mine"
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["X-Forwarded-Host"] == python_app.host
    assert seen["port"] == "8000"


async def test_an_answer_comes_as_it_was_given(python_app):
    async with python_app.ask("GET", "/") as response:
        assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
        assert "X-Hop" not in response.headers
        assert response.headers["Server"].startswith("BaseHTTP")
        assert "X-Request-Id" not in response.headers
        length = int(response.headers["Content-Length"])
        assert len(await response.read()) == length
    async with python_app.ask("HEAD", "/") as response:
        assert int(response.headers["Content-Length"]) > 100
        assert await response.read() == b""
    async with python_app.ask("GET", "/nothing") as response:
        assert response.status == 204


async def test_hop_by_hop_headers_and_our_secrets_stay_here(python_app):
    headers = {
        "Connection": "X-Private",
        "X-Private": "1",
        "TE": "trailers",
        "Proxy-Authorization": "Basic eA==",
        "X-Sudo-OTP": "123456",
        "X-Sudo-Challenge": "chal_1",
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "https",
    }
    seen = dict((await python_app.json("GET", "/", headers=headers))["headers"])
    assert not {name.lower() for name in seen} & {
        "x-private", "te", "proxy-authorization", "x-sudo-otp", "x-sudo-challenge",
    }  # fmt: skip
    # A proxy on this machine is believed.
    assert seen["X-Forwarded-For"] == "203.0.113.9, 127.0.0.1"
    assert seen["X-Forwarded-Proto"] == "https"


async def test_a_large_body_passes_without_being_held(python_app):
    block = bytes(1 << 20)

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(200):  # More than any body that the API itself would take.
            yield block

    assert await python_app.json("POST", "/upload", data=blocks()) == {"bytes": 200 << 20, "chunked": True}
    seen = await python_app.json("POST", "/upload", data=io.BytesIO(bytes(50 << 20)))
    assert seen == {"bytes": 50 << 20, "chunked": False}
    async with python_app.ask("GET", "/pour") as response:
        received = 0
        async for chunk in response.content.iter_any():
            received += len(chunk)
    assert received == 64 << 20


async def test_both_directions_stream_at_once(python_app):
    more: asyncio.Queue[bytes] = asyncio.Queue()

    async def pieces() -> AsyncIterator[bytes]:
        while piece := await more.get():
            yield piece

    more.put_nowait(b"one")
    async with asyncio.timeout(20), python_app.ask("POST", "/relay", data=pieces()) as response:
        assert await response.content.readany() == b"ONE"
        more.put_nowait(b"two")
        assert await response.content.readany() == b"TWO"
        more.put_nowait(b"")
        assert await response.content.read() == b""


async def test_expect_100_continue_and_an_early_refusal(python_app):
    seen = await python_app.json("POST", "/upload", data=b"x" * 1000, expect100=True)
    assert seen["bytes"] == 1000
    async with python_app.ask("POST", "/early", data=bytes(1000)) as response:
        assert (response.status, await response.json()) == (413, {"error": "not read"})


async def test_half_an_answer_does_not_look_whole(python_app):
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
        async with python_app.ask("GET", "/break") as response:
            await response.read()


async def test_no_answer_is_told_as_a_page_or_as_json(python_app):
    async with python_app.ask("GET", "/hang-up") as response:
        assert response.status == 502
        assert (await response.json())["error"] == "bad_answer"
    async with python_app.ask("GET", "/hang-up", headers={"Accept": "text/html,*/*"}) as response:
        assert response.status == 502
        assert response.content_type == "text/html"
        assert "closed the connection" in await response.text()


async def test_what_nobody_asked_to_switch_stays_http(python_app):
    async with python_app.ask("GET", "/switch") as response:
        assert (response.status, (await response.json())["error"]) == (502, "bad_answer")


async def test_a_compressed_body_stays_as_it_is(wire, python_app):
    packed = gzip.compress(b"x" * 1000)
    seen = await python_app.json("POST", "/", data=io.BytesIO(packed), headers={"Content-Encoding": "gzip"})
    assert seen["body"].encode("latin-1") == packed
    body = b'{"language": "bash", "code": "echo hi"}'
    answer = await wire.call(
        "POST", "/execute", gzip.compress(body), signed_body=body, headers={"Content-Encoding": "gzip"}
    )
    assert answer.status == 401


async def test_a_visitor_who_leaves_does_not_stop_the_waking(engine, wire):
    """Cut off at every step of it, the service runs in the end, and can be frozen again."""
    visitor = await serve_app(wire, "sleepy", "echo.py", unfreeze_on_demand=True)
    await visitor.json("GET", "/")
    target = engine.services.router.named("sleepy")
    for steps in range(0, 12, 2):
        await wire.call("POST", "/services/sleepy/freeze")
        arrival = asyncio.ensure_future(engine.services.router.connect(target))
        for _ in range(steps + 1):
            await asyncio.sleep(0)
        arrival.cancel()
        for outcome in await asyncio.gather(arrival, return_exceptions=True):
            if isinstance(outcome, int):
                os.close(outcome)
        assert (await wire.call("GET", "/services/sleepy")).json["state"] == "running"
        assert (await visitor.json("GET", "/x"))["path"] == "/x"
    await wire.call("DELETE", "/services/sleepy")


async def test_unknown_names_get_404_and_never_the_api(wire, python_app):
    health = await wire.call("GET", "/health", anonymous=True)
    assert health.status == 200
    for host in ["nobody.localhost", "a.echo.localhost", "9000-echo.localhost", "echo.localhost.localhost"]:
        for path in ["/health", "/languages", "/openapi.json", "/sessions"]:
            python_app.session.cookie_jar.clear()
            async with wire.session.get(wire.url + path, headers={"Host": host}) as response:
                assert response.status == 404
                assert (await response.json())["error"] == "service_not_found"
    seen = await python_app.json("GET", "/services")
    assert seen["path"] == "/services"


async def test_the_api_keeps_its_own_names():
    engine = Engine(EngineConfig(reserved_domains=("api.localhost",)))
    await engine.start()
    async with open_wire(engine, ServerConfig(port=0), KeyPair.generate()) as (wire,):
        answer = await wire.call("GET", "/services", headers={"Host": "api.localhost"})
        assert (answer.status, answer.json["services"]) == (200, [])
        answer = await wire.call("POST", "/services", {"name": "api", "network": "zerotrust"})
        assert (answer.status, answer.json["error"]) == (403, "name_not_allowed")
    await engine.stop()


async def test_signed_requests_are_not_passed_on(wire, python_app):
    answer = await wire.call("GET", "/jobs", headers={"Host": python_app.host})
    assert (answer.status, answer.json["error"]) == (421, "misdirected_request")


async def raw(visitor: Visitor, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*visitor.raw)
    writer.write(data)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
        answer = head + await (reader.readexactly(int(length[1])) if length else reader.read())
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    "head",
    [
        "GET / HTTP/1.1\r\nHost: echo.localhost\r\nHost: 127.0.0.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: echo.localhost, 127.0.0.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: echo.localhost/x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1@echo.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: echo.localhost\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: echo.localhost\r\n\r\n",
        "GET \xe9 HTTP/1.1\r\nHost: echo.localhost\r\n\r\n",
        "GET http://other.localhost/ HTTP/1.1\r\nHost: echo.localhost\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: echo.localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: echo.localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: echo.localhost\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: echo.localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: echo.localhost\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: echo.localhost\r\nX: a\nGET /x HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_two_readers_could_read_differently_is_refused(python_app, head):
    count = (await python_app.json("GET", "/"))["count"]
    answer = await raw(python_app, head.encode())
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), answer[:200]
    assert (await python_app.json("GET", "/"))["count"] == count + 1


async def test_http_1_0_and_bytes_that_are_no_text(python_app):
    answer = await raw(python_app, b"GET /x HTTP/1.0\r\nHost: ECHO.localhost.\r\nX-Old: caf\xe9\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    assert "X-Old" in dict(json.loads(body)["headers"])


async def test_control_characters_of_a_service_end_no_line_and_no_server(python_app):
    answer = await raw(python_app, b"GET /control HTTP/1.1\r\nHost: echo.localhost\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"aiohttp" not in head
    if head.startswith(b"HTTP/1.1 200"):
        assert (b"X-Odd: a b c" in head, body) == (True, b"ok")
    else:
        assert head.startswith(b"HTTP/1.1 502"), answer


async def test_any_request_arrives_byte_for_byte(python_app):
    """Odd targets, repeated headers, every framing, cut into packets anywhere: what is read is what was sent."""
    chance = random.Random(20)
    visible = [chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"#<>\\\\^`{|}']
    for number in range(60):
        path = "/x" + "".join(chance.choices(visible, k=chance.randrange(30)))
        names = [f"X-{chance.randrange(3)}" for _ in range(chance.randrange(5))]
        headers = [(name, "".join(chance.choices(visible, k=5)) + " \u00e9\t,") for name in names]
        body = chance.randbytes(chance.choice([0, 1, 10, 70_000]))
        lines = [f"POST {path} HTTP/1.1", f"Host: {python_app.host}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers]
        if number % 2:
            lines.append("Transfer-Encoding: chunked")
            cuts = sorted(chance.sample(range(1, len(body)), 3)) if len(body) > 5 else []
            pieces = [body[a:b] for a, b in itertools.pairwise([0, *cuts, len(body)]) if a < b]
            sent = (
                b"".join(b"%X;x=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
                + b"0\r\nTrail: er\r\n\r\n"
            )
        else:
            lines.append(f"Content-Length: {len(body)}")
            sent = body
        data = "\r\n".join(lines).encode() + b"\r\n\r\n" + sent
        reader, writer = await asyncio.open_connection(*python_app.raw)
        cut = chance.randrange(len(data))
        writer.write(data[:cut])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(data[cut:])
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), (data[:500], answer[:500])
        seen = json.loads(rest)
        assert (seen["method"], seen["path"]) == ("POST", path)
        assert seen["body"].encode("latin-1") == body
        arrived = [
            (name, value.encode("latin-1").decode())
            for name, value in seen["headers"]
            if name[:3] in {"X-0", "X-1", "X-2"}
        ]
        assert arrived == [(name, value.strip()) for name, value in headers]


async def test_a_visitor_who_leaves_does_not_keep_the_program(wire, node_app):
    async with node_app.ask("GET", "/events") as response:
        assert await response.content.readuntil(b"\n\n") == b"data: 0\n\n"
    async with asyncio.timeout(20):
        while "visitor left" not in (await wire.call("GET", "/services/web/logs")).json["log"]:
            await asyncio.sleep(0.05)


async def test_a_websocket_passes_both_ways(wire, node_app):
    async with node_app.socket("/echo", protocols=["chat", "other"], max_msg_size=0) as client:
        assert client.protocol == "chat"
        for text in ["hi", "x" * 1000, "y" * 100_000]:
            await client.send_str(text)
            assert (await client.receive(10)).data == text
        blob = bytes(range(256)) * 20_000
        await client.send_bytes(blob)
        assert (await client.receive(20)).data == blob
        await client.ping(b"are you there")
    async with node_app.socket("/greet") as client:
        assert (await client.receive(10)).data == "hello"
    async with asyncio.timeout(10):
        while (await wire.call("GET", "/services/web/logs")).json["log"].count("socket closed") < 2:
            await asyncio.sleep(0.02)


async def test_another_websocket_client(node_app):
    connection = socket.create_connection(node_app.raw)
    async with websockets.connect(f"ws://{node_app.host}/greet", sock=connection) as client:
        assert await client.recv() == "hello"
        await client.send("again")
        assert await client.recv() == "again"


async def test_a_websocket_that_is_refused_is_told_so(node_app):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        await node_app.socket("/refuse")
    assert refusal.value.status == 403
    assert refusal.value.headers["X-Why"] == "no"
    async with node_app.ask("GET", "/") as response:
        assert (await response.text()).startswith("node ")


async def test_many_visitors_at_once(python_app):
    answers = await asyncio.gather(*(python_app.json("GET", f"/{number}") for number in range(60)))
    assert [answer["path"] for answer in answers] == [f"/{number}" for number in range(60)]


async def test_frozen_with_a_page_with_json_and_woken_by_a_request(wire, python_app):
    before = await python_app.json("GET", "/")
    assert (await wire.call("POST", "/services/echo/freeze")).json["state"] == "frozen"
    async with python_app.ask("GET", "/", headers={"Accept": "text/html"}) as response:
        assert response.status == 503
        assert response.headers["Retry-After"]
        assert "frozen" in await response.text()
    await wire.call("PATCH", "/services/echo", {"show_freeze_page": False})
    async with python_app.ask("GET", "/", headers={"Accept": "text/html"}) as response:
        assert (response.status, (await response.json())["error"]) == (503, "service_frozen")
    await wire.call("PATCH", "/services/echo", {"unfreeze_on_demand": True})
    answers = await asyncio.gather(*(python_app.json("POST", "/woken", data=b"x") for _ in range(5)))
    assert {(answer["path"], answer["body"]) for answer in answers} == {("/woken", "x")}
    # The same program with the same memory.
    assert {answer["started"] for answer in answers} == {before["started"]}
    assert (await wire.call("GET", "/services/echo")).json["state"] == "running"


async def test_domains_and_further_ports(wire, stranger, python_app):
    script = (APPS / "echo.py").read_text()
    body = {
        "name": "two",
        "bootstrap_content": script.replace("Server((", "import threading\nthreading.Thread(target=lambda: Server(('127.0.0.1', 9000), Handler).serve_forever()).start()\nServer((", 1),
        "ports": "8000,9000,9001",
        "domains": ["Two.Test"],
        "network": "zerotrust",
    }  # fmt: skip
    created = (await wire.call("POST", "/services", body)).json
    assert (created["ports"], created["domains"]) == ([8000, 9000, 9001], ["two.test"])
    assert (await stranger.call("POST", "/services", body | {"name": "x"})).json["error"] == "domain_taken"
    visitor = Visitor(wire, "two")
    assert dict((await visitor.json("GET", "/"))["headers"])["Host"] == visitor.host
    for host, status in [("9000-two.localhost", 200), ("TWO.test:80", 200), ("9001-two.localhost", 502)]:
        visitor.host = host
        async with visitor.ask("GET", "/x") as response:
            assert response.status == status
    await wire.call("PUT", "/services/two/domains", {"remove": ["two.test"]})
    visitor.host = "two.test"
    async with visitor.ask("GET", "/health") as response:
        assert (response.status, (await response.json())["error"]) == (421, "misdirected_request")
    await wire.call("DELETE", "/services/two")
    visitor.host = "two.localhost"
    async with visitor.ask("GET", "/") as response:
        assert response.status == 404


async def test_the_program_dies_and_is_there_again(wire, python_app):
    before = await python_app.json("GET", "/")
    async with python_app.ask("GET", "/exit") as response:
        await response.read()
    # Until then a request may still reach the program that is about to end.
    async with asyncio.timeout(10):
        while (await wire.call("GET", "/services/echo")).json["restarts"] != 1:
            await asyncio.sleep(0.02)
    after = await python_app.json("GET", "/")
    assert after["started"] != before["started"]
    shown = (await wire.call("GET", "/services/echo")).json
    assert shown["restarts"] == 1
    assert "exit code 3" in shown["message"]


@pytest.mark.slow
@pytest.mark.gvisor
async def test_a_hot_snapshot_of_a_service_goes_on_with_its_memory(wire):
    visitor = await serve_app(wire, "hot", "echo.py", isolation="gvisor")
    first = await visitor.json("GET", "/")
    snapshot = await wire.call("POST", "/services/hot/snapshot", {"hot": True})
    assert (snapshot.status, snapshot.json["hot"]) == (200, True), snapshot.json
    assert (await visitor.json("GET", "/"))["count"] == first["count"] + 1
    assert (await wire.call("POST", f"/snapshots/{snapshot.json['id']}/restore")).status == 200
    clone = {"type": "service", "name": "hot-clone"}
    assert (await wire.call("POST", f"/snapshots/{snapshot.json['id']}/clone", clone)).status == 200
    for name in ("hot", "hot-clone"):
        again = await Visitor(wire, name).json("GET", "/")
        assert (again["started"], again["count"]) == (first["started"], first["count"] + 1)
        await wire.call("DELETE", f"/services/{name}")
    await wire.call("DELETE", f"/snapshots/{snapshot.json['id']}")
