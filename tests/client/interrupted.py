"""Makes calls and interrupts each by Ctrl-C at a random moment: `python -m tests.client.interrupted`, see test_leaks.

Ctrl-C can strike between any two instructions. Here it strikes while a request is under way, where nearly all of a
call's time goes by, and never twice.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from typing import Any

from tests._async import creating as in_tasks
from tests._sync.creating import CALLS, Maker, be_patient

from unsandbox import AsyncClient, Client

BUSY = ("/_transports/", "/asyncio/", "/selectors.py")
"""Where a client is while it waits for the server."""


def strike(_: int, frame: Any) -> None:
    """Press Ctrl-C, now or when the next request is under way."""
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in BUSY):
            signal.raise_signal(signal.SIGINT)
            return
        frame = frame.f_back
    signal.setitimer(signal.ITIMER_REAL, 0.0005)


def in_threads(maker: Maker, name: str) -> Any:
    return getattr(maker, name)()


def in_a_loop(maker: Maker, name: str) -> Any:
    async def call() -> None:
        async with AsyncClient(public, secret, base_url=url) as client:
            other = in_tasks.Maker(client, 0)
            other.__dict__ |= maker.__dict__ | {"client": client}
            undo = await getattr(other, name)()
            signal.setitimer(signal.ITIMER_REAL, 0)
            if undo is not None:
                await undo()

    asyncio.run(call())


# Whoever is started in the background of a script would ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGALRM, strike)
be_patient()
in_tasks.be_patient()
url, public, secret, seed, count, maker_json = sys.argv[1:7]
chance, struck = random.Random(int(seed)), 0
with Client(public, secret, base_url=url) as client:
    maker = Maker(client, 0)
    given = json.loads(maker_json)
    maker.base, maker.program = given["base"], given["program"]
    for number in range(int(count)):
        maker.names = (name for name in [f"struck-{seed}-{number}"])
        call, name, undo = chance.choice((in_threads, in_a_loop)), chance.choice(CALLS), None
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.001, 0.3))
        try:
            undo = call(maker, name)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            struck += 1
        if undo is not None:
            undo()
print(struck)  # noqa: T201 - for the test
