"""`un languages`: what can run here or on a server, and what an installation says before it does anything."""

import json

import pytest


def rows(un, *arguments):
    return {row["name"]: row for row in json.loads(un.text("languages", "--json", *arguments))["languages"]}


def test_what_this_machine_can_run(un):
    found = rows(un, "--host")
    assert len(found) >= 80
    assert found["python"]["installed"]
    assert "py" in found["python"]["extensions"]
    assert found["commonlisp"]["interpreters"] == ["sbcl", "clisp"]
    assert not found["julia"]["installed"]
    assert "julialang.org" in found["julia"]["how_to_get"]


def test_plain_in_a_pipe(un):
    lines = [line.split("\t") for line in un.text("languages", "--host").splitlines()]
    assert all(len(line) == 4 for line in lines)
    assert ["bash", "sh shell", "sh bash", "ready"] in lines
    states = [line[3] == "ready" for line in lines]
    assert states == sorted(states, reverse=True), "what can run comes first"


def test_what_a_server_can_run(run_un):
    found = rows(run_un)
    assert found["python"]["installed"]
    assert "python3" in found["python"]["aliases"]
    assert all(row["installed"] for row in found.values())


def test_a_folder_without_toolchains(un, tmp_path):
    done = un("languages", "--folder", str(tmp_path), check=False)
    assert done.returncode == 1
    assert b"contains no toolchains" in done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [("julia", b"cannot be installed by this command"), ("pyhton", b"did you mean"), ("", b"unknown language")],
)
def test_what_cannot_be_installed(un, name, said):
    done = un("languages", "install", name, "-y", check=False)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_program_whose_language_is_guessed(un, tmp_path):
    (tmp_path / "noname").write_text("def f(x):\n    return 2 * x\n\nprint(f(21))\n")
    done = un("--guess", "noname")
    assert (done.stdout, done.stderr) == (b"42\n", b"un: noname looks like python\n")
    assert un("noname", check=False).returncode == 2
