"""A server at the machine's limit while everything under it fails: is anything lost, does anything leak?

    make faults
    .venv/bin/python benchmarks/load_and_faults.py [--seconds 300] [--seed N] [--json FILE]

Workers run jobs in several languages, maps, sessions, snapshots and services through the SDK. Meanwhile, one after the
other and at random: `kill -9` of sandboxes, of the pool's zygotes, of gVisor's kernels (where `runsc` is), of the
launcher, and of the server, which is started again; the data disk is full for a while; jobs eat all their memory; the
server's clock jumps by twenty minutes (by a small library that is loaded before libc, made with gcc).

In the last part the server itself is left alive, so that its growth can be seen. At the end: each result that was
acknowledged is there and right, each accepted job has ended, in `failed` only with a reason; nothing of any of the
servers is left on the machine. Needs root for the full disk; without, or without gcc, that fault is left out and said so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.crash.remains import Family, loop_devices, read, traces

from unsandbox import AsyncClient, ConflictError, Job, NotFoundError, RetryPolicy, UnsandboxError
from unsandbox.sandbox import SandboxUnavailable
from unsandbox.sandbox.gvisor import runsc

PATIENT = RetryPolicy(max_retries=60, base_s=0.1, cap_s=1.0)
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <stdlib.h>
static volatile long *ahead;
__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("CLOCK_AHEAD"), O_RDONLY | O_CLOEXEC);
    void *at = fd < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) ahead = at;
    unsetenv("LD_PRELOAD");
}
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int rc = real(id, now);
    if (id == CLOCK_REALTIME && ahead) now->tv_sec += *ahead;
    return rc;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec, now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
"""
PROGRAMS = {
    "python": "print({n})",
    "bash": "echo {n}",
    "javascript": "console.log({n})",
    "perl": 'print "{n}\\n";',
    "ruby": "puts {n}",
    "c": '#include <stdio.h>\nint main(void) {{ printf("%d\\n", {n}); }}',
}
BUSY_PYTHON = "import time\nends = time.monotonic() + 0.3\nwhile time.monotonic() < ends: pass\nprint({n})"
HOG = "held = []\nwhile True: held.append(bytearray(1 << 24))"
REASONS = (
    "restarted",
    "the service is restarting",
    "stopped",
    "sandbox failed",
    "memory limit",
    "engine failed",
    "wrote without end",
    "sandbox ended",
)


class Rig:
    """The server, its disk and its clock, and everything that can happen to them."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.mounted = False
        if os.geteuid() == 0:
            command = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(self.disk)]
            self.mounted = subprocess.run(command, check=False).returncode == 0
        self.data = self.disk / "data"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.environment = os.environ.copy()
        self.ahead = folder / "ahead"
        self.ahead.write_bytes(bytes(8))
        self.clock = self._make_clock(folder)
        self.log = (folder / "log").open("a")
        self.pids: list[int] = []
        self.families: list[Family] = []
        self.gvisor = True
        try:
            runsc.find()
        except SandboxUnavailable:
            self.gvisor = False

    def _make_clock(self, folder: Path) -> bool:
        if shutil.which("gcc") is None:
            return False
        library = folder / "clock.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-o", library, "-x", "c", "-", "-ldl"], input=CLOCK.encode(), check=True
        )
        self.environment |= {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(self.ahead)}
        return True

    @property
    def url(self) -> str:
        """Where the server listens, in all its lives."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the server and wait until it listens."""
        words = ["serve", "--port", str(self.port), "--data", str(self.data), "--log-level", "warning"]
        self.server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "unsandbox.cli", *words, stdout=subprocess.PIPE, stderr=self.log,
            env=self.environment, start_new_session=True,
        )  # fmt: skip
        assert self.server.stdout is not None
        if not await self.server.stdout.readline():
            raise SystemExit(f"un serve did not start: {Path(self.log.name).read_text()[-2000:]}")
        self.pids.append(self.server.pid)

    def keys(self) -> tuple[str, str]:
        """Return the key pair that the first server made."""
        public, secret = (self.data / "accounts.csv").read_text().strip().split(",")
        return public, secret

    def _below(self, *names: str) -> list[int]:
        """Return the processes of the server that are called so."""
        family = Family(self.server.pid)
        return [int(process.name) for process in family.processes if read(process / "comm").strip() in names]

    def _kill(self, pids: list[int]) -> bool:
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.chance.choice(pids), signal.SIGKILL)
        return True

    def launchers(self) -> list[int]:
        """Return the launchers, one for each way of isolation: the server's only children that are no sandboxes."""
        children = [
            child
            for task in Path(f"/proc/{self.server.pid}/task").iterdir()
            for child in read(task / "children").split()
        ]
        return [int(child) for child in children if "\0-I\0" in read(Path(f"/proc/{child}/cmdline"))]

    async def kill_sandbox(self) -> bool:
        """Kill a process in a sandbox, or what keeps it."""
        return self._kill(await asyncio.to_thread(self._below, "bwrap", "sleep", "bash", "init", "node"))

    async def kill_zygote(self) -> bool:
        """Kill a zygote: an interpreter whose parent is the bwrap of the pool."""

        def find() -> list[int]:
            found = []
            for pid in self._below("python3"):
                parent = read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
                if parent and read(Path(f"/proc/{parent[1]}/comm")).strip() == "bwrap":
                    found.append(pid)
            return found

        return self._kill(await asyncio.to_thread(find))

    async def kill_sentry(self) -> bool:
        """Kill the kernel of a gVisor sandbox."""
        return self._kill(await asyncio.to_thread(self._below, "runsc-sandbox", "runsc", "exe"))

    async def kill_launcher(self) -> bool:
        """Kill the launcher, and with it every sandbox."""
        return self._kill(self.launchers())

    async def kill_server(self) -> bool:
        """Kill the server and start another one."""
        self.families.append(await asyncio.to_thread(Family, self.server.pid))
        self.server.kill()
        await self.server.wait()
        await self.start()
        return True

    async def fill_disk(self) -> bool:
        """Take all room on the data disk for two seconds."""
        if not self.mounted:
            return False
        filler = self.disk / "filler"
        command = ["dd", "if=/dev/zero", f"of={filler}", "bs=1M"]
        await asyncio.to_thread(subprocess.run, command, stderr=subprocess.DEVNULL, check=False)
        await asyncio.sleep(2)
        filler.unlink()
        return True

    async def jump(self) -> bool:
        """Put the server's clock twenty minutes off, before or behind, or right again."""
        if self.clock:
            with self.ahead.open("r+b") as file:
                file.write(self.chance.choice([0, 1200, -1200]).to_bytes(8, sys.byteorder, signed=True))
        return self.clock

    def held(self) -> dict[str, float]:
        """Return what the server holds."""
        status = dict(
            line.split(":", 1)
            for line in read(Path(f"/proc/{self.server.pid}/status")).splitlines()
            if ":" in line
        )
        return {
            "MB": int(status["VmRSS"].split()[0]) / 1000,
            "descriptors": len(os.listdir(f"/proc/{self.server.pid}/fd")),
            "threads": int(status["Threads"]),
            "processes": len(Family(self.server.pid).processes),
            "mounts": len(read(Path("/proc/self/mountinfo")).splitlines()),
        }

    async def end(self) -> list[str]:
        """Stop the server; return what is left of all of them on this machine."""
        self.families.append(await asyncio.to_thread(Family, self.server.pid))
        self.server.terminate()
        await self.server.wait()
        deadline = time.monotonic() + 30
        while left := await asyncio.to_thread(self.left):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        self.log.close()
        verify = [sys.executable, "-m", "unsandbox.cli", "audit", "verify", "--data", str(self.data)]
        verdict = await asyncio.to_thread(subprocess.run, verify, capture_output=True, text=True, check=False)
        if verdict.returncode:
            left = [*left, f"a broken audit log: {verdict.stderr or verdict.stdout}"]
        if self.mounted:
            subprocess.run(["umount", self.disk], check=True)
        return left

    def left(self) -> list[str]:
        """Return what there is now of servers that are gone."""
        found = [trace for pid in self.pids for trace in traces(pid)] + loop_devices(self.data)
        return found + [process for family in self.families for process in family.left()]


class Load:
    """What is asked of the server, and what it acknowledged."""

    def __init__(self, client: AsyncClient, chance: random.Random, languages: list[str], gvisor: bool) -> None:
        self.client, self.chance = client, chance
        self.languages = [name for name in PROGRAMS if name in languages]
        self.gvisor = gvisor
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.results: dict[str, tuple[str, str]] = {}
        """Job id to status and output, as acknowledged."""
        self.accepted: dict[str, str] = {}
        """Job id to the output that it has when it is well."""
        self.snapshots: dict[str, str] = {}
        self.sessions: dict[str, str] = {}
        self.over = False

    async def run(self, worker: Callable[[], Awaitable[None]]) -> None:
        """Repeat a worker until the end; what the server refuses is counted."""
        while not self.over:
            try:
                await worker()
            except (UnsandboxError, TimeoutError) as error:
                self.counts[f"refused: {getattr(error, 'code', None) or type(error).__name__}"] += 1
                await asyncio.sleep(0.1)

    def judge(self, job: Job, expected: str, *, may_be_killed: bool = True) -> None:
        """Note a job that has ended, and whether it ended as it may."""
        job_id, status, said = job.job_id or "", job.status or "", job.stdout or ""
        self.results[job_id] = status, said
        if status == "completed" and job.exit_code == 0 and said == expected:
            self.counts["jobs right"] += 1
        elif status == "failed" and any(reason in (job.error or "") for reason in REASONS):
            reason = next(reason for reason in REASONS if reason in (job.error or ""))
            self.counts[f"jobs failed: {reason}"] += 1
        elif status == "completed" and may_be_killed and job.exit_code not in (0, None):
            self.counts["jobs whose program was killed"] += 1
        else:
            ended = f"{status}, exit {job.exit_code}, {said[:40]!r}, {job.error!r}"
            self.wrong.append(f"{job_id} ({job.language}, expected {expected!r}): {ended}")

    def _program(self) -> tuple[str, str, str]:
        language, number = self.chance.choice(self.languages), self.chance.randrange(1 << 30)
        code = BUSY_PYTHON if language == "python" and self.chance.random() < 0.3 else PROGRAMS[language]
        return language, code.format(n=number), f"{number}\n"

    async def job(self) -> None:
        """Run a program to its end."""
        language, code, expected = self._program()
        isolation: Any = "gvisor" if self.gvisor and self.chance.random() < 0.2 else None
        self.judge(await self.client.execute(language, code, isolation=isolation), expected)

    async def background(self) -> None:
        """Start a program, and look at it at the very end."""
        language, code, expected = self._program()
        job = await self.client.submit(language, code)
        self.accepted[job.job_id or ""] = expected
        await asyncio.sleep(0.2)

    async def hog(self) -> None:
        """Run a program that takes all the memory there is."""
        job = await self.client.execute("python", HOG)
        self.judge(job, "")
        self.counts["memory hogs"] += 1

    async def mapped(self) -> None:
        """Run many programs."""
        programs = [self._program() for _ in range(30)]
        requests = [(language, code) for language, code, _ in programs]
        async with self.client.map(requests, concurrency=6, ordered=False) as outcomes:
            async for outcome in outcomes:
                if outcome.job is None:
                    self.counts[f"refused: {type(outcome.error).__name__}"] += 1
                else:
                    self.judge(outcome.job, programs[outcome.index][2])

    async def session(self) -> None:
        """Make a session with a file in it, and a snapshot of that; the last ones are kept."""
        text = f"text {self.chance.randrange(1 << 30)}"
        made = (await self.client.create_session(ttl=7200)).session_id or ""
        try:
            done = await self.client.session_command(made, f"echo {text} > /work/f && sync /work/f")
        except UnsandboxError:
            await self._discard(self.client.delete_session, made)
            raise
        if done.exit_code:
            await self._discard(self.client.delete_session, made)
        else:
            self.sessions[made] = text
            saved = (await self.client.session_snapshot(made, name="load")).snapshot_id or ""
            self.snapshots[saved] = text
            self.counts["sessions"] += 1
            self.counts["snapshots"] += 1
        for kept, delete in (
            (self.sessions, self.client.delete_session),
            (self.snapshots, self.client.delete_snapshot),
        ):
            while len(kept) > 8:
                oldest = next(iter(kept))
                del kept[oldest]
                await self._discard(delete, oldest)
        await asyncio.sleep(0.3)

    async def _discard(self, delete: Callable[[str], Awaitable[object]], name: str) -> None:
        """Delete something, whatever else happens: it counts towards the key's disk."""
        error: Exception | None = None
        for _ in range(300):
            try:
                await delete(name)
            except NotFoundError:
                return
            except (UnsandboxError, TimeoutError) as reason:
                error = reason
                await asyncio.sleep(0.2)
            else:
                return
        self.wrong.append(f"{name} cannot be deleted: {error}")

    async def service(self) -> None:
        """Start a service, run a command in it, delete it."""
        name = f"load-{self.chance.randrange(1 << 40)}"
        made = await self.client.create_service(name, bootstrap="exec sleep 100000")
        try:
            job = await self.client.service_command(name, "echo here")
            self.judge(job, "here\n")
            self.counts["services"] += 1
        finally:
            await self._discard(self.client.delete_service, made.service_id or "")
        await asyncio.sleep(0.5)

    async def check(self) -> None:
        """Compare what the server knows with what it acknowledged."""
        for job_id, expected in self.accepted.items():
            try:
                self.judge(await self.client.wait(job_id, timeout=60), expected)
            except UnsandboxError as error:
                self.wrong.append(f"{job_id}: accepted, and now {error}")
        for job_id, (status, said) in self.results.items():
            try:
                job = await self.client.get_job(job_id)
            except NotFoundError:
                self.wrong.append(f"{job_id}: {status}, and now unknown")
                continue
            if (job.status, job.stdout) != (status, said):
                self.wrong.append(
                    f"{job_id}: was {status} {said[:40]!r}, is {job.status} {(job.stdout or '')[:40]!r}"
                )
        for snapshot, text in self.snapshots.items():
            try:
                clone = (await self.client.clone_snapshot(snapshot, "session")).session_id or ""
                await self._holds(clone, text, "the clone of a snapshot")
                await self.client.delete_session(clone)
            except UnsandboxError as error:
                self.wrong.append(f"snapshot {snapshot}: {error}")
        for session, text in self.sessions.items():
            await self._holds(session, text, "a session")

    async def _holds(self, session: str, text: str, what: str) -> None:
        try:
            try:
                done = await self.client.session_command(session, "cat /work/f")
            except ConflictError:
                # Its shell was killed, which is told once: whoever had set variables in it must know.
                done = await self.client.session_command(session, "cat /work/f")
        except UnsandboxError as error:
            self.wrong.append(f"{what}: {error}")
        else:
            if done.stdout != f"{text}\n":
                self.wrong.append(f"{what} holds {done.stdout!r}, not {text!r}")

    async def clean(self) -> None:
        """Delete everything."""
        for session in (await self.client.list_sessions()).sessions:
            await self.client.delete_session(session.session_id or "")
        for service in (await self.client.list_services()).services:
            await self.client.delete_service(service.service_id or "")
        for snapshot in (await self.client.list_snapshots()).snapshots:
            await self.client.delete_snapshot(snapshot.snapshot_id or "")


async def main(seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """Load, break, check; return the figures."""
    chance = random.Random(seed)
    rig = Rig(folder, chance)
    faults: Counter[str] = Counter()
    begun = time.monotonic()
    await rig.start()
    try:
        async with AsyncClient(*rig.keys(), base_url=rig.url, retry=PATIENT) as client:
            load = Load(client, chance, (await client.languages()).languages, rig.gvisor)
            workers = [
                *[load.job] * 6,
                load.background,
                load.hog,
                load.mapped,
                load.session,
                load.session,
                load.service,
            ]
            tasks = [asyncio.create_task(load.run(worker)) for worker in workers]
            always = [
                rig.kill_sandbox,
                rig.kill_sandbox,
                rig.kill_zygote,
                rig.kill_sentry,
                rig.kill_launcher,
                rig.jump,
            ]
            await trouble(chance, [*always, rig.fill_disk, rig.kill_server], seconds * 0.6, faults)
            await asyncio.sleep(5)
            before = rig.held()
            await trouble(chance, [*always, rig.fill_disk], seconds * 0.4, faults)
            load.over = True
            await asyncio.gather(*tasks)
            await load.check()
            await load.clean()
            after = rig.held()
            loaded_s = time.monotonic() - begun
        left = await rig.end()
    except BaseException:
        rig.server.kill()
        raise
    growth = {name: round(after[name] - before[name], 1) for name in after}
    missing = [
        what
        for what, there in (("gVisor", rig.gvisor), ("the full disk", rig.mounted), ("clocks", rig.clock))
        if not there
    ]
    return {
        "seed": seed,
        "seconds": round(loaded_s),
        "faults": dict(faults),
        "left out": missing,
        "load": dict(sorted(load.counts.items())),
        "checked again": len(load.results),
        "wrong": load.wrong,
        "growth of the server": growth,
        "left on the machine": left,
    }


async def trouble(
    chance: random.Random, kinds: list[Callable[[], Awaitable[bool]]], seconds: float, faults: Counter[str]
) -> None:
    """Cause trouble of all kinds for a while."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        await asyncio.sleep(chance.uniform(0.3, 3))
        kind = chance.choice(kinds)
        faults[kind.__name__] += await kind()


def show(found: dict[str, Any]) -> bool:
    """Print the table; tell whether all is well."""
    for title, value in found.items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        if isinstance(value, list):
            rows = [("", line) for line in value[:20]] or [("", "nothing")]
        for name, figure in rows:
            print(f"{title:24} {name:44} {figure}")
    good = not found["wrong"] and not found["left on the machine"]
    print(f"\n{'nothing lost, nothing left behind' if good else 'NOT GOOD'} (seed {found['seed']})")
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="how long there is load (300)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="which faults come when")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--keep-log", type=Path, help="copy the servers' log here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as place:
        figures = asyncio.run(main(options.seconds, options.seed, Path(place)))
        if options.keep_log:
            shutil.copy(Path(place, "log"), options.keep_log)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(not show(figures))
