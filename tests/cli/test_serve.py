"""`un serve` and `un keys` as a user types them: real processes, real signals."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from tests.cli.conftest import CommandLineHere
from tests.support import UN, Serve, eventually, self_signed
from tests.support import un as un_process


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "data"


@pytest.fixture
def un(clean_environment, tmp_path):
    """Run commands that need no server, in this process."""
    return CommandLineHere(clean_environment, tmp_path)


def sandboxes(tree_of: int) -> list[int]:
    """Return every descendant of a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [tree_of]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def traces(pid: int) -> set[str]:
    """Return the folders and control groups that the engine of a process has on this machine."""
    places = [Path("/run"), Path("/tmp"), *Path("/sys/fs/cgroup").glob("*/"), Path("/sys/fs/cgroup")]
    return {str(path) for place in places for path in place.glob(f"unsandbox-{pid}-*")}


def test_first_start_makes_a_key_and_says_where_never_what(data):
    with Serve(data) as server:
        path = Path(server.first_line["credentials_file"])
        assert path.stat().st_mode & 0o777 == 0o600
        assert (data / "server.key").stat().st_mode & 0o777 == 0o600
        keys = server.keys()
        status, job = server.call(keys, "POST", "/execute", {"language": "bash", "code": "echo served"})
        assert (status, job["stdout"]) == (200, "served\n")
        assert server.stop() == 0
        assert str(path) in server.log
        assert keys[1] not in server.log
        assert "echo served" not in server.log
        database = b"".join(file.read_bytes() for file in data.glob("unsandbox.sqlite3*"))
        assert keys[0].encode() in database
        assert keys[1].encode() not in database


def test_keys_work_before_the_first_start_and_while_it_runs(un, data):
    made = json.loads(un.text("keys", "create", "--data", str(data), "--json"))
    assert set(made) == {"public_key", "secret_key"}
    assert made["public_key"].startswith("unsb-pk-")
    assert made["secret_key"].startswith("unsb-sk-")
    with Serve(data) as server:
        assert "credentials_file" not in server.first_line
        first = (made["public_key"], made["secret_key"])
        assert server.call(first, "GET", "/jobs")[0] == 200
        second = json.loads(un.text("keys", "create", "--data", str(data), "--json", "--note", "two"))
        pair = (second["public_key"], second["secret_key"])
        assert server.call(pair, "GET", "/jobs")[0] == 200
        revoked = un.text("keys", "revoke", made["public_key"], "--data", str(data), "--json")
        assert json.loads(revoked) == {"public_key": made["public_key"], "valid": False}
        eventually(lambda: server.call(first, "GET", "/jobs")[0] == 401)
        assert server.call(pair, "GET", "/jobs")[0] == 200
        listed = json.loads(un.text("keys", "list", "--data", str(data), "--json"))
        assert [(key["public_key"], key["valid"]) for key in listed["keys"]] == [
            (first[0], False),
            (pair[0], True),
        ]
        assert listed["keys"][1]["note"] == "two"
        assert pair[1] not in un.text("keys", "list", "--data", str(data))


def test_revoking_an_unknown_key_fails_and_says_what_to_do(un, data):
    un.text("keys", "create", "--data", str(data), "--json")
    result = un("keys", "revoke", "unsb-pk-none", "--data", str(data), check=False)
    assert result.returncode == 1
    assert "un keys list" in result.stderr.decode()


def test_many_keys_made_at_once_on_a_new_folder(un, data):
    processes = [
        subprocess.Popen([*UN, "keys", "create", "--data", str(data), "--json"], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    made = [json.loads(process.communicate(timeout=60)[0])["public_key"] for process in processes]
    listed = json.loads(un.text("keys", "list", "--data", str(data), "--json"))
    assert sorted(key["public_key"] for key in listed["keys"]) == sorted(made)


def test_sigterm_lets_a_running_job_end_and_answers_it(data):
    with Serve(data) as server:
        keys = server.keys()
        answers = []
        body = {"language": "bash", "code": "sleep 1; echo finished"}
        thread = threading.Thread(target=lambda: answers.append(server.call(keys, "POST", "/execute", body)))
        thread.start()
        eventually(
            lambda: any(job["status"] == "running" for job in server.call(keys, "GET", "/jobs")[1]["jobs"])
        )
        assert server.stop() == 0
        thread.join()
        assert answers[0][1]["stdout"] == "finished\n"


def test_kill_9_loses_no_finished_job_and_marks_the_others(data):
    with Serve(data) as server:
        keys = server.keys()
        headers = {"language": "bash", "code": "echo kept"}
        done = server.call(keys, "POST", "/execute", headers)[1]["job_id"]
        lost = server.call(keys, "POST", "/execute/async", {"language": "bash", "code": "sleep 60"})[1][
            "job_id"
        ]
        eventually(lambda: server.call(keys, "GET", f"/jobs/{lost}")[1]["status"] == "running")
        tree = sandboxes(server.process.pid)
        assert tree
        assert traces(server.process.pid)
        server.kill()
        eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in tree))
        eventually(lambda: not traces(server.process.pid))
    with Serve(data) as server:
        kept = server.call(keys, "GET", f"/jobs/{done}")[1]
        assert (kept["status"], kept["stdout"], kept["exit_code"]) == ("completed", "kept\n", 0)
        failed = server.call(keys, "GET", f"/jobs/{lost}")[1]
        assert failed["status"] == "failed"
        assert "restarted" in failed["error"]
        assert server.call(keys, "GET", "/jobs")[1]["count"] == 2
        assert server.stop() == 0
        assert not traces(server.process.pid)


def test_a_second_server_on_the_same_folder_is_refused(served):
    result = un_process("serve", "--port", "0", "--data", str(served.data), check=False)
    assert result.returncode == 1
    assert "another un serve" in result.stderr
    assert result.stdout == ""


def test_a_port_that_is_taken_is_said_so(served, data):
    port = served.url.rpartition(":")[2]
    result = un_process("serve", "--port", port, "--data", str(data), check=False)
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr


def test_https(data, tmp_path):
    certificate, key = self_signed(tmp_path)
    with Serve(data, "--tls-cert", certificate, "--tls-key", key) as server:
        assert server.url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=certificate)
        assert server.call(server.keys(), "GET", "/jobs", context=trust)[0] == 200


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tls-cert", "c"], "given together"),
        (["--tls-cert", "/none", "--tls-key", "/none"], "cannot load"),
        (["--port", "x"], "--port"),
        (["--port", "80000"], "0<=x<=65535"),
        (["--watchdog", "-1"], "--watchdog"),
        (["--max-body", str(10**15)], "--max-body"),
    ],
)
def test_wrong_arguments_exit_with_2(un_embedded, data, arguments, named):
    result = un_embedded("serve", "--data", str(data), *arguments, check=False)
    assert result.returncode == 2
    assert named in result.stderr.decode()


def test_a_data_folder_that_cannot_be_used(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    result = un_process("serve", "--data", str(file / "x"), check=False)
    assert result.returncode == 1
    assert "cannot be used" in result.stderr


def test_a_server_key_that_others_can_read_is_refused(un, data):
    un("keys", "create", "--data", str(data))
    os.chmod(data / "server.key", 0o644)
    result = un("keys", "list", "--data", str(data), check=False)
    assert result.returncode == 1
    assert "chmod 600" in result.stderr.decode()


def test_doctor_tells_what_is_enforced(un, data):
    report = json.loads(un.text("doctor", "--json"))
    assert report["gvisor"]["backend"] == "gvisor"
    assert report["gvisor"]["usable"] or "un doctor --install-gvisor" in report["gvisor"]["reason"]
    assert report["usable"] is True
    assert report["checks"]
    assert all(check["ok"] for check in report["checks"])
    assert {"python", "bash"} <= set(report["languages"])
    assert "pool: warm sandboxes" in [check["name"] for check in report["checks"]]
    text = un.text("doctor")
    # One line for each row, and one for each remedy.
    assert len(text.splitlines()) == len(report["rows"]) + sum(bool(row["remedy"]) for row in report["rows"])
    assert len(report["rows"]) <= 12
    assert "\x1b[" not in text
    assert "limit: wall time" not in text
    assert "limit: wall time" in un.text("doctor", "--verbose")


def test_doctor_prints_profiles(un):
    assert json.loads(un.text("doctor", "--seccomp-profile"))["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "userns," in un.text("doctor", "--apparmor-profile")
