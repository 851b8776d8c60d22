"""Sessions of a client against the real engine: blocks, leaks, and terminals over broken networks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests._async.conftest import AT_ONCE
from tests.client.fake import PUBLIC, SECRET, FakeServer, Raw
from tests.client.proxy import Fate, Proxy, refusal

from unsandbox import (
    AsyncClient,
    AsyncLiveSession,
    AsyncTerminal,
    ClientStateError,
    ConflictError,
    ConnectionFailedError,
    InvalidResponseError,
    NotFoundError,
    RequestTimeoutError,
    UnavailableError,
)
from unsandbox.local import LocalServer


@pytest.fixture
def proxy(engine: LocalServer) -> Iterator[Proxy]:
    """A network between the client and the real engine."""
    made = Proxy(engine.url)
    yield made
    made.close()


@pytest.fixture
async def through(proxy: Proxy, engine: LocalServer) -> AsyncIterator[AsyncClient]:
    """A client on the far side of that network."""
    async with AsyncClient(engine.public_key, engine.secret_key, base_url=proxy.url, retry=AT_ONCE) as made:
        yield made


@pytest.fixture
async def session(real: AsyncClient) -> AsyncIterator[AsyncLiveSession]:
    """A session with bash whose terminal survives a disconnect."""
    async with real.session(shell="bash", multiplexer="tmux") as made:
        yield made


async def read_until(terminal: AsyncTerminal, wanted: bytes, seconds: float = 10) -> bytes:
    seen = b""
    while wanted not in seen:
        data = await terminal.read(seconds)
        assert data, seen
        seen += data
    return seen


async def test_what_a_command_changes_is_there_for_the_next(session: AsyncLiveSession) -> None:
    await session.run("cd /tmp; word=hello")
    result = await session.run("echo $word from $PWD; echo odd >&2; (exit 3)")
    assert (result.stdout, result.stderr, result.exit_code) == ("hello from /tmp\n", "odd\n", 3)
    assert (await session.run("cat /tmp/input/a.txt", input_files={"a.txt": b"given"})).stdout == "given"
    assert (await session.run("sleep 5", timeout=0.2)).exit_code == 124


async def test_a_repl_of_a_language(real: AsyncClient) -> None:
    async with real.session(shell="python3") as python:
        await python.run("import math; x = 40")
        assert (await python.run("x + math.isqrt(4)")).stdout == "42\n"


async def test_the_session_is_gone_after_its_block_however_it_ends(real: AsyncClient, tmp_path: Path) -> None:
    async with real.session(name="good", audit=True) as good:
        await good.run("mkdir -p /tmp/artifacts; echo kept > /tmp/artifacts/file")
    assert good.info is not None
    assert {made.filename for made in good.info.artifacts or []} == {"file", "audit.log"}
    bad = real.session(name="bad")
    with pytest.raises(LookupError):
        async with bad:
            raise LookupError
    async with real.session() as ended:
        await ended.delete()
    async with real.session() as gone:
        await real.delete_session(gone.id)
    for session in (good, bad, ended, gone):
        with pytest.raises(NotFoundError):
            await session.refresh()
    assert (await real.list_sessions()).count == 0


async def test_a_session_outside_its_block_has_no_id(real: AsyncClient) -> None:
    session = real.session()
    with pytest.raises(ClientStateError, match="block"):
        await session.run("true")
    assert "not begun" in repr(session)


async def test_attaching_takes_up_a_session_and_leaves_it(real: AsyncClient, session: AsyncLiveSession) -> None:
    async with real.attach_session(session.id) as again:
        assert (await again.run("echo here")).stdout == "here\n"
    info = await real.attach_session(session.info.container_name).refresh()
    assert info.session_id == session.id


async def test_freezing_and_boosting(session: AsyncLiveSession) -> None:
    await session.run("count=7")
    assert (await session.freeze()).status == "frozen"
    assert (await session.unfreeze()).status == "running"
    assert (await session.run("echo $count")).stdout == "7\n"
    boosted = await session.boost(2)
    assert (boosted.vcpu, boosted.boosted) == (2, True)
    assert (await session.unboost()).vcpu == 1


async def test_a_terminal(session: AsyncLiveSession) -> None:
    async with session.terminal(columns=100, rows=30) as terminal:
        await terminal.write("stty size; echo $((6*7))\n")
        assert b"30 100" in await read_until(terminal, b"42\r\n")
        await terminal.resize(70, 20)
        await terminal.write(b"stty size\n")
        await read_until(terminal, b"20 70")
        with pytest.raises(RequestTimeoutError):
            await read_until(terminal, b"never written", 0.3)
        await terminal.write("exit\n")
        rest = b"".join([data async for data in terminal])
        assert b"exit" in rest
        assert (terminal.exited, terminal.exit_code) == (True, 0)
        assert await terminal.read() == b""
        with pytest.raises(ClientStateError):
            await terminal.write("more")
    with pytest.raises(ClientStateError):
        await session.terminal().read()


async def test_a_terminal_whose_connection_breaks_goes_on(
    through: AsyncClient, proxy: Proxy, session: AsyncLiveSession
) -> None:
    async with through.terminal(session.id, columns=91, rows=22) as terminal:
        await terminal.write("word=kept\n")
        await read_until(terminal, b"word=kept")
        refused = [refusal(503), Fate(cut_before=True)]
        proxy.rule = lambda _: refused.pop() if refused else Fate()
        proxy.break_all()
        # Typed into the gap, or just before it is noticed: sent when the connection stands again, or lost with it.
        await terminal.write("echo gap\n")
        await read_until(terminal, b"word=kept")  # What was there before is shown again.
        await terminal.write("echo $word-$((6*7)); stty size\n")
        seen = await read_until(terminal, b"kept-42")
        assert b"22 91" in seen or await read_until(terminal, b"22 91")
    assert not refused


async def test_a_terminal_may_be_told_not_to_come_back(
    through: AsyncClient, proxy: Proxy, session: AsyncLiveSession
) -> None:
    async with through.terminal(session.id, reconnect=0) as terminal:
        await terminal.write("echo on\n")
        await read_until(terminal, b"on\r\n")
        proxy.break_all()
        with pytest.raises(ConnectionFailedError):
            await read_until(terminal, b"never written")


async def test_a_terminal_of_no_session_is_an_error(real: AsyncClient) -> None:
    with pytest.raises(NotFoundError):
        async with real.terminal("none"):
            pass


async def test_a_server_that_speaks_no_terminals_is_an_error(fake: FakeServer) -> None:
    fake.script(Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url) as client:
        with pytest.raises(InvalidResponseError, match="shell"):
            await client.terminal("x").__aenter__()


@pytest.mark.parametrize("last", [Fate(cut_after=0), refusal(502)])
async def test_an_answer_that_is_lost_leaves_no_session_behind(
    through: AsyncClient, proxy: Proxy, last: Fate
) -> None:
    assert (await through.list_sessions()).count == 0
    cut = [last] + [Fate(cut_after=0)] * 2
    proxy.rule = lambda request: cut.pop() if request.startswith("POST /sessions") and cut else Fate()
    with pytest.raises((ConnectionFailedError, UnavailableError)):
        async with through.session():
            pass
    assert proxy.passed.count("POST /sessions") > 1
    assert (await through.list_sessions()).count == 0
    cut[:] = [Fate(cut_after=0)] * 2
    async with through.session():
        assert (await through.list_sessions()).count == 1
    assert (await through.list_sessions()).count == 0


async def test_sessions_are_found_by_their_metadata(real: AsyncClient) -> None:
    async with (
        real.session(metadata={"team": "blue", "note": "a=b&c {d}"}) as blue,
        real.session(metadata={"team": "red"}),
    ):
        assert [found.metadata for found in await real.list_sessions({"team": "red"})] == [{"team": "red"}]
        (found,) = await real.list_sessions({"note": "a=b&c {d}", "team": "blue"})
        assert found.session_id == blue.id
        assert not (await real.list_sessions({"team": "green"})).sessions
        assert len(await real.list_sessions({})) == 2
        assert {found.metadata is None for found in await real.list_sessions()} == {True}
        assert (await blue.refresh()).metadata == {"team": "blue", "note": "a=b&c {d}"}


async def test_a_session_ends_at_its_deadline_and_says_so(real: AsyncClient) -> None:
    made = await real.create_session(timeout=600)
    assert made.session_id
    assert 590 < (made.remaining_ttl or 0) <= 600
    assert made.ends_at
    assert (await real.set_session_timeout(made.session_id, None)).ends_at is None
    session = real.attach_session(made.session_id)
    process = await session.start(["sleep", "60"])
    await session.set_timeout(1)
    assert (await process.wait()).reason == "session"
    with pytest.raises(NotFoundError, match="its time was over") as gone:
        await session.refresh()
    assert gone.value.body["reason"] == "deadline"


async def test_a_paused_session_stands_still(session: AsyncLiveSession) -> None:
    assert (await session.pause()).status == "frozen"
    with pytest.raises(ConflictError, match="unfreeze"):
        await session.exec(["true"])
    assert (await session.resume()).status == "running"
    assert (await session.exec(["true"])).ok


async def test_a_deleted_session_says_that_it_was_deleted(real: AsyncClient) -> None:
    made = await real.create_session()
    assert made.session_id
    assert made.container_name
    assert (await real.delete_session(made.session_id)).reason == "deleted"
    for name in (made.session_id, made.container_name):
        with pytest.raises(NotFoundError, match="deleted on request"):
            await real.get_session(name)
