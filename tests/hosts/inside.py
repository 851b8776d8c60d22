"""Runs in the guest: uses a backend in all ways, and prints what came as one line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from unsandbox.sandbox import BubblewrapBackend, Limits, SandboxError, SandboxSpec, load_languages, pool_for
from unsandbox.sandbox.persistent_spec import PersistentSpec
from unsandbox.sandbox.spec import Outcome

MEMORY = 256 << 20
MEMORY_BOMB = "held = []\nwhile True: held.append(b'x' * (1 << 20))"
FORK_BOMB = "import os, time\nn = 0\ntry:\n while os.fork(): n += 1\n time.sleep(30)\nexcept OSError: print(n)"
HOG = "import time\nend = time.time() + 2\nwhile time.time() < end: pass"


def own_group() -> dict[str, object]:
    """Return all that a server could change in its caller's group."""
    path = next(
        line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")
    )
    folder = Path(f"/sys/fs/cgroup{path}")
    names = ("cgroup.type", "cgroup.subtree_control", "cgroup.max.descendants")
    found: dict[str, object] = {name: (folder / name).read_text() for name in names if (folder / name).exists()}
    return found | {
        "path": path,
        "children": sorted(entry.name for entry in folder.iterdir() if entry.is_dir()),
    }


async def look(backend: BubblewrapBackend) -> dict[str, object]:
    async def run(*words: str, **limits: float) -> Outcome:
        limits = {"wall_s": 60, "memory_bytes": MEMORY} | limits
        return await (await backend.start(SandboxSpec(run=words, limits=Limits(**limits)))).wait()

    found: dict[str, object] = {"cgroup": backend.host.cgroup.version, "why": backend.host.cgroup.refusal}
    found["pool"] = (await backend.prove_pool()).ok
    found["hello"] = (await run("sh", "-c", "echo hello")).stdout.data.decode().strip()
    found["memory bomb"] = (await run("python3", "-c", MEMORY_BOMB)).reason
    found["fork bomb"] = int((await run("python3", "-c", FORK_BOMB, processes=40)).stdout.data or -1)
    started = time.monotonic()
    cpu_s = (await run("python3", "-c", HOG, vcpu=0.5)).cpu_s
    found["CPU of half"] = None if cpu_s is None else round(cpu_s / (time.monotonic() - started), 2)
    try:
        sandbox = await backend.open_persistent(PersistentSpec())
        await sandbox.freeze()
        await sandbox.unfreeze()
        found["session"], found["freezer"] = True, backend.host.cgroup.freezer
    except SandboxError as error:
        return found | {"session": str(error)}
    try:
        await sandbox.set_limits(vcpu=2)
        found["boost"] = True
    except SandboxError as error:
        found["boost"] = str(error)
    await sandbox.close()
    return found


async def main() -> None:
    before = own_group()
    async with BubblewrapBackend(pool=pool_for(load_languages(), 2, 2, Limits(memory_bytes=MEMORY))) as backend:
        found = await look(backend)
    found["group as before"] = own_group() == before
    sys.stdout.write(f"{json.dumps(found, default=str)}\n")


asyncio.run(main())
