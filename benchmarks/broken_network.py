"""Submissions, streams and first bytes through a network that breaks: what is repeated, what is lost, what is late.

    .venv/bin/python benchmarks/broken_network.py [--submissions 500] [--streams 10] [--first 100] [--seed N]

A proxy stands between the client and a real `un serve`; by lot it answers 502, 503 or 429 itself, breaks the connection
before or behind the request or anywhere in the answer, or waits. So many submissions must end in exactly so many runs,
and streams must hold each byte once. First bytes are measured without the proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.client.proxy import PASS, Fate, Proxy, refusal
from tests.support import Serve

from unsandbox import AsyncClient, OutputEvent, ResultEvent, RetryPolicy

STUBBORN = RetryPolicy(max_retries=40, base_s=0.001, cap_s=0.02)
AT_ONCE = 50
LINES = 400
TEXT = "".join(f"{number} é 日本 \U0001f600\n" for number in range(LINES))
PRINT_TEXT = f"""
import sys, time
data = ''.join(f'{{number}} é 日本 \\U0001f600\\n' for number in range({LINES})).encode()
for at in range(0, len(data), 37):
    sys.stdout.buffer.write(data[at:at + 37])
    sys.stdout.buffer.flush()
    time.sleep(0.004)
"""
WRITE_TIME = "import time, sys; time.sleep(0.05); sys.stdout.write(repr(time.time())); sys.stdout.flush(); time.sleep(0.05)"


def by_lot(chance: random.Random, met: Counter[str]) -> Callable[[str], Fate]:
    """Return what decides about each request, and counts."""
    kinds: dict[str, Callable[[], Fate]] = {
        "passed": lambda: PASS,
        "delayed": lambda: Fate(delay_s=0.02),
        "502": lambda: refusal(502),
        "503": lambda: refusal(503, "Retry-After: 0"),
        "429": lambda: refusal(429, "Retry-After: 0.01"),
        "cut before the request": lambda: Fate(cut_before=True),
        "cut behind the request": lambda: Fate(cut_after=0),
        "cut in the answer": lambda: Fate(cut_after=chance.randrange(1, 400)),
    }

    def decide(_: str) -> Fate:
        name = chance.choice(list(kinds))
        met[name] += 1
        return kinds[name]()

    return decide


async def submissions(client: AsyncClient, proxy: Proxy, count: int, chance: random.Random) -> bool:
    """Submit so many programs; return whether each ran once."""
    met: Counter[str] = Counter()
    await client.health()
    proxy.rule = by_lot(chance, met)
    free = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> bool:
        async with free:
            return (await client.execute("bash", f"echo {number}")).stdout == f"{number}\n"

    right = sum(await asyncio.gather(*(one(number) for number in range(count))))
    proxy.rule = lambda _: PASS
    posts = sum(request.startswith("POST /execute") for request in proxy.passed)
    runs = (await client.list_jobs(limit=1000)).count
    print(f"submissions {count}, right results {right}, POSTs that reached the server {posts}, runs {runs}")
    print(f"    {dict(met)}")
    return right == runs == count


async def streams(client: AsyncClient, proxy: Proxy, count: int, chance: random.Random) -> bool:
    """Stream so many outputs over connections that are cut at random; return whether each byte came once."""
    cuts = inside = whole = 0

    def fate(request: str) -> Fate:
        nonlocal cuts
        if not request.split(" ")[1].endswith("/events"):
            return PASS
        cuts += 1
        return Fate(cut_after=int(300 * 100 ** chance.random()))

    proxy.rule = fate
    for _ in range(count):
        data, results, text = b"", 0, ""
        async for event in client.stream("python", PRINT_TEXT):
            if isinstance(event, OutputEvent):
                inside += event.data[:1] >= b"\x80" and event.data[:1] < b"\xc0"
                data, text = data + event.data, text + event.text
            results += isinstance(event, ResultEvent)
        whole += (data, text, results) == (TEXT.encode(), TEXT, 1)
    proxy.rule = lambda _: PASS
    print(
        f"streams {count} of {len(TEXT.encode())} bytes, whole {whole}, connections cut {cuts}, "
        f"pieces that began inside a character {inside}"
    )
    return whole == count


async def first_bytes(client: AsyncClient, count: int) -> bool:
    """Measure from the write of a first byte to its arrival."""
    late = []
    for _ in range(count):
        async with client.stream("python", WRITE_TIME) as events:
            async for event in events:
                if isinstance(event, OutputEvent):
                    late.append((time.time() - float(event.text)) * 1000)
                    break
    late.sort()
    p50, p99 = late[len(late) // 2], late[int(len(late) * 0.99)]
    print(f"first byte after its write: p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {late[-1]:.1f} ms of {count}")
    return p50 <= 20


async def main(options: argparse.Namespace) -> bool:
    """Do all three."""
    chance = random.Random(options.seed)
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="broken-network-") as data, Serve(Path(data) / "data") as server:
        proxy = Proxy(server.url)
        try:
            async with AsyncClient(*server.keys(), base_url=proxy.url, retry=STUBBORN) as client:
                good = await submissions(client, proxy, options.submissions, chance)
                good &= await streams(client, proxy, options.streams, chance)
            async with AsyncClient(*server.keys(), base_url=server.url) as client:
                good &= await first_bytes(client, options.first)
        finally:
            proxy.close()
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=500, help="at most 1000 (500)")
    parser.add_argument("--streams", type=int, default=10, help="one after the other (10)")
    parser.add_argument("--first", type=int, default=100, help="first bytes that are measured (100)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    sys.exit(not asyncio.run(main(parser.parse_args())))
