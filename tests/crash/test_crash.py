"""A server killed at any moment loses nothing that it acknowledged and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from tests.crash.remains import Family, loop_devices, traces
from tests.server.conftest import Wire
from tests.support import Serve, eventually

SERVERS = 2
"""Servers at a time, each with a data folder of its own: while one starts, the other is killed."""
ROUNDS = 10
"""How often each of them is killed."""
THOROUGH = 4
"""In every so many rounds all that was acknowledged is looked at: what is lost stays lost."""
TERMINAL = {"completed", "failed", "timeout", "cancelled"}
DONE = ("jobs finished", "jobs accepted", "sessions", "snapshots", "vault writes", "freezes")
"""What is counted of the load."""
OUTBOUND = bool(shutil.which("slirp4netns"))
"""Whether a service can have a network here."""
LOST = (aiohttp.ClientError, ConnectionError, TimeoutError)


class Load:
    """A mixed load on one server; remembers what the server acknowledged, over all its lives."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._tasks: list[asyncio.Task[None]] = []
        self.counts: Counter[str] = Counter()
        self.finished: dict[str, str] = {}
        self.accepted: set[str] = set()
        self.sessions: dict[str, str] = {}
        self.snapshots: dict[str, str] = {}
        self.deleted_snapshots: set[str] = set()
        self.vault: set[str] = set()
        """Values of which one must be the vault's: the last acknowledged one, and those under way since."""
        self.service: str | None = None
        self.frozen: bool | None = None

    async def begin(self, wire: Wire) -> None:
        """Make the services that live as long as the data folder."""
        for name in ("vault", "still", "steady"):
            network = "semitrusted" if OUTBOUND and name == "steady" else "zerotrust"
            options = {"name": name, "bootstrap": "exec sleep 100000", "network_mode": network}
            made = await wire.call("POST", "/services", options)
            assert made.status in {200, 201}, made.json
            if name == "vault":
                self.service = made.json["id"]
        first = await wire.call("PUT", f"/services/{self.service}/env", b"SECRET=first")
        assert first.status == 200
        self.vault = {"SECRET=first"}

    async def run(self, wire: Wire) -> None:
        """Keep several workers busy until it is time to kill the server under them."""
        workers = [self._jobs, self._jobs, self._background, self._session_life, self._vault, self._freezing]
        self._tasks = [asyncio.create_task(self._forever(worker, wire)) for worker in workers]
        # Before the first kill, each of them has done all that it does.
        while not all(self.counts[what] for what in DONE) and not any(task.done() for task in self._tasks):
            await asyncio.sleep(0.02)
        # Counted by what was done, not by the clock: the machine may be slow.
        enough = self._done + self.random.randrange(2, 20)
        ends = time.monotonic() + 3
        while self._done < enough and time.monotonic() < ends:
            await asyncio.sleep(self.random.random() * 0.05)

    @property
    def _done(self) -> int:
        return sum(self.counts[what] for what in DONE)

    async def end(self) -> None:
        """Let every worker notice that the server is gone."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, LOST):
                raise result

    async def _forever(self, worker, wire: Wire) -> None:
        with contextlib.suppress(*LOST):
            while True:
                await worker(wire)

    async def _jobs(self, wire: Wire) -> None:
        number = self.random.randrange(1 << 30)
        answer = await wire.execute("bash", f"echo {number}; sleep 0.0{self.random.randrange(9)}")
        assert (answer.status, answer.json["stdout"]) == (200, f"{number}\n")
        self.finished[answer.json["job_id"]] = answer.json["stdout"]
        self.counts["jobs finished"] += 1

    async def _background(self, wire: Wire) -> None:
        code = {"language": "bash", "code": f"sleep {self.random.random()}; echo done"}
        answer = await wire.call("POST", "/execute/async", code)
        assert answer.status == 200, answer.json
        self.accepted.add(answer.json["job_id"])
        self.counts["jobs accepted"] += 1
        await asyncio.sleep(0.05)

    async def _session_life(self, wire: Wire) -> None:
        text = f"text {self.random.randrange(1 << 30)}"
        made = await wire.call("POST", "/sessions", {"ttl": 3600})
        assert made.status == 200, made.json
        name = made.json["id"]
        written = await wire.call("POST", f"/sessions/{name}/shell", {"command": f"echo {text} >/work/f; sync"})
        assert written.json["exit_code"] == 0
        self.sessions[name] = text
        self.counts["sessions"] += 1
        saved = await wire.call("POST", f"/sessions/{name}/snapshot", {"name": "crash"})
        assert saved.status in {200, 201}, saved.json
        self.snapshots[saved.json["id"]] = text
        self.counts["snapshots"] += 1
        if self.random.random() < 0.3:
            victim = self.random.choice(sorted(self.snapshots))
            expected = self.snapshots.pop(victim)
            gone = await wire.call("DELETE", f"/snapshots/{victim}")
            assert gone.status == 200, (gone.json, expected)
            self.deleted_snapshots.add(victim)
            self.counts["snapshots deleted"] += 1
        if len(self.sessions) > 6:
            oldest = next(iter(self.sessions))
            self.sessions.pop(oldest)
            assert (await wire.call("DELETE", f"/sessions/{oldest}")).status == 200

    async def _vault(self, wire: Wire) -> None:
        value = f"SECRET={self.random.randrange(1 << 60)}"
        self.vault.add(value)
        answer = await wire.call("PUT", f"/services/{self.service}/env", value.encode())
        assert answer.status == 200, answer.json
        self.vault = {value}
        self.counts["vault writes"] += 1
        await asyncio.sleep(0.1)

    async def _freezing(self, wire: Wire) -> None:
        self.frozen = None
        wanted = self.random.random() < 0.5
        call = "freeze" if wanted else "unfreeze"
        answer = await wire.call("POST", f"/services/still/{call}")
        assert answer.status == 200, answer.json
        self.frozen = wanted
        self.counts["freezes"] += 1
        await asyncio.sleep(0.2)

    async def check(self, wire: Wire, *, thorough: bool) -> None:
        """Compare what a new server knows with what its predecessors acknowledged."""
        ended = await asyncio.gather(*(wire.call("GET", f"/jobs/{job_id}") for job_id in self.accepted))
        for job in (answer.json for answer in ended):
            assert job["status"] in TERMINAL, job
            self.counts[f"accepted jobs {job['status']}"] += 1
            if job["status"] == "failed":
                assert "restarted" in job["error"]
        self.accepted.clear()
        listed = {item["id"] for item in (await wire.call("GET", "/snapshots")).json["snapshots"]}
        assert set(self.snapshots) <= listed
        assert not self.deleted_snapshots & listed
        known = {item["id"] for item in (await wire.call("GET", "/sessions")).json["sessions"]}
        assert set(self.sessions) <= known
        for name in known - set(self.sessions):  # Made, and the answer lost.
            await wire.call("DELETE", f"/sessions/{name}")
        if thorough:
            await asyncio.gather(
                *(self._ended_so(wire, *item) for item in self.finished.items()),
                *(self._clones(wire, *item) for item in self._some(self.snapshots)),
                *(self._holds(wire, *item) for item in self._some(self.sessions)),
            )
        exported = (await wire.call("POST", f"/services/{self.service}/env/export")).json["env"].strip()
        assert exported in self.vault, "the vault is neither the old nor the new one"
        self.vault = {exported}
        state = (await wire.call("GET", "/services/still")).json["state"]
        assert self.frozen is None or state == ("frozen" if self.frozen else "running")
        await self.answers(wire)

    def _some(self, kept: dict[str, str]) -> list[tuple[str, str]]:
        return self.random.sample(sorted(kept.items()), min(2, len(kept)))

    async def _ended_so(self, wire: Wire, job_id: str, stdout: str) -> None:
        job = (await wire.call("GET", f"/jobs/{job_id}")).json
        assert (job["status"], job["stdout"]) == ("completed", stdout)

    async def _clones(self, wire: Wire, snapshot: str, text: str) -> None:
        clone = await wire.call("POST", f"/snapshots/{snapshot}/clone", {"type": "session"})
        assert clone.status in {200, 201}, clone.json
        await self._holds(wire, clone.json["session_id"], text)
        await wire.call("DELETE", f"/sessions/{clone.json['session_id']}")
        self.counts["snapshots cloned"] += 1

    async def answers(self, wire: Wire) -> None:
        """Run a command in the service that nobody disturbs: it runs, with its interface."""
        job = (await wire.call("POST", "/services/steady/execute", {"command": "cat /proc/net/dev"})).json
        assert (job["status"], job["exit_code"]) == ("completed", 0), job
        assert ("tap0:" in job["stdout"]) == OUTBOUND

    async def _holds(self, wire: Wire, session: str, text: str) -> None:
        answer = await wire.call("POST", f"/sessions/{session}/shell", {"command": "cat /work/f"})
        assert answer.json["stdout"] == f"{text}\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_kill_9_at_any_moment(tmp_path):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    loads = [Load(seed + number) for number in range(SERVERS)]
    async with asyncio.TaskGroup() as group:
        for number, load in enumerate(loads):
            group.create_task(kill_again_and_again(load, tmp_path / f"data{number}"))
    counts = sum((load.counts for load in loads), Counter())
    print(dict(counts))  # noqa: T201 - the figures, shown by -s
    assert counts["kills"] == SERVERS * ROUNDS
    assert all(counts[what] > 0 for what in (*DONE, "snapshots cloned")), counts


async def kill_again_and_again(load: Load, data: Path) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:
        for number in range(ROUNDS + 1):
            began = time.monotonic()
            server = await asyncio.to_thread(Serve, data)
            with server:
                wire = Wire(server.url, *server.keys(), session)
                if number == 0:
                    await load.begin(wire)
                else:
                    thorough = number % THOROUGH == 0 or number == ROUNDS
                    await load.check(wire, thorough=thorough)
                load.counts["restart and check ms, all"] += round((time.monotonic() - began) * 1000)
                if number == ROUNDS:
                    family = await asyncio.to_thread(Family, server.process.pid)
                    assert await asyncio.to_thread(server.stop) == 0
                else:
                    await load.run(wire)
                    family = await asyncio.to_thread(Family, server.process.pid)
                    await asyncio.to_thread(server.kill)
                    await load.end()
                    load.counts["kills"] += 1
            assert family.networks
            assert not OUTBOUND or family.programs["slirp4netns"] > 0

            def gone(family: Family = family, pid: int = server.process.pid) -> bool:
                return not (traces(pid) or family.left() or loop_devices(data))

            await asyncio.to_thread(eventually, gone, 30)
