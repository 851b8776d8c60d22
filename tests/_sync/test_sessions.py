# Generated from tests/_async/test_sessions.py by scripts/unasync.py; change that one.
# ruff: noqa: SIM117 - what `async with` kept apart
"""Sessions of a client against the real engine: blocks, leaks, and terminals over broken networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests._sync.conftest import AT_ONCE
from tests.client.fake import PUBLIC, SECRET, FakeServer, Raw
from tests.client.proxy import Fate, Proxy, refusal

from unsandbox import (
    Client,
    ClientStateError,
    ConflictError,
    ConnectionFailedError,
    InvalidResponseError,
    LiveSession,
    NotFoundError,
    RequestTimeoutError,
    Terminal,
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
def through(proxy: Proxy, engine: LocalServer) -> Iterator[Client]:
    """A client on the far side of that network."""
    with Client(engine.public_key, engine.secret_key, base_url=proxy.url, retry=AT_ONCE) as made:
        yield made


@pytest.fixture
def session(real: Client) -> Iterator[LiveSession]:
    """A session with bash whose terminal survives a disconnect."""
    with real.session(shell="bash", multiplexer="tmux") as made:
        yield made


def read_until(terminal: Terminal, wanted: bytes, seconds: float = 10) -> bytes:
    seen = b""
    while wanted not in seen:
        data = terminal.read(seconds)
        assert data, seen
        seen += data
    return seen


def test_what_a_command_changes_is_there_for_the_next(session: LiveSession) -> None:
    session.run("cd /tmp; word=hello")
    result = session.run("echo $word from $PWD; echo odd >&2; (exit 3)")
    assert (result.stdout, result.stderr, result.exit_code) == ("hello from /tmp\n", "odd\n", 3)
    assert (session.run("cat /tmp/input/a.txt", input_files={"a.txt": b"given"})).stdout == "given"
    assert (session.run("sleep 5", timeout=0.2)).exit_code == 124


def test_a_repl_of_a_language(real: Client) -> None:
    with real.session(shell="python3") as python:
        python.run("import math; x = 40")
        assert (python.run("x + math.isqrt(4)")).stdout == "42\n"


def test_the_session_is_gone_after_its_block_however_it_ends(real: Client, tmp_path: Path) -> None:
    with real.session(name="good", audit=True) as good:
        good.run("mkdir -p /tmp/artifacts; echo kept > /tmp/artifacts/file")
    assert good.info is not None
    assert {made.filename for made in good.info.artifacts or []} == {"file", "audit.log"}
    bad = real.session(name="bad")
    with pytest.raises(LookupError):
        with bad:
            raise LookupError
    with real.session() as ended:
        ended.delete()
    with real.session() as gone:
        real.delete_session(gone.id)
    for session in (good, bad, ended, gone):
        with pytest.raises(NotFoundError):
            session.refresh()
    assert (real.list_sessions()).count == 0


def test_a_session_outside_its_block_has_no_id(real: Client) -> None:
    session = real.session()
    with pytest.raises(ClientStateError, match="block"):
        session.run("true")
    assert "not begun" in repr(session)


def test_attaching_takes_up_a_session_and_leaves_it(real: Client, session: LiveSession) -> None:
    with real.attach_session(session.id) as again:
        assert (again.run("echo here")).stdout == "here\n"
    info = real.attach_session(session.info.container_name).refresh()
    assert info.session_id == session.id


def test_freezing_and_boosting(session: LiveSession) -> None:
    session.run("count=7")
    assert (session.freeze()).status == "frozen"
    assert (session.unfreeze()).status == "running"
    assert (session.run("echo $count")).stdout == "7\n"
    boosted = session.boost(2)
    assert (boosted.vcpu, boosted.boosted) == (2, True)
    assert (session.unboost()).vcpu == 1


def test_a_terminal(session: LiveSession) -> None:
    with session.terminal(columns=100, rows=30) as terminal:
        terminal.write("stty size; echo $((6*7))\n")
        assert b"30 100" in read_until(terminal, b"42\r\n")
        terminal.resize(70, 20)
        terminal.write(b"stty size\n")
        read_until(terminal, b"20 70")
        with pytest.raises(RequestTimeoutError):
            read_until(terminal, b"never written", 0.3)
        terminal.write("exit\n")
        rest = b"".join([data for data in terminal])
        assert b"exit" in rest
        assert (terminal.exited, terminal.exit_code) == (True, 0)
        assert terminal.read() == b""
        with pytest.raises(ClientStateError):
            terminal.write("more")
    with pytest.raises(ClientStateError):
        session.terminal().read()


def test_a_terminal_whose_connection_breaks_goes_on(
    through: Client, proxy: Proxy, session: LiveSession
) -> None:
    with through.terminal(session.id, columns=91, rows=22) as terminal:
        terminal.write("word=kept\n")
        read_until(terminal, b"word=kept")
        refused = [refusal(503), Fate(cut_before=True)]
        proxy.rule = lambda _: refused.pop() if refused else Fate()
        proxy.break_all()
        # Typed into the gap, or just before it is noticed: sent when the connection stands again, or lost with it.
        terminal.write("echo gap\n")
        read_until(terminal, b"word=kept")  # What was there before is shown again.
        terminal.write("echo $word-$((6*7)); stty size\n")
        seen = read_until(terminal, b"kept-42")
        assert b"22 91" in seen or read_until(terminal, b"22 91")
    assert not refused


def test_a_terminal_may_be_told_not_to_come_back(through: Client, proxy: Proxy, session: LiveSession) -> None:
    with through.terminal(session.id, reconnect=0) as terminal:
        terminal.write("echo on\n")
        read_until(terminal, b"on\r\n")
        proxy.break_all()
        with pytest.raises(ConnectionFailedError):
            read_until(terminal, b"never written")


def test_a_terminal_of_no_session_is_an_error(real: Client) -> None:
    with pytest.raises(NotFoundError):
        with real.terminal("none"):
            pass


def test_a_server_that_speaks_no_terminals_is_an_error(fake: FakeServer) -> None:
    fake.script(Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    with Client(PUBLIC, SECRET, base_url=fake.url) as client:
        with pytest.raises(InvalidResponseError, match="shell"):
            client.terminal("x").__enter__()


@pytest.mark.parametrize("last", [Fate(cut_after=0), refusal(502)])
def test_an_answer_that_is_lost_leaves_no_session_behind(through: Client, proxy: Proxy, last: Fate) -> None:
    assert (through.list_sessions()).count == 0
    cut = [last] + [Fate(cut_after=0)] * 2
    proxy.rule = lambda request: cut.pop() if request.startswith("POST /sessions") and cut else Fate()
    with pytest.raises((ConnectionFailedError, UnavailableError)):
        with through.session():
            pass
    assert proxy.passed.count("POST /sessions") > 1
    assert (through.list_sessions()).count == 0
    cut[:] = [Fate(cut_after=0)] * 2
    with through.session():
        assert (through.list_sessions()).count == 1
    assert (through.list_sessions()).count == 0


def test_sessions_are_found_by_their_metadata(real: Client) -> None:
    with (
        real.session(metadata={"team": "blue", "note": "a=b&c {d}"}) as blue,
        real.session(metadata={"team": "red"}),
    ):
        assert [found.metadata for found in real.list_sessions({"team": "red"})] == [{"team": "red"}]
        (found,) = real.list_sessions({"note": "a=b&c {d}", "team": "blue"})
        assert found.session_id == blue.id
        assert not (real.list_sessions({"team": "green"})).sessions
        assert len(real.list_sessions({})) == 2
        assert {found.metadata is None for found in real.list_sessions()} == {True}
        assert (blue.refresh()).metadata == {"team": "blue", "note": "a=b&c {d}"}


def test_a_session_ends_at_its_deadline_and_says_so(real: Client) -> None:
    made = real.create_session(timeout=600)
    assert made.session_id
    assert 590 < (made.remaining_ttl or 0) <= 600
    assert made.ends_at
    assert (real.set_session_timeout(made.session_id, None)).ends_at is None
    session = real.attach_session(made.session_id)
    process = session.start(["sleep", "60"])
    session.set_timeout(1)
    assert (process.wait()).reason == "session"
    with pytest.raises(NotFoundError, match="its time was over") as gone:
        session.refresh()
    assert gone.value.body["reason"] == "deadline"


def test_a_paused_session_stands_still(session: LiveSession) -> None:
    assert (session.pause()).status == "frozen"
    with pytest.raises(ConflictError, match="unfreeze"):
        session.exec(["true"])
    assert (session.resume()).status == "running"
    assert (session.exec(["true"])).ok


def test_a_deleted_session_says_that_it_was_deleted(real: Client) -> None:
    made = real.create_session()
    assert made.session_id
    assert made.container_name
    assert (real.delete_session(made.session_id)).reason == "deleted"
    for name in (made.session_id, made.container_name):
        with pytest.raises(NotFoundError, match="deleted on request"):
            real.get_session(name)
