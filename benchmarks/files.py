"""What large files cost in memory: the peak above what was held before, of the client and of `un serve`.

    .venv/bin/python benchmarks/files.py
    .venv/bin/python benchmarks/files.py --mib 100 --json figures.json

Every case runs in a client process of its own, against one server; the peak is the kernel's (`VmHWM`, set back by
`clear_refs`), so it counts everything that was resident at once: the interpreter's heap as well as mapped files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 1 << 20

_CLIENT = r"""
import asyncio, contextlib, json, sys, time
from pathlib import Path
from unsandbox import AsyncClient, Client
url, public, secret, kind, case, path, mib = sys.argv[1:8]
options = {"public_key": public, "secret_key": secret, "base_url": url}

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

CALLS = {
    "in": ("wc -c < /tmp/input/large", {"input_files": [Path(path)]}),
    "artifact": (f"head -c {mib}M /dev/zero > /tmp/artifacts/large", {"return_artifacts": True}),
    "stdout": (f"head -c {mib}M /dev/zero | tr '\\0' x", {}),
}
code, further = CALLS[case]

def check(job, folder):
    job.check()
    if case == "in":
        assert int(job.stdout) == int(mib) << 20, job.stdout
    elif case == "artifact":
        assert job.artifacts, job.artifacts_skipped
        assert job.artifacts[0].save(folder).stat().st_size == int(mib) << 20
    return {"kept": len(job.stdout_bytes), "skipped": job.artifacts_skipped}

def begin():
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS"), time.perf_counter()

async def run_async():
    async with AsyncClient(**options) as client:
        await client.execute("bash", "true")
        print("ready", flush=True); sys.stdin.readline()
        before, began = begin()
        job = await client.execute("bash", code, ttl=120, **further)
        return before, began, job

def run_sync():
    with Client(**options) as client:
        client.execute("bash", "true")
        print("ready", flush=True); sys.stdin.readline()
        before, began = begin()
        return before, began, client.execute("bash", code, ttl=120, **further)

before, began, job = asyncio.run(run_async()) if kind == "async" else run_sync()
result = check(job, Path(path).parent / "saved")
seconds = time.perf_counter() - began
print(json.dumps({"grown": memory("VmHWM") - before, "seconds": seconds, **result}), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One case: bytes beyond those before it, at the worst moment; seconds for all of it."""

    case: str
    client: str
    mib: int
    client_peak: int
    server_peak: int
    seconds: float


@contextlib.contextmanager
def serve(data: Path) -> Iterator[tuple[int, str, str, str]]:
    """Run `un serve`; give its process id, its URL and a pair of keys."""
    command = [sys.executable, "-m", "unsandbox.cli", "serve", "--port", "0", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            public, secret = (data / "accounts.csv").read_text().strip().split(",")
            yield process.pid, url, public, secret
        finally:
            process.terminate()


def held(pid: int, name: str) -> int:
    """Return a figure of `/proc/PID/status` in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def measure(server: tuple[int, str, str, str], kind: str, case: str, path: Path, mib: int) -> Row:
    """Run one case."""
    pid, url, public, secret = server
    words = [sys.executable, "-c", _CLIENT, url, public, secret, kind, case, str(path), str(mib)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        if client.stdout.readline() != "ready\n":
            raise SystemExit(f"{case}: the client did not start")
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        before = held(pid, "VmRSS")
        client.stdin.write("go\n")
        client.stdin.flush()
        said = json.loads(client.stdout.readline() or '{"grown": -1, "seconds": -1}')
    return Row(case, kind, mib, said["grown"], held(pid, "VmHWM") - before, round(said["seconds"], 2))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mib", type=int, default=100, help="size of the data (100)")
    parser.add_argument("--only", default="in,artifact,stdout", help="cases, comma-separated")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        large = Path(folder) / "large"
        with large.open("wb") as file:
            for number in range(arguments.mib):
                file.write(number.to_bytes(4, "big") * (MIB // 4))
        with serve(Path(folder) / "data") as server:
            rows = [
                measure(server, kind, case, large, arguments.mib)
                for case in arguments.only.split(",")
                for kind in ("async", "sync")
            ]
    print(f"{'case':10}{'client':8}{'MiB':>5}{'client peak':>14}{'server peak':>14}{'seconds':>10}")
    for row in rows:
        peaks = f"{row.client_peak / MIB:>10.1f} MiB{row.server_peak / MIB:>10.1f} MiB"
        print(f"{row.case:10}{row.client:8}{row.mib:>5}{peaks}{row.seconds:>10.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
