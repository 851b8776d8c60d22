"""Services over the wire: every call of section 9, with the bodies that clients really send."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.server.conftest import Wire
from yarl import URL

from unsandbox import AsyncClient, Client

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLEEPER = 'echo "begun $SECRET"; exec sleep 1000'


async def eventually(probe, seconds: float = 15.0):
    """Return the first true value of `await probe()`."""
    async with asyncio.timeout(seconds):
        while not (value := await probe()):
            await asyncio.sleep(0.02)
        return value


async def create(wire: Wire, name: str, bootstrap: str | None = SLEEPER, **options):
    body = {"name": name, "network_mode": "zerotrust", **options}
    if bootstrap is not None:
        body["bootstrap"] = bootstrap
    answer = await wire.call("POST", "/services", body)
    assert answer.status == 200, answer.json
    return answer.json


async def log_of(wire: Wire, name: str, query: str = "") -> str:
    return (await wire.call("GET", f"/services/{name}/logs{query}")).json["log"]


async def log_has(wire: Wire, name: str, text: str) -> str:
    async def probe():
        log = await log_of(wire, name)
        return log if text in log else None

    return await eventually(probe)


async def state_is(wire: Wire, name: str, state: str):
    async def probe():
        shown = (await wire.call("GET", f"/services/{name}")).json
        return shown if shown["state"] == state else None

    return await eventually(probe)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sleeper(wires: list[Wire]) -> AsyncIterator[str]:
    """A service that does nothing, for tests that leave it as it is."""
    yield (await create(wires[0], "sleeper", ports=[8080], service_type="tcp"))["service_id"]
    await wires[0].call("DELETE", "/services/sleeper")


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def nothing_stays(wires: list[Wire]) -> AsyncIterator[None]:
    """A test that fails must not take the next ones with it."""
    yield
    for service in (await wires[0].call("GET", "/services")).json["services"]:
        if service["name"] != "sleeper":
            await wires[0].call("POST", f"/services/{service['id']}/unlock")
            await wires[0].call("DELETE", f"/services/{service['id']}")


async def test_a_service_is_listed_and_found_by_all_its_names(wire, stranger, sleeper):
    shown = (await wire.call("GET", f"/services/{sleeper}")).json
    assert shown["id"] == shown["service_id"] == sleeper
    assert (shown["state"], shown["status"], shown["name"]) == ("running", "running", "sleeper")
    assert shown["url"] == f"http://sleeper.localhost:{URL(wire.url).port}"
    assert (shown["vcpu"], shown["ports"], shown["network_mode"]) == (1, [8080], "zerotrust")
    assert (shown["locked"], shown["unfreeze_on_demand"], shown["show_freeze_page"]) == (False, False, True)
    assert (shown["restarts"], shown["service_type"]) == (0, "tcp")
    assert shown["created_at"].isdigit()
    for name in ("sleeper", shown["container_name"]):
        assert (await wire.call("GET", f"/services/{name}")).json["id"] == sleeper
    listed = (await wire.call("GET", "/services")).json
    assert listed["count"] == len(listed["services"])
    assert sleeper in {service["id"] for service in listed["services"]}
    assert (await stranger.call("GET", "/services")).json == {"services": [], "count": 0}
    for method, path in [
        ("GET", ""), ("DELETE", ""), ("POST", "/freeze"), ("GET", "/env"), ("POST", "/env/export"), ("GET", "/logs"),
        ("POST", "/redeploy"), ("GET", "/logs/stream"), ("GET", "/logs?follow=1"),
    ]:  # fmt: skip
        answer = await stranger.call(method, f"/services/{sleeper}{path}")
        assert (answer.status, answer.json["error"]) == (404, "service_not_found")


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"name": "Sleeper"}, 400, None),
        ({"name": "a.b"}, 400, None),
        ({"name": "80-a"}, 400, None),
        ({"name": "sleeper"}, 409, "name_taken"),
        ({"ports": [0]}, 400, None),
        ({"ports": "80,x"}, 400, None),
        ({"domains": ["x.localhost"]}, 403, "domain_not_allowed"),
        ({"domains": ["no domain"]}, 400, None),
        ({"vcpu": 9}, 400, None),
        ({"restart": "sometimes"}, 400, None),
        ({"shell": "nosuchshell"}, 400, "unknown_shell"),
        ({"golden_image": "nothing"}, 404, None),
        ({"bootstrap": "http://127.0.0.1:1/x"}, 400, "bootstrap_unavailable"),
        ({"bootstrap_url": "ftp://example.com/x"}, 400, "bootstrap_unavailable"),
        ({"bootstrap": "a", "bootstrap_content": "b"}, 400, None),
        ({"network": "open"}, 400, None),
        ({"input_files": [{"filename": "..", "content": ""}]}, 400, None),
    ],
)
async def test_what_cannot_be_is_refused_and_leaves_nothing(wire, sleeper, change, status, error):
    count = (await wire.call("GET", "/services")).json["count"]
    answer = await wire.call("POST", "/services", {"name": "refused", "network": "zerotrust"} | change)
    assert answer.status == status, answer.json
    if error:
        assert answer.json["error"] == error
    assert (await wire.call("GET", "/services")).json["count"] == count


async def test_create_with_an_idempotency_key_makes_one(wire):
    body = {"name": "once", "network": "zerotrust", "bootstrap": SLEEPER}
    headers = {"Idempotency-Key": "create-once"}
    answers = await asyncio.gather(*(wire.call("POST", "/services", body, headers=headers) for _ in range(3)))
    assert len({answer.json["id"] for answer in answers}) == 1
    assert (await wire.call("DELETE", "/services/once")).json["state"] == "deleted"
    assert (await wire.call("GET", "/services/once")).status == 404


async def test_large_answers_of_commands_are_not_kept_a_second_time(wire, sleeper, engine):
    before = engine.replies.bytes_of(wire.public_key)
    command, keys = (
        {"command": "head -c 3000000 /dev/zero | tr '\\\\0' x"},
        [f"command-{one}" for one in range(3)],
    )
    path = f"/services/{sleeper}/execute"
    first = [await wire.call("POST", path, command, headers={"Idempotency-Key": key}) for key in keys]
    assert {len(answer.json["stdout"]) for answer in first} == {3_000_000}
    assert engine.replies.bytes_of(wire.public_key) - before < 10_000
    again = await wire.call("POST", path, command, headers={"Idempotency-Key": keys[0]})
    assert (again.status, again.json) == (first[0].status, first[0].json)
    other = {"command": "echo other"}
    assert (await wire.call("POST", path, other, headers={"Idempotency-Key": keys[0]})).status == 409


async def test_bootstrap_input_files_and_environment(wire):
    script = "#!/usr/bin/env python3\nimport sys\nprint(open('/tmp/input/x/data.txt').read(), sys.argv[0], flush=True)\n"
    files = [{"filename": "x/data.txt\n", "content_base64": base64.b64encode(b"given").decode() + "\n"}]
    body = {"input_files": files, "bootstrap_content": script, "restart": "never"}
    await create(wire, "script", None, **body)
    assert await log_has(wire, "script", "given") == "given /tmp/bootstrap.sh\n"
    shown = await state_is(wire, "script", "stopped")
    assert "exit code 0" in shown["message"]
    # Again, with one more file: those that were there stay.
    body = {
        "bootstrap": "ls /tmp/input; cat /tmp/bootstrap.sh; exit 4",
        "input_files": [{"filename": "b", "content": ""}],
    }
    assert (await wire.call("POST", "/services/script/redeploy", body)).status == 200
    assert (await log_has(wire, "script", "exit 4")).endswith(
        "b\nx\nls /tmp/input; cat /tmp/bootstrap.sh; exit 4\n"
    )
    assert "exit code 4" in (await state_is(wire, "script", "failed"))["message"]
    for path, code in [("/freeze", "service_failed"), ("/unfreeze", "service_failed")]:
        answer = await wire.call("POST", f"/services/script{path}")
        assert (answer.status, answer.json["error"]) == (409, code)
    answer = await wire.call("POST", "/services/script/execute", {"command": "true"})
    assert (answer.status, answer.json["error"]) == (409, "service_failed")


async def test_redeploy_keeps_the_work_folder_and_needs_a_bootstrap(wire):
    await create(wire, "deploys", "echo run >> /work/runs; cat /work/runs; exec sleep 1000")
    await log_has(wire, "deploys", "run")
    assert (await wire.call("POST", "/services/deploys/redeploy", {})).json["state"] == "running"
    assert (await log_has(wire, "deploys", "run\nrun\nrun\n")) == "run\nrun\nrun\n"
    answer = await wire.call("POST", "/services/deploys/redeploy", {"bootstrap": "http://10.0.0.1/x"})
    assert (answer.status, answer.json["error"]) == (400, "bootstrap_unavailable")
    await create(wire, "bare", None)
    answer = await wire.call("POST", "/services/bare/redeploy")
    assert (answer.status, answer.json["error"]) == (400, "no_bootstrap")
    job = await wire.call("POST", "/services/bare/execute", {"command": "echo here\n"})
    assert job.json["stdout"] == "here\n"


async def test_a_command_is_a_job_that_has_ended(wire, stranger, sleeper):
    body = {
        "command": "cat /tmp/input/a; echo err >&2; exit 3",
        "input_files": [{"filename": "a", "content": "aGk="}],
    }
    answer = await wire.call("POST", "/services/sleeper/execute", body)
    assert answer.status == 202
    job = answer.json
    assert (job["status"], job["stdout"], job["stderr"], job["exit_code"]) == ("completed", "hi", "err\n", 3)
    assert job["success"] is False
    assert job["id"] == job["job_id"]
    again = await wire.call("GET", f"/jobs/{job['job_id']}")
    assert {name: again.json[name] for name in job} == job
    assert (await stranger.call("GET", f"/jobs/{job['job_id']}")).status == 404
    assert job["job_id"] in {listed["job_id"] for listed in (await wire.call("GET", "/jobs")).json["jobs"]}
    for bad in [{}, {"command": "a\0b"}, {"command": "x", "timeout": -1}]:
        assert (await wire.call("POST", "/services/sleeper/execute", bad)).status in {400, 202}


async def test_commands_have_a_time_limit_and_can_be_cancelled(wire, sleeper, serve):
    late = await wire.call(
        "POST", "/services/sleeper/execute", {"command": "echo a; sleep 60", "timeout": 1500}
    )
    assert (late.status, late.json["status"], late.json["exit_code"]) == (202, "timeout", 124)
    assert late.json["stdout"] == "a\n"
    async with serve(hold_s=0.2) as (quick, _):
        await create(quick, "held")
        held = await quick.call("POST", "/services/held/execute", {"command": "sleep 1; echo b", "timeout": 0})
        assert (held.status, held.json["status"]) == (202, "running")
        ended = await quick.call("GET", f"/jobs/{held.json['job_id']}?wait=20")
        assert (ended.json["status"], ended.json["stdout"]) == ("completed", "b\n")
        held = await quick.call("POST", "/services/held/execute", {"command": "sleep 60", "timeout": 0})
        ended = await quick.call("DELETE", f"/jobs/{held.json['job_id']}")
        assert ended.json["status"] == "cancelled"
        await quick.call("DELETE", "/services/held")


async def test_logs_all_tail_and_bytes_that_are_no_text(wire):
    await create(
        wire,
        "talker",
        r"i=0; while [ $i -lt 9500 ]; do echo line $i; i=$((i+1)); done; printf '\377end\n'; exec sleep 1000",
    )
    await log_has(wire, "talker", "end")
    page = (await wire.call("GET", "/services/talker/logs")).json
    assert page["log"] == page["logs"]
    assert page["log"].startswith("line 501\n")
    assert page["log"].endswith("line 9499\n\ufffdend\n")
    assert page["lines"] == 9000
    assert (await log_of(wire, "talker", "?all=true")).startswith("line 0\n")
    assert await log_of(wire, "talker", "?lines=2") == "line 9499\n\ufffdend\n"
    assert (await wire.call("GET", "/services/talker/logs?lines=x")).status == 400


@pytest.mark.parametrize(
    "path", ["/services/ticker/logs/stream?lines=1", "/services/ticker/logs?follow=true&lines=1"]
)
async def test_following_a_log_and_going_on_where_it_was_left(wire, path):
    script = (
        "mkfifo /work/pipe; echo one; echo two; exec 3<>/work/pipe; while read line <&3; do echo $line; done"
    )
    await create(wire, "ticker", script)

    async def say(text: str) -> None:
        await wire.call("POST", "/services/ticker/execute", {"command": f"echo {text} > /work/pipe"})

    async def events(response, count: int):
        found: list[Any] = []
        while len(found) < count:
            line = await response.content.readline()
            if line.startswith(b"id: "):
                data = await response.content.readline()
                found.append((line[4:].strip().decode(), json.loads(data.removeprefix(b"data: "))))
        return found

    await log_has(wire, "ticker", "one\ntwo\n")
    headers = wire.headers("GET", path, b"")
    async with asyncio.timeout(20):
        async with wire.session.get(URL(wire.url + path, encoded=True), headers=headers) as response:
            assert response.content_type == "text/event-stream"
            ((_, first),) = await events(response, 1)
            assert first == {"source": "ticker", "line": "two"}
            await say("three")
            ((position, third),) = await events(response, 1)
            assert third["line"] == "three"
        await say("four")
        headers = wire.headers("GET", path, b"") | {"Last-Event-ID": position}
        async with wire.session.get(URL(wire.url + path, encoded=True), headers=headers) as response:
            ((_, fourth),) = await events(response, 1)
            assert fourth["line"] == "four"
            await wire.call("DELETE", "/services/ticker")
            # The stream ends with the service.
            assert b"data" not in await response.content.read()


VAULT_FORMS = [
    ("PUT", "text/plain", "SECRET=s1\n# comment\n\nOTHER=x=y\n"),
    ("PUT", "application/json", '{"content":"SECRET=s1\\nOTHER=x=y"}'),
    ("POST", "application/json", '{"env": "SECRET=s1\\nOTHER=x=y\\n"}'),
    ("POST", "application/json", '{"SECRET":"s1","OTHER":"x=y"}'),
]


async def test_the_vault_in_every_form_that_clients_send(wire, engine):
    await create(wire, "vaulted", restart="never")
    empty = (await wire.call("GET", "/services/vaulted/env")).json
    assert (empty["has_vault"], empty["count"], empty["env_count"]) == (False, 0, 0)
    for number, (method, kind, body) in enumerate(VAULT_FORMS, 1):
        answer = await wire.call(method, "/services/vaulted/env", body.encode(), headers={"Content-Type": kind})
        assert (answer.status, answer.json["count"]) == (200, 2), answer.json
        info = await wire.call("GET", "/services/vaulted/env")
        assert (info.json["has_vault"], info.json["count"]) == (True, 2)
        assert isinstance(info.json["updated_at"], int)
        assert b"s1" not in info.raw + answer.raw
        for export in [("POST", "/env/export"), ("GET", "/env?format=export")]:
            exported = (await wire.call(export[0], f"/services/vaulted{export[1]}")).json
            assert exported["env"] == exported["content"] == "SECRET=s1\nOTHER=x=y\n"
        # The program sees it, and so does a command; it is started again only when something changed.
        log = await log_has(wire, "vaulted", "begun s1")
        assert log.count("begun s1") == 1, number
        job = (await wire.call("POST", "/services/vaulted/execute", {"command": "echo $OTHER"})).json
        assert job["stdout"] == "x=y\n"
    answer = await wire.call("DELETE", "/services/vaulted/env", {"keys": ["SECRET"]})
    assert (answer.json["count"], answer.json["has_vault"]) == (1, True)
    assert (await wire.call("POST", "/services/vaulted/env/export")).json["env"] == "OTHER=x=y\n"
    assert (await wire.call("DELETE", "/services/vaulted/env", {"keys": ["SECRET"]})).status == 400
    for nothing in [b"", b"{}"]:
        answer = await wire.call("DELETE", "/services/vaulted/env", nothing)
        assert (answer.status, answer.json["has_vault"]) == (200, False)
    for bad in [b"SECRET", b"1very-private=x", b'{"A":["very-private"]}', b"A=" + b"very-private" * 6000]:
        answer = await wire.call("PUT", "/services/vaulted/env", bad)
        assert answer.status in {400, 413}
        assert b"very-private" not in answer.raw
    lines = json.dumps((await wire.call("GET", "/logs?lines=10000&since=1h")).json)
    assert "s1" not in lines.replace("unsandbox1", "")


async def test_freezing_and_what_a_frozen_service_refuses(wire):
    await create(wire, "ice", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
    await log_has(wire, "ice", "3\n")
    assert (await wire.call("POST", "/services/ice/freeze")).json["state"] == "frozen"
    assert (await wire.call("POST", "/services/ice/freeze")).json["state"] == "frozen"

    async def stands_still():
        log = await log_of(wire, "ice")
        await asyncio.sleep(0.2)  # Time in which a program that is not frozen would write.
        return log if await log_of(wire, "ice") == log else None

    frozen = await eventually(stands_still)
    answer = await wire.call("POST", "/services/ice/execute", {"command": "true"})
    assert (answer.status, answer.json["error"]) == (409, "service_frozen")
    assert "unfreeze it first" in answer.json["message"]
    assert await log_of(wire, "ice") == frozen
    assert (await wire.call("POST", "/services/ice/unfreeze", b"[]")).json["state"] == "running"
    last = int(frozen.split()[-1])
    await log_has(wire, "ice", f"{last}\n{last + 1}\n{last + 2}\n")


async def test_lock_protects_from_deletion(wire):
    await create(wire, "locked", None)
    assert (await wire.call("POST", "/services/locked/lock", b"null")).json["locked"] is True
    answer = await wire.call("DELETE", "/services/locked")
    assert (answer.status, answer.json["error"]) == (409, "service_locked")
    assert "unlock" in answer.json["message"]
    assert (await wire.call("POST", "/services/locked/unlock")).json["locked"] is False
    assert (await wire.call("DELETE", "/services/locked")).status == 200


async def test_resize_changes_what_the_sandbox_may_use(wire):
    await create(wire, "grows", None)
    command = {"command": "cat /sys/fs/cgroup/memory.max 2>/dev/null || true"}
    await wire.call("POST", "/services/grows/execute", command)
    for method, path, vcpu in [("POST", "/resize", 2), ("PATCH", "", 3)]:
        answer = await wire.call(method, f"/services/grows{path}", {"vcpu": vcpu})
        assert (answer.status, answer.json["vcpu"]) == (200, vcpu), answer.json
        assert answer.json["memory_mb"] == 2048 * vcpu
    assert (await wire.call("PATCH", "/services/grows", {"vcpu": 0})).status == 400
    assert (await wire.call("POST", "/services/grows/resize", {})).status == 400


async def test_patch_changes_name_ports_and_flags(wire, sleeper):
    await create(wire, "before", None)
    change = {
        "name": "after",
        "ports": "80,443",
        "unfreeze_on_demand": True,
        "show_freeze_page": False,
        "domains": ["a.test"],
    }
    changed = (await wire.call("PATCH", "/services/before", change)).json
    assert (changed["name"], changed["ports"], changed["custom_domains"]) == ("after", [80, 443], ["a.test"])
    assert (changed["unfreeze_on_demand"], changed["show_freeze_page"]) == (True, False)
    assert (await wire.call("GET", "/services/before")).status == 404
    assert (await wire.call("PATCH", "/services/after", {"name": "sleeper"})).json["error"] == "name_taken"
    assert (await wire.call("PATCH", "/services/after", {})).json["name"] == "after"


async def test_domains_are_replaced_added_and_removed(wire):
    await create(wire, "homes", None)
    for body, wanted in [
        ({"custom_domains": ["b.test", "A.test"]}, ["b.test", "a.test"]),
        ({"add": ["c.test", "a.test"]}, ["b.test", "a.test", "c.test"]),
        ({"remove": ["A.TEST", "gone.test"]}, ["b.test", "c.test"]),
        ({"custom_domains": []}, []),
    ]:
        answer = await wire.call("PUT", "/services/homes/domains", body)
        assert (answer.status, answer.json["custom_domains"]) == (200, wanted)
    for body in [{}, {"add": ["a.test"], "remove": []}, {"add": ["http://a"]}]:
        assert (await wire.call("PUT", "/services/homes/domains", body)).status == 400
    assert (await wire.call("PUT", "/services/homes/domains", {"add": ["localhost.localhost"]})).status == 403


async def test_saved_states_become_services_again(wire):
    script = "echo run $(cat /work/data 2>/dev/null); exec sleep 1000"
    await create(wire, "saved", script, ports=[8000])
    await wire.call("PUT", "/services/saved/env", b"SECRET=s1")

    async def note(name: str, text: str) -> None:
        command = {"command": f"echo {text} > /work/data"}
        assert (await wire.call("POST", f"/services/{name}/execute", command)).json["exit_code"] == 0

    await note("saved", "first")
    snapshot = (await wire.call("POST", "/services/saved/snapshot", {"name": "s"})).json["id"]
    await note("saved", "second")
    assert (await wire.call("POST", f"/snapshots/{snapshot}/restore")).json["status"] == "restored"
    await log_has(wire, "saved", "run first\n")
    assert (await wire.call("GET", "/services/saved/env")).json["count"] == 1

    clone = {"type": "service", "name": "cloned"}
    cloned = (await wire.call("POST", f"/snapshots/{snapshot}/clone", clone)).json
    assert cloned["url"] == f"http://cloned.localhost:{URL(wire.url).port}"
    assert await log_has(wire, "cloned", "run") == "run first\n"
    shown = (await wire.call("GET", "/services/cloned")).json
    assert (shown["ports"], shown["network_mode"]) == ([8000], "zerotrust")
    # Values of a vault go nowhere by themselves.
    assert (await wire.call("GET", "/services/cloned/env")).json["has_vault"] is False
    assert (await wire.call("POST", f"/snapshots/{snapshot}/clone", clone)).json["error"] == "name_taken"

    source = {"source_type": "service", "source_id": "cloned", "name": "golden"}
    image = (await wire.call("POST", "/images", source)).json["id"]
    await create(wire, "golden", "cat /work/data; exec sleep 1000", golden_image="golden")
    assert await log_has(wire, "golden", "first") == "first\n"
    assert (await wire.call("GET", "/services/golden")).json["source_image"] == image

    # What was deleted comes back under its old id; what stopped or is frozen can be saved too.
    before = (await wire.call("GET", "/services/saved")).json
    await wire.call("DELETE", "/services/saved")
    assert (await wire.call("POST", f"/snapshots/{snapshot}/restore")).status == 200
    assert (await wire.call("GET", "/services/saved")).json["id"] == before["id"]
    await wire.call("POST", "/services/saved/freeze")
    frozen = await wire.call("POST", "/services/saved/snapshot", {})
    assert frozen.status == 200
    assert (await wire.call("GET", "/services/saved")).json["state"] == "frozen"
    await wire.call("POST", "/services/golden/redeploy", {"bootstrap": "exit 1"})
    await create(wire, "stopped", "echo kept > /work/x; exit 0", restart="never")
    await state_is(wire, "stopped", "stopped")
    stopped = (await wire.call("POST", "/services/stopped/snapshot", {})).json["id"]
    assert (await wire.call("GET", "/services/stopped")).json["state"] == "stopped"
    for name in [snapshot, stopped, frozen.json["id"]]:
        await wire.call("DELETE", f"/snapshots/{name}")
    await wire.call("DELETE", f"/images/{image}")


async def test_services_have_a_network_unless_told_otherwise(wire):
    answer = await wire.call("POST", "/services", {"name": "outside", "bootstrap": SLEEPER})
    if answer.status == 400:
        assert "zerotrust" in answer.json["message"]
    else:
        assert answer.json["network_mode"] == "semitrusted"


async def test_a_domain_of_the_operators(serve):
    async with serve(service_domain="on.example.test") as (own, _):
        made = await create(own, "ours", None)
        assert made["url"] == f"http://ours.on.example.test:{URL(own.url).port}"
        for host, error in [
            ("ours.on.example.test", "service_not_found"),
            ("x.localhost", "service_not_found"),
        ]:
            async with own.session.get(own.url + "/health", headers={"Host": host}) as response:
                assert (response.status, (await response.json())["error"]) == (404, error)
        async with own.session.get(own.url + "/health", headers={"Host": "on.example.test"}) as response:
            assert response.status == 200
        await own.call("DELETE", "/services/ours")


async def test_clients_follow_a_log(wire):
    await create(wire, "followed", "for i in 1 2 3; do echo line $i; done; exec sleep 1000")
    await log_has(wire, "followed", "line 3")
    async with AsyncClient(wire.public_key, wire.secret_key, base_url=wire.url) as client:
        service = client.service("followed")
        seen = []
        async for entry in service.follow(lines=2):
            seen.append((entry.source, entry.line))
            if len(seen) == 2:
                break
        assert seen == [("followed", "line 2"), ("followed", "line 3")]

    def blocking():
        with Client(wire.public_key, wire.secret_key, base_url=wire.url) as client:
            return next(iter(client.stream_service_logs("followed", lines=1))).line

    assert await asyncio.to_thread(blocking) == "line 3"
