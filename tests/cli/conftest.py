"""One served engine for the command line, and a way to run commands against it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.support import UN, Serve


class CommandLine:
    """Runs `un` as a user would, with the keys of one server in the environment."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder

    def __call__(
        self, *words: str, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*UN, *words], env=self.environment, cwd=self.folder, input=stdin, capture_output=True, timeout=60
        )
        if check:
            assert done.returncode == 0, done.stderr.decode()
        return done

    def text(self, *words: str, **options) -> str:
        return self(*words, **options).stdout.decode()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A server with one key."""
    with Serve(tmp_path_factory.mktemp("cli") / "data") as server:
        yield server
        assert server.stop() == 0


@pytest.fixture(scope="session")
def clean_environment(tmp_path_factory):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNSANDBOX_")}
    return kept | {"HOME": str(tmp_path_factory.mktemp("home")), "TERM": "xterm-256color"}


@pytest.fixture
def run_un(served, clean_environment, tmp_path):
    """Run commands against the server."""
    public_key, secret_key = served.keys()
    keys = {
        "UNSANDBOX_API_BASE": served.url,
        "UNSANDBOX_PUBLIC_KEY": public_key,
        "UNSANDBOX_SECRET_KEY": secret_key,
    }
    return CommandLine(clean_environment | keys, tmp_path)
