"""What `un` prints for other programs to read: units for systemd, a page for man, keys for a shell."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess

import pytest
from tests.support import ABSENT, UN, Serve, un

from unsandbox.cli.main import COMMANDS


@pytest.mark.parametrize("user", [False, True])
def test_systemd_accepts_the_unit(tmp_path, user):
    words = ["--user"] if user else []
    data = tmp_path / 'a "b" $c %d'
    options = ["--port", "9000", "--public-url", "https://api.example.com"]
    unit = un("systemd", *words, "--data", str(data), "--", *options).stdout
    assert "Delegate=yes\n" in unit
    assert "OOMPolicy=continue\n" in unit
    file = tmp_path / "unsandbox.service"
    file.write_text(unit)
    if shutil.which("systemd-analyze") is None:
        pytest.skip(f"{ABSENT}: systemd-analyze")
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["systemd-analyze", *words, "verify", "--man=no", file], env=runtime, capture_output=True, text=True
    )
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.slow
def test_the_command_of_the_unit_serves(tmp_path):
    """Under its restrictions too, as far as a program that is not systemd can make them."""
    unit = un("systemd", "--data", str(tmp_path / "data"), "--", "--port", "0").stdout
    command = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1])
    assert command[0].startswith("/")
    assert command[-5:] == ["serve", "--data", str(tmp_path / "data"), "--port", "0"]
    dropped = [word.lower() for word in re.findall(r"CAP_(\w+)", unit)]
    if shutil.which("setpriv") is None:
        pytest.skip(f"{ABSENT}: setpriv")
    restricted = ["setpriv", "--no-new-privs", "--bounding-set", ",".join(f"-{name}" for name in dropped)]
    with Serve(tmp_path / "data", program=[*restricted, *command[:-5]]) as server:
        keys = server.keys()
        status, job = server.call(keys, "POST", "/execute", {"language": "bash", "code": "echo served"})
        assert (status, job["stdout"]) == (200, "served\n")
        _, session = server.call(keys, "POST", "/sessions", {})
        path = f"/sessions/{session['session_id']}/shell"
        assert server.call(keys, "POST", path, {"command": "echo in"})[1]["stdout"] == "in\n"
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--", "--port", "99999"], "--port"),
        (["--", "--data", "x"], "before --"),
        (["--", "--nothing"], "--nothing"),
    ],
)
def test_a_unit_that_would_not_start_is_refused(words, named):
    done = un("systemd", *words, check=False)
    assert (done.returncode, done.stdout, named in done.stderr) == (2, "", True)


@pytest.mark.slow
def test_the_manual_page_has_every_command_and_option(tmp_path):
    page = un("man").stdout
    assert json.loads(un("man", "--json").stdout)["page"] == page
    for name in COMMANDS:
        assert f'.SS "un {name}"' in page
    assert r"\-\-compiler\-arg" in page
    for viewer in (["mandoc", "-T", "lint", "-W", "error"], ["man", "--warnings", "-l", "-"]):
        if shutil.which(viewer[0]) is None:
            continue
        done = subprocess.run(
            viewer,
            input=page,
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    if shutil.which("man"):
        assert "un serve [OPTIONS]" in done.stdout


def test_a_shell_takes_new_keys_by_eval(tmp_path):
    script = (
        f'eval "$({shlex.join(UN)} keys create --export --data {tmp_path})" && echo "$UNSANDBOX_PUBLIC_KEY"'
    )
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() in un("keys", "list", "--data", str(tmp_path)).stdout
    assert (done.stdout[:8], done.stderr) == ("unsb-pk-", "")


@pytest.mark.slow
def test_an_empty_audit_log_is_not_called_intact(tmp_path):
    un("keys", "create", "--data", str(tmp_path / "data"))
    for path in (tmp_path / "data").glob("audit-*"):
        path.unlink()
    for command in ("verify", "show"):
        done = un("audit", command, "--data", str(tmp_path / "data"))
        assert done.stdout == ""
        assert done.stderr.startswith(f"empty: nothing has been logged in {tmp_path / 'data'}")
    for words in (["keys", "list"], ["audit", "show"], ["audit", "verify"], ["keys", "revoke", "x"]):
        done = un(*words, "--data", str(tmp_path / "none"), check=False)
        assert str(tmp_path / "none") in done.stderr
        assert not (tmp_path / "none").exists()
