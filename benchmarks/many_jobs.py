"""Ten thousand jobs from one client process through `map`, on a real `un serve`: are all right, and what do they hold?

    .venv/bin/python benchmarks/many_jobs.py [--jobs 10000] [--concurrency 500] [--json FILE]

Half of them in order and half as they finish. Memory of the client is that of its own process, above what it held after its
first job; the source says how far it was read ahead of what was handed out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unsandbox import AsyncClient, Progress


def held_kb() -> float:
    """Return the memory of this process in KB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1000


async def mapped(client: AsyncClient, jobs: int, concurrency: int, ordered: bool) -> dict[str, Any]:
    """Run so many programs and look at what comes of each."""
    taken = given = right = in_order = ahead = most_running = 0
    last = Progress(0, 0, 0, 0, None)
    before = peak = held_kb()

    def programs() -> Iterator[tuple[str, str]]:
        nonlocal taken, ahead
        for number in range(jobs):
            taken += 1
            ahead = max(ahead, taken - given)
            yield "python", f"print({number} * 3)"

    def progress(now: Progress) -> None:
        nonlocal last, most_running
        assert now.done >= last.done
        last, most_running = now, max(most_running, now.running)

    begun = time.perf_counter()
    async with client.map(
        programs(), concurrency=concurrency, ordered=ordered, on_progress=progress
    ) as outcomes:
        async for outcome in outcomes:
            in_order += outcome.index == given
            given += 1
            right += outcome.result().stdout == f"{outcome.index * 3}\n"
            if given % 50 == 0:
                peak = max(peak, held_kb())
    seconds = time.perf_counter() - begun
    return {
        "jobs": jobs,
        "right": right,
        "in order": in_order,
        "progress at the end": f"{last.done} done, {last.failed} failed, {last.running} running",
        "seconds": round(seconds, 1),
        "jobs per second": round(jobs / seconds, 1),
        "in flight at most": most_running,
        "source read ahead at most": ahead,
        "client KB above its first job": round(peak - before),
        "client KB per job in flight": round((peak - before) / max(1, most_running), 1),
    }


async def client_part(url: str, public: str, secret: str, jobs: int, concurrency: int) -> None:
    """Be the client process."""
    async with AsyncClient(public, secret, base_url=url) as client:
        await client.execute("python", "print(1)")
        for ordered in (True, False):
            found = await mapped(client, jobs // 2, concurrency, ordered)
            print(json.dumps({"ordered": ordered} | found), flush=True)
        listed = await client.list_jobs(limit=1000)
        print(
            json.dumps({"left on the server": sum(job.status in ("pending", "running") for job in listed.jobs)})
        )


def memory_of(pid: int) -> dict[str, int]:
    """Return what a process holds now and held at most, in MB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status if ":" in line)
    return {name: int(fields[key].split()[0]) // 1000 for name, key in (("now", "VmRSS"), ("at most", "VmHWM"))}


def main(jobs: int, concurrency: int) -> list[dict[str, Any]]:
    """Serve in one process, be a client in another; return the figures."""
    with tempfile.TemporaryDirectory(prefix="many-jobs-") as data, tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "unsandbox.cli", "serve", "--port", "0", "--data", data],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            keys = (Path(data) / "accounts.csv").read_text().strip().split(",")
            begun = memory_of(server.pid)["now"]
            words = [sys.executable, __file__, "--client", url, *keys]
            words += ["--jobs", str(jobs), "--concurrency", str(concurrency)]
            output = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
            found = [json.loads(line) for line in output.splitlines()]
            return [
                *found,
                {"server MB at first": begun} | {f"server MB {k}": v for k, v in memory_of(server.pid).items()},
            ]
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, help="programs (10000)")
    parser.add_argument("--concurrency", type=int, default=500, help="of them at a time on the server (500)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        url, public, secret = options.client
        asyncio.run(client_part(url, public, secret, options.jobs, options.concurrency))
    else:
        figures = main(options.jobs, options.concurrency)
        for part in figures:
            for name, value in part.items():
                print(f"{name:32} {value}")
            print()
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2) + "\n")
