"""Visitors of services that do not listen, are asleep, or do not run."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from unsandbox.engine import Engine, EngineConfig
from unsandbox.engine.services.router import Unreachable
from unsandbox.protocol.services import ServiceRequest, ServiceUpdate
from unsandbox.sandbox.host.persistent import HostSandbox

pytestmark = pytest.mark.asyncio(loop_scope="session")

ME = "unsb-pk-me"
LATE = """#!/usr/bin/python3
import socket, time, os
while not os.path.exists("/work/go"): time.sleep(0.02)
server = socket.create_server(("127.0.0.1", 8000))
while True: server.accept()[0].close()
"""


@pytest_asyncio.fixture(loop_scope="session")
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(EngineConfig(memory_per_vcpu_bytes=128 << 20, work_bytes=64 << 20, service_start_s=3.0))
    await engine.start()
    request = ServiceRequest(name="late", bootstrap_content=LATE, network_mode="zerotrust", ports=[8000])
    await engine.services.create(ME, request)
    yield engine
    await engine.stop()


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every try to connect, as it is made."""
    found: list[int] = []
    connect = HostSandbox.connect

    async def count(sandbox: HostSandbox, port: int) -> int:
        found.append(port)
        return await connect(sandbox, port)

    monkeypatch.setattr(HostSandbox, "connect", count)
    return found


async def nobody_looks(tries: list[int]) -> bool:
    """Tell whether the looks at the port have ended, of which there are four a second."""
    before = len(tries)
    await asyncio.sleep(0.6)
    return len(tries) == before


async def test_many_visitors_of_a_silent_service_cost_as_much_as_one(engine, tries):
    router = engine.services.router
    target = router.named("late")
    first = asyncio.create_task(router.connect(target))
    await asyncio.sleep(0.5)
    tries.clear()
    visitors = [asyncio.create_task(router.connect(target)) for _ in range(200)]
    results = await asyncio.gather(first, *visitors, return_exceptions=True)
    assert {getattr(result, "code", result) for result in results} == {"nothing_listens"}
    # Four looks a second, whatever the number of visitors.
    assert len(tries) < 40
    assert await nobody_looks(tries)


async def test_all_get_in_when_it_listens(engine, tries):
    router = engine.services.router
    target = router.named("late")
    visitors = [asyncio.create_task(router.connect(target)) for _ in range(50)]
    await asyncio.sleep(0.3)
    assert not any(visitor.done() for visitor in visitors)
    lifecycle = engine.services.lifecycle
    await lifecycle.command(target.record, "touch /work/go", 10, {})
    for descriptor in await asyncio.gather(*visitors):
        with socket.socket(fileno=descriptor) as sock:
            assert sock.getpeername()[1] == 8000
    assert len(tries) < 200
    assert await nobody_looks(tries)


async def test_whoever_leaves_takes_the_look_along(engine, tries):
    router = engine.services.router
    visitors = [asyncio.create_task(router.connect(router.named("late"))) for _ in range(5)]
    await asyncio.sleep(0.3)
    for visitor in visitors:
        visitor.cancel()
    await asyncio.gather(*visitors, return_exceptions=True)
    assert await nobody_looks(tries)


async def test_a_flood_of_visitors_wakes_a_sleeping_service_once(engine):
    router, services = engine.services.router, engine.services
    await services.update(ME, "late", ServiceUpdate(unfreeze_on_demand=True))
    await services.freeze(ME, "late")
    visitors = [asyncio.create_task(router.connect(router.named("late"))) for _ in range(100)]
    results = await asyncio.gather(*visitors, return_exceptions=True)
    assert {getattr(result, "code", result) for result in results} == {"nothing_listens"}
    assert services.get(ME, "late").state == "running"
    await services.update(ME, "late", ServiceUpdate(unfreeze_on_demand=False))
    await services.freeze(ME, "late")
    with pytest.raises(Unreachable, match="frozen"):
        await router.connect(router.named("late"))
