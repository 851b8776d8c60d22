"""Fails a test in which a real server held its event loop: every connection of that server waited meanwhile.

Servers in this process are watched as `un serve` watches itself; those in a process of their own have told it in their
log. The processor time of the loop's thread counts, not the time by the clock, so that a busy machine fails no test.
"""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from typing import Any

import pytest
from tests import support

from unsandbox.server import Server
from unsandbox.server.watchdog import LoopWatchdog, Stall

MOST_S = 0.25
"""Seconds of processor time for which nothing else may wait. The marker `holds_loop` excuses a test from it."""
TOLD = re.compile(r"the event loop was blocked for (\d+) ms, (\d+) ms of CPU time: .*")


class LoopTime:
    """Watches the servers that tests use, from their start to their end."""

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._here: list[Stall] = []
        self._watchdogs: weakref.WeakKeyDictionary[Server, LoopWatchdog] = weakref.WeakKeyDictionary()
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def pytest_collection_finish(self) -> None:
        # A full collection of garbage looks at everything that the collected tests hold, in whichever thread it happens.
        gc.collect()
        gc.freeze()

    def pytest_sessionstart(self) -> None:
        start, stop = Server.start, Server.stop

        async def watched_start(server: Server) -> None:
            await start(server)
            if (loop := asyncio.get_running_loop()) not in self._loops:
                self._loops.add(loop)
                self._watchdogs[server] = watchdog = LoopWatchdog(MOST_S / 2, on_stall=self._here.append)
                watchdog.start()

        async def watched_stop(server: Server) -> None:
            if (watchdog := self._watchdogs.pop(server, None)) is not None:
                self._loops.discard(asyncio.get_running_loop())
                watchdog.stop()
            await stop(server)

        self._patch.setattr(Server, "start", watched_start)
        self._patch.setattr(Server, "stop", watched_stop)

    def pytest_sessionfinish(self) -> None:
        self._patch.undo()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        result = yield
        held = self.held()
        if held and item.get_closest_marker("holds_loop") is None:
            pytest.fail("a server held its event loop:\n" + "\n".join(held), pytrace=False)
        return result

    def held(self) -> list[str]:
        """Return the stalls above the limit since the last call, of all servers."""
        here = [self._here.pop(0) for _ in range(len(self._here))]
        told = [match for server in support.SERVERS for match in TOLD.finditer(server.new_log())]
        support.SERVERS[:] = [server for server in support.SERVERS if server.process.returncode is None]
        return [str(stall) for stall in here if stall.cpu_s > MOST_S] + [
            match[0] for match in told if int(match[2]) > MOST_S * 1000
        ]
