"""Jobs over HTTP: look up, wait, cancel, list, idempotency, limits; and whose they are."""

from __future__ import annotations

import asyncio

import pytest

from unsandbox.engine.accounts.keys import KeySettings

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def start(wire, code="sleep 60", **options):
    answer = await wire.call("POST", "/execute/async", {"language": "bash", "code": code, **options})
    assert answer.status == 200
    return answer.json["job_id"]


async def until_running(wire, job_id):
    async with asyncio.timeout(20):
        while (await wire.call("GET", f"/jobs/{job_id}")).json["status"] == "pending":
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/jobs/{}", None),
        ("DELETE", "/jobs/{}", b"{}"),
        ("POST", "/jobs/{}/cancel", None),
        ("POST", "/jobs/{}/cancel", b"[]"),
        ("POST", "/jobs/{}/cancel", b"null"),
    ],
)
async def test_cancel_ends_a_running_job_and_keeps_its_output(wire, method, path, body):
    job_id = await start(wire, "echo partial; sleep 60")
    await until_running(wire, job_id)
    answer = await wire.call(method, path.format(job_id), body)
    assert answer.status == 200
    assert answer.json["status"] == "cancelled"
    assert answer.json["message"] == "job cancelled"
    assert (await wire.call("GET", f"/jobs/{job_id}")).json["status"] == "cancelled"


async def test_cancel_of_an_ended_job_leaves_it_as_it_is(wire):
    job_id = (await wire.execute("bash", "echo done")).json["job_id"]
    answer = await wire.call("DELETE", f"/jobs/{job_id}")
    assert (answer.json["status"], answer.json["stdout"]) == ("completed", "done\n")
    assert answer.json["message"] == "job already completed"


async def test_jobs_that_wait_can_be_cancelled(wire, engine):
    slots = engine.config.running_slots
    running = [await start(wire) for _ in range(slots)]
    waiting = await start(wire)
    assert (await wire.call("DELETE", f"/jobs/{waiting}")).json["status"] == "cancelled"
    for job_id in running:
        assert (await wire.call("DELETE", f"/jobs/{job_id}")).json["status"] == "cancelled"


async def test_a_key_does_not_wait_for_the_end_of_anothers_long_jobs(wire, stranger, engine):
    running = [await start(wire) for _ in range(engine.config.running_slots)]
    answer = await stranger.execute("bash", "echo at once")
    assert answer.json["stdout"] == "at once\n"
    for job_id in running:
        await wire.call("DELETE", f"/jobs/{job_id}")


async def test_wait_parameters_are_checked_and_bounded(wire):
    job_id = await start(wire)
    early = await wire.call("GET", f"/jobs/{job_id}?wait=0.05")
    assert early.json["status"] in {"pending", "running"}
    early = await wire.call("GET", f"/jobs/{job_id}/wait?timeout=0.05")
    assert early.json["status"] in {"pending", "running"}
    for text in ("soon", "-1", "nan"):
        assert (await wire.call("GET", f"/jobs/{job_id}?wait={text}")).status == 400
    await wire.call("DELETE", f"/jobs/{job_id}")


async def test_an_unknown_job_is_404_for_every_call(wire):
    for method, path in [
        ("GET", "/jobs/nope"),
        ("GET", "/jobs/nope/wait"),
        ("DELETE", "/jobs/nope"),
        ("POST", "/jobs/nope/cancel"),
        ("GET", "/jobs/%2e%2e%2fetc"),
    ]:
        answer = await wire.call(method, path)
        assert (answer.status, answer.json["error"]) == (404, "job_not_found")


async def test_another_keys_job_does_not_exist(wire, stranger):
    job_id = (await wire.execute("bash", "echo mine")).json["job_id"]
    assert (await stranger.call("GET", f"/jobs/{job_id}")).status == 404
    assert (await stranger.call("DELETE", f"/jobs/{job_id}")).status == 404
    listed = (await stranger.call("GET", "/jobs")).json
    assert job_id not in [job["job_id"] for job in listed["jobs"]]


async def test_the_list_is_newest_first_without_output(wire):
    first = (await wire.execute("bash", "echo one")).json["job_id"]
    second = (await wire.execute("bash", "echo two")).json["job_id"]
    answer = await wire.call("GET", "/jobs?limit=2")
    listed = answer.json
    assert listed["count"] == len(listed["jobs"]) == 2
    assert [job["job_id"] for job in listed["jobs"]] == [second, first]
    for job in listed["jobs"]:
        assert job["id"] == job["job_id"]
        assert job["status"] == "completed"
        assert job["language"] == "bash"
        assert "stdout" not in job
    assert b'"jobs":[' in answer.raw
    assert (await wire.call("GET", "/jobs?limit=0")).status == 400


async def test_the_same_idempotency_key_runs_once(wire):
    headers = {"Idempotency-Key": "once-1"}
    body = {"language": "bash", "code": "echo $RANDOM$RANDOM"}
    answers = await asyncio.gather(*(wire.call("POST", "/execute", body, headers=headers) for _ in range(10)))
    assert len({answer.json["job_id"] for answer in answers}) == 1
    assert len({answer.json["stdout"] for answer in answers}) == 1


async def test_an_idempotency_key_of_another_request_is_refused(wire, stranger):
    headers = {"Idempotency-Key": "once-2"}
    await wire.call("POST", "/execute", {"language": "bash", "code": "echo 1"}, headers=headers)
    other = {"language": "bash", "code": "echo 2"}
    answer = await wire.call("POST", "/execute", other, headers=headers)
    assert (answer.status, answer.json["error"]) == (409, "idempotency_key_reused")
    # Keys belong to their owner.
    assert (await stranger.call("POST", "/execute", other, headers=headers)).json["stdout"] == "2\n"


async def test_a_refused_request_does_not_use_up_its_idempotency_key(wire):
    headers = {"Idempotency-Key": "once-3"}
    assert (
        await wire.call("POST", "/execute", {"language": "nope", "code": ""}, headers=headers)
    ).status == 400
    good = await wire.call("POST", "/execute", {"language": "bash", "code": "echo ok"}, headers=headers)
    assert good.json["stdout"] == "ok\n"


async def test_more_jobs_than_a_key_may_have_are_refused_with_a_time_to_come_back(serve):
    async with serve(KeySettings(concurrency=2)) as (wire, stranger):
        jobs = [await start(wire) for _ in range(2)]
        answer = await wire.execute("bash", "echo no")
        assert answer.status == 429
        assert answer.json["error"] == "concurrency_limit_reached"
        assert (answer.json["active_executions"], answer.json["concurrency_limit"]) == (2, 2)
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await stranger.execute("bash", "echo yes")).json["stdout"] == "yes\n"
        for job_id in jobs:
            await wire.call("DELETE", f"/jobs/{job_id}")
        assert (await wire.execute("bash", "echo again")).json["stdout"] == "again\n"
