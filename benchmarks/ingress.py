"""What the ingress costs: a small Node server asked directly, and the same one as a service through `un serve`.

    .venv/bin/python benchmarks/ingress.py

Both take turns, so that what else the machine does hits both. Needs Node.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import statistics
import subprocess
import sys
import time

import aiohttp

from unsandbox.engine import Engine
from unsandbox.engine.accounts.keys import FixedKeys, KeyPair
from unsandbox.protocol.services import ServiceRequest
from unsandbox.server import Server, ServerConfig

APP = """#!/usr/bin/env node
require("http").createServer((_, response) => response.end("hello")).listen(Number(process.env.PORT), "127.0.0.1");
"""
ROUNDS = 5
SERIAL = 100
AT_ONCE = 16
EACH = 25


async def ask(session: aiohttp.ClientSession, url: str, host: str) -> None:
    """Send one request."""
    async with session.get(url, headers={"Host": host}) as response:
        if await response.read() != b"hello":
            raise SystemExit(f"{url} answered {response.status}")


async def measure(session: aiohttp.ClientSession, url: str, host: str) -> tuple[list[float], float]:
    """Return the times of requests one after the other in ms, and how many a second pass when some are in flight."""
    times = []
    for _ in range(SERIAL):
        began = time.perf_counter()
        await ask(session, url, host)
        times.append((time.perf_counter() - began) * 1000)

    async def some() -> None:
        for _ in range(EACH):
            await ask(session, url, host)

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return times, AT_ONCE * EACH / (time.perf_counter() - began)


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def main() -> None:
    """Measure and print."""
    node = shutil.which("node")
    if node is None:
        raise SystemExit("node is not installed")
    port = free_port()
    engine = Engine()
    await engine.start()
    server = Server(engine, FixedKeys(KeyPair.generate()), ServerConfig(port=0))
    await server.start()
    request = ServiceRequest(name="app", bootstrap_content=APP, ports=[8000], network_mode="zerotrust")
    began = time.perf_counter()
    await engine.services.create("me", request)
    made = (time.perf_counter() - began) * 1000
    direct = subprocess.Popen([node, "-e", APP.partition("\n")[2]], env={"PORT": str(port)})
    targets = {"direct": (f"http://127.0.0.1:{port}/", "app"), "ingress": (f"{server.url}/", "app.localhost")}
    times: dict[str, list[float]] = {name: [] for name in targets}
    rates: dict[str, list[float]] = {name: [] for name in targets}
    try:
        async with aiohttp.ClientSession() as session:
            await ask(session, *targets["ingress"])
            for _ in range(ROUNDS):
                for name, target in targets.items():
                    found, rate = await measure(session, *target)
                    times[name] += found
                    rates[name].append(rate)
    finally:
        direct.kill()
        direct.wait()
        await server.stop()
        await engine.stop()
    print(f"service made in {made:.0f} ms, on Python {sys.version.split()[0]}")
    for name in targets:
        p99 = statistics.quantiles(times[name], n=100)[98]
        print(
            f"{name:8} p50 {statistics.median(times[name]):6.2f} ms   p99 {p99:6.2f} ms   "
            f"{AT_ONCE} at once {statistics.median(rates[name]):6.0f}/s"
        )


asyncio.run(main())
