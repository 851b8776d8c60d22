"""What a server holds after very many small jobs, and after each flood of `floods.py`: is it what it held before?

    .venv/bin/python benchmarks/server_memory.py [--jobs 200000] [--flood-s 10] [--json FILE]

One `un serve` runs the jobs, 64 at a time. Memory is that of
the server's process (resident set), before after a first thousand jobs, and afterwards once it has been idle for a minute
at most. Goal: within 30 MB of before.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import aiohttp
from benchmarks import floods
from benchmarks.fair_sharing import flooding, new_key
from tests.support import Serve

GOAL_MB = 30
FIRST, IN_FLIGHT, IDLE_S = 1000, 64, 60.0


def held(pid: int) -> dict[str, float]:
    """Return what a process holds: MB of memory, and descriptors."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {
        "MB": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    }


async def settled(pid: int, before: dict[str, float] | None) -> dict[str, float]:
    """Return what it holds when it is within the goal, or after a minute."""
    deadline = time.monotonic() + IDLE_S
    while True:
        now = held(pid)
        if before is None or now["MB"] - before["MB"] < GOAL_MB / 3 or time.monotonic() > deadline:
            return now
        await asyncio.sleep(1)


async def jobs(attacker: floods.Attacker, numbers: Any) -> int:
    """Run programs until there are no more numbers; return how many were right."""
    right = 0

    async def worker() -> None:
        nonlocal right
        for number in numbers:
            body = {"language": "python", "code": f"print({number})"}
            answer = await attacker.call("POST", "/execute", body) or {}
            right += answer.get("stdout") == f"{number}\n"

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return right


async def main(count: int, flood_s: float, kinds: list[str]) -> list[dict[str, Any]]:
    """Load, wait, look; return a row for each load."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, Serve(Path(folder, "data"), "--log-level", "error") as serve:
        pid, many = serve.process.pid, new_key(serve)
        before: dict[str, float] | None = None

        async def look(what: str, **more: Any) -> dict[str, float]:
            now = await settled(pid, before)
            grown = round(now["MB"] - (before or now)["MB"], 1)
            rows.append({"after": what} | now | {"grown MB": grown} | more)
            print(rows[-1], flush=True)
            return now

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            attacker = floods.Attacker(serve.url, *serve.keys(), http)
            await jobs(attacker, iter(range(FIRST)))
            before = await look(f"{FIRST} jobs")
            begun, done, right = time.monotonic(), 0, 0
            numbers = itertools.count(FIRST)
            while done < count:
                step = min(20_000, count - done)
                right += await jobs(attacker, itertools.islice(numbers, step))
                done += step
                rate = done / (time.monotonic() - begun)
                await look(f"{done} more jobs", right=right, rate=round(rate, 1))
        for kind in kinds:
            with flooding(kind, serve, many):
                await asyncio.sleep(flood_s)
            await floods.tidy(serve.url, *many)
            await look(f"the flood {kind!r}")
        serve.stop()
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200_000, help="programs (200000)")
    parser.add_argument("--flood-s", type=float, default=10, help="seconds of each flood (10)")
    parser.add_argument("--kind", action="append", choices=list(floods.FLOODS), help="only these floods")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    found = asyncio.run(main(options.jobs, options.flood_s, options.kind or list(floods.FLOODS)))
    most = max(row["grown MB"] for row in found)
    print(f"{'within' if most <= GOAL_MB else 'ABOVE'} {GOAL_MB} MB of before: {most} MB at most")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
