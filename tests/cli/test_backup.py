"""`un backup` and `un restore`: a server at work is saved, and another one goes on from the copy."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest
from tests.support import Serve, un


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A backup of a server that ran jobs, made and deleted snapshots, and wrote to a session meanwhile."""
    folder = tmp_path_factory.mktemp("backup")
    data, target = folder / "data", folder / "a backup"
    with Serve(data) as server:
        keys = server.keys()
        _, session = server.call(keys, "POST", "/sessions", {"shell": "bash"})
        session_id = session["session_id"]
        command = f"/sessions/{session_id}/shell"
        server.call(keys, "POST", command, {"command": "echo kept > /work/file"})
        _, kept = server.call(keys, "POST", f"/sessions/{session_id}/snapshot", {"name": "kept"})
        stop, failures, done = threading.Event(), [], []

        def run_jobs() -> None:
            while not stop.is_set():
                status, job = server.call(
                    keys, "POST", "/execute", {"language": "bash", "code": "echo $RANDOM"}
                )
                done.append(job.get("job_id"))
                if status != 200:
                    failures.append(job)

        def make_and_delete_snapshots() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                server.call(
                    keys, "POST", command, {"command": f"head -c 100000 /dev/urandom > /work/f{number}"}
                )
                status, made = server.call(keys, "POST", f"/sessions/{session_id}/snapshot", {})
                if status not in (200, 201):
                    failures.append(made)
                    return
                server.call(keys, "DELETE", f"/snapshots/{made['snapshot_id']}")
                done.append(made["snapshot_id"])

        threads = [threading.Thread(target=run_jobs), threading.Thread(target=make_and_delete_snapshots)]
        for thread in threads:
            thread.start()
        reports = []
        for number in range(2):
            before = len(done)
            place = target if number == 1 else folder / f"backup-{number}"
            reports.append(json.loads(un("backup", str(place), "--data", str(data), "--json").stdout))
            while len(done) < before + 2:  # the server goes on
                stop.wait(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
        running = un("restore", str(target), "--data", str(data), check=False)
        assert server.stop() == 0
    assert all(report["blobs"] >= 1 for report in reports)
    assert not list((data / "blobs").glob(".backup-*"))
    return folder, keys, session_id, kept["snapshot_id"], running


@pytest.mark.slow
def test_a_running_server_is_not_overwritten(saved):
    running = saved[-1]
    assert (running.returncode, "a running un serve uses" in running.stderr) == (1, True)


def test_every_backup_under_load_is_whole(saved, tmp_path):
    folder, *_ = saved
    for name in ("backup-0", "a backup"):
        data = tmp_path / name
        report = json.loads(un("restore", str(folder / name), "--data", str(data), "--json").stdout)
        assert report["has_blobs"] is True
        assert un("audit", "verify", "--data", str(data)).stdout.startswith("intact")
        assert data.stat().st_mode & 0o777 == 0o700
        assert (data / "server.key").stat().st_mode & 0o777 == 0o600


def test_a_server_goes_on_from_a_backup(saved, tmp_path):
    folder, keys, session_id, snapshot_id, _ = saved
    data = tmp_path / "restored"
    un("restore", str(folder / "a backup"), "--data", str(data))
    with Serve(data) as server:
        assert server.call(keys, "GET", "/jobs")[1]["jobs"]
        command = {"command": "cat /work/file"}
        assert server.call(keys, "POST", f"/sessions/{session_id}/shell", command)[1]["stdout"] == "kept\n"
        status, clone = server.call(keys, "POST", f"/snapshots/{snapshot_id}/clone", {})
        assert status in (200, 201), clone
        answer = server.call(keys, "POST", f"/sessions/{clone['session_id']}/shell", command)[1]
        assert answer["stdout"] == "kept\n"
        assert server.stop() == 0


def test_what_cannot_be_used_is_refused_and_nothing_is_left(saved, tmp_path):
    folder, *_ = saved
    backup, data = folder / "a backup", folder / "data"
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").write_text("")
    for words, named in (
        (["restore", backup, "--data", used], "is not empty"),
        (["restore", tmp_path, "--data", tmp_path / "new"], "is not a backup"),
        (["backup", backup, "--data", data], "not an empty folder"),
        (["backup", data / "inside", "--data", data], "inside the data folder"),
        (["backup", tmp_path / "new", "--data", tmp_path / "none"], "not a server's data folder"),
    ):
        done = un(*map(str, words), check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert named in done.stderr
    assert written(tmp_path) == {"used"}
    assert written(used) == {"file"}


@pytest.mark.parametrize("damage", ["database", "blob", "missing blob", "audit", "key", "other key"])
def test_a_damaged_backup_is_not_restored(saved, tmp_path, damage):
    folder, *_ = saved
    backup = tmp_path / "backup"
    subprocess.run(["cp", "-a", "--sparse=always", folder / "a backup", backup], check=True)
    blob = next(path for path in (backup / "blobs").rglob("*") if path.is_file())
    match damage:
        case "database":
            with closing(sqlite3.connect(backup / "unsandbox.sqlite3")) as database:
                database.execute("DELETE FROM keys")
                database.commit()
        case "blob":
            blob.write_bytes(blob.read_bytes()[:-1] + b"x")
        case "missing blob":
            blob.unlink()
        case "audit":
            log = backup / "audit-000001.jsonl"
            log.write_bytes(log.read_bytes().replace(b"job", b"jab", 1))
        case "key":
            (backup / "server.key").unlink()
        case "other key":
            (backup / "server.key").write_bytes((backup / "server.key").read_bytes()[::-1])
    done = un("restore", str(backup), "--data", str(tmp_path / "new"), check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert written(tmp_path) == {"backup"}


@pytest.mark.slow
def test_the_key_may_be_kept_elsewhere(saved, tmp_path):
    folder, keys, *_ = saved
    data, backup = tmp_path / "data", tmp_path / "backup"
    un("restore", str(folder / "a backup"), "--data", str(data))
    un("backup", str(backup), "--data", str(data), "--without-key")
    assert "server.key" not in written(backup)
    done = un("restore", str(backup), "--data", str(tmp_path / "new"), check=False)
    assert (done.returncode, "--key" in done.stderr) == (1, True)
    un("restore", str(backup), "--data", str(tmp_path / "new"), "--key", str(data / "server.key"))
    assert keys[0] in un("keys", "list", "--data", str(tmp_path / "new")).stdout


@pytest.mark.slow
def test_disks_stay_sparse(saved):
    folder, *_ = saved
    disks = [path for path in (folder / "a backup" / "sessions").rglob("*") if path.is_file()]
    large = [path for path in disks if path.stat().st_size > 100 << 20]
    if os.geteuid() == 0:
        assert large
    assert all(path.stat().st_blocks * 512 < path.stat().st_size / 4 for path in large)


def test_files_of_tenants_cannot_spoil_a_backup(tmp_path):
    data, backup = tmp_path / "data", tmp_path / "backup"
    un("keys", "create", "--data", str(data))
    work = data / "services" / "one" / "disk"
    work.mkdir(parents=True)
    (work / "file").write_text("kept")
    (work / "link").symlink_to("/etc/passwd")
    os.mkfifo(work / "pipe")
    deep = work
    for _ in range(300):
        deep /= "d"
        deep.mkdir()
    report = json.loads(un("backup", str(backup), "--data", str(data), "--json").stdout)
    copy = backup / "services" / "one" / "disk"
    assert written(copy) == {"file", "link", "d"}
    assert os.readlink(copy / "link") == "/etc/passwd"
    assert len(report["inexact"]) == 1
    assert report["inexact"][0].startswith("services/one/disk/d/d/")
    un("restore", str(backup), "--data", str(tmp_path / "new"))
    assert (tmp_path / "new" / "services" / "one" / "disk" / "file").read_text() == "kept"
