"""Copies of sessions and their use of resources, against the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests._async.conftest import new_key
from tests.support import Serve

from unsandbox import AsyncClient, AsyncLiveSession, BadRequestError, InvalidRequestError, RateLimitError

TREE = """
mkdir -p a/b empty; echo one > a/file; ln a/file a/hard; ln -s ../file a/b/link; chmod 700 a/b
truncate -s 20M hole; mkfifo pipe; printf x > "a/odd name \u00e9"; chmod 000 a/file
"""
SUM = "find . | sort | while read -r name; do stat -c '%n %F %a %s %h' \"$name\"; done; chmod 600 a/file; cat a/b/link"


@pytest.fixture
async def session(real: AsyncClient) -> AsyncIterator[AsyncLiveSession]:
    async with real.session(name="parent", metadata={"team": "blue"}) as made:
        yield made


async def test_copies_have_the_files_and_are_independent(workspace: AsyncLiveSession) -> None:
    session = workspace
    assert (await session.exec(TREE)).ok
    going_on = await session.start("while :; do echo tick; sleep 0.1; done")
    copies = await session.fork(count=3)
    async with copies[0], copies[1], copies[2]:
        assert len({session.id, *(copy.id for copy in copies)}) == 4
        sums = [(await one.exec(SUM)).stdout or "" for one in (session, *copies)]
        assert sums[0].endswith("one\n")
        assert sums[0].count("\n") > 8
        assert sums[1:] == [sums[0]] * 3
        await copies[0].exec("echo changed > a/file; rm -r empty")
        for other in (session, *copies[1:]):
            assert (await other.exec("cat a/hard; ls -d empty")).stdout == "one\nempty\n"
        assert {process.status for process in await copies[0].processes()} == {"exited"}
    assert (await session.attach_process(going_on.id)).info.status == "running"


async def test_a_copy_is_like_its_session(session: AsyncLiveSession, real: AsyncClient) -> None:
    await session.set_timeout(600)
    (copy,) = await session.fork()
    async with copy:
        info, parent = await copy.refresh(), await session.refresh()
        same = ("name", "metadata", "ends_at", "shell", "vcpu", "isolation", "network_mode")
        assert [getattr(info, name) for name in same] == [getattr(parent, name) for name in same]
    (other,) = await session.fork(name="child", metadata={"team": "red"}, timeout=60)
    async with other:
        info = await other.refresh()
        assert (info.name, info.metadata) == ("child", {"team": "red"})
        assert (info.remaining_ttl or 0) <= 60
    assert [found.session_id for found in await real.list_sessions({})] == [session.id]


async def test_a_paused_session_can_be_copied_and_stays_paused(session: AsyncLiveSession) -> None:
    await session.files.write("file", "kept")
    await session.pause()
    (copy,) = await session.fork()
    async with copy:
        assert await copy.files.read_text("file") == "kept"
    assert (await session.refresh()).status == "frozen"


async def test_no_copy_is_left_when_one_cannot_be_made(session: AsyncLiveSession, real: AsyncClient) -> None:
    with pytest.raises(BadRequestError, match="gvisor"):
        await session.fork(count=2, hot=True)
    with pytest.raises(InvalidRequestError, match="count must be a whole number from 1 to 16"):
        await session.fork(count=17)
    assert len(await real.list_sessions()) == 1


async def test_the_number_of_sessions_bounds_the_copies(served: Serve) -> None:
    public, secret = new_key(served, sessions=2)
    async with AsyncClient(public, secret, base_url=served.url) as client, client.session() as session:
        with pytest.raises(RateLimitError, match="already"):
            await session.fork(count=2)
        (copy,) = await session.fork()
        assert len(await client.list_sessions()) == 2
        await copy.delete()


@pytest.mark.gvisor
async def test_a_hot_copy_has_the_memory_and_processes(real: AsyncClient) -> None:
    async with real.session(isolation="gvisor") as session:
        await session.run("word=kept; (while :; do date +%s%N > beat; sleep 0.2; done) &")
        (copy,) = await session.fork(hot=True)
        async with copy:
            assert (await copy.run("echo $word")).stdout == "kept\n"
            await copy.run("word=changed; rm beat; until [ -e beat ]; do sleep 0.1; done")
        assert (await session.run("echo $word")).stdout == "kept\n"


@pytest.mark.cgroups
async def test_a_session_says_what_it_uses(session: AsyncLiveSession) -> None:
    before = await session.metrics()
    result = await session.exec(
        [
            "python3",
            "-c",
            "held = bytearray(80 << 20); sum(range(3_000_000)); open('f', 'wb').write(held[:9 << 20])",
        ]
    )
    after = await session.metrics()
    assert result.cpu_time_ms
    assert result.cpu_time_ms > 20
    assert 80 << 20 < (result.peak_memory_bytes or 0) < 200 << 20
    assert (after.cpu_time_ms or 0) - (before.cpu_time_ms or 0) > 20
    assert (after.peak_memory_bytes or 0) > 80 << 20
    assert (after.memory_limit_bytes, after.vcpu) == (2 << 30, 1)
    assert (after.memory_bytes or 0) < 80 << 20
    assert (after.disk_bytes or 0) > 9 << 20
    assert 0 < (after.processes or 0) < 20


@pytest.mark.cgroups
async def test_a_program_that_takes_too_much_memory_says_so(session: AsyncLiveSession) -> None:
    result = await session.exec(["python3", "-c", "bytearray(3 << 30)"])
    assert (result.exit_code, result.signal, result.reason) == (137, "SIGKILL", "memory")
    killed = await session.exec("kill -9 $$")
    assert (killed.exit_code, killed.reason) == (137, None)
