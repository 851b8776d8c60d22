"""`un FILE`: the program's output, its exit code, and every option with its effect."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest
from tests.cli.conftest import CommandLineHere
from tests.support import UN, default_signals, eventually

from unsandbox.cli import main as module
from unsandbox.cli.main import with_command
from unsandbox.cli.run import run as run_command


@pytest.fixture
def file(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return name

    return write


def test_a_file_is_run_in_the_language_of_its_extension_with_arguments(un, file):
    name = file("a.py", "import sys; print(sys.argv[1:]); print('err', file=sys.stderr); sys.exit(7)")
    done = un(name, "--", "x", "-y", check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"['x', '-y']\n", b"err\n", 7)
    assert un("--exit-zero", name, check=False).returncode == 0


def test_a_shebang_names_the_language(un, file):
    assert un.text(file("script", "#!/usr/bin/env perl\nprint 'perl'")) == "perl"
    done = un(file("nothing", "text"), check=False)
    assert (done.returncode, b"un -l LANG nothing" in done.stderr) == (2, True)
    done = un(file("my script", "import sys\nprint(sys.argv)\n"), check=False)
    assert (done.returncode, b"looks like python: un -l python 'my script'" in done.stderr) == (2, True)


def test_inline_code_and_code_on_standard_input(un):
    assert un.text("-s", "bash", "echo inline") == "inline\n"
    assert un.text("-s", "python", "-", stdin=b"print(6 * 7)") == "42\n"
    assert un.text("-", stdin=b"#!/bin/sh\necho piped") == "piped\n"


@pytest.mark.parametrize(("option", "code", "wanted"), [
    (["-e", "A=1", "-e", "B=x=y"], "echo $A $B", "1 x=y\n"),
    (["--env-file", "env"], "echo $FROM_FILE", "yes\n"),
    (["-f", "data.txt"], "cat /tmp/input/data.txt", "content"),
    (["--stdin", "data.txt"], "cat", "content"),
    (["-F", "folder"], "cat /tmp/input/below.txt", "below"),
    (["-n", "zerotrust"], "tail -n +3 /proc/net/dev | grep -vc lo:; true", "0\n"),
])  # fmt: skip
def test_every_option_has_its_effect(un, file, option, code, wanted):
    file("env", "# comment\n\nexport FROM_FILE=yes\n")
    file("data.txt", "content")
    (un.folder / "folder").mkdir()
    (un.folder / "folder" / "below.txt").write_text("below")
    assert un.text(*option, "-s", "bash", code) == wanted


def test_processors_and_isolation_reach_the_server(un):
    refused = un("-v", "8", "-s", "bash", "true", check=False)
    assert refused.returncode == 0
    refused = un("-v", "9", "-s", "bash", "true", check=False)
    assert refused.returncode == 2
    assert un.text("--isolation", "bubblewrap", "-s", "bash", "echo 1") == "1\n"


def test_artifacts_are_saved(un, tmp_path):
    code = "mkdir -p /tmp/artifacts; echo made >/tmp/artifacts/out.txt"
    done = un("-o", "results", "-s", "bash", code)
    assert (tmp_path / "results" / "out.txt").read_text() == "made\n"
    assert b"wrote results/out.txt" in done.stderr


def test_limits_have_exit_codes_of_their_own(un):
    late = un("-t", "1", "-s", "bash", "echo begun; sleep 9", check=False)
    assert (late.returncode, late.stdout, b"time limit" in late.stderr) == (5, b"begun\n", True)
    gave_up = un("--timeout", "0.5", "-s", "bash", "sleep 9", check=False)
    assert (gave_up.returncode, b"cancelled" in gave_up.stderr) == (5, True)


def test_errors_have_exit_codes_of_their_own(run_un, clean_environment):
    un = CommandLineHere(run_un.environment, run_un.folder)
    assert un("-s", "nosuchlanguage", "x", check=False).returncode == 4
    assert un("-s", "bash", "-e", "novalue", "x", check=False).returncode == 2
    assert un("missing.py", check=False).returncode == 2
    assert un("-k", "unsb-sk-wrong", "-p", "unsb-pk-wrong", "-s", "bash", "x", check=False).returncode == 3
    unreachable = un("--api-base", "http://127.0.0.1:9", "-s", "bash", "x", check=False)
    assert unreachable.returncode == 4
    without = subprocess.run(
        [*UN, "-s", "bash", "echo 1"], env=clean_environment, capture_output=True, timeout=60
    )
    assert (without.returncode, b"credentials" in without.stderr) == (3, True)


def test_json_is_one_object(un):
    done = un("--json", "-s", "bash", "echo 1; exit 4", check=False)
    job = json.loads(done.stdout)
    assert (done.returncode, job["exit_code"], job["stdout"]) == (4, 4, "1\n")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_output_comes_while_the_program_runs_and_a_signal_cancels_it(run_un, number, code):
    with subprocess.Popen(
        [*UN, "-s", "bash", "echo begun; sleep 60"], env=run_un.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=default_signals,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, b"Traceback" in said) == (code, False)
    newest = json.loads(run_un.text("jobs", "list", "--json", "-n", "1"))["jobs"][0]
    eventually(
        lambda: json.loads(run_un.text("jobs", "get", newest["id"], "--json"))["status"] == "cancelled", 60
    )


def test_a_run_that_ignores_hang_ups_goes_on(run_un):
    words = ["-s", "bash", 'echo begun; read -r x; echo "$x"; sleep 1; echo end']
    with subprocess.Popen(
        [*UN, *words, "--stdin", "-"], env=run_un.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:  # fmt: skip
        process.stdin.write(b"typed\n")
        process.stdin.close()
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGHUP)
        assert (process.stdout.read(), process.wait(60)) == (b"typed\nend\n", 0)


def test_a_reader_that_has_seen_enough_ends_the_program(run_un):
    with subprocess.Popen(
        [*UN, "-s", "bash", "yes"], env=run_un.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 1)
    newest = json.loads(run_un.text("jobs", "list", "--json", "-n", "1"))["jobs"][0]
    assert newest["status"] == "cancelled"


def test_errors_tell_what_to_do_next(run_un, clean_environment):
    here = CommandLineHere(clean_environment, run_un.folder)
    for words, hint in (
        (["-s", "klingon", "x"], b"un languages"),
        (["sesion"], b"un session"),
        (["--api-base", "http://127.0.0.1:9", "jobs"], b"un serve"),
        (["-p", "unsb-pk-wrong", "-k", "unsb-sk-wrong", "jobs"], b"un accounts"),
    ):
        here.environment = run_un.environment
        assert hint in here(*words, check=False).stderr
    here.environment = clean_environment
    assert b"un --local" in here("jobs", check=False).stderr


def test_bytes_pass_unchanged(un):
    assert un("-s", "bash", r"printf '\377\0\r\n'").stdout == b"\xff\0\r\n"


def test_without_an_account_on_this_machine(clean_environment):
    done = subprocess.run(
        [*UN, "--local", "-s", "bash", "echo here"], env=clean_environment, capture_output=True
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"here\n", b"", 0)


def test_jobs_are_listed_read_waited_for_and_cancelled(un):
    un("-s", "bash", "echo listed")
    job = json.loads(un.text("jobs", "list", "--json"))["jobs"][0]
    plain = un.text("jobs").splitlines()[0].split("\t")
    assert plain[:3] == [job["id"], "bash", "completed"]
    assert "listed" in un.text("jobs", "get", job["id"])
    assert un.text("jobs", "wait", job["id"]) == "listed\n"
    assert un.text("jobs", "cancel", job["id"]) == f"{job['id']} completed\n"
    assert un("jobs", "get", "job_none", check=False).returncode == 4


def test_key_and_accounts(run_un, clean_environment, served, tmp_path):
    assert json.loads(run_un.text("key", "--json"))["valid"] is True
    assert json.loads(run_un.text("key", "--extend", "--json"))["url"].endswith(served.keys()[0])
    public_key, secret_key = served.keys()
    (tmp_path / "accounts.csv").write_text(f"{public_key},{secret_key}\n")
    (tmp_path / "accounts.csv").chmod(0o600)
    done = subprocess.run(
        [*UN, "accounts"], env=clean_environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == f"accounts.csv\t0\t{public_key}\n"
    assert secret_key not in done.stdout + done.stderr


@pytest.mark.parametrize(("words", "wanted"), [
    ([], []),
    (["--help"], ["--help"]),
    (["a.py", "--", "session"], ["run", "a.py", "--", "session"]),
    (["-s", "bash", "session"], ["run", "-s", "bash", "session"]),
    (["-n", "session", "a.py"], ["run", "-n", "session", "a.py"]),
    (["--local", "session", "list"], ["session", "list", "--local"]),
    (["--api-base", "http://x", "jobs", "--", "y"], ["jobs", "--api-base", "http://x", "--", "y"]),
    (["--shell=bash", "session"], ["run", "--shell=bash", "session"]),
    (["-sbash", "session"], ["run", "-sbash", "session"]),
    (["-"], ["run", "-"]),
    (["session", "--help"], ["session", "--help"]),
])  # fmt: skip
def test_what_names_no_command_is_a_run(words, wanted):
    assert with_command(words) == wanted


def test_the_options_with_values_are_those_of_the_commands():
    taking = {
        name
        for option in run_command.params
        if getattr(option, "is_flag", None) is False
        for name in option.opts
    }
    assert {name for name in taking if name.startswith("-")} == module.WITH_VALUE


def test_help_is_quick_and_names_every_command(un):
    text = un.text("--help")
    assert all(f"  {name} " in text for name in module.COMMANDS)
    for name in module.COMMANDS:
        assert "Usage: un" in un.text(name, "--help")
