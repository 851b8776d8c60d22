"""What a person at a terminal sees: a session's terminal, what a run is at, tables; each in a pty."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from fcntl import ioctl

import pytest
from tests.support import UN, default_signals, eventually


class Typist:
    """A user at a terminal."""

    def __init__(self, words, environment, columns=80, rows=24, hang_up=signal.SIG_DFL, program=UN) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns, rows)

        def begin() -> None:
            ioctl(0, termios.TIOCSCTTY, 0)
            default_signals()
            signal.signal(signal.SIGHUP, hang_up)

        self.process = subprocess.Popen(
            [*program, *words], env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=begin,
        )  # fmt: skip
        os.close(slave)
        self.seen = b""
        self.passed = b""

    def resize(self, columns: int, rows: int) -> None:
        ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: bytes, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come; seen: {self.seen[-800:]!r}"
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:
                pytest.fail(f"ended before {text!r}; seen: {self.seen[-800:]!r}")
        self.passed, _, self.seen = self.seen.partition(text)

    def until_match(self, pattern: bytes) -> None:
        """Read on until a part of the output matches."""
        end = time.monotonic() + 60
        while not re.search(pattern, self.seen):
            assert time.monotonic() < end, self.seen[-800:]
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 65536)
                except OSError:
                    pytest.fail(f"ended before {pattern!r}; seen: {self.seen[-800:]!r}")

    def end(self) -> int:
        code = self.process.wait(60)
        os.close(self.master)
        return code


@pytest.fixture(params=["served", "embedded"])
def somewhere(request, clean_environment):
    """The variables of somebody with a server, then of somebody without."""
    if request.param == "served":
        return request.getfixturevalue("served_environment")
    return clean_environment | {"UNSANDBOX_API_BASE": "local"}


def test_a_session_is_a_real_terminal(somewhere):
    user = Typist(["session", "-s", "bash"], somewhere, 90, 30)
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
    user.type("exit 3\n")
    assert user.end() == 3


def test_a_session_is_gone_at_its_end_and_tells_so_as_json(run_un):
    ended = run_un("session", "--json", stdin=b"echo typed; exit\n")
    assert b"typed" in ended.stderr
    session = json.loads(ended.stdout)
    assert session["status"] == "deleted"
    assert session["id"] not in run_un.text("session", "list")


@pytest.mark.parametrize("hang_up", [signal.SIG_DFL, signal.SIG_IGN], ids=["plain", "nohup"])
def test_a_session_with_a_multiplexer_is_come_back_to(run_un, hang_up):
    made = run_un.text("session", "-d", "--tmux", "-s", "bash").strip()
    first = Typist(["session", "attach", made], run_un.environment, hang_up=hang_up)
    first.type("x=kept; echo first-$x\n")
    first.until(b"first-kept")
    os.close(first.master)
    assert first.process.wait(60) == -signal.SIGHUP
    again = Typist(["session", "--attach", made], run_un.environment)
    again.until(b"first-kept")
    again.type("echo back-$x; exit\n")
    again.until(b"back-kept")
    again.end()
    assert run_un.text("session", "delete", "-y", made) == f"deleted {made}\n"


def test_a_frozen_session_says_what_to_do_first(run_un):
    made = run_un.text("session", "-d").strip()
    run_un("session", "freeze", made)
    refused = run_un("session", "attach", made, check=False)
    assert (refused.returncode, f"un session unfreeze {made}" in refused.stderr.decode()) == (1, True)
    run_un("session", "delete", "-y", made)


def test_a_run_shows_what_it_is_at_until_output_comes_and_ctrl_c_cancels_it(run_un):
    user = Typist(["-s", "bash", "until [ -e /work/go ]; do sleep 0.1; done"], run_un.environment)
    user.until(b"running")
    user.type("\x03")
    user.until(b"un: interrupted")
    assert user.passed.rstrip().endswith(b"\r\x1b[K")
    assert user.end() == 130
    newest = json.loads(run_un.text("jobs", "list", "--json", "-n", "1"))["jobs"][0]
    eventually(
        lambda: json.loads(run_un.text("jobs", "get", newest["id"], "--json"))["status"] == "cancelled", 60
    )


def test_the_line_of_a_run_is_gone_before_its_output(run_un):
    user = Typist(["-s", "bash", "sleep 2; echo out; echo err >&2; sleep 2; echo more"], run_un.environment)
    user.until(b" s\r\x1b[K")
    user.until(b"out\r\n")
    user.until(b"more\r\n")
    assert b"running" not in user.passed
    assert user.end() == 0


@pytest.mark.parametrize("colour", [True, False])
def test_tables_have_colours_where_they_are_wanted(run_un, colour):
    run_un("-s", "bash", "true")
    user = Typist(["jobs", "-n", "1"], run_un.environment | ({} if colour else {"NO_COLOR": "1"}), 120)
    user.until(b"completed")
    assert (b"\x1b[1m" in user.passed) == colour
    assert b"job_id" in user.passed
    user.until(b" UTC")
    assert user.end() == 0


def test_nothing_is_lost_without_a_yes(run_un):
    made = run_un.text("session", "-d").strip()
    user = Typist(["session", "delete", made], run_un.environment)
    user.until(b"[y/N]")
    user.type("n\n")
    user.until(b"nothing was changed")
    assert user.end() == 1
    user = Typist(["session", "delete", made], run_un.environment)
    user.until(b"[y/N]")
    user.type("y\n")
    user.until(b"deleted")
    assert user.end() == 0


def test_a_table_shows_whole_urls_and_times_for_people(run_un, tmp_path):
    name = "a-service-with-a-long-name-that-fills-the-terminal"
    run_un("service", "create", name, "--ports", "8000", "--bootstrap", "sleep 60")
    try:
        url = json.loads(run_un.text("service", "get", name, "--json"))["url"]
        user = Typist(["service", "list"], run_un.environment, 40)
        user.until(url.encode())
        assert user.passed.lstrip().startswith(b"\x1b[1mservice_id")
        user.end()
    finally:
        run_un("service", "delete", name, "-y")
    job = json.loads(run_un.text("--json", "-s", "bash", "true"))["job_id"]
    user = Typist(["jobs", "get", job], run_un.environment)
    for wanted in (
        rb"created_at +\d{4}-\d\d-\d\d [\d:]{8} UTC \(\d+ [\w ]+ ago\)",
        rb"total_time_ms +\d+[\w. ]* m?s\r",
    ):
        user.until_match(wanted)
    user.end()


def test_missing_languages_are_folded_at_a_terminal(clean_environment):
    listed = json.loads(
        subprocess.run([*UN, "languages", "--json"], env=clean_environment, capture_output=True).stdout
    )
    missing = [row["name"] for row in listed["languages"] if not row["installed"]]
    if missing:
        user = Typist(["languages"], clean_environment)
        user.until(f"{len(missing)} more are not installed: ".encode())
        assert b"apt-get" not in user.passed
        user.until(b"un languages --all")
        user.end()
        user = Typist(["languages", "--all"], clean_environment)
        user.until(b"not installed: un languages install")
        user.end()


def test_standard_input_is_typed_up_to_ctrl_d(run_un):
    user = Typist(["--stdin", "-", "-s", "bash", "tr a-z A-Z"], run_un.environment)
    user.until(b"Ctrl-D")
    user.type("typed in\n")
    user.type("\x04")
    user.until(b"TYPED IN")
    assert user.end() == 0
