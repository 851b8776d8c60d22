# Generated from tests/_async/test_processes.py by scripts/unasync.py; change that one.
# ruff: noqa: SIM117 - what `async with` kept apart
"""Processes of a session, on both backends: streams, input, limits, signals, leases."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from unsandbox import (
    BadRequestError,
    Client,
    ConflictError,
    InvalidRequestError,
    JobFailedError,
    LiveSession,
    NotFoundError,
    WaitTimeoutError,
)

MIB = 1 << 20


def running(session: LiveSession, word: str) -> str:
    """Return the processes of a session whose command line has a word."""
    pattern = f"[{word[0]}]{word[1:]}"  # Which this command line does not match.
    script = f"grep -l {pattern} /proc/[0-9]*/cmdline 2>/dev/null; true"
    return (session.exec(["sh", "-c", script])).text


def test_streams_are_separate_and_exact(workspace: LiveSession) -> None:
    result = workspace.exec(["sh", "-c", r"printf 'a\377b'; printf odd >&2; exit 3"])
    assert (result.stdout_bytes, result.stderr, result.exit_code) == (b"a\xffb", "odd", 3)
    assert not result.ok
    with pytest.raises(JobFailedError, match="exit code 3: odd"):
        result.check()


def test_arguments_pass_no_shell(workspace: LiveSession) -> None:
    words = ["$HOME", "a b", "*", "'", ""]
    assert (workspace.exec(["printf", "%s|", *words])).stdout == "$HOME|a b|*|'||"
    assert (workspace.exec("echo $((6*7)) | tr 4 5")).stdout == "52\n"


def test_folder_variables_and_input(workspace: LiveSession) -> None:
    result = workspace.exec(
        ["sh", "-c", "pwd; echo $WORD; cat"], cwd="/tmp", env={"WORD": "hello"}, stdin="in `$put`\n"
    )
    assert result.stdout == "/tmp\nhello\nin `$put`\n"
    workspace.files.make_dir("deep/er")
    assert (workspace.exec(["pwd"], cwd="deep/er")).stdout == "/work/deep/er\n"
    assert (workspace.exec(["cat"])).stdout == ""


def test_it_does_not_share_the_state_of_the_shell(workspace: LiveSession) -> None:
    workspace.run("cd /tmp; word=hello")
    assert (workspace.exec("pwd; echo $word")).stdout == "/work\n\n"


def test_a_program_that_is_missing_or_cannot_run(workspace: LiveSession) -> None:
    missing, refused = workspace.exec(["nonesuch"]), workspace.exec(["/etc/passwd"])
    assert (missing.exit_code, refused.exit_code) == (127, 126)
    assert "nonesuch" in (missing.stderr or "")
    assert "Permission denied" in (refused.stderr or "")
    with pytest.raises(BadRequestError, match="/nonesuch"):
        workspace.exec(["true"], cwd="/nonesuch")
    with pytest.raises(BadRequestError, match="one user, sandbox"):
        workspace.exec(["true"], user="root")
    assert (workspace.exec(["id", "-un"], user="sandbox")).stdout == "sandbox\n"


def test_a_request_that_makes_no_sense(workspace: LiveSession) -> None:
    for words in ([], [""]):
        with pytest.raises(BadRequestError, match="argv must not be empty"):
            workspace.exec(words)
    with pytest.raises(InvalidRequestError, match="timeout must be"):
        workspace.exec(["true"], timeout=0)
    with pytest.raises(BadRequestError, match="NUL"):
        workspace.exec(["true"], cwd="/\0")
    with pytest.raises(NotFoundError, match="no process 'nonesuch'"):
        workspace.attach_process("nonesuch")


def test_a_time_limit_ends_every_child(workspace: LiveSession) -> None:
    # One in the group, one in a session that it made for itself.
    result = workspace.exec("sleep 1234567 & setsid sleep 1234567 & echo on; sleep 1234567", timeout=1)
    assert (result.stdout, result.exit_code, result.reason, result.timed_out) == ("on\n", 124, "timeout", True)
    assert running(workspace, "1234567") == ""


def test_a_death_by_a_signal_is_no_time_limit(workspace: LiveSession) -> None:
    result = workspace.exec("kill -KILL $$", timeout=30)
    assert (result.exit_code, result.signal, result.reason) == (137, "SIGKILL", None)


def test_a_child_that_holds_the_output_open_delays_nothing(workspace: LiveSession) -> None:
    result = workspace.exec("sleep 1234568 & echo done", timeout=60)
    assert (result.stdout, result.exit_code) == ("done\n", 0)
    assert running(workspace, "1234568") != ""


def test_much_output_and_much_input(workspace: LiveSession) -> None:
    result = workspace.exec("head -c 10485760 /dev/zero")
    assert (len(result.stdout_bytes), result.stdout_truncated) == (10 * MIB, None)
    result = workspace.exec("seq 20", output_bytes=10)
    assert (result.stdout, result.stdout_truncated) == ("1\n2\n3\n4\n5\n", True)

    def pieces() -> Iterator[bytes]:
        for _ in range(8):
            yield bytes(MIB)

    assert (workspace.exec(["wc", "-c"], stdin=pieces())).stdout.strip() == str(8 * MIB)
    assert (workspace.exec(["true"], stdin=bytes(2 * MIB))).exit_code == 0


def test_output_is_told_as_it_comes(workspace: LiveSession) -> None:
    out: list[str] = []
    errors: list[str] = []
    script = r"printf 'h\303'; sleep 0.3; printf '\251llo'; echo odd >&2"
    result = workspace.exec(script, on_stdout=out.append, on_stderr=errors.append)
    assert (result.stdout, "".join(out), "".join(errors), len(out)) == ("héllo", "héllo", "odd\n", 2)


def test_a_live_process(workspace: LiveSession) -> None:
    with workspace.start(["cat"]) as process:
        assert (process.info.status, process.exit_code) == ("running", None)
        process.write("hello\n")
        first = process.read(wait=30)
        assert first.stdout == b"hello\n"
        process.write("again\n")
        process.close_stdin()
        assert (process.wait(30)).exit_code == 0
        # Any reader starts wherever it wants.
        assert b"".join([event.data for event in process.output(stdout_offset=6)]) == b"again\n"
        assert "".join([event.text for event in process]) == "hello\nagain\n"
        with pytest.raises(ConflictError, match="standard input"):
            process.write("more")
    with pytest.raises(NotFoundError):
        process.refresh()


def test_signals_and_waiting(workspace: LiveSession) -> None:
    with workspace.start("trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done") as process:
        assert (process.read(wait=30)).stdout == b"ready\n"
        with pytest.raises(WaitTimeoutError):
            process.wait(0.1)
        process.send_signal(signal.SIGINT)
        assert (process.wait(30)).exit_code == 5


def test_a_terminal(workspace: LiveSession) -> None:
    with workspace.start(["bash", "--norc"], terminal=(100, 30)) as process:
        process.write("stty size; read x; stty size; exit 4\n")
        seen = b""
        while b"30 100" not in seen:
            seen += (process.read(len(seen), wait=30)).stdout
        process.resize(120, 40)
        process.write("\n")
        assert "40 120" in "".join([event.text for event in process])
        assert (process.wait(30)).exit_code == 4
        with pytest.raises(ConflictError):
            process.resize(1, 1)


def test_the_last_output_of_a_live_process_is_kept(workspace: LiveSession) -> None:
    with workspace.start("seq 1000000", output_bytes=MIB) as process:
        process.wait(60)
        output = process.read()
        assert (output.stdout_offset or 0) > 0
        events = [event.data for event in process]
        assert b"".join(events).endswith(b"999999\n1000000\n")


def test_a_killed_process_takes_its_children_along(workspace: LiveSession) -> None:
    with workspace.start("setsid sleep 1234569 & sleep 1234569") as process:
        while not running(workspace, "1234569"):
            pass
        ended = process.kill()
        assert (ended.exit_code, ended.reason) == (137, "killed")
    assert running(workspace, "1234569") == ""
    assert (process.kill()).exit_code == 137


def test_a_detached_process_is_found_by_another_client(real: Client, workspace: LiveSession) -> None:
    process = workspace.start("read line; echo got $line", detach=True)
    other = real.attach_session(workspace.id).attach_process(process.id)
    other.write("it\n")
    assert (other.wait(30)).exit_code == 0
    assert [found.process_id for found in workspace.processes()] == [process.id]
    assert (process.read()).stdout == b"got it\n"


def test_a_frozen_session_runs_nothing(workspace: LiveSession) -> None:
    workspace.freeze()
    with pytest.raises(ConflictError, match="frozen"):
        workspace.exec(["true"])
    workspace.unfreeze()
    assert (workspace.exec(["true"])).ok


def test_a_port_is_reached_from_outside(workspace: LiveSession) -> None:
    script = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8123)"
    workspace.files.write("index.html", "from inside")
    with workspace.start(["python3", "-u", "-c", script]) as process:
        process.read(wait=60)
        for _ in range(2):
            with workspace.connect(8123) as port:
                port.write(b"GET / HTTP/1.0\r\n\r\n")
                assert (port.read_all()).endswith(b"from inside")
    with pytest.raises(ConflictError, match="nothing listens on port 8123"):
        with workspace.connect(8123):
            pass
    with pytest.raises(BadRequestError, match="not a port"):
        with workspace.connect(99999):
            pass


def test_a_connection_carries_bytes_both_ways_until_each_end(workspace: LiveSession) -> None:
    echo = (
        "import socket; s = socket.create_server(('127.0.0.1', 9000)); print('up', flush=True)\n"
        "c, _ = s.accept()\n"
        "while d := c.recv(65536): c.sendall(d)\n"
        "c.sendall(b'.'); c.close()"
    )
    with workspace.start(["python3", "-c", echo]) as process:
        process.read(wait=60)
        with workspace.connect(9000) as port:
            port.write(bytes(300_000))
            port.write_eof()
            assert port.read_all() == bytes(300_000) + b"."
