"""Calls broken off at any moment, in any way, leave nothing behind on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests._async.conftest import new_key
from tests._async.creating import CALLS, CLEANING, Maker, be_patient
from tests.support import Serve, eventually

from unsandbox import AsyncClient

CALLS_CUT = int(os.environ.get("UNSANDBOX_CUT_CALLS", "200"))
"""How many calls are broken off at random; more of them make the long version."""
AT_ONCE = 8


class Stepped:
    """Awaits a coroutine, and cancels its own task when the coroutine waits for the n-th time.

    Args:
        work: The coroutine.
        at: Which wait is broken off, from 1.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], at: int) -> None:
        self.waits = 0
        self.at = at
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[], Any] = partial(self._work.send, None)
        while True:
            try:
                waited_for = resume()
            except StopIteration as over:
                return over.value
            self.waits += 1
            if self.waits == self.at:
                asyncio.current_task().cancel()
            try:
                resume = partial(self._work.send, (yield waited_for))
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
                resume = partial(self._work.throw, error)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A server of its own: what is left on it was left by these tests."""
    usual = [module.CLEAN_UP_S for module in CLEANING]
    be_patient()
    with Serve(tmp_path_factory.mktemp("leaks")) as server:
        yield server
    for module, seconds in zip(CLEANING, usual, strict=True):
        module.CLEAN_UP_S = seconds


@contextlib.asynccontextmanager
async def maker_for(server: Serve, keys: tuple[str, str]) -> AsyncIterator[Maker]:
    """Yield what makes things for a key; afterwards all of them must be gone."""
    async with AsyncClient(*keys, base_url=server.url) as client:
        maker = Maker(client, random.randrange(1 << 40))
        await maker.prepare()
        yield maker
        assert await maker.left() == []
        await asyncio.to_thread(eventually, lambda: not programs(maker), 20)


def programs(maker: Maker) -> list[str]:
    """Return the processes on this machine that run what the maker started."""
    mark = maker.program.split()[1].encode()
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in cmdline.read_bytes():
                found.append(cmdline.parent.name)
        except OSError:
            continue
    return found


async def cut_at(maker: Maker, name: str, at: int) -> bool:
    """Make a call and cancel it when it waits for the n-th time; tell whether it waited that often."""
    stepped = Stepped(getattr(maker, name)(), at)

    async def run() -> None:
        undo = await stepped
        if undo is not None:
            await undo()

    task, before = asyncio.create_task(run()), 0
    while not task.done():
        await asyncio.wait({task}, timeout=0.2)
        if before == stepped.waits < stepped.at and programs(maker):
            # It waits for a program that never ends; what follows is clean-up.
            stepped.at = 0
            task.cancel()
        before = stepped.waits
    await asyncio.wait({task})
    assert task.cancelled() or task.exception() is None, (name, at, task)
    return stepped.waits >= at


@pytest.mark.slow
async def test_cancelled_at_every_wait(server: Serve) -> None:
    keys = new_key(server)
    waits: Counter[str] = Counter()

    async def every_wait(maker: Maker, name: str, *, fresh: bool) -> None:
        at, further = 0, True
        while further:
            at += 1
            if fresh:
                # It has no connection yet, and does not know what the server can do.
                async with AsyncClient(*keys, base_url=server.url) as client:
                    further = await cut_at(maker.with_client(client), name, at)
            else:
                further = await cut_at(maker, name, at)
        waits[f"{name}{', first call' * fresh}"] = at

    async with maker_for(server, keys) as maker:
        await asyncio.gather(
            *(every_wait(maker, name, fresh=False) for name in CALLS),
            *(every_wait(maker, name, fresh=True) for name in CALLS),
        )
    assert min(waits.values()) > 1, waits


async def cut_off(maker: Maker, name: str, way: str, seconds: float) -> bool:
    """Make a call and break it off after a while; tell whether it was."""
    work = getattr(maker, name)()
    undo = None
    try:
        if way == "cancel":
            task = asyncio.create_task(work)
            await asyncio.wait({task}, timeout=seconds)
            task.cancel()
            undo = await task
        elif way == "wait_for":
            undo = await asyncio.wait_for(work, seconds)
        else:
            async with asyncio.timeout(seconds):
                undo = await work
    except (asyncio.CancelledError, TimeoutError):
        return True
    if undo is not None:
        await undo()
    return False


@pytest.mark.slow
async def test_cut_off_at_random(server: Serve) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    chance = random.Random(seed)
    plan = iter(
        [
            (chance.choice(CALLS), chance.choice(("cancel", "wait_for", "timeout")), chance.uniform(0, 0.3))
            for _ in range(CALLS_CUT)
        ]
    )
    cut: Counter[bool] = Counter()

    async with maker_for(server, new_key(server)) as maker:

        async def worker() -> None:
            for name, way, seconds in plan:
                cut[await cut_off(maker, name, way, seconds)] += 1

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    print(f"{cut[True]} of {CALLS_CUT} calls were cut off, nothing is left")  # noqa: T201 - by -s
    assert cut[True] > CALLS_CUT / 2, cut


@pytest.mark.slow
async def test_ctrl_c_at_random(server: Serve) -> None:
    seed, count, keys = random.randrange(1 << 30), max(10, CALLS_CUT // 10), new_key(server)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    async with maker_for(server, keys) as maker:
        given = json.dumps({"base": maker.base, "program": maker.program})
        words = [server.url, *keys, str(seed), str(count), given]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.client.interrupted", *words, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
    print(f"{int(output)} of {count} calls were interrupted, nothing is left")  # noqa: T201 - by -s
    # The calls become faster, and more of them end first.
    assert int(output) >= count / 4
