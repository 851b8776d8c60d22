"""A data disk that is full: refused with 507, nothing lost, and all is well when there is room again."""

from __future__ import annotations

import subprocess
import threading

import pytest
from tests.support import Serve, eventually


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk):
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={disk}/filler", "bs=64k"], stderr=subprocess.DEVNULL, check=False
    )


@pytest.mark.slow
@pytest.mark.root
def test_a_full_data_disk(disk):
    data = disk / "data"
    with Serve(data) as server:
        keys = server.keys()

        def execute(code):
            return server.call(keys, "POST", "/execute", {"language": "bash", "code": code})

        _, kept = execute("echo kept")
        started = server.call(
            keys, "POST", "/execute/async", {"language": "bash", "code": "sleep 1; echo late"}
        )[1]
        eventually(lambda: server.call(keys, "GET", f"/jobs/{started['id']}")[1]["status"] == "running")
        fill(disk)
        # What little room the database has left is used up first.
        status, answer = eventually(lambda: (answer := execute("echo no"))[0] == 507 and answer)
        assert (status, answer["error"]) == (507, "insufficient_storage")
        assert server.call(keys, "POST", "/sessions", {})[0] == 507
        assert server.call(keys, "GET", f"/jobs/{kept['id']}")[1]["stdout"] == "kept\n"
        assert server.call(keys, "GET", f"/jobs/{started['id']}?wait=10")[1]["stdout"] == "late\n"
        threading.Event().wait(0.2)
        (disk / "filler").unlink()
        assert execute("echo again")[0] == 200
        assert server.stop() == 0
    with Serve(data) as server:
        for job, stdout in ((kept, "kept\n"), (started, "late\n")):
            found = server.call(keys, "GET", f"/jobs/{job['id']}")[1]
            assert (found["status"], found["stdout"]) == ("completed", stdout)
        assert server.stop() == 0
