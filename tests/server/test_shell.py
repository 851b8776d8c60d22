"""The terminal of a session over a WebSocket, as the C client opens it (wire document, 8.6)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import shutil
import socket
from typing import Any

import aiohttp
import pytest
from tests.server.handlers.test_sessions import WITH_COMMANDS
from tests.support import REPO

from unsandbox.engine.sessions.terminal import Terminal, Viewer
from unsandbox.sandbox.languages.shells import available_shells

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://localhost:1", 403), (None, 101), ("own", 101)],
)
async def test_a_page_from_elsewhere_opens_no_terminal(wire, origin, status):
    session = (await wire.call("POST", "/sessions")).json["id"]
    headers = {} if origin is None else {"Origin": wire.url if origin == "own" else origin}
    try:
        async with wire.session.ws_connect(f"{wire.url}/sessions/{session}/shell", headers=headers):
            assert status == 101
    except aiohttp.WSServerHandshakeError as error:
        assert error.status == status
    await wire.call("DELETE", f"/sessions/{session}")


def elsewhere() -> dict[str, str]:
    """A header as a proxy on this machine sends it, with an address that no other test has signed from."""
    return {"X-Forwarded-For": f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::9"}


async def opens(wire, url: str, **headers: str) -> int:
    """Open a terminal and return the status."""
    try:
        async with wire.session.ws_connect(url, headers=headers):
            return 101
    except aiohttp.WSServerHandshakeError as error:
        return error.status


async def test_the_id_alone_opens_no_terminal_from_elsewhere(wire):
    async with session(wire) as name:
        path = f"/sessions/{name}/shell"
        there = elsewhere()
        assert await opens(wire, wire.url + path) == 101
        assert await opens(wire, wire.url + path, **there) == 401
        # The oldest clients sign other requests first.
        assert (await wire.call("GET", "/sessions", headers=there)).status == 200
        assert await opens(wire, wire.url + path, **there) == 101
        assert await opens(wire, wire.url + path, **elsewhere()) == 401


async def test_a_signature_opens_a_terminal_from_anywhere(wire, stranger):
    async with session(wire) as name:
        path = f"/sessions/{name}/shell"
        far = {"X-Forwarded-For": "203.0.113.20"}
        assert await opens(wire, wire.url + path, **far, **wire.headers("GET", path, b"")) == 101
        assert await opens(wire, wire.url + path, **far, **stranger.headers("GET", path, b"")) == 404
        wrong = wire.headers("GET", path, b"x")
        assert await opens(wire, wire.url + path, **wrong) == 401


async def test_a_ticket_opens_a_terminal_once_and_from_anywhere(wire):
    far = {"X-Forwarded-For": "203.0.113.30", "Origin": "https://page.example"}
    async with session(wire) as name, session(wire) as other:
        url = (await wire.call("GET", f"/sessions/{name}")).json["websocket_url"]
        assert await opens(wire, url.replace(name, other), **far) == 401
        assert await opens(wire, url, **far) == 401  # It was used up.
        url = (await wire.call("GET", f"/sessions/{name}")).json["websocket_url"]
        assert await opens(wire, url, **far) == 101
        assert await opens(wire, url, **far) == 401
        listed = (await wire.call("GET", "/sessions")).json["sessions"]
        assert not any("ticket" in item["websocket_url"] for item in listed)


async def test_a_ticket_ends(wire, monkeypatch):
    monkeypatch.setattr("unsandbox.engine.sessions.tickets.TICKET_S", -1.0)
    async with session(wire) as name:
        url = (await wire.call("GET", f"/sessions/{name}")).json["websocket_url"]
        assert await opens(wire, url) == 401


class Screen:
    """One viewer: keeps everything that came."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.seen = bytearray()
        self.said: list[dict[str, Any]] = []

    async def type(self, text: str) -> None:
        await self.socket.send_bytes(text.encode())

    async def resize(self, columns: int, rows: int) -> None:
        await self.socket.send_str(json.dumps({"type": "resize", "cols": columns, "rows": rows}))

    async def until(self, text: bytes, seconds: float = 15.0) -> bytes:
        """Read on until a text is seen, and forget everything up to its end."""
        begin = 0
        async with asyncio.timeout(seconds):
            while (found := self.seen.find(text, begin)) < 0:
                begin = max(0, len(self.seen) - len(text) + 1)
                await self._next()
        before = bytes(self.seen[:found])
        del self.seen[: found + len(text)]
        return before

    async def until_closed(self) -> None:
        async with asyncio.timeout(15):
            while not self.socket.closed:
                await self._next()

    async def _next(self) -> None:
        message = await self.socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            self.seen += message.data
            if b"\x1b[6n" in message.data:
                await self.type("\x1b[1;1R")  # Where the cursor is, which every terminal tells.
        elif message.type is aiohttp.WSMsgType.TEXT:
            self.said.append(json.loads(message.data))
        elif message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING}:
            assert self.said, f"closed without a word; seen: {self.seen!r}"


@contextlib.asynccontextmanager
async def session(wire, **options):
    made = (await wire.call("POST", "/sessions", options)).json
    try:
        yield made["session_id"]
    finally:
        await wire.call("DELETE", f"/sessions/{made['session_id']}")


@contextlib.asynccontextmanager
async def screen(wire, session_id, columns=80, rows=24):
    url = f"{wire.url}/sessions/{session_id}/shell"
    # No Authorization: the C client sends none.
    async with wire.session.ws_connect(url, protocols=("unsandbox-shell",)) as socket:
        assert socket.protocol == "unsandbox-shell"
        opened = Screen(socket)
        await opened.resize(columns, rows)
        yield opened


async def test_a_program_sees_a_terminal_of_the_size_that_was_asked_for_also_later(wire):
    async with session(wire) as name, screen(wire, name, 100, 30) as one:
        await one.type("stty size; tty; echo $TERM\n")
        await one.until(b"30 100\r\n")
        await one.until(b"/dev/pts/")
        await one.until(b"xterm-256color")
        await one.resize(120, 40)
        await one.type("stty size\n")
        await one.until(b"40 120\r\n")
        await one.resize(0, 0)
        await one.type("stty size\n")
        await one.until(b"24 80\r\n")


TERMINALS = {
    "tcsh": ("echo a-`expr 6 \\* 7`\r", b"a-42"),
    "csh": ("echo a-`expr 6 \\* 7`\r", b"a-42"),
    "elvish": ("print a-(* 6 7)\r", b"a-42"),
    "xonsh": ("print('a-' + str(6 * 7))\r", b"a-42"),
    "irb": ("'a-' + (6 * 7).to_s\r", b"a-42"),
    "erl": ("6 * 7000.\r", b"42000"),
    "clojure": ("(* 6 7000)\r", b"42000"),
    "java": ("6 * 7000\r", b"42000"),
    "tcl": ("expr {6 * 7000}\r", b"42000"),
    "prolog": ("X is 6 * 7000.\r", b"42000"),
    "sqlite": ("select 6 * 7000;\r", b"42000"),
    "luajit": ("print(6 * 7000)\r", b"42000"),
    "forth": ("6 7000 * .\r", b"42000"),
    "bc": ("6 * 7000\r", b"42000"),
    "dc": ("6 7000 * p\r", b"42000"),
}
"""Shells and REPLs that have nothing but a terminal: a line, and what it shows."""


@pytest.mark.parametrize(
    "shell",
    # Seconds until a virtual machine shows its prompt.
    [pytest.param(name, marks=[pytest.mark.slow] * (name in {"clojure", "java"})) for name in TERMINALS],
)
async def test_shells_that_have_nothing_but_a_terminal(wire, shell):
    if shell not in available_shells():
        pytest.skip(f"{shell} is not installed here")
    line, shown = TERMINALS[shell]
    async with session(wire, shell=shell) as name, screen(wire, name, 100, 30) as one:
        refused = await wire.call("POST", f"/sessions/{name}/shell", {"command": line})
        assert (refused.status, "terminal" in refused.json["message"]) == (400, True)
        await one.type(line)
        await one.until(shown, 60)


async def test_the_shells_that_the_documents_name_are_those_that_are_tested():
    rows = re.findall(
        r"^\| (?:shells|REPLs [\w ]+) \| (.*) \|$", (REPO / "docs/sessions.md").read_text(), re.MULTILINE
    )
    named = {name for row in rows for names in re.findall(r"`([^`]+)`", row) for name in names.split()}
    assert named == WITH_COMMANDS.keys() | TERMINALS.keys()


async def test_bytes_pass_both_ways_unchanged(wire):
    async with session(wire) as name, screen(wire, name) as one:
        await one.type(
            "stty raw -echo; printf rea%s dy; head -c 256 | od -An -v -tu1 | tr -d ' \\n'; stty sane\n"
        )
        await one.until(b"ready")
        await one.socket.send_bytes(bytes(range(256)))
        await one.until("".join(map(str, range(256))).encode())


async def test_the_end_of_the_shell_is_told(wire):
    async with session(wire) as name, screen(wire, name) as one:
        await one.type("exit\n")
        await one.until_closed()
        assert one.said == [{"type": "exit", "exit_code": 0}]
        assert (await wire.call("GET", f"/sessions/{name}")).status == 200


async def test_with_a_multiplexer_the_shell_survives_and_shows_what_was_written(wire):
    async with session(wire, multiplexer="tmux") as name:
        async with screen(wire, name) as one:
            await one.type("x=kept; echo on-screen-$x\n")
            await one.until(b"on-screen-kept")
        async with screen(wire, name) as again:
            await again.until(b"on-screen-kept")
            await again.type("\necho back-$x\n")
            await again.until(b"back-kept")


@pytest.mark.parametrize(("multiplexer", "prefix"), [("tmux", "\x02"), ("screen", "\x01")])
async def test_the_keys_of_a_multiplexer_leave_the_terminal(wire, multiplexer, prefix):
    async with session(wire, multiplexer=multiplexer) as name:
        async with screen(wire, name) as one, screen(wire, name) as other:
            await one.type("x=kept; echo set-$x\n")
            await one.until(b"set-kept")
            # In two frames, as a person types.
            await one.type(prefix)
            await one.type("d")
            await one.until_closed()
            assert one.said == [{"type": "detached"}]
            # Twice means the key itself, which readline takes for a movement of the cursor.
            await other.type(f"cho back-$x{prefix}{prefix}")
            await other.type("e\n" if multiplexer == "screen" else "\x01e\n")
            await other.until(b"back-kept")
        async with screen(wire, name) as again:
            await again.type("echo still-$x\n")
            await again.until(b"still-kept")


async def test_without_a_multiplexer_the_keys_are_typed(wire):
    async with session(wire) as name, screen(wire, name) as one:
        await one.type("cho x\x01e; echo d-$((40 + 2))\x02d\x7f\n")
        await one.until(b"d-42")


async def test_without_a_multiplexer_the_shell_goes_with_its_last_viewer(wire):
    async with session(wire) as name:
        async with screen(wire, name) as one:
            await one.type("x=gone; echo set-$x\n")
            await one.until(b"set-gone")
        async with screen(wire, name) as again:
            await again.type("echo [$x]\n")
            await again.until(b"[]")


async def test_two_viewers_share_one_shell(wire):
    async with session(wire) as name, screen(wire, name) as one, screen(wire, name) as two:
        await one.type("echo from-$((40 + 2))\n")
        await one.until(b"from-42")
        await two.until(b"from-42")
        await two.type("echo again-$((40 + 3))\n")
        await one.until(b"again-43")


async def test_what_makes_no_sense_is_ignored(wire):
    async with session(wire) as name, screen(wire, name) as one:
        for text in (
            "{}",
            "[]",
            "no json",
            '{"type":"resize"}',
            '{"type":"resize","cols":"a","rows":-1}',
            "\ud800",
        ):
            with contextlib.suppress(UnicodeEncodeError):
                await one.socket.send_str(text)
        await one.type("echo still-$((1 + 1))\n")
        await one.until(b"still-2")


async def test_a_full_screen_editor_is_opened_resized_and_quit(wire):
    if shutil.which("vim", path="/usr/bin") is None:
        pytest.fail("vim is missing: scripts/bootstrap --full installs it")
    async with session(wire) as name, screen(wire, name) as one:
        await one.type("seq 1 200 >/tmp/n; vim -u NONE -N /tmp/n; echo left-$?\n")
        await one.until(b"24")  # line 23 and the next: a full page
        await one.resize(60, 50)
        # Vim may read what is typed before it looks at its new size: asked again, it knows.
        for attempt in range(10):
            await one.type(":echo 'size' &lines 'x' &columns\r")
            try:
                await one.until(b"size 50 x 60", 1.5)
                break
            except TimeoutError:
                assert attempt < 9, one.seen[-500:]
        await one.type("\x1b:1\rOhello from vim\x1b:wq\r")
        await one.until(b"left-0")
        await one.type("head -n 1 /tmp/n\n")
        await one.until(b"hello from vim\r\n")


async def test_without_an_upgrade_the_path_says_so(wire):
    async with session(wire) as name, wire.session.get(f"{wire.url}/sessions/{name}/shell") as answer:
        assert answer.status == 426


async def test_an_unknown_session_has_no_terminal(wire):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with wire.session.ws_connect(f"{wire.url}/sessions/session_none/shell"):
            pass
    assert refused.value.status == 404


async def test_a_frozen_session_opens_no_terminal(wire):
    async with session(wire) as name:
        await wire.call("POST", f"/sessions/{name}/freeze")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with wire.session.ws_connect(f"{wire.url}/sessions/{name}/shell"):
                pass
        assert refused.value.status == 409


async def test_a_viewer_who_pings_and_never_reads_holds_little_and_is_left_behind(wire, engine, monkeypatch):
    monkeypatch.setattr("unsandbox.server.shell._STALLED_S", 1.0)
    viewers: list[Viewer] = []
    attach = Terminal.attach

    def noting(terminal: Terminal, *, replay: bool) -> Viewer:
        viewers.append(attach(terminal, replay=replay))
        return viewers[-1]

    monkeypatch.setattr(Terminal, "attach", noting)
    async with session(wire) as name, screen(wire, name) as awake:
        asleep = socket.socket()
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = wire.url.removeprefix("http://").partition(":")
        asleep.connect((host, int(port)))
        reader, writer = await asyncio.open_connection(sock=asleep, limit=4096)
        writer.write(
            f"GET /sessions/{name}/shell HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert b"101" in await reader.readline()
        terminal = engine.sessions.sandboxes.get(name).terminal
        await awake.type("head -c 8000000 /dev/zero | tr '\\0' x; echo all-$((40 + 2))\n")
        await awake.until(b"all-42", 60)
        assert len(viewers) == 2
        assert all(viewer.backlog_bytes <= 5 << 20 for viewer in viewers)
        async with asyncio.timeout(60):
            while terminal.viewers == 2:
                writer.write(b"\x89\x80\0\0\0\0")  # a ping, masked
                await asyncio.sleep(0.05)
        writer.close()


async def test_a_terminal_has_a_bounded_number_of_viewers(wire, monkeypatch):
    monkeypatch.setattr("unsandbox.server.shell.MOST_VIEWERS", 1)
    async with session(wire) as name, screen(wire, name) as one:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with wire.session.ws_connect(f"{wire.url}/sessions/{name}/shell"):
                pass
        assert refused.value.status == 429
        await one.type("echo still-$((1 + 1))\n")
        await one.until(b"still-2")
