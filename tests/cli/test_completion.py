"""Completion in the real shells: a user types, presses Tab and Enter, and `un` gets the completed words."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess

import pytest
from tests.cli.test_terminal import Typist
from tests.support import UN

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(un completion bash)"),
    # No compinit was called, as in a zsh without a configuration.
    "zsh": (["zsh", "-f", "-i"], "source <(un completion zsh)"),
    "fish": (["fish", "--no-config", "-i"], "un completion fish | source"),
}


@pytest.fixture
def environment(served_environment, tmp_path):
    """A PATH with a `un` that completes, and otherwise prints its words; and a folder with files."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "un"
    command.write_text(
        f"""#!/bin/sh
[ -n "$_UN_COMPLETE" ] || [ "$1" = completion ] || {{ printf "ran:"; printf "<%s>" "$@"; echo; exit; }}
exec {shlex.join(UN)} "$@"
"""
    )
    command.chmod(0o755)
    (tmp_path / "program one.py").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside.rb").write_text("")
    return served_environment | {"PATH": f"{command.parent}:{served_environment['PATH']}"}


@pytest.mark.parametrize(
    "shell", [pytest.param(name, marks=pytest.mark.slow) for name in ("bash", "zsh", "fish")]
)
def test_a_shell_completes_commands_files_languages_and_ids(shell, environment, run_un, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed (scripts/bootstrap --full)")
    made = json.loads(run_un.text("session", "-d", "--json"))["session_id"]
    words, setup = SHELLS[shell]
    user = Typist(words, environment, 120, program=[])
    user.type(f"cd {shlex.quote(str(tmp_path))}; {setup}; echo set-up-done | tr a-z A-Z\n")
    user.until(b"SET-UP-DONE")
    for typed, wanted in (
        ("un sess", "<session>"),
        ("un prog", "<program one.py>"),
        ("un --local folder/ins", "<--local><folder/inside.rb>"),
        ("un -s pyth", "<-s><python>"),
        ("un run --isol", "<run><--isolation>"),
        ("un serve --data fol", "<serve><--data><folder/>" if shell != "zsh" else "<serve><--data><folder>"),
        (f"un session get {made[:-3]}", f"<session><get><{made}>"),
    ):
        user.type(f"{typed}\t\n")
        user.until(b"ran:")
        user.until(f"{wanted}\r\n".encode())
    user.type("exit\n")
    user.end()
    run_un("session", "delete", made, "-y")


def complete(environment, *words: str) -> list[str]:
    """Return the completions of the last word."""
    asked = {"_UN_COMPLETE": "bash_complete", "COMP_WORDS": shlex.join(["un", *words[:-1]]) + f" {words[-1]}"}
    done = subprocess.run(
        UN,
        env=environment | asked | {"COMP_CWORD": str(len(words))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return [line.removeprefix("plain,") for line in done.stdout.splitlines() if line]


def test_completion_offers_what_may_stand_in_a_place(served_environment):
    assert {"jobs", "run", "file,"} <= set(complete(served_environment, ""))
    assert complete(served_environment, "-s", "bash", "") == []  # code follows
    assert {"list", "wait"} <= set(complete(served_environment, "jobs", ""))
    assert complete(served_environment, "help", "aud") == ["audit"]
    assert complete(served_environment, "-e", "ses") == []


def test_completion_of_ids_is_silent_without_a_server(clean_environment):
    unreachable = {
        "UNSANDBOX_API_BASE": "http://127.0.0.1:9",
        "UNSANDBOX_PUBLIC_KEY": "p",
        "UNSANDBOX_SECRET_KEY": "s",
    }
    for environment in (clean_environment | unreachable, clean_environment | {"UNSANDBOX_API_BASE": "local"}):
        assert complete(environment, "session", "get", "") == []
