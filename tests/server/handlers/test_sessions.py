"""Sessions over HTTP: one live shell each, frozen, given more, gone when idle."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import pytest
import pytest_asyncio
from tests.server.conftest import Wire

from unsandbox.sandbox.languages.shells import available_shells

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def make(wire: Wire, **options) -> str:
    answer = await wire.call("POST", "/sessions", options)
    assert answer.status == 200, answer.json
    return answer.json["session_id"]


async def run(wire: Wire, session: str, command: str, **options) -> dict[str, Any]:
    answer = await wire.call("POST", f"/sessions/{session}/shell", {"command": command, **options})
    assert answer.status == 200, answer.json
    return answer.json


async def until(condition, seconds: float = 10.0):
    end = time.monotonic() + seconds
    while not (value := await condition()):
        assert time.monotonic() < end, f"did not become true within {seconds} s"
        await asyncio.sleep(0.02)
    return value


@pytest_asyncio.fixture(loop_scope="session")
async def session(wire):
    made = await make(wire)
    yield made
    await wire.call("DELETE", f"/sessions/{made}")


async def test_a_session_is_described_in_the_form_that_every_client_reads(wire):
    answer = await wire.call("POST", "/sessions", {"network": "zerotrust", "ttl": "900", "name": "mine"})
    made = answer.json
    assert made["id"] == made["session_id"]
    assert made["status"] == made["state"] == "running"
    assert made["container_name"].startswith("unsb-vm-")
    assert (made["shell"], made["vcpu"], made["memory_mb"], made["boosted"]) == ("bash", 1, 2048, False)
    assert 890 <= made["remaining_ttl"] <= 900
    assert made["created_at"].isdigit()
    url, _, ticket = made["websocket_url"].partition("?ticket=")
    assert url == f"ws{wire.url[4:]}/sessions/{made['id']}/shell"
    assert len(ticket) >= 32
    listed = await wire.call("GET", "/sessions")
    assert listed.json["count"] == len(listed.json["sessions"])
    mine = [item for item in listed.json["sessions"] if item["id"] == made["id"]]
    assert mine
    assert not any(isinstance(value, dict | list) for value in mine[0].values())
    by_name = await wire.call("GET", f"/sessions/{made['container_name']}")
    assert by_name.json["id"] == made["id"]
    gone = await wire.call("DELETE", f"/sessions/{made['container_name']}")
    assert (gone.status, gone.json["status"]) == (200, "deleted")
    assert (await wire.call("GET", f"/sessions/{made['id']}")).status == 404


async def test_a_name_that_would_break_a_list_is_refused(wire, session):
    for name in ("{", "a}b", "]", "tab\t", "x" * 201):
        for target in ("/sessions", f"/sessions/{session}/snapshot"):
            answer = await wire.call("POST", target, {"name": name})
            assert (answer.status, answer.json["error"]) == (400, "invalid_request"), (target, name)


async def test_another_key_finds_nothing(wire, stranger, session):
    for method, path in (
        ("GET", ""), ("DELETE", ""), ("POST", "/freeze"), ("POST", "/unfreeze"), ("POST", "/boost"),
        ("POST", "/unboost"), ("POST", "/shell"), ("POST", "/execute"),
    ):  # fmt: skip
        body = {"command": "echo 1"} if path in {"/shell", "/execute"} else None
        answer = await stranger.call(method, f"/sessions/{session}{path}", body)
        assert (answer.status, answer.json["error"]) == (404, "session_not_found")
    assert session not in str((await stranger.call("GET", "/sessions")).json)


async def test_a_shell_keeps_its_state_between_commands(wire, session):
    first = await run(wire, session, "x=41; cd /usr; echo out; echo err >&2; false\n")
    assert (first["stdout"], first["stderr"], first["exit_code"], first["success"]) == (
        "out\n",
        "err\n",
        1,
        False,
    )
    second = await wire.call("POST", f"/sessions/{session}/execute", {"command": "echo $? $((x + 1)); pwd"})
    assert (second.json["stdout"], second.json["exit_code"]) == ("1 42\n/usr\n", 0)
    assert (await run(wire, session, "if ("))["exit_code"] == 2
    assert (await run(wire, session, "echo $x"))["stdout"] == "41\n"
    assert (await run(wire, session, "exit 7"))["exit_code"] == 7
    assert (await run(wire, session, "echo [$x]"))["stdout"] == "[]\n"


WITH_COMMANDS = {
    "bash": (["a=1", "echo $a"], "1\n"),
    "sh": (["a=1", "echo $a"], "1\n"),
    "dash": (["a=1", "echo $a"], "1\n"),
    "python3": (["a = 20", "a + 1"], "21\n"),
    "node": (["let a = 20", "a + 1"], "21\n"),
    "perl": (["$a = 20;", "print $a + 1"], "21"),
    "lua": (["a = 20", "a + 1"], "21\n"),
    "ruby": (["a = 20", "puts a + 1"], "21\n"),
    "php": (["$a = 20;", "echo $a + 1;"], "21"),
    "r": (["a <- 20", "a + 1"], "[1] 21\n"),
    "zsh": (["a=1", "echo $a"], "1\n"),
    "ksh": (["a=1", "echo $a"], "1\n"),
    "fish": (["set a 1", "echo $a"], "1\n"),
    "ash": (["a=1", "echo $a"], "1\n"),
}
"""Shells and REPLs that take commands: some that follow each other, and what the last one writes."""


@pytest.mark.parametrize("shell", WITH_COMMANDS)
async def test_every_shell_with_commands_keeps_its_state(wire, shell):
    commands, wanted = WITH_COMMANDS[shell]
    if shell not in available_shells():
        pytest.skip(f"{shell} is not installed here")
    session = await make(wire, shell=shell)
    answers = [await run(wire, session, command) for command in commands]
    assert (answers[-1]["stdout"], answers[-1]["exit_code"]) == (wanted, 0)
    assert (await wire.call("DELETE", f"/sessions/{session}")).status == 200


STEPS = {
    "a filter of one command": ("bash", ["echo one > >(sleep 0.1; cat)", "echo two > >(cat)"], ["one\n", "two\n"]),
    "a filter of the shell": ("bash", ["exec > >(sed 's/^/> /')", "true", "exec >&250", "echo two"], ["", "", None, "two\n"]),
    "output into a file": ("bash", ["a=1; exec > /tmp/o", "echo $a", "exec >&250; cat /tmp/o"], ["", "", "1\n"]),
    "output into a file, sh": ("sh", ["a=1; exec > /tmp/o", "echo $a", "exec >&8; cat /tmp/o"], ["", "", "1\n"]),
    "output into a file, zsh": ("zsh", ["a=1; exec > /tmp/o", "echo $a", "exec >&8; cat /tmp/o"], ["", "", "1\n"]),
    "output into a file, ksh": ("ksh", ["a=1; exec > /tmp/o", "echo $a", "exec >&8; cat /tmp/o"], ["", "", "1\n"]),
    "output closed": ("bash", ["exec >&-", "echo lost; true", "exec >&250; echo back"], ["", "", "back\n"]),
    "errors into the output": ("bash", ["exec 2>&1", "echo err >&2"], ["", "err\n"]),
    "a function printf": ("bash", ["printf() { echo mine; }", "echo hi"], ["", "hi\n"]),
    "functions eval and builtin": (
        "bash",
        ["eval() { :; }; builtin() { :; }; unset() { :; }", "echo hi", "cat <(echo $BASH_VERSION | wc -l)"],
        ["", "hi\n", "1\n"],
    ),
    "an alias eval": ("bash", ["alias printf=false eval=false", "echo hi"], ["", "hi\n"]),
    "descriptors closed": ("bash", ["for i in {3..30}; do eval \"exec $i>&-\"; done", "echo hi"], ["", "hi\n"]),
    "python, names of __main__": ("python3", ["v = 1\ndef f(): return v", "import __main__, pickle\nprint(__main__.v, pickle.loads(pickle.dumps(f))())"], ["", "1 1\n"]),
    "python, await": ("python3", ["import asyncio\nawait asyncio.sleep(0)\nprint('ok')", "async def g(): return 3", "await g()"], ["ok\n", "", "3\n"]),
    "python, a future feature": ("python3", ["from __future__ import annotations", "def f(a: Later): pass\nprint(f.__annotations__)"], ["", "{'a': 'Later'}\n"]),
    "python, sources": ("python3", ["def g():\n    return 1", "import inspect; print(inspect.getsource(g), end='')"], ["", "def g():\n    return 1"]),
    "python, a mark and CRLF": ("python3", ["\ufeffif True:\r\n\tprint(1)\r\n"], ["1\n"]),
    "node, await": ("node", ["const a = await Promise.resolve(6)", "a + 1", "(await import('node:path')).join('a', 'b')"], ["", "7\n", "'a/b'\n"]),
}  # fmt: skip


@pytest.mark.parametrize(("shell", "commands", "wanted"), STEPS.values(), ids=STEPS)
async def test_each_command_gets_its_own_output(wire, shell, commands, wanted):
    if shell not in available_shells():
        pytest.skip(f"{shell} is not installed here")
    session = await make(wire, shell=shell)
    for command, text in zip(commands, wanted, strict=True):
        answer = await run(wire, session, command, timeout=20_000)
        assert text is None or answer["stdout"] == text, (command, answer)
    assert (await wire.call("DELETE", f"/sessions/{session}")).status == 200


@pytest.mark.parametrize(
    ("shell", "code_of_syntax_error"),
    [("bash", 2), ("sh", 2), ("dash", 2), ("ash", 2), ("zsh", 1), ("ksh", 3), ("fish", 123)],
)
async def test_commands_of_a_shell_follow_each_other(wire, shell, code_of_syntax_error):
    session = await make(wire, shell=shell)

    async def of(command):
        done = await run(wire, session, command)
        return done["stdout"], done["exit_code"]

    assert await of("cd /tmp\nfalse") == ("", 1)
    assert await of("echo $status" if shell == "fish" else "echo $?") == ("1\n", 0)
    assert await of("""echo 'it''s' "two  spaces" %41 'ä€😀'\npwd""") == ("its two  spaces %41 ä€😀\n/tmp\n", 0)
    assert await of("if (") == ("", code_of_syntax_error)
    assert await of("cat; sleep 60 >/dev/null 2>&1 &") == ("", 0)
    assert await of("exit 7") == ("", 7)
    assert await of("pwd") == ("/work\n", 0)
    await wire.call("DELETE", f"/sessions/{session}")


async def test_toolchains_find_what_they_read_outside_usr(wire):
    session = await make(wire)
    done = await run(wire, session, "java --version && ls /etc/php")
    assert (done["exit_code"], done["stderr"]) == (0, "")
    await wire.call("DELETE", f"/sessions/{session}")


async def test_a_language_names_its_repl(wire):
    session = await make(wire, language="py")
    assert (await run(wire, session, "6 * 7"))["stdout"] == "42\n"
    await wire.call("DELETE", f"/sessions/{session}")


async def test_an_unknown_shell_is_refused_with_those_that_there_are(wire):
    answer = await wire.call("POST", "/sessions", {"shell": "nosuchshell"})
    assert (answer.status, answer.json["error"]) == (400, "unknown_shell")
    assert "bash" in answer.json["message"]


async def test_output_is_exact_and_bounded(wire, session):
    odd = await run(wire, session, r"printf '\377\0\n'")
    assert base64.b64decode(odd["stdout_base64"]) == b"\xff\0\n"
    much = await run(wire, session, "head -c 30000000 /dev/zero | tr '\\0' x")
    assert (len(much["stdout"]), much["stdout_truncated"]) == (10 << 20, True)


async def test_a_command_has_a_time_limit(wire, session):
    late = await run(wire, session, "echo begun; sleep 60", timeout=300)
    assert (late["stdout"], late["exit_code"]) == ("begun\n", 124)
    assert "time limit" in late["error"]
    left = await run(wire, session, "pgrep -c sleep")
    assert left["stdout"].strip() == "0"


async def test_files_go_in_and_artifacts_come_out(wire):
    content = base64.b64encode(b"data").decode()
    session = await make(wire, input_files=[{"filename": "in.txt\n", "content": content}])
    copied = await run(wire, session, "mkdir -p /tmp/artifacts; cp /tmp/input/in.txt /tmp/artifacts/out.txt")
    assert copied["exit_code"] == 0
    gone = await wire.call("DELETE", f"/sessions/{session}")
    assert [
        (item["filename"], base64.b64decode(item["content_base64"])) for item in gone.json["artifacts"]
    ] == [("out.txt", b"data")]


async def test_an_audited_session_returns_what_was_typed(wire):
    answer = await wire.call("POST", "/sessions?audit=1", {})
    session = answer.json["id"]
    await run(wire, session, "echo typed")
    gone = await wire.call("DELETE", f"/sessions/{session}?audit=1")
    (log,) = gone.json["artifacts"]
    assert log["filename"] == "audit.log"
    assert base64.b64decode(log["content_base64"]).decode().endswith(" echo typed\n")


async def test_the_history_outlives_the_sandbox(wire):
    session = (await wire.call("POST", "/sessions?audit=1", {})).json["id"]
    await run(wire, session, "echo first")
    ended = await wire.call("POST", f"/sessions/{session}/shell", {"command": "kill -9 -1"})
    assert ended.status in {200, 409}
    await until(lambda: succeeds(wire, session))
    gone = await wire.call("DELETE", f"/sessions/{session}?audit=1")
    log = base64.b64decode(gone.json["artifacts"][0]["content_base64"]).decode()
    assert "echo first" in log


async def succeeds(wire: Wire, session: str) -> bool:
    answer = await wire.call("POST", f"/sessions/{session}/shell", {"command": "echo again"})
    return answer.status == 200 and answer.json["stdout"] == "again\n"


async def test_a_session_deleted_while_it_is_used_leaves_nothing(wire, engine):
    session = await make(wire)
    calls = [wire.call("POST", f"/sessions/{session}/{what}") for what in ("freeze", "boost", "unfreeze")]
    calls.append(wire.call("POST", f"/sessions/{session}/shell", {"command": "sleep 1"}))
    answers = await asyncio.gather(wire.call("DELETE", f"/sessions/{session}"), *calls)
    assert answers[0].status == 200
    assert {answer.status for answer in answers} <= {200, 404, 409}
    assert (await wire.call("GET", f"/sessions/{session}")).status == 404
    assert engine.sessions.sandboxes.get(session) is None


async def test_frozen_it_uses_no_cpu_and_goes_on_from_where_it_was(wire):
    session = await make(wire)
    await run(wire, session, "(i=0; while :; do i=$((i+1)); echo $i >/tmp/count; done) >/dev/null 2>&1 &")

    async def count() -> int:
        return int((await run(wire, session, "cat /tmp/count"))["stdout"].strip() or 0)

    await until(count)
    frozen = await wire.call("POST", f"/sessions/{session}/freeze")
    assert (frozen.status, frozen.json["status"]) == (200, "frozen")
    refused = await wire.call("POST", f"/sessions/{session}/shell", {"command": "echo 1"})
    assert (refused.status, refused.json["error"]) == (409, "session_frozen")
    assert (await wire.call("GET", f"/sessions/{session}")).json["state"] == "frozen"
    assert (await wire.call("POST", f"/sessions/{session}/unfreeze")).json["status"] == "running"
    before = await count()

    async def more() -> bool:
        return await count() > before

    await until(more)
    await wire.call("DELETE", f"/sessions/{session}")


async def test_boost_changes_the_limits_that_are_in_force(wire, session):
    boosted = (await wire.call("POST", f"/sessions/{session}/boost", {"vcpu": 4})).json
    assert (boosted["vcpu"], boosted["memory_mb"], boosted["boosted"]) == (4, 8192, True)
    by_default = (await wire.call("POST", f"/sessions/{session}/boost")).json
    assert by_default["vcpu"] == 2
    back = (await wire.call("POST", f"/sessions/{session}/unboost")).json
    assert (back["vcpu"], back["memory_mb"], back["boosted"]) == (1, 2048, False)


async def test_a_session_without_traffic_is_deleted(wire):
    session = await make(wire, ttl=1)

    async def gone() -> bool:
        answers = [item["id"] for item in (await wire.call("GET", "/sessions")).json["sessions"]]
        return session not in answers

    await until(gone)
    assert (await wire.call("GET", f"/sessions/{session}")).status == 404


async def test_traffic_keeps_a_session(wire):
    session = await make(wire, ttl=2)
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        assert (await run(wire, session, "sleep 0.2"))["exit_code"] == 0
    await wire.call("DELETE", f"/sessions/{session}")


async def test_a_clock_that_jumps_ends_no_session(wire, engine, monkeypatch):
    session = await make(wire, ttl=60)
    now = time.time
    for jump in (7200, -7200):
        monkeypatch.setattr(time, "time", lambda jump=jump: now() + jump)
        engine.sessions.expiry.check(engine.sessions.collection.find(session))
        kept = (await wire.call("GET", f"/sessions/{session}")).json
        assert 0 < kept["remaining_ttl"] <= 60
        assert (await run(wire, session, "echo on"))["stdout"] == "on\n"
    monkeypatch.undo()
    await wire.call("DELETE", f"/sessions/{session}")


async def test_what_is_being_saved_is_in_use(wire, engine):
    session = await make(wire, ttl=1)
    begun = time.monotonic()
    async with engine.sessions.lend(session):
        while time.monotonic() - begun < 2.0:
            await asyncio.sleep(0.1)
        assert (await wire.call("GET", f"/sessions/{session}")).status == 200
    await wire.call("DELETE", f"/sessions/{session}")


async def test_a_repeated_create_makes_one_session(wire):
    key = {"Idempotency-Key": "one-session"}
    ids = {(await wire.call("POST", "/sessions", {"ttl": 60}, headers=key)).json["id"] for _ in range(3)}
    assert len(ids) == 1
    await wire.call("DELETE", f"/sessions/{ids.pop()}")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null"])
async def test_all_forms_of_no_body_make_a_session(wire, body):
    answer = await wire.call("POST", "/sessions", body)
    assert answer.status == 200
    await wire.call("DELETE", f"/sessions/{answer.json['id']}")


@pytest.mark.parametrize(
    "body", [{"ttl": 0}, {"vcpu": 9}, {"multiplexer": "byobu"}, {"network_mode": "open"}, {"isolation": "none"}]
)
async def test_what_makes_no_sense_is_refused_by_name(wire, body):
    answer = await wire.call("POST", "/sessions", body)
    assert answer.status == 400
    assert next(iter(body)) in answer.json["message"]


async def test_a_command_may_hold_no_nul(wire, session):
    answer = await wire.call("POST", f"/sessions/{session}/shell", {"command": "echo \0"})
    assert answer.status == 400
