"""`un session`, `un service`, `un snapshot`, `un image`: every verb against a real server; a terminal in a pty."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from fcntl import ioctl

import pytest
from tests.support import UN, eventually


class Typist:
    """A user at a terminal."""

    def __init__(self, words, environment, columns=80, rows=24) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            [*UN, *words], env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = b""

    def resize(self, columns: int, rows: int) -> None:
        ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: bytes, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come; seen: {self.seen[-800:]!r}"
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:
                pytest.fail(f"ended before {text!r}; seen: {self.seen[-800:]!r}")
        self.seen = self.seen.partition(text)[2]

    def end(self) -> int:
        code = self.process.wait(30)
        os.close(self.master)
        return code


def test_a_session_is_a_real_terminal_and_gone_at_its_end(run_un):
    user = Typist(["session", "-s", "bash"], run_un.environment, 90, 30)
    user.type("stty size; echo in-$((40 + 2))\n")
    user.until(b"30 90\r\n")
    user.until(b"in-42")
    user.resize(100, 40)
    os.kill(user.process.pid, signal.SIGWINCH)
    user.type("stty size\n")
    user.until(b"40 100\r\n")
    user.type("vim -u NONE -N /tmp/x\n")
    user.until(b"~")
    user.type("ihello\x1b:wq\r")
    user.until(b"[New]")
    user.until(b"bash-")  # The prompt: vim throws away what is typed while it leaves.
    user.type("cat /tmp/x; echo end-$?\n")
    user.until(b"end-0")
    user.type("exit\n")
    assert user.end() == 0
    assert json.loads(run_un.text("session", "list", "--json"))["count"] == 0


def test_a_session_with_a_multiplexer_is_come_back_to(run_un):
    made = run_un.text("session", "-d", "--tmux", "-s", "bash").strip()
    first = Typist(["session", "attach", made], run_un.environment)
    first.type("x=kept; echo first-$x\n")
    first.until(b"first-kept")
    os.close(first.master)
    first.process.wait(20)
    again = Typist(["session", "--attach", made], run_un.environment)
    again.until(b"first-kept")
    again.type("echo back-$x; exit\n")
    again.until(b"back-kept")
    again.end()
    assert run_un.text("session", "delete", "-y", made) == f"deleted {made}\n"


def test_verbs_of_sessions(un, tmp_path):
    (tmp_path / "in.txt").write_text("given")
    made = un.text("session", "-d", "-f", "in.txt", "-t", "600", "-v", "1", "--name", "mine", "-a").strip()
    assert un.text("session", "run", made, "cat /tmp/input/in.txt; x=1") == "given"
    failed = un("session", "run", made, "echo $x; exit 3", check=False)
    assert (failed.stdout, failed.returncode) == (b"1\n", 3)
    assert un.text("session", "freeze", made) == f"frozen {made}\n"
    assert "frozen" in un.text("session", "--info", made)
    assert un.text("session", "--unfreeze", made) == f"running {made}\n"
    assert "2 vCPU" in un.text("session", "boost", made)
    assert un.text("session", "unboost", made) == f"unboosted {made}\n"
    row = next(line for line in un.text("session", "-l").splitlines() if line.startswith(made))
    assert row.split("\t")[2:4] == ["bash", "running"]
    refused = un("session", "delete", made, check=False)
    assert (refused.returncode, b"--yes" in refused.stderr) == (2, True)
    un("session", "--kill", made, "-y", "-a", "-o", "saved")
    assert "cat /tmp/input" in (tmp_path / "saved" / "audit.log").read_text()
    assert un("session", "get", made, check=False).returncode == 4


def test_verbs_of_services_vaults_snapshots_and_images(un):
    un(
        "service", "create", "cliweb", "--ports", "8000", "-n", "zerotrust", "-e", "GREETING=hi",
        "--bootstrap", "echo greeting $GREETING; exec python3 -m http.server 8000",
    )  # fmt: skip
    service = json.loads(un.text("service", "get", "cliweb", "--json"))["id"]
    eventually(lambda: "greeting hi" in un.text("service", "logs", "cliweb"))
    assert un.text("service", "run", "cliweb", "echo beside") == "beside\n"
    assert "http.server" in un.text("service", "bootstrap", "cliweb")
    assert "count" in un.text("service", "env", "status", service)
    assert un.text("service", "env", "set", service, "A=1", "B=2") == "2 variables\n"
    assert un.text("service", "env", "export", service) == "A=1\nB=2\n"
    assert un.text("service", "env", "delete", service, "A") == "1 variables left\n"
    un("service", "env", "set", service, stdin=b"C=3\n")
    assert un.text("service", "env", "export", service) == "C=3\n"
    assert un.text("service", "env", "delete", service, "-y") == "0 variables left\n"
    assert un.text("service", "resize", service, "-v", "2") == f"{service} has 2 vCPU\n"
    un("service", "update", service, "--unfreeze-on-demand", "--no-freeze-page")
    assert un.text("service", "domains", service, "one.example") == "one.example\n"
    assert un.text("service", "domains", service, "--add", "two.example") == "one.example\ntwo.example\n"
    assert un.text("service", "domains", service, "--remove", "one.example") == "two.example\n"
    un("service", "redeploy", service)
    un("service", "freeze", service)
    un("service", "unfreeze", service)
    un("service", "lock", service)
    assert un("service", "delete", service, "-y", check=False).returncode == 4
    un("service", "unlock", service)
    assert "cliweb" in un.text("service")

    snapshot = un.text("service", "snapshot", service, "--name", "saved").strip()
    assert snapshot in un.text("snapshot")
    assert "saved" in un.text("snapshot", "get", snapshot)
    un("snapshot", "restore", snapshot)
    un("snapshot", "lock", snapshot)
    assert un("snapshot", "delete", snapshot, "-y", check=False).returncode == 4
    un("snapshot", "unlock", snapshot)
    clone = un.text("snapshot", "clone", snapshot, "--type", "session").strip()
    un("session", "delete", "-y", clone)

    image = un.text("image", "publish", "snapshot", snapshot, "--name", "picture").strip()
    assert image in un.text("image", "list", "owned")
    un("image", "visibility", image, "public")
    assert image in un.text("image", "list", "public")
    assert un.text("image", "grant", image, "unsb-pk-aaaa-bbbb-cccc-dddd") == "unsb-pk-aaaa-bbbb-cccc-dddd\n"
    assert un.text("image", "trusted", image) == "unsb-pk-aaaa-bbbb-cccc-dddd\n"
    un("image", "revoke", image, "unsb-pk-aaaa-bbbb-cccc-dddd")
    copy = un.text("image", "clone", image, "--name", "copy").strip()
    spawned = un.text(
        "image", "spawn", copy, "--name", "clispawn", "--ports", "8000", "-n", "zerotrust"
    ).split()[0]
    un("image", "lock", copy)
    un("image", "unlock", copy)
    un("image", "transfer", copy, "unsb-pk-aaaa-bbbb-cccc-dddd", "-y")
    assert un("image", "get", copy, check=False).returncode == 4
    un("image", "delete", image, "-y")
    un("snapshot", "delete", snapshot, "-y")
    un("service", "delete", spawned, service, "-y")
    assert json.loads(un.text("service", "list", "--json"))["count"] == 0
