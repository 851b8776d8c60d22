"""The data folder and the umask: files are private in any folder, and the server starts under any umask."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.support import Serve, un


def readable_by_others(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]


@pytest.mark.parametrize(
    "umask", [0o000, *(pytest.param(umask, marks=pytest.mark.slow) for umask in (0o022, 0o027)), 0o077]
)
def test_the_server_runs_jobs_and_keeps_its_files_private_under_any_umask(tmp_path, umask):
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o755)
    before = os.umask(umask)
    try:
        with Serve(folder) as server:
            _, job = server.call(
                server.keys(), "POST", "/execute", {"language": "bash", "code": "echo up; ls /"}
            )
            assert job["stdout"].startswith("up\n")
            _, session = server.call(server.keys(), "POST", "/sessions", {})
            answer = {"command": "touch a && stat -c %a a ."}
            _, said = server.call(server.keys(), "POST", f"/sessions/{session['id']}/shell", answer)
            assert said["stdout"].splitlines()[0] == "644"
            assert readable_by_others(folder) == []
            assert server.stop() == 0
            assert "others may look into the data folder" in server.log
    finally:
        os.umask(before)


def test_a_database_that_others_could_read_is_made_private(tmp_path):
    un("keys", "create", "--data", str(tmp_path))
    database = tmp_path / "unsandbox.sqlite3"
    database.chmod(0o644)
    un("keys", "list", "--data", str(tmp_path))
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_a_folder_that_others_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    refused = un("keys", "create", "--data", str(tmp_path), check=False)
    assert refused.returncode != 0
    assert "chmod 700" in refused.stderr
