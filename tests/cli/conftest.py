"""One served engine for the command line, one embedded, and two ways to run commands against them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support import UN, Serve

from unsandbox.cli.main import main


class CommandLine:
    """Runs `un` as a user would: a process of its own, with the keys of one server in the environment."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder

    def __call__(
        self, *words: str, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        done = self.run(words, stdin)
        if check:
            assert done.returncode == 0, done.stderr.decode()
        return done

    def run(self, words: tuple[str, ...], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*UN, *words], env=self.environment, cwd=self.folder, input=stdin, capture_output=True, timeout=60
        )

    def text(self, *words: str, **options) -> str:
        return self(*words, **options).stdout.decode()


class CommandLineHere(CommandLine):
    """Runs the same in this process: no interpreter to start, and the embedded engine stays between commands."""

    def run(self, words: tuple[str, ...], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        before = os.environ.copy()
        os.environ.clear()
        os.environ.update(self.environment)
        try:
            with contextlib.chdir(self.folder), CliRunner().isolation(stdin) as (out, err, _):
                code = _exit_code(list(words))
                sys.stdout.flush()
                sys.stderr.flush()
                return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
        finally:
            os.environ.clear()
            os.environ.update(before)


def _exit_code(words: list[str]) -> int:
    try:
        main(words)
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return end.code or 0
    return 0


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Iterator[Serve]:
    """A server with one key."""
    with Serve(tmp_path_factory.mktemp("cli") / "data") as server:
        yield server
        assert server.stop() == 0


@pytest.fixture(scope="session")
def clean_environment(tmp_path_factory) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNSANDBOX_")}
    return kept | {"HOME": str(tmp_path_factory.mktemp("home")), "TERM": "xterm-256color"}


@pytest.fixture(scope="session")
def served_environment(served, clean_environment) -> dict[str, str]:
    """The variables of somebody who has an account of the server."""
    public_key, secret_key = served.keys()
    return clean_environment | {
        "UNSANDBOX_API_BASE": served.url,
        "UNSANDBOX_PUBLIC_KEY": public_key,
        "UNSANDBOX_SECRET_KEY": secret_key,
    }


@pytest.fixture
def run_un(served_environment, tmp_path) -> CommandLine:
    """Run commands against the server, each in a process of its own."""
    return CommandLine(served_environment, tmp_path)


@pytest.fixture
def un_embedded(clean_environment, tmp_path) -> CommandLine:
    """Run commands in this process against the embedded engine."""
    return CommandLineHere(clean_environment | {"UNSANDBOX_API_BASE": "local"}, tmp_path)


@pytest.fixture(params=["served", "embedded"])
def un(request, tmp_path) -> CommandLine:
    """Run commands in this process: against the server, then against the embedded engine."""
    if request.param == "served":
        return CommandLineHere(request.getfixturevalue("served_environment"), tmp_path)
    embedded: CommandLine = request.getfixturevalue("un_embedded")
    return embedded
