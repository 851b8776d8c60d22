"""The pool of warm sandboxes, on every backend that has one: giving up for a while, coming back, one job each."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.sandbox.support import eventually

from unsandbox.sandbox import (
    BubblewrapBackend,
    GvisorBackend,
    Limits,
    SandboxError,
    SandboxSpec,
    load_languages,
    pool_for,
)
from unsandbox.sandbox.host.probe import BrokenIsolation
from unsandbox.sandbox.host.warm import pool as module
from unsandbox.sandbox.host.warm.pool import PoolState
from unsandbox.sandbox.host.warm.sandbox import WarmJob

SLOW = 40.0
"""A gVisor sandbox takes a second or two to make on a machine with much else to do."""
CONFIG = replace(pool_for(load_languages(), 2, 16, Limits()), folders=())
both = pytest.mark.parametrize(
    "make",
    [BubblewrapBackend, pytest.param(GvisorBackend, marks=pytest.mark.gvisor)],
    ids=["bubblewrap", "gvisor"],
)
both_but_one_slow = pytest.mark.parametrize(
    "make",
    [BubblewrapBackend, pytest.param(GvisorBackend, marks=[pytest.mark.gvisor, pytest.mark.slow])],
    ids=["bubblewrap", "gvisor"],
)
"""For the pool's own work, which is the same code for both: gVisor takes seconds of a processor for it."""


@contextlib.asynccontextmanager
async def serving(make, config=CONFIG) -> AsyncIterator[Any]:
    async with make(pool=config) as backend:
        await eventually(lambda: backend.pool.state is PoolState.SERVING and backend.pool.waiting >= 2, SLOW)
        yield backend


async def echo(backend) -> bool:
    """Run a job; return whether it was in a warm sandbox."""
    job = await backend.start(SandboxSpec(run=["echo", "well"]))
    assert (await job.wait()).stdout.data == b"well\n"
    return isinstance(job, WarmJob)


@both_but_one_slow
async def test_a_pool_that_gives_up_keeps_nothing_and_comes_back(make, monkeypatch, caplog):
    monkeypatch.setattr(module, "_REST_S", 0.5)
    async with serving(make) as backend:

        def broken(*_, **__):
            raise OSError("no room")

        with monkeypatch.context() as patch:
            patch.setattr(backend.pool.source, "make", broken)
            while backend.pool.state is PoolState.SERVING:
                assert await echo(backend) or backend.pool.state is not PoolState.SERVING
                backend.pool.refill()
            await eventually(lambda: backend.host.slots.taken == 0, SLOW)
            assert backend.pool.waiting == 0
            assert not await echo(backend)
            # It tries again, fails again, and rests for longer.
            await eventually(lambda: "sandboxes is off for 1 s: no room" in caplog.text, SLOW)
        await eventually(lambda: backend.pool.state is PoolState.SERVING and backend.pool.waiting, SLOW)
        assert await echo(backend)


@both_but_one_slow
async def test_what_is_on_its_way_when_the_pool_gives_up_is_let_go(make):
    async with serving(make) as backend:
        queue = next(iter(backend.pool.queues.values()))
        queue.target = 4
        backend.pool.refill()
        assert queue.making
        for _ in range(3):
            backend.pool.failed("for a test")
        assert backend.pool.state is PoolState.RESTING
        await eventually(lambda: backend.host.slots.taken == 0 and not queue.making, SLOW)
        assert backend.pool.waiting == 0


@both
async def test_a_pool_whose_sandboxes_break_a_promise_never_serves(make, monkeypatch):
    monkeypatch.setattr(module, "_REST_S", 0.0)
    async with make(pool=CONFIG) as backend:

        async def prove(start):
            raise BrokenIsolation("isolation is incomplete: a leak")

        monkeypatch.setattr(backend.pool.source, "prove", prove)
        await eventually(lambda: backend.pool.state is PoolState.CLOSED, SLOW)
        await eventually(lambda: backend.host.slots.taken == 0, SLOW)
        assert not await echo(backend)
        assert backend.pool.state is PoolState.CLOSED


@both
async def test_a_warm_sandbox_serves_one_job(make):
    async with serving(make) as backend:
        queue = next(iter(backend.pool.queues.values()))
        sandbox = queue.ready[0]
        job = await backend.start(SandboxSpec(run=["sleep", "1000"]))
        assert sandbox.job is job
        message = backend.pool.source.message(SandboxSpec(run=["echo", "second"]))
        with pytest.raises(SandboxError, match="one job only"):
            message.watch(sandbox, None, lambda _: None)
        job.cancel()
        await job.wait()
