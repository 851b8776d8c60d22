"""Create, run and kill sandboxes through the package `e2b`, and kill the client in the middle: nothing must be left.

Needs `scripts/clients e2b`. Prints how many processes, mounts and folders of sessions there are before and after.

    .venv/bin/python benchmarks/e2b_sandboxes.py --count 1000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from tests.support import Serve, eventually  # noqa: E402

from unsandbox import e2b  # noqa: E402

CLIENT = REPO / ".venv" / "clients" / "e2b" / "bin" / "python"
CHURN = """
import sys
from concurrent.futures import ThreadPoolExecutor
from e2b import Sandbox

def one(number):
    sandbox = Sandbox.create(allow_internet_access=False, timeout=int(sys.argv[2]))
    assert sandbox.commands.run(f"sleep 86399 & echo {number}").stdout == f"{number}\\n"
    if sys.argv[3] == "kill":
        assert sandbox.kill()
    print(number, flush=True)

with ThreadPoolExecutor(4) as pool:
    list(pool.map(one, range(int(sys.argv[1]))))
"""
SHORT_S = 5


def left_over(server: Serve) -> dict[str, int]:
    """Return what there is of sandboxes."""
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return {
        "processes": sum(command == b"sleep\x0086399\x00" for command in commands),
        "mounts": len(Path("/proc/mounts").read_text().splitlines()),
        "folders": sum(1 for _ in (server.data / "sessions").iterdir()),
        "sessions": int(server.call(server.keys(), "GET", "/sessions")[1]["count"]),
    }


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder, Serve(Path(folder) / "data", "--e2b-port", "0") as server:
        public, secret = server.keys()
        names = e2b.environ(server.first_line["e2b_url"], public_key=public, secret_key=secret)
        env = os.environ | names | {"PYTHONPATH": ""}
        before = left_over(server)
        print("before:", before)
        began = time.monotonic()
        subprocess.run(
            [CLIENT, "-c", CHURN, str(count), "60", "kill"], env=env, stdout=subprocess.DEVNULL, check=True
        )
        took = time.monotonic() - began
        eventually(lambda: left_over(server) == before, 60)
        print(f"after {count} sandboxes in {took:.0f} s:", left_over(server))
        process = subprocess.Popen(
            [CLIENT, "-c", CHURN, str(count), str(SHORT_S), "keep"], env=env, stdout=subprocess.PIPE
        )
        if process.stdout is not None:
            for _ in range(min(count, 40)):
                process.stdout.readline()
            process.kill()
            process.wait()
            process.stdout.close()
        print("client killed:", left_over(server))
        eventually(lambda: left_over(server) == before, 120)
        print("after the timeouts:", left_over(server))


if __name__ == "__main__":
    main()
