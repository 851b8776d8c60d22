"""Time limits of many tasks by one timer."""

from __future__ import annotations

import asyncio

import pytest

from unsandbox._transports.timeouts import Limits


async def waits(limits: Limits, seconds: float) -> None:
    with limits.of(seconds):
        await asyncio.Event().wait()


async def is_over(limits: Limits, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        await waits(limits, seconds)


def test_what_is_done_in_time_is_left_alone() -> None:
    async def main() -> None:
        limits = Limits()
        with limits.of(60):
            await asyncio.sleep(0)
        # The timer of the first is still set, and has nothing to do with the second.
        with limits.of(0.001):
            pass
        await asyncio.sleep(0.05)

    asyncio.run(main())


def test_each_limit_ends_by_itself_whatever_the_timer_was_set_for() -> None:
    async def main() -> None:
        limits = Limits()
        loop = asyncio.get_running_loop()
        began = loop.time()
        long = asyncio.create_task(is_over(limits, 0.3))
        await asyncio.sleep(0)
        # Earlier than what the timer is set for, and many at once.
        await asyncio.gather(*(is_over(limits, 0.05) for _ in range(100)))
        assert loop.time() - began >= 0.05
        assert not long.done()
        await long
        assert loop.time() - began >= 0.3

    asyncio.run(main())


def test_a_task_that_is_broken_off_can_go_on() -> None:
    async def main() -> None:
        await is_over(Limits(), 0.001)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0.001)

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [0.001, 60])
def test_who_cancels_the_task_goes_first(seconds: float) -> None:
    async def main() -> None:
        limits = Limits()
        task = asyncio.create_task(waits(limits, seconds))
        await asyncio.sleep(0)
        # Time passes for both before either is served.
        asyncio.get_running_loop().call_soon(task.cancel)
        deadline = asyncio.get_running_loop().time() + 0.05
        while asyncio.get_running_loop().time() < deadline:
            pass
        with pytest.raises(asyncio.CancelledError):
            await task
        limits.close()

    asyncio.run(main())


def test_an_error_of_the_block_is_the_one_to_be_seen() -> None:
    async def fails() -> None:
        with Limits().of(0.001):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise ValueError("mine") from None

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(fails())


def test_nothing_is_left_behind_when_all_is_closed() -> None:
    async def main() -> None:
        limits = Limits()
        with limits.of(3600):
            await asyncio.sleep(0)
        limits.close()
        loop = asyncio.get_running_loop()
        scheduled = loop._scheduled  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio lists its timers nowhere else
        timers = [timer for timer in scheduled if not timer.cancelled()]
        assert timers == []

    asyncio.run(main())
