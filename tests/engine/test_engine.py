"""The engine without HTTP: fairness, memory bounds, restarts, translation of outcomes."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsandbox.engine import Conflict, Engine, EngineConfig, InvalidRequest, LimitReached, Stopping, UnknownJob
from unsandbox.engine.context import Folder
from unsandbox.engine.jobs.inputs import LARGE_REQUEST
from unsandbox.engine.jobs.queue import FairQueue
from unsandbox.engine.jobs.records import JobRecord
from unsandbox.engine.jobs.results import result_of
from unsandbox.engine.jobs.rows import lost_result
from unsandbox.engine.store.database import open_database
from unsandbox.engine.store.sql import SqlStore
from unsandbox.protocol.models import ExecuteRequest
from unsandbox.sandbox import Captured, EndReason, Limits, Outcome


def record(owner: str) -> JobRecord:
    return JobRecord(owner=owner, spec=None, language="python", network_mode="zerotrust")


def request(code: str) -> ExecuteRequest:
    return ExecuteRequest(language="bash", code=code)


@st.composite
def queue_steps(draw):
    return draw(
        st.lists(st.one_of(st.sampled_from(["a", "b", "c"]), st.sampled_from(["pop", "remove"])), max_size=60)
    )


@given(queue_steps())
def test_the_queue_loses_nothing_and_takes_turns(steps):
    queue, waiting = FairQueue(1), list[Any]()
    for step in steps:
        if step == "pop":
            taken = queue.pop()
            assert (taken is None) == (not waiting)
            if taken is not None:
                assert taken is next(one for one in waiting if one.owner == taken.owner)
                waiting.remove(taken)
        elif step == "remove":
            if waiting:
                assert queue.remove(waiting[-1])
                assert not queue.remove(waiting.pop())
        else:
            waiting.append(record(step))
            queue.put(waiting[-1])
    rest = [queue.pop() for _ in waiting]
    assert {id(one) for one in rest} == {id(one) for one in waiting}
    assert queue.pop() is None


def test_a_flood_of_one_key_delays_another_by_one_job():
    queue = FairQueue(1)
    for _ in range(1000):
        queue.put(record("flood"))
    queue.put(record("small"))
    assert [queue.pop().owner for _ in range(2)].count("small") == 1


@given(
    st.lists(
        st.one_of(st.sampled_from(["a", "b", "c", "d"]), st.just("take"), st.just("give back")), max_size=80
    )
)
def test_places_are_never_exceeded_and_a_newcomer_is_never_shut_out(steps):
    queue, working, waiting = FairQueue(2, extra=2), list[Any](), list[Any]()
    for step in steps:
        if step == "take":
            taken = queue.take()
            if taken is None:
                idle = {one.owner for one in waiting} - {one.owner for one in working}
                assert not waiting or len(working) >= 2
                assert not idle or len(working) == 4
                continue
            waiting.remove(taken)
            if len(working) >= 2:
                assert taken.owner not in {one.owner for one in working}
            working.append(taken)
            assert len(working) <= 4
        elif step == "give back":
            if working:
                queue.give_back(working.pop())
        else:
            waiting.append(record(step))
            queue.put(waiting[-1])
        assert sum(len(records) for _, records in queue.placed()) == len(working)


@given(st.text(st.characters(codec="utf-8")), st.integers(0, 40))
def test_a_cut_never_looks_like_bad_output(text, cut):
    data = text.encode()
    kept = data[:cut]
    captured = Captured(kept, len(data))
    outcome = Outcome(EndReason.EXITED, 0, captured, Captured(), 0.1, compile_output=captured)
    job = result_of(record("a"), outcome, Limits())
    assert job.stdout_base64 is None
    assert text.startswith(job.stdout)
    assert len(job.stdout.encode()) + (job.stdout_dropped_bytes or 0) == len(data)
    assert bool(job.stdout_truncated) == (len(job.stdout.encode()) < len(data))
    assert job.compile_output == job.stdout
    assert job.compile_output_base64 is None
    assert job.compile_output_truncated == job.stdout_truncated
    assert job.compile_output_dropped_bytes == job.stdout_dropped_bytes


@given(st.binary(max_size=64))
def test_output_keeps_its_bytes_whatever_they_are(data):
    captured = Captured(data, len(data))
    outcome = Outcome(EndReason.EXITED, 0, captured, Captured(), 0.1, compile_output=captured)
    job = result_of(record("a"), outcome, Limits())
    assert job.stdout_bytes == job.compile_output_bytes == data
    assert (job.stdout_base64 is None) == (job.stdout.encode() == data)


@pytest.mark.parametrize(
    ("reason", "status", "code", "named"),
    [
        (EndReason.EXITED, "completed", 0, None),
        (EndReason.TIMEOUT, "timeout", 124, "ttl"),
        (EndReason.CANCELLED, "cancelled", 137, "cancelled"),
        (EndReason.MEMORY, "failed", 137, "2048 MiB"),
        (EndReason.OUTPUT_FLOOD, "failed", 137, "without end"),
    ],
)
def test_every_end_has_a_status_an_exit_code_and_a_reason(reason, status, code, named):
    exit_code = 0 if reason is EndReason.EXITED else None
    job = result_of(record("a"), Outcome(reason, exit_code, Captured(b"x", 1), Captured(), 1.0), Limits())
    assert (job.status, job.exit_code, job.success, job.stdout) == (status, code, code == 0, "x")
    assert job.error is None if named is None else named in job.error


async def test_results_leave_memory_oldest_first_and_are_found_in_the_data_folder(tmp_path):
    engine = Engine(EngineConfig(kept_jobs=2), store=(store := SqlStore(open_database(tmp_path))))
    await engine.start()
    ids = []
    for number in range(4):
        job = await engine.jobs.submit(
            "me", request(f"echo {number}"), idempotency_key=str(number), fingerprint="f"
        )
        await job.ended.wait()
        ids.append(job.job_id)
    assert len(engine.jobs.table) == 2
    assert (await engine.jobs.get("me", ids[0])).stdout == "0\n"
    assert [job.job_id for job in await engine.jobs.list_of("me")] == ids[::-1]
    again = await engine.jobs.submit("me", request("echo 0"), idempotency_key="0", fingerprint="f")
    assert again.job_id == ids[0]
    with pytest.raises(Conflict):
        await engine.jobs.submit("me", request("echo x"), idempotency_key="0", fingerprint="g")
    assert engine.jobs.active("me") == 0
    await engine.stop()
    await store.close()


async def test_without_a_data_folder_old_results_are_gone_and_said_so():
    engine = Engine(EngineConfig(kept_bytes=1, stop_grace_s=0))
    await engine.start()
    jobs = [await engine.jobs.submit("me", request(f"echo {number}")) for number in range(2)]
    await asyncio.gather(*(job.ended.wait() for job in jobs))
    found = []
    for job in jobs:
        try:
            found.append(await engine.jobs.get("me", job.job_id))
        except UnknownJob as error:
            assert "limited time" in error.message
    assert len(found) == 1
    await engine.stop()


async def test_a_restart_keeps_results_and_idempotency_keys(tmp_path):
    engine = Engine(store=(store := SqlStore(open_database(tmp_path))))
    await engine.start()
    job = await engine.jobs.submit("me", request("echo $RANDOM"), idempotency_key="k", fingerprint="f")
    await job.ended.wait()
    await engine.stop()
    await store.close()
    engine = Engine(store=(store := SqlStore(open_database(tmp_path))))
    assert await store.recover(lost_result) == 0
    await engine.start()
    again = await engine.jobs.submit("me", request("echo $RANDOM"), idempotency_key="k", fingerprint="f")
    assert again.as_job() == job.as_job()
    await engine.stop()
    await store.close()


async def test_large_programs_are_read_beside_the_event_loop_and_made_once_per_key():
    engine = Engine()
    await engine.start()
    large = request("echo $RANDOM\n#" + "x" * LARGE_REQUEST)
    jobs = await asyncio.gather(
        *(engine.jobs.submit("me", large, idempotency_key="k", fingerprint="f") for _ in range(5))
    )
    assert len({job.job_id for job in jobs}) == 1
    await jobs[0].ended.wait()
    with pytest.raises(InvalidRequest, match="NUL"):
        await engine.jobs.submit("me", large.replace(args=["\0"]))
    many = (engine.jobs.submit("me", large, concurrency=2) for _ in range(5))
    found = await asyncio.gather(*many, return_exceptions=True)
    assert [isinstance(one, LimitReached) for one in found].count(True) == 3
    await engine.stop()


async def test_stop_ends_everything_and_says_what_became_of_each_job():
    engine = Engine(EngineConfig(max_running=1, stop_grace_s=0.2))
    await engine.start()
    running = await engine.jobs.submit("me", request("echo begun; sleep 60"))
    waiting = await engine.jobs.submit("me", request("echo never"))
    async with asyncio.timeout(10):
        while running.running is None:
            await asyncio.sleep(0.01)
    await engine.stop()
    assert (running.as_job().status, running.as_job().stdout) == ("failed", "begun\n")
    assert "stopped while it ran" in running.as_job().error
    assert "stopped before it ran" in waiting.as_job().error
    with pytest.raises(Stopping):
        await engine.jobs.submit("me", request("echo late"))


async def test_binary_artifacts_come_back_as_they_are():
    engine = Engine(EngineConfig(stop_grace_s=0))
    await engine.start()
    code = "printf 'a\\0\\377' > /tmp/artifacts/blob"
    job = await engine.jobs.submit("me", ExecuteRequest(language="bash", code=code, return_artifacts=True))
    await job.ended.wait()
    artifacts = job.as_job().artifacts
    assert artifacts is not None
    (artifact,) = artifacts
    assert (artifact.filename, artifact.data) == ("blob", b"a\0\xff")
    assert base64.b64decode(artifact.content_base64) == b"a\0\xff"
    await engine.stop()


def test_the_data_folder_is_found_from_any_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Folder.at(Path("data"), durable=True).path == tmp_path / "data"
