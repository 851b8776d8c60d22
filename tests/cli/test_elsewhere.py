"""`un` on other systems, and where something is missing: one line that says what to do."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest
from tests.support import ABSENT, UN, Serve, self_signed

PRETEND = """
import sys
system, missing, words = sys.argv[1], sys.argv[2].split(), sys.argv[3:]
# The standard library and other packages are those of Linux; they look at the system when they are imported.
import asyncio, ctypes, ssl, subprocess, sysconfig, tempfile, urllib.request, webbrowser
import aiohttp, click, requests, rich.console, rich.table
sys.platform = system
sys.modules.update(dict.fromkeys(missing))
from unsandbox.cli.main import main
main(words)
"""
UNIX = "fcntl termios tty resource pwd grp"


def pretend(environment, system, missing, *words):
    return subprocess.run(
        [sys.executable, "-c", PRETEND, system, missing, *words],
        env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "named", "missing"),
    [("darwin", "macOS", ""), ("win32", "Windows", UNIX)],
)
def test_beyond_linux_a_server_elsewhere_is_used(served_environment, system, named, missing):
    done = pretend(served_environment, system, missing, "-s", "bash", "echo there")
    assert (done.stdout, done.stderr, done.returncode) == ("there\n", "", 0)
    for command in ("serve", "doctor", "keys", "audit"):
        done = pretend(served_environment, system, missing, command)
        assert (done.stdout, done.returncode, done.stderr.count("\n")) == ("", 1, 1)
        assert done.stderr.startswith(f"un: `un {command}` needs Linux, and this is {named}; ")
        assert "--api-base" in done.stderr
    done = pretend(served_environment | {"UNSANDBOX_API_BASE": "local"}, system, missing, "-s", "bash", "true")
    assert "runs on Linux only" in done.stderr
    for words in (["--help"], ["version"], ["jobs"], ["languages", "--json"]):
        assert pretend(served_environment, system, missing, *words).returncode == 0
    asking = {"_UN_COMPLETE": "bash_complete", "COMP_WORDS": "un se", "COMP_CWORD": "1"}
    done = pretend(served_environment | asking, system, missing)
    assert ("plain,service" in done.stdout, "plain,serve\n" in done.stdout, done.stderr) == (True, False, "")


def test_a_terminal_needs_unix(served_environment):
    done = pretend(served_environment, "win32", UNIX, "session")
    assert (done.returncode, done.stderr.count("\n"), "WSL 2" in done.stderr) == (1, 1, True)


def test_missing_packages_are_named_with_the_command_that_installs_them(clean_environment):
    done = pretend(clean_environment, "linux", "pyotp sqlalchemy", "keys", "list")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install 'unsandbox[local]'" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["version"], ["languages"], ["jobs"], ["-s", "bash", "echo 1"]])
def test_a_full_disk_is_one_line(served_environment, words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*UN, *words], env=served_environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    if words != ["jobs"]:  # may have nothing to print
        assert (done.returncode, done.stderr) == (1, "un: No space left on device\n")


@pytest.mark.root
def test_no_more_processes_is_one_line(served_environment):
    """As an ordinary user, for limits do not bind root; with an interpreter that others may run."""
    python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    environment = served_environment | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def run(processes: int, *words: str) -> subprocess.CompletedProcess[str]:
        def become() -> None:
            resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
            os.setresuid(54321, 54321, 54321)

        return subprocess.run(
            [python, "-m", "unsandbox.cli", *words], env=environment, cwd="/", preexec_fn=become,
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip

    try:
        if run(1000, "version").returncode:
            pytest.skip(f"{ABSENT}: an interpreter that may read the sources as another user")
    except OSError:
        pytest.skip(f"{ABSENT}: {python}")
    for words in (["session"], ["--local", "-s", "bash", "true"]):
        done = run(1, *words)
        assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (1, 1, False)


def test_ca_file_is_an_option(clean_environment, tmp_path):
    certificate, key = self_signed(tmp_path)
    with Serve(tmp_path / "data", "--tls-cert", certificate, "--tls-key", key) as server:
        ca_file_is_an_option(server.url, certificate, server.keys(), clean_environment)


def ca_file_is_an_option(url, certificate, keys, clean_environment):
    words = ["--api-base", url, "-p", keys[0], "-k", keys[1], "key", "--json"]
    done = subprocess.run([*UN, *words], env=clean_environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "UNSANDBOX_CA_FILE" in done.stderr) == (4, True)
    done = subprocess.run(
        [*UN, "--ca-file", certificate, *words],
        env=clean_environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["valid"] is True
    done = subprocess.run(
        [*UN, "--ca-file", "missing", *words], env=clean_environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, "--ca-file" in done.stderr) == (2, True)
