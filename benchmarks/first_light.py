"""What the client and the engine cost, each against a bare baseline in the same run.

    make bench
    .venv/bin/python benchmarks/first_light.py --quick
    .venv/bin/python benchmarks/first_light.py --json figures.json

Baseline and subject take turns, so that what else the machine does hits both; trust the ratios more than the
times. Every figure is a median over rounds, with the middle half of the rounds beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import requests

from unsandbox import AsyncClient, Client
from unsandbox.protocol.signing import signed_headers

PUBLIC, SECRET = "unsb-pk-0000-0000-0000-0000", "unsb-sk-00000-00000-00000-00000"
CODE = "print(6 * 7)"
HOST_PYTHON = "/usr/bin/python3"
HERE = Path(__file__).resolve().parent

Row = dict[str, Any]


def percentile(values: list[float], part: float) -> float:
    """Return the value below which `part` of all lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def compare(name: str, unit: str, baseline: list[float], subject: list[float], *, better: str = "lower") -> Row:
    """Make a row from the rounds of both; round i of one ran beside round i of the other."""
    ratios = [ours / bare for ours, bare in zip(subject, baseline, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "name": name,
        "unit": unit,
        "better": better,
        "baseline": statistics.median(baseline),
        "ours": statistics.median(subject),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
        "rounds": len(ratios),
    }


@contextlib.contextmanager
def trivial_server() -> Iterator[str]:
    """Run the trivial server in another process; give its URL."""
    command = [sys.executable, str(HERE / "trivial_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def signed_post() -> tuple[bytes, dict[str, str]]:
    """Do what any client must do for one request: serialise, sign, name it so that it can be sent again."""
    body = json.dumps({"language": "python", "code": CODE}, separators=(",", ":")).encode()
    headers = signed_headers(PUBLIC, SECRET, int(time.time()), "POST", "/execute", body)
    return body, headers | {"Content-Type": "application/json", "Idempotency-Key": os.urandom(16).hex()}


async def in_flight(call: Callable[[], Awaitable[None]], total: int, width: int) -> None:
    """Make `total` calls, `width` of them at any time."""
    left = iter(range(total))

    async def worker() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(worker() for _ in range(width)))


T = TypeVar("T")


def in_turn(one: T, other: T, number: int) -> Iterator[T]:
    """Yield both, in each round in the other order, and each with a collector that has nothing left to do."""
    for turn in (one, other) if number % 2 else (other, one):
        gc.collect()
        yield turn


async def client_cpu(url: str, rounds: int, total: int) -> Row:
    """Client CPU per request at 64 in flight: AsyncClient against a bare aiohttp session."""
    baseline: list[float] = []
    subject: list[float] = []
    connector = aiohttp.TCPConnector(limit=64)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        AsyncClient(public_key=PUBLIC, secret_key=SECRET, base_url=url) as client,
    ):

        async def bare() -> None:
            body, headers = signed_post()
            async with session.post(f"{url}/execute", data=body, headers=headers) as response:
                response.raise_for_status()
                assert json.loads(await response.read())["stdout"] == "42\n"

        async def ours() -> None:
            assert (await client.execute("python", CODE)).stdout == "42\n"

        for number in range(rounds + 1):
            for call, times in in_turn((bare, baseline), (ours, subject), number):
                begun = time.process_time()
                await in_flight(call, total, 64)
                if number:  # the first round warms up
                    times.append((time.process_time() - begun) / total * 1e6)
    return compare("client CPU per request, 64 in flight: AsyncClient / aiohttp", "µs", baseline, subject)


def sync_client_cpu(url: str, rounds: int, total: int) -> Row:
    """Client CPU per request, one at a time: Client against a bare requests session."""
    baseline: list[float] = []
    subject: list[float] = []
    with requests.Session() as session, Client(public_key=PUBLIC, secret_key=SECRET, base_url=url) as client:

        def bare() -> None:
            body, headers = signed_post()
            response = session.post(f"{url}/execute", data=body, headers=headers, timeout=10)
            response.raise_for_status()
            assert response.json()["stdout"] == "42\n"

        def ours() -> None:
            assert client.execute("python", CODE).stdout == "42\n"

        for number in range(rounds + 1):
            for call, times in in_turn((bare, baseline), (ours, subject), number):
                begun = time.process_time()
                for _ in range(total):
                    call()
                if number:
                    times.append((time.process_time() - begun) / total * 1e6)
    return compare("client CPU per request, one at a time: Client / requests", "µs", baseline, subject)


async def bare_python() -> None:
    """Run the program as a bare subprocess."""
    process = await asyncio.create_subprocess_exec(
        HOST_PYTHON, "-c", CODE, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output == b"42\n"


async def latency(client: AsyncClient, total: int) -> list[Row]:
    """Wall time of hello world: through the API of the embedded engine against a bare subprocess."""

    async def ours() -> None:
        assert (await client.execute("python", CODE)).stdout == "42\n"

    baseline: list[float] = []
    subject: list[float] = []
    for number in range(total + 5):
        for call, times in ((bare_python, baseline), (ours, subject)):
            begun = time.perf_counter()
            await call()
            if number >= 5:
                times.append((time.perf_counter() - begun) * 1000)
    rows = []
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        row = compare(f"hello world {name}: through the API / bare python3 -c", "ms", baseline, subject)
        row["baseline"], row["ours"] = percentile(baseline, part), percentile(subject, part)
        row["ratio"] = row["ours"] / row["baseline"]
        # The spread of single pairs says little; that of halves of the run says whether the figure is stable.
        halves = [percentile(subject[half::2], part) / percentile(baseline[half::2], part) for half in (0, 1)]
        row["ratio_low"], row["ratio_high"] = min(halves), max(halves)
        rows.append(row)
    return rows


async def throughput(client: AsyncClient, width: int, rounds: int, total: int) -> Row:
    """Jobs per second at one concurrency: the embedded engine against bare subprocesses."""

    async def ours() -> None:
        assert (await client.execute("python", CODE)).stdout == "42\n"

    baseline: list[float] = []
    subject: list[float] = []
    for _ in range(rounds):
        for call, rates in ((bare_python, baseline), (ours, subject)):
            begun = time.perf_counter()
            await in_flight(call, total, width)
            rates.append(total / (time.perf_counter() - begun))
    name = f"jobs per second, {width} at a time: engine / bare python3 -c"
    return compare(name, "1/s", baseline, subject, better="higher")


async def engine(rounds: int, total: int) -> list[Row]:
    """All rows that need the embedded engine."""
    async with AsyncClient.local() as client:
        rows = await latency(client, total)
        for width in (8, 32):
            rows.append(await throughput(client, width, rounds, total))
    return rows


def import_cost(rounds: int) -> list[Row]:
    """Wall time of a process that imports: un_async and un against asyncio."""
    statements = {"import asyncio": [], "import un_async": [], "import un": []}  # type: dict[str, list[float]]
    for number in range(rounds + 1):
        for statement, times in statements.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            if number:
                times.append((time.perf_counter() - begun) * 1000)
    baseline = statements.pop("import asyncio")
    return [
        compare(f"python -c '{statement}' / 'import asyncio'", "ms", baseline, times)
        for statement, times in statements.items()
    ]


def show(rows: list[Row]) -> None:
    """Print the table."""
    width = max(len(row["name"]) for row in rows)
    print(f"{'':<{width}}  {'bare':>8} {'ours':>8}        {'ratio':>5}  low - high")
    for row in rows:
        print(
            f"{row['name']:<{width}}  {row['baseline']:>8.1f} {row['ours']:>8.1f} {row['unit']:<4}"
            f"   {row['ratio']:>5.2f}  {row['ratio_low']:.2f} - {row['ratio_high']:.2f}"
        )


def main() -> None:
    """Run everything, print the table, write the JSON file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it works, not how fast")
    options = parser.parse_args()
    quick = options.quick

    rows: list[Row] = []
    with trivial_server() as url:
        # Many short rounds: what else the machine does then hits both of a pair.
        rows.append(asyncio.run(client_cpu(url, 5 if quick else 80, 200)))
        rows.append(sync_client_cpu(url, 5 if quick else 40, 60))
    rows += asyncio.run(engine(1 if quick else 5, 10 if quick else 200))
    rows += import_cost(2 if quick else 15)

    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    print(f"{machine['cpus']} CPUs, Linux {machine['kernel']}, Python {machine['python']}\n")
    show(rows)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
