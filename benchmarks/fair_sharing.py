"""One key's flood and another key's hello world: how much slower does it get?

    python benchmarks/fair_sharing.py [--jobs N] [--json]

Both keys talk to one server in this process over the signed HTTP API. The first key keeps 64 jobs in flight, of
each kind in turn: programs that compute, sleep, write, fork. Meanwhile the second key runs hello world,
one after the other. Baseline: the same without the flood, before and after, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import time

from unsandbox import AsyncClient, UnsandboxError
from unsandbox.engine import Engine, EngineConfig
from unsandbox.engine.accounts.keys import FixedKeys, KeyPair
from unsandbox.server import Server, ServerConfig

GOAL = 3.0
IN_FLIGHT = 64
FLOODS = {
    "computing": "while :; do :; done",
    "sleeping": "sleep 100",
    "writing": "yes",
    "forking": "for i in $(seq 100); do sleep 100 & done; wait",
}


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share of all lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def hello(client: AsyncClient, count: int) -> list[float]:
    """Run hello world so many times, one after the other; return milliseconds each."""
    took = []
    for _ in range(count):
        started = time.perf_counter()
        job = await client.execute("python", "print('hello')")
        took.append((time.perf_counter() - started) * 1000)
        if job.stdout != "hello\n":
            raise RuntimeError(f"hello world said something else: {job}")
    return took


async def flood(client: AsyncClient, code: str) -> None:
    """Keep many jobs in flight until cancelled."""

    async def one() -> None:
        while True:
            with contextlib.suppress(UnsandboxError):
                await client.execute("bash", code, ttl=5)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(one())


async def main(count: int) -> dict[str, dict[str, float]]:
    """Measure; return percentiles by kind of flood."""
    pairs = KeyPair.generate(), KeyPair.generate()
    engine = Engine(EngineConfig(stop_grace_s=0.0))
    await engine.start()
    server = Server(engine, FixedKeys(*pairs), ServerConfig(port=0))
    await server.start()
    found: dict[str, dict[str, float]] = {}
    try:
        many, few = (AsyncClient(pair.public_key, pair.secret_key, base_url=server.url) for pair in pairs)
        async with many, few:
            await hello(few, 5)
            alone = await hello(few, count)
            for kind, code in FLOODS.items():
                flooding = asyncio.create_task(flood(many, code))
                await asyncio.sleep(1.0)
                took = await hello(few, count)
                flooding.cancel()
                await asyncio.gather(flooding, return_exceptions=True)
                found[kind] = summary(took)
                alone += await hello(few, count // 2)
            found = {"alone": summary(alone), **found}
    finally:
        await server.stop_listening()
        await engine.stop()
        await server.stop()
    for row in found.values():
        row["ratio_p99"] = row["p99_ms"] / found["alone"]["p99_ms"]
        row["ratio_p50"] = row["p50_ms"] / found["alone"]["p50_ms"]
    return found


def summary(took: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and worst in milliseconds."""
    return {"p50_ms": statistics.median(took), "p99_ms": percentile(took, 0.99), "max_ms": max(took)}


def show(found: dict[str, dict[str, float]]) -> None:
    """Print the table with a verdict for each row."""
    print(f"{'flood of another key':22} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'p50 x':>7} {'p99 x':>7}")
    for kind, row in found.items():
        verdict = (
            "" if kind == "alone" else ("within" if row["ratio_p99"] <= GOAL else "ABOVE") + f" {GOAL:g} x"
        )
        print(
            f"{kind:22} {row['p50_ms']:8.1f} {row['p99_ms']:8.1f} {row['max_ms']:8.1f} "
            f"{row['ratio_p50']:7.2f} {row['ratio_p99']:7.2f}  {verdict}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100, help="hello worlds for each row (100)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    measured = asyncio.run(main(options.jobs))
    if options.json:
        print(json.dumps(measured))
    else:
        show(measured)
