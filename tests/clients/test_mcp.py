"""The Model Context Protocol, with official clients: 2.x of this environment, 1.x and npm's inspector of theirs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from tests.clients.conftest import ENVIRONMENTS, SERVER_PYTHON
from tests.support import CLIENTS, UN, Serve, eventually

TOOLS = {
    *("run_code", "run_command", "read_file", "write_file", "list_files"),
    *("start_sandbox", "stop_sandbox", "languages"),
}
PNG = "b'\\x89PNG\\r\\n\\x1a\\n' + b'0' * 100"


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "UNSANDBOX_API_BASE": "", **more}


def of_server(served: Serve) -> dict[str, str]:
    public, secret = served.keys()
    return environment(UNSANDBOX_API_BASE=served.url, UNSANDBOX_PUBLIC_KEY=public, UNSANDBOX_SECRET_KEY=secret)


def token(served: Serve) -> str:
    return ".".join(served.keys())


def sandboxes(served: Serve) -> int:
    return served.call(served.keys(), "GET", "/sessions")[1]["count"]


@contextlib.asynccontextmanager
async def over_http(served: Serve, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token(served)}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(f"{served.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@contextlib.asynccontextmanager
async def over_stdio(*options: str, env: dict[str, str] | None = None) -> AsyncIterator[Client]:
    server = StdioServerParameters(
        command=SERVER_PYTHON, args=["-m", "unsandbox.cli", "mcp", *options], env=env or environment()
    )
    async with Client(server) as client:
        yield client


async def text(client: Client, tool: str, **arguments: object) -> str:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    return answer.content[0].text


async def failure(client: Client, tool: str, **arguments: object) -> str:
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error
    return answer.content[0].text


@pytest.mark.parametrize("isolation", ["bubblewrap", pytest.param("gvisor", marks=pytest.mark.gvisor)])
async def test_an_agent_works_in_one_sandbox_over_stdio(isolation):
    async with over_stdio("--isolation", isolation) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        await client.call_tool("run_code", {"code": "import math\nx = 6 * 7"})
        assert await text(client, "run_code", code="print(x, math.pi > 3)") == "42 True"
        assert "ZeroDivisionError" in await text(client, "run_code", code="1 / 0")
        assert (
            await text(client, "write_file", path="a/b.txt", content="héllo")
            == "wrote 6 bytes to /work/a/b.txt"
        )
        assert await text(client, "run_command", command="cat a/b.txt; exit 3") == "héllo\n[exit code 3]"
        assert await text(client, "read_file", path="a/b.txt") == "héllo"
        assert await text(client, "list_files", depth=2) == "a/\na/b.txt (6 bytes)"

        picture = await client.call_tool("run_code", {"code": f"n = open('plot.png', 'wb').write({PNG})"})
        assert [block.type for block in picture.content][-1] == "image"
        assert picture.content[-1].mime_type == "image/png"
        again = await client.call_tool("run_code", {"code": "1"})
        assert [block.type for block in again.content] == ["text"]
        assert (await client.call_tool("read_file", {"path": "plot.png"})).content[0].type == "image"

        first = await text(client, "start_sandbox")
        assert await text(client, "list_files") == "[empty]"
        assert first in await text(client, "stop_sandbox")
        assert await text(client, "stop_sandbox") == "there is no sandbox"
        assert "NameError" in await text(client, "run_code", code="x")


async def test_long_output_is_cut_and_the_rest_can_be_read():
    async with over_stdio() as client:
        cut = await text(client, "run_command", command="seq 100000")
        assert len(cut) < 33_000
        assert cut.startswith("1\n2\n")
        assert cut.endswith("99999\n100000")
        assert "/tmp/output-1.txt" in cut
        part = await text(client, "read_file", path="/tmp/output-1.txt", offset=500_000, length=20)
        assert "continue with offset=500020" in part
        assert await text(client, "run_command", command="sleep 60", timeout=0.3) == (
            "[ended: time limit of 0.3 s; pass a larger timeout]"
        )
        ruby = await text(client, "run_code", code="puts 1 + 1", language="ruby")
        assert ruby == "2"


async def test_errors_say_what_to_do():
    async with over_stdio() as client:
        assert "list_files" in await failure(client, "read_file", path="nothing")
        assert "Call languages" in await failure(client, "run_code", code="x", language="klingon")
        assert "without an id" in await failure(client, "run_code", code="x", sandbox="session_0")
        assert "base64" in await failure(client, "write_file", path="x", content="!", base64_encoded=True)
        await failure(client, "run_code", code="1", timeout=0)
    env = environment(
        UNSANDBOX_API_BASE="http://127.0.0.1:9", UNSANDBOX_PUBLIC_KEY="a", UNSANDBOX_SECRET_KEY="b"
    )
    async with over_stdio(env=env) as client:
        assert "UNSANDBOX_API_BASE" in await failure(client, "run_code", code="1")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_sandbox_is_remembered_over_http(served, mode):
    before = sandboxes(served)
    async with over_http(served, mode) as client:
        await client.call_tool("run_code", {"code": "x = 5"})
        assert await text(client, "run_code", code="x") == "5"
        assert sandboxes(served) == before + 1
        if mode == "auto":  # No sessions in this version of the protocol: a key has one sandbox.
            async with over_http(served, mode) as other:
                assert await text(other, "run_code", code="x") == "5"
            await client.call_tool("stop_sandbox", {})
    eventually(lambda: sandboxes(served) == before)


@pytest.mark.parametrize("end", ["hang-up", "SIGTERM"])
def test_the_sandbox_ends_with_the_client(served, end):
    before = sandboxes(served)
    process = subprocess.Popen(
        [*UN, "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=of_server(served), text=True
    )

    def send(**message: object) -> None:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        process.stdin.flush()

    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    send(id=1, method="initialize", params=hello)
    assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "unsandbox"
    send(method="notifications/initialized")
    send(id=2, method="tools/call", params={"name": "run_code", "arguments": {"code": "1"}})
    assert json.loads(process.stdout.readline())["id"] == 2
    assert sandboxes(served) == before + 1
    if end == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    assert sandboxes(served) == before


async def test_strangers_are_refused(served):
    public, secret = served.keys()
    async with httpx2.AsyncClient() as http:
        for value in (
            "",
            f"Bearer {public}",
            f"Bearer {public}.{secret[:-1]}",
            f"Bearer x.{secret}",
            f"Basic {public}.{secret}",
        ):
            answer = await http.post(f"{served.url}/mcp", headers={"Authorization": value}, json={})
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert secret not in answer.text


@pytest.mark.slow
async def test_sessions_belong_to_a_key_and_hosts_can_be_restricted(tmp_path):
    with Serve(tmp_path / "data", "--mcp", "--mcp-host", "127.0.0.1:*") as served:
        other = subprocess.run(
            [*UN, "keys", "create", "--json", "--data", str(tmp_path / "data")], capture_output=True, check=True
        )
        pair = json.loads(other.stdout)
        stranger = f"{pair['public_key']}.{pair['secret_key']}"
        url = f"{served.url}/mcp"
        accept = {"Accept": "application/json, text/event-stream"}
        hello = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        }
        async with httpx2.AsyncClient(headers=accept) as http:
            ours = {"Authorization": f"Bearer {token(served)}"}
            begun = await http.post(url, headers=ours, json=hello)
            assert begun.status_code == 200
            session = {"Mcp-Session-Id": begun.headers["Mcp-Session-Id"]}
            listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
            theirs = {"Authorization": f"Bearer {stranger}"}
            assert (await http.post(url, headers=theirs | session, json=listing)).status_code == 404
            assert (await http.post(url, headers=ours | session, json=listing)).status_code == 200
            proxied = {"Host": "mcp.example.com"}
            assert (await http.post(url, headers=ours | session | proxied, json=listing)).status_code == 421
        log = "" if served.stop() else served.log
        assert secret_parts(served, stranger).isdisjoint(log.split())


def secret_parts(served: Serve, stranger: str) -> set[str]:
    return {served.keys()[1], stranger, stranger.partition(".")[2], token(served)}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["stdio", "http"])
def test_the_official_client_of_1_x(served, run_client, way):
    arguments = [SERVER_PYTHON] if way == "stdio" else [f"{served.url}/mcp", token(served)]
    answer = run_client("mcp1", "mcp1.py", *arguments, **environment())
    assert set(answer["tools"]) == TOOLS
    assert (answer["text"], answer["error"]) == ("42", True)


@pytest.mark.slow
def test_the_inspector_of_npm():
    program = ENVIRONMENTS / "npm" / "node_modules" / ".bin" / "mcp-inspector"
    if not program.exists():
        pytest.skip(f"{CLIENTS}: npm")
    call = ["--method", "tools/call", "--tool-name", "run_code", "--tool-arg", "code=print(6*7)"]
    done = subprocess.run(
        [program, "--cli", SERVER_PYTHON, "-m", "unsandbox.cli", "mcp", *call],
        capture_output=True,
        text=True,
        timeout=110,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["content"][0]["text"] == "42"


def test_without_the_package_the_command_says_what_to_install():
    blocked = "import sys; sys.modules['mcp'] = None; from unsandbox.cli.main import main; main(['mcp'])"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'unsandbox[mcp]'" in done.stderr
