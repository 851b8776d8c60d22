"""What `un` gives to a program, and what it says when its own output or input fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unsandbox.cli.program_input import INPUT_WAIT_S, parse_env, text

READS = "import sys; print(repr(sys.stdin.read()))"


@pytest.fixture
def reader(tmp_path) -> Path:
    path = tmp_path / "p.py"
    path.write_text(READS)
    return path


def test_a_pipe_or_file_on_standard_input_is_the_programs(run_un, reader):
    assert run_un.text(str(reader), stdin=b"data\n") == "'data\\n'\n"
    assert run_un.text("-s", "python", READS, stdin=b"data\n") == "'data\\n'\n"
    assert run_un.text("-", stdin=f"#!/usr/bin/env python3\n{READS}".encode()) == "''\n"
    with reader.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "unsandbox.cli", str(reader)],
            env=run_un.environment,
            stdin=file,
            capture_output=True,
        )
    assert done.stdout.decode() == f"{READS!r}\n"


def test_a_pipe_that_is_held_open_and_silent_holds_up_nothing(run_un, reader):
    reading, writing = os.pipe()
    try:
        began = time.monotonic()
        command = [sys.executable, "-m", "unsandbox.cli", str(reader)]
        done = subprocess.run(command, env=run_un.environment, stdin=reading, capture_output=True, timeout=60)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.stdout == b"''\n"
    assert b"--stdin -" in done.stderr
    assert time.monotonic() - began >= INPUT_WAIT_S


def test_the_language_of_a_file_can_be_named(run_un, tmp_path):
    path = tmp_path / "no extension"
    path.write_text("print(6 * 7)")
    assert run_un.text("-l", "python", str(path)) == "42\n"
    assert run_un(str(path), check=False).stderr.decode().count(f"un -l LANG '{path}'") == 1
    assert run_un("-l", "python", "-s", "python", "1", check=False).returncode == 2


def test_code_that_is_the_name_of_a_file_is_noted(run_un, reader):
    done = run_un("-s", "bash", str(reader), check=False)
    assert f"to run the file of this name: un {reader}\n" in done.stderr.decode()


@pytest.mark.parametrize("words", [["{}"], ["--json", "{}"], ["languages"], ["--help"], ["keys", "--help"]])
def test_output_that_cannot_be_written_is_one_line(run_un, reader, words):
    command = [sys.executable, "-m", "unsandbox.cli", *(word.format(reader) for word in words)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command,
            env=run_un.environment,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, b"un: No space left on device\n")


@pytest.mark.parametrize("words", [["version"], ["-V"], ["--version"]])
def test_the_version(run_un, words):
    assert run_un.text(*words).startswith("un, version ")


def test_help_of_a_command(run_un):
    assert run_un.text("help", "keys") == run_un.text("keys", "--help")
    assert run_un.text("help") == run_un.text("--help")


def test_an_env_file_as_editors_and_shells_write_it(tmp_path):
    path = tmp_path / "v.env"
    path.write_bytes(
        b'\xef\xbb\xbf# c\r\nexport A=1\r\nB="two words"\r\nC=x # not\r\n\r\nD=\r\nE=\'$HOME\'\r\nF=a#b\r\nG="open\r\n'
    )
    assert parse_env([], path) == {
        "A": "1", "B": "two words", "C": "x", "D": "", "E": "$HOME", "F": "a#b", "G": '"open'
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-8"])
def test_a_program_in_any_unicode_encoding(encoding):
    assert text("print('é')".encode(encoding)).removeprefix("\ufeff") == "print('é')"


def test_bytes_of_another_encoding_are_kept():
    assert text(b"caf\xe9").encode("utf-8", "surrogateescape") == b"caf\xe9"


def test_looking_for_keys_makes_no_folder(un_embedded, tmp_path):
    folder = tmp_path / "none"
    assert str(folder) in un_embedded("keys", "list", "--data", str(folder)).stderr.decode()
    for words in (["keys", "revoke", "x"], ["keys", "set", "x", "--burst", "1"], ["audit", "verify"]):
        done = un_embedded(*words, "--data", str(folder), check=False)
        assert (done.returncode, str(folder) in done.stderr.decode()) == (1, True)
    assert not folder.exists()


def test_a_key_for_the_shell(run_un, tmp_path):
    data = str(tmp_path / "data")
    lines = run_un.text("keys", "create", "--export", "--data", data).splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        "export UNSANDBOX_PUBLIC_KEY",
        "export UNSANDBOX_SECRET_KEY",
    ]
    assert "empty" in run_un("audit", "verify", "--data", data).stderr.decode()


@pytest.mark.parametrize(
    "option", [["--port", "80000"], ["--port", "-1"], ["--max-running", "-1"], ["--max-body", "0"]]
)
def test_numbers_out_of_range_are_refused(un_embedded, option):
    done = un_embedded("serve", *option, check=False)
    assert (done.returncode, option[0] in done.stderr.decode()) == (2, True)
