"""Programs and files of jobs that wait are counted against their key."""

from __future__ import annotations

import base64

import pytest

from unsandbox.engine import Engine, EngineConfig, LimitReached
from unsandbox.protocol.models import ExecuteRequest, InputFile

KIB = 1 << 10


@pytest.mark.asyncio
async def test_a_key_may_not_fill_the_queue_with_files():
    config = EngineConfig(stop_grace_s=0.0, max_running=1, extra_slots=0, waiting_bytes_per_key=300 * KIB)
    engine = Engine(config)
    await engine.start()
    try:
        file = InputFile(filename="a", content=base64.b64encode(bytes(100 * KIB)).decode())
        large = ExecuteRequest(language="bash", code="true", input_files=[file])
        running = await engine.jobs.submit("other", ExecuteRequest(language="bash", code="sleep 60"))
        waiting = [await engine.jobs.submit("owner", large) for _ in range(2)]
        assert 200 * KIB < engine.jobs.table.input_of("owner") <= 300 * KIB
        with pytest.raises(LimitReached, match="queued jobs") as refused:
            await engine.jobs.submit("owner", large)
        assert refused.value.code == "too_much_input"
        # A small job is still taken, and other keys have a bound of their own.
        waiting.append(await engine.jobs.submit("owner", ExecuteRequest(language="bash", code="true")))
        waiting.append(await engine.jobs.submit("third", large))
        await engine.jobs.cancel("other", running.job_id)
        for record in waiting:
            assert (await engine.jobs.get(record.owner, record.job_id, 60.0)).exit_code == 0
        assert engine.jobs.table.input_bytes == 0
    finally:
        await engine.stop()
