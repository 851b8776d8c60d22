"""Processes and files of a session from the command line, as a user types them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import CommandLine
from tests.support import UN


@pytest.fixture
def session(run_un: CommandLine) -> Iterator[str]:
    name = run_un.text("session", "-d").strip()
    yield name
    run_un("session", "delete", "-y", name)


def test_a_program_with_its_streams_and_exit_code(run_un: CommandLine, session: str):
    done = run_un(
        "exec",
        session,
        "-w",
        "/tmp",
        "-e",
        "A=x y",
        "--",
        "sh",
        "-c",
        "pwd; echo $A; echo odd >&2; exit 3",
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"/tmp\nx y\n", b"odd\n", 3)
    assert run_un("exec", session, "--", "cat", stdin=b"in\xff").stdout == b"in\xff"
    done = run_un("exec", session, "--", "nonesuch", check=False)
    assert (done.returncode, b"nonesuch" in done.stderr) == (127, True)
    done = run_un("exec", session, "-t", "0.5", "--", "sleep", "60", check=False)
    assert (done.returncode, b"timeout" in done.stderr) == (124, True)
    answer = json.loads(run_un.text("exec", "--json", session, "--", "echo", "hi"))
    assert (answer["stdout"], answer["exit_code"], answer["status"]) == ("hi\n", 0, "exited")


def test_files_are_copied_listed_and_named(run_un: CommandLine, session: str, tmp_path: Path):
    (run_un.folder / "one.txt").write_text("one\n")
    (run_un.folder / "tree" / "deep").mkdir(parents=True)
    (run_un.folder / "tree" / "deep" / "two.txt").write_text("two\n")
    run_un("cp", "one.txt", f"{session}:")
    run_un("cp", "one.txt", f"{session}:renamed.txt")
    run_un("cp", "tree", f"{session}:copy")
    run_un("cp", "one.txt", f"{session}:copy")
    listed = [entry["name"] for entry in json.loads(run_un.text("ls", "--json", "-R", "9", session))["files"]]
    assert [name for name in listed if not name.startswith(".")] == [
        "copy", "copy/deep", "copy/deep/two.txt", "copy/one.txt", "one.txt", "renamed.txt",
    ]  # fmt: skip
    assert run_un.text("ls", f"{session}:copy").split() == ["0755", "4096", "deep/", "0644", "4", "one.txt"]
    run_un("cp", f"{session}:copy", str(tmp_path / "back"))
    assert (tmp_path / "back" / "deep" / "two.txt").read_text() == "two\n"
    run_un("cp", f"{session}:one.txt", str(tmp_path))
    assert (tmp_path / "one.txt").read_text() == "one\n"
    for words, said in (
        (("cp", "one.txt", "two.txt"), b"SESSION:PATH"),
        (("cp", "nonesuch", f"{session}:x"), b"nonesuch does not exist"),
        (("cp", f"{session}:nonesuch", "x"), b"No such file"),
        (("cp", f"{session}:one.txt", "missing/x"), b"missing/"),
        (("ls", f"{session}:nonesuch"), b"No such file"),
    ):
        done = run_un(*words, check=False)
        assert done.returncode != 0
        assert said in done.stderr, done.stderr


def test_processes_are_listed_and_ended(run_un: CommandLine, session: str):
    name = run_un.text("exec", "-d", session, "--", "sleep", "1000").strip()
    [listed] = [line for line in run_un.text("ps", session).splitlines() if name in line]
    assert listed.split("\t")[1] == "running"
    run_un("kill", session, name, "-s", "0")
    run_un("kill", session, name)
    assert name not in run_un.text("ps", session)
    assert run_un("kill", session, name, check=False).returncode == 4


def test_an_interrupt_ends_the_program(run_un: CommandLine, session: str):
    words = [*UN, "exec", session, "--", "sh", "-c", "echo on; exec sleep 9876543"]
    with subprocess.Popen(
        words, env=run_un.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"on\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
    ends = time.monotonic() + 20
    while "running" in run_un.text("ps", session):
        assert time.monotonic() < ends
