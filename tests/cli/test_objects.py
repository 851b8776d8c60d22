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
from tests.support import UN


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


def test_verbs_of_sessions(run_un, tmp_path):
    (tmp_path / "in.txt").write_text("given")
    made = run_un.text("session", "-d", "-f", "in.txt", "-t", "600", "-v", "1", "--name", "mine", "-a").strip()
    assert run_un.text("session", "run", made, "cat /tmp/input/in.txt; x=1") == "given"
    failed = run_un("session", "run", made, "echo $x; exit 3", check=False)
    assert (failed.stdout, failed.returncode) == (b"1\n", 3)
    assert run_un.text("session", "freeze", made) == f"frozen {made}\n"
    assert "frozen" in run_un.text("session", "--info", made)
    assert run_un.text("session", "--unfreeze", made) == f"running {made}\n"
    assert "2 vCPU" in run_un.text("session", "boost", made)
    assert run_un.text("session", "unboost", made) == f"unboosted {made}\n"
    row = next(line for line in run_un.text("session", "-l").splitlines() if line.startswith(made))
    assert row.split("\t")[2:4] == ["bash", "running"]
    refused = run_un("session", "delete", made, check=False)
    assert (refused.returncode, b"--yes" in refused.stderr) == (2, True)
    run_un("session", "--kill", made, "-y", "-a", "-o", "saved")
    assert "cat /tmp/input" in (tmp_path / "saved" / "audit.log").read_text()
    assert run_un("session", "get", made, check=False).returncode == 4
