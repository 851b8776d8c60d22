"""Every goal of speed, each against its baseline in the same run: goal, figure, verdict.

    make bench
    .venv/bin/python benchmarks/goals.py --quick
    .venv/bin/python benchmarks/goals.py --only latency,burst --json figures.json

Baseline and subject take turns, so that what else the machine does hits both. Trust the ratios more than the times;
the spread is that of the halves of a run, or of the middle half of its rounds. Rows whose tool is not installed here are
left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import first_light as basics  # type: ignore[import-not-found]  # found beside this script

from unsandbox import AsyncClient
from unsandbox.sandbox import find_system, load_languages
from unsandbox.sandbox.languages.caches import ToolchainCaches, with_caches
from unsandbox.sandbox.system import COMPLETE

HELLO = "print('hello')"
SERVER = """
import resource, sys
from unsandbox import local
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
server = local.ensure_started()
print(server.url, server.public_key, server.secret_key, flush=True)
sys.stdin.read()
"""
CLIENT = """
import asyncio, os, resource, sys, urllib.request
from unsandbox import AsyncClient
way, url, public, secret, count = *sys.argv[1:5], int(sys.argv[5])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
def held():
    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
def on_server():
    text = urllib.request.urlopen(url + '/metrics').read().decode()
    names = ('unsandbox_jobs_waiting ', 'unsandbox_jobs_running ')
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(names))
async def mapped(client):
    async with client.map([{'language': 'bash', 'code': 'sleep 900', 'ttl': 900}] * count, concurrency=count) as outcomes:
        async for _ in outcomes:
            pass
async def main():
    connections = count if way == 'execute' else 100
    async with AsyncClient(public, secret, base_url=url, max_connections=connections) as client:
        await client.execute('bash', 'true')
        before = held()
        calls = [client.execute('bash', 'sleep 900', ttl=900) for _ in range(count)] if way == 'execute' else [mapped(client)]
        tasks = [asyncio.create_task(call) for call in calls]
        while await asyncio.to_thread(on_server) < count:
            assert not any(task.done() for task in tasks), [task for task in tasks if task.done()][0]
            await asyncio.sleep(0.3)
        print(held() - before, flush=True)
        os._exit(0)
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `figure` is better when it is lower, unless `at_least`."""

    name: str
    baseline: str
    ours: str
    figure: float
    goal: float
    unit: str
    low: float
    high: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the goal is reached."""
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    quick: bool

    def __call__(self, full: int, quick: int) -> int:
        """Return one of two numbers."""
        return quick if self.quick else full


Call = Callable[[], Awaitable[None]]


def bare(command: Sequence[str], cwd: str | None = None) -> Call:
    """Return a call that runs a command as a bare subprocess."""

    async def call() -> None:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, cwd=cwd
        )
        output, _ = await process.communicate()
        assert (process.returncode, output) == (0, b"hello\n"), output

    return call


def through(client: AsyncClient, language: str, code: str) -> Call:
    """Return a call that runs a program through the API."""

    async def call() -> None:
        result = await client.execute(language, code)
        assert (result.exit_code, result.stdout) == (0, "hello\n"), result

    return call


async def taking_turns(baseline: Call, subject: Call, total: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds that each call took, after a few that warm up."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(total + 3):
        for call, taken in zip((baseline, subject), times, strict=True):
            begun = time.perf_counter()
            await call()
            if number >= 3:
                taken.append((time.perf_counter() - begun) * 1000)
    return times


def ratio(name: str, times: tuple[list[float], list[float]], goal: float, part: float = 0.5) -> Row:
    """Make a row of the ratio of two percentiles."""
    bare_at, ours_at = (basics.percentile(taken, part) for taken in times)
    halves = [
        basics.percentile(times[1][half::2], part) / basics.percentile(times[0][half::2], part)
        for half in range(min(2, len(times[0])))
    ]
    figure = ours_at / bare_at
    return Row(
        name,
        f"{bare_at:.1f} ms",
        f"{ours_at:.1f} ms",
        figure,
        goal,
        "x",
        min(figure, *halves),
        max(figure, *halves),
    )


def spread(times: tuple[list[float], list[float]]) -> tuple[float, float]:
    """Return the lower and the higher difference of the medians of the halves of a run."""
    found = [statistics.median(times[1][half::2]) - statistics.median(times[0][half::2]) for half in (0, 1)]
    return min(found), max(found)


async def latency(client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """Hello world, one after the other."""
    times = await taking_turns(
        bare(["/usr/bin/python3", "-c", HELLO]), through(client, "python", HELLO), scale(300, 20)
    )
    yield ratio("python hello, p50", times, 0.25)
    yield ratio("python hello, p99", times, 0.6, 0.99)
    if shutil.which("node"):
        code = "console.log('hello')"
        times = await taking_turns(
            bare(["node", "-e", code]), through(client, "javascript", code), scale(60, 5)
        )
        yield ratio("javascript hello, p50", times, 0.25)
    times = await taking_turns(
        bare(["bash", "-c", "echo hello"]), through(client, "bash", "echo hello"), scale(200, 20)
    )
    yield ratio("bash hello, p50", times, 1.5)
    for name, command, code in (
        ("perl", ["perl", "-e", 'print "hello\\n"'], 'print "hello\\n";'),
        ("lua", ["lua5.4", "-e", 'print("hello")'], 'print("hello")'),
        ("ruby", ["ruby", "-e", 'puts "hello"'], 'puts "hello"'),
    ):
        if shutil.which(command[0]):
            times = await taking_turns(bare(command), through(client, name, code), scale(60, 5))
            over = [statistics.median(taken) for taken in times]
            yield Row(
                f"{name} hello, p50 over bare", f"{over[0]:.1f} ms", f"{over[1]:.1f} ms", over[1] - over[0], 12, "ms",
                *spread(times),
            )  # fmt: skip


C_HELLO = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'
TOOLCHAINS = Path(os.environ.get("TOOLCHAINS", "/var/tmp/unsandbox-toolchains"))
"""Where `make test-languages` has brought what this machine itself does not have."""
_KOTLIN = TOOLCHAINS / "usr/local/lib/node_modules/kotlin-compiler/bin/kotlinc"
_KOTLINC = f"JAVACMD={TOOLCHAINS}/usr/lib/jvm/default-java/bin/java {_KOTLIN}"
TOOLS: dict[str, tuple[str, list[str], str]] = {
    "go": ("main.go", ["go", "run", "main.go"],
           'package main\nimport "fmt"\nfunc main() { fmt.Println("hello") }\n'),
    "rust": ("main.rs", ["sh", "-c", "rustc -o main main.rs && ./main"], 'fn main() { println!("hello"); }\n'),
    "java": ("Main.java", ["java", "Main.java"],
             'public class Main { public static void main(String[] a) { System.out.println("hello"); } }\n'),
    "kotlin": ("main.kt", ["sh", "-c", f"{_KOTLINC} main.kt -include-runtime -d main.jar && java -jar main.jar"],
               'fun main() { println("hello") }\n'),
    "typescript": ("main.ts", ["sh", "-c", "esbuild main.ts --log-level=warning --platform=node --outfile=m.mjs && node m.mjs"],
                   "const word: string = 'hello'; console.log(word)\n"),
}  # fmt: skip
INSIDE = ["env", "PATH=/usr/local/bin:/usr/bin:/bin"]
"""The tools that sandboxes have, and not others of the same names."""


async def compiled(client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """The second run of the same C."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "main.c").write_text(C_HELLO)
        command = [*INSIDE, "sh", "-c", "gcc -O1 -o main main.c && ./main"]
        times = await taking_turns(bare(command, folder), through(client, "c", C_HELLO), scale(40, 4))
        yield ratio("C hello again, p50", times, 0.2)


async def first_run(client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """Compilers on sources never seen before, with as many processors as the bare tool, whose caches are warm."""
    here = set((await client.languages()).languages)
    for name in TOOLS:
        if name in here:
            yield await first_runs_of(client, name, "host", scale)
        elif (TOOLCHAINS / COMPLETE).is_file():
            async with served(UNSANDBOX_TOOLCHAINS=str(TOOLCHAINS)) as other:
                yield await first_runs_of(other, name, str(TOOLCHAINS), scale)


async def first_runs_of(client: AsyncClient, name: str, toolchains: str, scale: Scale) -> Row:
    """Return the row of a language, when the engine has made the cache of its toolchain."""
    source, command, code = TOOLS[name]
    fresh = iter(range(1000))

    async def edited() -> None:
        # Never the same source twice: neither our cache of whole programs nor that of the tool must answer.
        result = await client.execute(name, f"{code}// {next(fresh)}\n", vcpu=2)
        assert (result.exit_code, result.stdout) == (0, "hello\n"), result

    await edited()
    language = load_languages()[name]
    caches = ToolchainCaches(with_caches(find_system(toolchains)))
    give_up = time.monotonic() + 180
    while language.cache is not None and caches.place(language) is None and time.monotonic() < give_up:
        await asyncio.sleep(1.0)
    with tempfile.TemporaryDirectory() as folder:
        outside = bare([*INSIDE, *command], folder)

        async def edited_outside() -> None:
            Path(folder, source).write_text(f"{code}// {next(fresh)}\n")
            await outside()

        times = await taking_turns(edited_outside, edited, scale(10, 2))
        return ratio(f"{name} hello, first run, p50", times, 1.1)


@contextlib.asynccontextmanager
async def served(**variables: str) -> AsyncIterator[AsyncClient]:
    """Yield a client of another engine, which has these variables."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env=os.environ | variables,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stdin is not None
    url, public, secret = (await server.stdout.readline()).decode().split()
    async with AsyncClient(public_key=public, secret_key=secret, base_url=url) as client:
        yield client
    server.stdin.close()
    await server.wait()


def family_of(pid: int) -> list[int]:
    """Return a process and all below it."""
    family = [pid]
    for member in family:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                family += [int(child) for child in (task / "children").read_text().split()]
    return family


def held_by(family: Sequence[int]) -> int:
    """Return the bytes of memory that processes hold, what they share counted once."""
    held = 0
    for pid in family:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    held += int(line.split()[1]) * 1024
    return held


def footprint() -> dict[str, int]:
    """Return what this process and all below it hold: bytes, processes, mounts, descriptors."""
    family = family_of(os.getpid())
    return {
        "memory": held_by(family),
        "processes": len(family),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


async def settled(client: AsyncClient) -> dict[str, int]:
    """Let everything end and return the footprint."""
    await client.health()
    await asyncio.sleep(2.0)
    return footprint()


async def sustained(client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """Many at a time, for a while; and nothing may grow."""
    calls = (bare(["/usr/bin/python3", "-c", HELLO]), through(client, "python", HELLO))
    rates: list[list[float]] = [[], []]
    await basics.in_flight(calls[1], scale(400, 40), 32)
    before = await settled(client)
    for _ in range(scale(6, 2)):
        for call, taken in zip(calls, rates, strict=True):
            end, done = time.perf_counter() + scale(10, 2), 0

            async def until(end: float = end, call: Call = call) -> int:
                count = 0
                while time.perf_counter() < end:
                    await call()
                    count += 1
                return count

            begun = time.perf_counter()
            done = sum(await asyncio.gather(*(until() for _ in range(32))))
            taken.append(done / (time.perf_counter() - begun))
    after = await settled(client)
    ratios = [ours / base for base, ours in zip(*rates, strict=True)]
    yield Row(
        "hello jobs per second, 32 at a time", f"{statistics.median(rates[0]):.0f} /s",
        f"{statistics.median(rates[1]):.0f} /s", statistics.median(ratios), 1.5, "x", min(ratios), max(ratios), True,
    )  # fmt: skip
    for name in ("processes", "mounts", "descriptors"):
        grown = after[name] - before[name]
        yield Row(f"... growth of {name}", str(before[name]), str(after[name]), grown, 0, "", grown, grown)
    more = (after["memory"] - before["memory"]) / 1e6
    yield Row(
        "... growth of memory", f"{before['memory'] / 1e6:.0f} MB", f"{after['memory'] / 1e6:.0f} MB", more, 20, "MB",
        more, more,
    )  # fmt: skip


async def burst(client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """Many at once."""
    total = scale(500, 50)
    times: tuple[list[float], list[float]] = ([], [])
    calls = (bare(["/usr/bin/python3", "-c", HELLO]), through(client, "python", HELLO))
    for _ in range(scale(3, 1)):
        for call, taken in zip(calls, times, strict=True):
            begun = time.perf_counter()

            async def one(call: Call = call, taken: list[float] = taken, begun: float = begun) -> None:
                await call()
                taken.append((time.perf_counter() - begun) * 1000)

            await asyncio.gather(*(one() for _ in range(total)))
    yield ratio(f"burst of {total}, p99", times, 1.2, 0.99)


async def answer(client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """From the end of a job to the result in the caller's hands."""
    code = "import time; time.sleep(0.05); print(time.time())"
    late = []
    for number in range(scale(200, 10) + 3):
        job = await client.submit("python", code)
        result = await client.wait(job.job_id or "")
        if number >= 3:
            late.append((time.time() - float(result.stdout or 0)) * 1000)
    for name, part, goal in (("p50", 0.5, 3.0), ("p99", 0.99, 15.0)):
        halves = [basics.percentile(late[half::2], part) for half in (0, 1)]
        figure = basics.percentile(late, part)
        yield Row(
            f"end of job to result, {name}",
            "-",
            f"{figure:.1f} ms",
            figure,
            goal,
            "ms",
            min(halves),
            max(halves),
        )


async def idle(client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """The engine with nothing to do."""
    await client.execute("python", HELLO)
    await asyncio.sleep(scale(30, 3))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    await process.stdout.readline()
    await asyncio.sleep(scale(5, 2))
    family = family_of(process.pid)
    held = held_by(family) / 1e6

    def used() -> float:
        ticks = 0
        for pid in family:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    before, seconds = used(), scale(20, 3)
    await asyncio.sleep(seconds)
    busy = (used() - before) / seconds * 100
    process.stdin.close()
    await process.wait()
    yield Row("idle engine with its pool, memory", "-", f"{held:.0f} MB", held, 120, "MB", held, held)
    yield Row("idle engine with its pool, CPU", "-", f"{busy:.2f} %", busy, 0.1, "%", busy, busy)


async def in_flight(_client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """Memory of a client process that waits for very many jobs, all of them accepted by the server."""
    count = scale(10_000, 500)
    for way, name in (("map", "in a map"), ("execute", "by connections")):
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert server.stdout is not None
        assert server.stdin is not None
        address = (await server.stdout.readline()).decode().split()
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, way, *address, str(count), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await client.communicate()
        grown = int(output) / count / 1000
        for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = int(line.split()[1]) / 1000
        server.stdin.close()
        await server.wait()
        title = f"{count} jobs in flight {name}, client"
        yield Row(title, "-", f"{grown:.1f} KB", grown, 20, "KB", grown, grown)
        yield Row("... server memory meanwhile", "-", f"{peak:.0f} MB", peak, 1000, "MB", peak, peak)


async def session(client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """A command in a live session; its snapshot."""
    made = await client.create_session()
    assert made.session_id is not None
    identity = made.session_id

    async def command() -> None:
        assert "hello" in ((await client.session_command(identity, "echo hello")).stdout or "")

    try:
        times = await taking_turns(bare(["bash", "-c", "echo hello"]), command, scale(200, 10))
        yield ratio("command in a live session, p50", times, 0.5)
        size = scale(100, 10)
        await client.session_command(identity, f"head -c {size}M /dev/urandom > data")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "data").write_bytes(os.urandom(size << 20))
            archive = f"{folder}.tar.zst"

            async def tar() -> None:
                process = await asyncio.create_subprocess_exec(
                    "sh",
                    "-c",
                    f"tar --zstd -cf {archive} -C {folder} . && tar --zstd -xf {archive} -C {folder}",
                )
                assert await process.wait() == 0

            async def snapshot() -> None:
                saved = await client.session_snapshot(identity)
                await client.restore_snapshot(saved.snapshot_id or "")
                await client.delete_snapshot(saved.snapshot_id or "")

            times = await taking_turns(tar, snapshot, scale(3, 1))
            Path(archive).unlink()
            yield ratio(f"snapshot and restore of {size} MB", times, 1.2)
    finally:
        await client.delete_session(identity)


async def client_cpu(_client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """What the clients cost, against bare sessions."""
    with basics.trivial_server() as url:
        found = await asyncio.to_thread(asyncio.run, basics.client_cpu(url, scale(80, 15), 200))
        also = await asyncio.to_thread(basics.sync_client_cpu, url, scale(40, 10), 60)
    for row, name in ((found, "AsyncClient, 64 in flight"), (also, "Client, one at a time")):
        yield Row(
            f"client CPU per request: {name}", f"{row['baseline']:.0f} µs", f"{row['ours']:.0f} µs", row["ratio"], 1.15,
            "x", row["ratio_low"], row["ratio_high"],
        )  # fmt: skip


async def imports(_client: AsyncClient, scale: Scale) -> AsyncIterator[Row]:
    """What starting costs."""

    def run(*words: str) -> Call:
        async def call() -> None:
            process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=subprocess.DEVNULL)
            assert await process.wait() == 0

        return call

    times = await taking_turns(run("-c", "import asyncio"), run("-c", "import un_async"), scale(25, 3))
    yield ratio("import un_async / import asyncio, p50", times, 1.5)
    times = await taking_turns(run("-c", "pass"), run("-m", "unsandbox.cli", "--help"), scale(25, 3))
    medians = [statistics.median(taken) for taken in times]
    yield Row(
        "un --help over python -c pass", f"{medians[0]:.1f} ms", f"{medians[1]:.1f} ms", medians[1] - medians[0], 60,
        "ms", *spread(times),
    )  # fmt: skip


PARTS = (latency, compiled, first_run, sustained, burst, answer, session, client_cpu, in_flight, imports, idle)


def show(row: Row) -> None:
    """Print one line of the table."""
    goal = f"{'>=' if row.at_least else '<='} {row.goal:g} {row.unit}"
    figure = f"{row.figure:.2f} {row.unit}"
    print(
        f"{row.name:<46} {row.baseline:>9} {row.ours:>9}  {goal:>9}  {figure:>9}  {row.low:.2f} - {row.high:.2f}"
        f"  {'reached' if row.reached else 'MISSED'}",
        flush=True,
    )


async def measure(names: Sequence[str], scale: Scale) -> list[Row]:
    """Run the parts and print their rows."""
    rows = []
    async with AsyncClient.local() as client:
        await client.execute("python", HELLO)
        await asyncio.sleep(1.0)
        for part in PARTS:
            if names and part.__name__ not in names:
                continue
            try:
                async for row in part(client, scale):
                    rows.append(row)
                    show(row)
            except Exception as error:  # noqa: BLE001 - the other parts are still worth measuring
                print(f"{part.__name__}: {error!r}", flush=True)
    return rows


def main() -> None:
    """Measure, print, write the JSON file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it works, not how fast")
    parser.add_argument("--only", default="", help=f"of {', '.join(part.__name__ for part in PARTS)}")
    options = parser.parse_args()
    machine = {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }
    print(
        f"{machine['cpus']} CPUs, Linux {machine['kernel']}, Python {machine['python']}, load {machine['load']}\n"
    )
    print(f"{'':<46} {'bare':>9} {'ours':>9}  {'goal':>9}  {'figure':>9}  low - high  verdict")
    rows = asyncio.run(measure([name for name in options.only.split(",") if name], Scale(options.quick)))
    print(
        f"\n{sum(row.reached for row in rows)} of {len(rows)} reached; load at the end {os.getloadavg()[0]:.1f}"
    )
    if options.json:
        found = [asdict(row) | {"reached": row.reached} for row in rows]
        options.json.write_text(json.dumps({"machine": machine, "rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
