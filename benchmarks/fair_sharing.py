"""One key's flood and another key's hello world: how much slower does it get?

    python benchmarks/fair_sharing.py [--jobs N] [--rounds N] [--kind KIND]... [--json]

Both keys talk to one `un serve`. The first key, in a process of its own, floods it with each kind of `floods.py` in turn.
Meanwhile the second key runs hello world, one after the other. Baseline: the same without a flood, before each kind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import floods
from tests.support import Serve, un

from unsandbox import AsyncClient

GOAL = 3.0


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


@contextlib.contextmanager
def flooding(kind: str, serve: Serve, pair: tuple[str, str]) -> Iterator[None]:
    """Keep a flood going in a process of its own."""
    words = [sys.executable, floods.__file__, kind, serve.url, *pair]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != f"{kind}\n":
                raise SystemExit(f"the flood {kind!r} did not begin")
            yield
        finally:
            process.kill()


def new_key(serve: Serve) -> tuple[str, str]:
    """Make a further key."""
    made = json.loads(un("keys", "create", "--data", str(serve.data), "--json").stdout)
    return made["public_key"], made["secret_key"]


async def main(count: int, kinds: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Measure; return percentiles by kind of flood."""
    took: dict[str, list[float]] = {kind: [] for kind in ("alone", *kinds)}
    with tempfile.TemporaryDirectory() as folder, Serve(Path(folder, "data"), "--log-level", "error") as serve:
        many = new_key(serve)
        async with AsyncClient(*serve.keys(), base_url=serve.url) as few:
            await hello(few, 5)
            for kind in kinds * rounds:
                took["alone"] += await hello(few, count)
                with flooding(kind, serve, many):
                    took[kind] += await hello(few, count)
                await floods.tidy(serve.url, *many)
        serve.stop()
    found = {kind: summary(values) for kind, values in took.items()}
    for row in found.values():
        row["ratio_p99"] = row["p99_ms"] / found["alone"]["p99_ms"]
        row["ratio_p50"] = row["p50_ms"] / found["alone"]["p50_ms"]
    return found


def summary(took: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and worst in milliseconds."""
    return {"p50_ms": statistics.median(took), "p99_ms": percentile(took, 0.99), "max_ms": max(took)}


def show(found: dict[str, dict[str, float]]) -> None:
    """Print the table with a verdict for each row."""
    print(f"{'flood of another key':28} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'p50 x':>7} {'p99 x':>7}")
    for kind, row in found.items():
        verdict = (
            "" if kind == "alone" else ("within" if row["ratio_p99"] <= GOAL else "ABOVE") + f" {GOAL:g} x"
        )
        print(
            f"{kind:28} {row['p50_ms']:8.1f} {row['p99_ms']:8.1f} {row['max_ms']:8.1f} "
            f"{row['ratio_p50']:7.2f} {row['ratio_p99']:7.2f}  {verdict}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100, help="hello worlds for each row (100)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each kind (1)")
    parser.add_argument("--kind", action="append", choices=list(floods.FLOODS), help="only these floods")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    measured = asyncio.run(main(options.jobs, options.kind or list(floods.FLOODS), options.rounds))
    if options.json:
        print(json.dumps(measured))
    else:
        show(measured)
