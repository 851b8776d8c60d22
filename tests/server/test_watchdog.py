"""The watchdog of the event loop: it sees what holds it, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import time
from urllib.request import urlopen

from tests.loop_time import LoopTime
from tests.support import Serve

from unsandbox.server.watchdog import LoopWatchdog, Stall


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(b"x" * 100).digest()


async def watched(work, threshold_s=0.1) -> list[Stall]:
    with LoopWatchdog(threshold_s, on_stall=lambda _: None) as watchdog:
        await asyncio.sleep(0.05)
        work()
        await asyncio.sleep(0.05)
    assert watchdog.count == len(watchdog.stalls)
    return list(watchdog.stalls)


async def test_a_callback_that_computes_is_named_with_its_time():
    stall = max(await watched(lambda: compute(0.5)), key=lambda stall: stall.cpu_s)
    assert 0.3 < stall.cpu_s <= stall.seconds
    assert any("compute" in place for place in stall.stack)


async def test_a_callback_that_blocks_is_named_and_uses_no_processor():
    stall = max(await watched(lambda: time.sleep(0.5)), key=lambda stall: stall.seconds)
    assert stall.seconds > 0.3
    assert stall.cpu_s < 0.2
    assert any("test_a_callback_that_blocks" in place for place in stall.stack)


async def test_a_loop_that_waits_or_works_in_small_steps_is_not_held():
    with LoopWatchdog(1.0, on_stall=lambda _: None) as watchdog:
        for _ in range(50):
            compute(0.01)
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
    assert [stall for stall in watchdog.stalls if stall.cpu_s > 0.5] == []


async def test_a_long_hold_is_one_stall_and_the_next_another():
    with LoopWatchdog(0.05, on_stall=lambda _: None) as watchdog:
        for _ in range(2):
            await asyncio.sleep(0.1)
            compute(0.4)
        await asyncio.sleep(0.1)
    assert len([stall for stall in watchdog.stalls if stall.cpu_s > 0.2]) == 2


def test_a_server_counts_stalls_and_can_do_without(tmp_path):
    with Serve(tmp_path / "on") as server:
        assert "unsandbox_loop_stalls_total" in metrics(server)
        server.stop()
    with Serve(tmp_path / "off", "--watchdog", "0") as server:
        assert "unsandbox_loop_stalls_total" not in metrics(server)


def metrics(server: Serve) -> str:
    with urlopen(f"{server.url}/metrics") as answer:
        return answer.read().decode()


async def test_a_loop_that_ends_is_not_held():
    loop = asyncio.new_event_loop()
    with_watchdog: list[LoopWatchdog] = []

    async def begin() -> None:
        watchdog = LoopWatchdog(0.05, on_stall=lambda _: None)
        watchdog.start()
        with_watchdog.append(watchdog)

    def run() -> None:
        loop.run_until_complete(begin())
        compute(0.4)
        loop.run_until_complete(asyncio.sleep(0.1))
        with_watchdog[0].stop()
        loop.close()

    await asyncio.to_thread(run)
    assert with_watchdog[0].count == 0


def test_tests_hear_of_a_server_that_holds_its_loop(tmp_path):
    listener = LoopTime()
    with Serve(tmp_path) as server:
        short, long = Stall(0.5, 0.1, ("a", "b")), Stall(0.5, 0.3, ("a", "b"))
        with open(f"/proc/{server.process.pid}/fd/2", "a") as log:
            log.write(f"the event loop was blocked for {short}\nthe event loop was blocked for {long}\n")
        assert listener.held() == [f"the event loop was blocked for {long}"]
        assert listener.held() == []
