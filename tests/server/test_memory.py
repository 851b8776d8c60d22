"""Large files take a disk and not the memory: the peak of a client and of `un serve`, as the kernel saw them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import Serve

from unsandbox import Client

MIB = 1 << 20
SIZE = 48 * MIB
MOST = SIZE // 2
"""Much more than is needed (about 5 MiB), and much less than holding it once."""

CLIENT = """
import asyncio, json, resource, sys
from pathlib import Path
from unsandbox import AsyncClient, Client
url, public, secret, kind, path, folder = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
options = {"public_key": public, "secret_key": secret, "base_url": url}
code = "cat /tmp/input/large > /tmp/artifacts/made"

async def by_async():
    async with AsyncClient(**options) as client:
        await client.execute("bash", "true", input_files={"small": b"x"}, return_artifacts=True)
        return peak(), await client.execute("bash", code, input_files=[Path(path)], return_artifacts=True)

def by_sync():
    with Client(**options) as client:
        client.execute("bash", "true", input_files={"small": b"x"}, return_artifacts=True)
        return peak(), client.execute("bash", code, input_files=[Path(path)], return_artifacts=True)

before, job = asyncio.run(by_async()) if kind == "async" else by_sync()
saved = job.check().artifacts[0].save(folder)
print(json.dumps([str(saved), peak() - before]))
"""


def memory(pid: int, name: str) -> int:
    """Return a figure of the kernel's in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) << 10


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of these tests' own: its peak must be theirs."""
    with Serve(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_large_file_in_and_out_is_held_by_neither_side(served, kind, tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        for number in range(SIZE // MIB):
            file.write(number.to_bytes(4, "big") * (MIB // 4))
    pid = served.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = memory(pid, "VmHWM")
    words = [sys.executable, "-c", CLIENT, served.url, *served.keys(), kind, str(large), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    saved, grown = json.loads(done.stdout)
    with large.open("rb") as one, Path(saved).open("rb") as other:
        assert all(one.read(MIB) == other.read(MIB) for _ in range(SIZE // MIB + 1))
    assert grown < MOST, f"the client grew by {grown >> 20} MiB"
    assert (server := memory(pid, "VmHWM") - before) < MOST, f"the server grew by {server >> 20} MiB"


@pytest.mark.slow
def test_large_artifacts_outlive_the_server(tmp_path):
    data = os.urandom(2_000_003)
    with Serve(tmp_path / "data") as server:
        keys = server.keys()
        with Client(*keys, base_url=server.url) as client:
            code = "cp /tmp/input/large /tmp/artifacts/made; echo small > /tmp/artifacts/small"
            made = client.execute("bash", code, input_files={"large": data}, return_artifacts=True)
        server.kill()
    with Serve(tmp_path / "data") as server, Client(*keys, base_url=server.url) as client:
        artifacts = client.get_job(made.job_id).artifacts
        assert {artifact.filename: artifact.data for artifact in artifacts} == {
            "made": data,
            "small": b"small\n",
        }
