"""Processes of a session, on both backends: streams, input, limits, signals, leases."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from unsandbox import (
    AsyncClient,
    AsyncLiveSession,
    BadRequestError,
    ConflictError,
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
    WaitTimeoutError,
)

MIB = 1 << 20


async def running(session: AsyncLiveSession, word: str) -> str:
    """Return the processes of a session whose command line has a word."""
    pattern = f"[{word[0]}]{word[1:]}"  # Which this command line does not match.
    script = f"grep -l {pattern} /proc/[0-9]*/cmdline 2>/dev/null; true"
    return (await session.exec(["sh", "-c", script])).text


async def test_streams_are_separate_and_exact(workspace: AsyncLiveSession) -> None:
    result = await workspace.exec(["sh", "-c", r"printf 'a\377b'; printf odd >&2; exit 3"])
    assert (result.stdout_bytes, result.stderr, result.exit_code) == (b"a\xffb", "odd", 3)
    assert not result.ok
    with pytest.raises(JobFailedError, match="exit code 3: odd"):
        result.check()


async def test_arguments_pass_no_shell(workspace: AsyncLiveSession) -> None:
    words = ["$HOME", "a b", "*", "'", ""]
    assert (await workspace.exec(["printf", "%s|", *words])).stdout == "$HOME|a b|*|'||"
    assert (await workspace.exec("echo $((6*7)) | tr 4 5")).stdout == "52\n"


async def test_folder_variables_and_input(workspace: AsyncLiveSession) -> None:
    result = await workspace.exec(
        ["sh", "-c", "pwd; echo $WORD; cat"], cwd="/tmp", env={"WORD": "hello"}, stdin="in `$put`\n"
    )
    assert result.stdout == "/tmp\nhello\nin `$put`\n"
    await workspace.files.make_dir("deep/er")
    assert (await workspace.exec(["pwd"], cwd="deep/er")).stdout == "/work/deep/er\n"
    assert (await workspace.exec(["cat"])).stdout == ""


async def test_it_does_not_share_the_state_of_the_shell(workspace: AsyncLiveSession) -> None:
    await workspace.run("cd /tmp; word=hello")
    assert (await workspace.exec("pwd; echo $word")).stdout == "/work\n\n"


async def test_a_program_that_is_missing_or_cannot_run(workspace: AsyncLiveSession) -> None:
    missing, refused = await workspace.exec(["nonesuch"]), await workspace.exec(["/etc/passwd"])
    assert (missing.exit_code, refused.exit_code) == (127, 126)
    assert "nonesuch" in (missing.stderr or "")
    assert "Permission denied" in (refused.stderr or "")
    with pytest.raises(BadRequestError, match="/nonesuch"):
        await workspace.exec(["true"], cwd="/nonesuch")
    with pytest.raises(BadRequestError, match="one user, sandbox"):
        await workspace.exec(["true"], user="root")
    assert (await workspace.exec(["id", "-un"], user="sandbox")).stdout == "sandbox\n"


async def test_a_request_that_makes_no_sense(workspace: AsyncLiveSession) -> None:
    for words in ([], [""]):
        with pytest.raises(BadRequestError, match="argv must not be empty"):
            await workspace.exec(words)
    with pytest.raises(InvalidRequestError, match="timeout must be"):
        await workspace.exec(["true"], timeout=0)
    with pytest.raises(BadRequestError, match="NUL"):
        await workspace.exec(["true"], cwd="/\0")
    with pytest.raises(NotFoundError, match="no process 'nonesuch'"):
        await workspace.attach_process("nonesuch")


async def test_a_time_limit_ends_every_child(workspace: AsyncLiveSession) -> None:
    # One in the group, one in a session that it made for itself.
    result = await workspace.exec("sleep 1234567 & setsid sleep 1234567 & echo on; sleep 1234567", timeout=1)
    assert (result.stdout, result.exit_code, result.reason, result.timed_out) == ("on\n", 124, "timeout", True)
    assert await running(workspace, "1234567") == ""


async def test_a_death_by_a_signal_is_no_time_limit(workspace: AsyncLiveSession) -> None:
    result = await workspace.exec("kill -KILL $$", timeout=30)
    assert (result.exit_code, result.signal, result.reason) == (137, "SIGKILL", None)


async def test_a_child_that_holds_the_output_open_delays_nothing(workspace: AsyncLiveSession) -> None:
    result = await workspace.exec("sleep 1234568 & echo done", timeout=60)
    assert (result.stdout, result.exit_code) == ("done\n", 0)
    assert await running(workspace, "1234568") != ""


async def test_much_output_and_much_input(workspace: AsyncLiveSession) -> None:
    result = await workspace.exec("head -c 10485760 /dev/zero")
    assert (len(result.stdout_bytes), result.stdout_truncated) == (10 * MIB, None)
    result = await workspace.exec("seq 20", output_bytes=10)
    assert (result.stdout, result.stdout_truncated) == ("1\n2\n3\n4\n5\n", True)

    def pieces() -> Iterator[bytes]:
        for _ in range(8):
            yield bytes(MIB)

    assert (await workspace.exec(["wc", "-c"], stdin=pieces())).stdout.strip() == str(8 * MIB)
    assert (await workspace.exec(["true"], stdin=bytes(2 * MIB))).exit_code == 0


async def test_output_is_told_as_it_comes(workspace: AsyncLiveSession) -> None:
    out: list[str] = []
    errors: list[str] = []
    script = r"printf 'h\303'; sleep 0.3; printf '\251llo'; echo odd >&2"
    result = await workspace.exec(script, on_stdout=out.append, on_stderr=errors.append)
    assert (result.stdout, "".join(out), "".join(errors), len(out)) == ("héllo", "héllo", "odd\n", 2)


async def test_a_live_process(workspace: AsyncLiveSession) -> None:
    async with await workspace.start(["cat"]) as process:
        assert (process.info.status, process.exit_code) == ("running", None)
        await process.write("hello\n")
        first = await process.read(wait=30)
        assert first.stdout == b"hello\n"
        await process.write("again\n")
        await process.close_stdin()
        assert (await process.wait(30)).exit_code == 0
        # Any reader starts wherever it wants.
        assert b"".join([event.data async for event in process.output(stdout_offset=6)]) == b"again\n"
        assert "".join([event.text async for event in process]) == "hello\nagain\n"
        with pytest.raises(ConflictError, match="standard input"):
            await process.write("more")
    with pytest.raises(NotFoundError):
        await process.refresh()


async def test_signals_and_waiting(workspace: AsyncLiveSession) -> None:
    async with await workspace.start(
        "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    ) as process:
        assert (await process.read(wait=30)).stdout == b"ready\n"
        with pytest.raises(WaitTimeoutError):
            await process.wait(0.1)
        await process.send_signal(signal.SIGINT)
        assert (await process.wait(30)).exit_code == 5


async def test_a_terminal(workspace: AsyncLiveSession) -> None:
    async with await workspace.start(["bash", "--norc"], terminal=(100, 30)) as process:
        await process.write("stty size; read x; stty size; exit 4\n")
        seen = b""
        while b"30 100" not in seen:
            seen += (await process.read(len(seen), wait=30)).stdout
        await process.resize(120, 40)
        await process.write("\n")
        assert "40 120" in "".join([event.text async for event in process])
        assert (await process.wait(30)).exit_code == 4
        with pytest.raises(ConflictError):
            await process.resize(1, 1)


async def test_the_last_output_of_a_live_process_is_kept(workspace: AsyncLiveSession) -> None:
    async with await workspace.start("seq 1000000", output_bytes=MIB) as process:
        await process.wait(60)
        output = await process.read()
        assert (output.stdout_offset or 0) > 0
        events = [event.data async for event in process]
        assert b"".join(events).endswith(b"999999\n1000000\n")


async def test_a_killed_process_takes_its_children_along(workspace: AsyncLiveSession) -> None:
    async with await workspace.start("setsid sleep 1234569 & sleep 1234569") as process:
        while not await running(workspace, "1234569"):
            pass
        ended = await process.kill()
        assert (ended.exit_code, ended.reason) == (137, "killed")
    assert await running(workspace, "1234569") == ""
    assert (await process.kill()).exit_code == 137


async def test_a_detached_process_is_found_by_another_client(
    real: AsyncClient, workspace: AsyncLiveSession
) -> None:
    process = await workspace.start("read line; echo got $line", detach=True)
    other = await real.attach_session(workspace.id).attach_process(process.id)
    await other.write("it\n")
    assert (await other.wait(30)).exit_code == 0
    assert [found.process_id for found in await workspace.processes()] == [process.id]
    assert (await process.read()).stdout == b"got it\n"


async def test_a_frozen_session_runs_nothing(workspace: AsyncLiveSession) -> None:
    await workspace.freeze()
    with pytest.raises(ConflictError, match="frozen"):
        await workspace.exec(["true"])
    await workspace.unfreeze()
    assert (await workspace.exec(["true"])).ok


async def test_a_port_is_reached_from_outside(workspace: AsyncLiveSession) -> None:
    script = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8123)"
    await workspace.files.write("index.html", "from inside")
    async with await workspace.start(["python3", "-u", "-c", script]) as process:
        await process.read(wait=60)
        for _ in range(2):
            async with workspace.connect(8123) as port:
                await port.write(b"GET / HTTP/1.0\r\n\r\n")
                assert (await port.read_all()).endswith(b"from inside")
    with pytest.raises(ConflictError, match="nothing listens on port 8123"):
        async with workspace.connect(8123):
            pass
    with pytest.raises(BadRequestError, match="not a port"):
        async with workspace.connect(99999):
            pass


async def test_a_connection_carries_bytes_both_ways_until_each_end(workspace: AsyncLiveSession) -> None:
    echo = (
        "import socket; s = socket.create_server(('127.0.0.1', 9000)); print('up', flush=True)\n"
        "c, _ = s.accept()\n"
        "while d := c.recv(65536): c.sendall(d)\n"
        "c.sendall(b'.'); c.close()"
    )
    async with await workspace.start(["python3", "-c", echo]) as process:
        await process.read(wait=60)
        async with workspace.connect(9000) as port:
            await port.write(bytes(300_000))
            await port.write_eof()
            assert await port.read_all() == bytes(300_000) + b"."
