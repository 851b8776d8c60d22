"""Foreign clients that `make test-clients` installs, each into an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import CLIENTS, REPO, Serve

SCRIPTS = Path(__file__).parent / "scripts"
ENVIRONMENTS = REPO / ".venv" / "clients"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A real server with MCP."""
    with Serve(tmp_path_factory.mktemp("data"), "--mcp") as server:
        yield server


def python_of(name: str) -> str:
    """Return the interpreter of a client's environment."""
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{CLIENTS}: {name}")
    return str(python)


@pytest.fixture
def run_client() -> Callable[..., Any]:
    """A function that runs a script of this folder in a client's environment and returns the JSON that it prints."""

    def run(name: str, script: str, *arguments: str, **env: str) -> Any:
        done = subprocess.run(
            [python_of(name), str(SCRIPTS / script), *arguments],
            capture_output=True,
            text=True,
            timeout=110,
            env=os.environ | {"PYTHONPATH": ""} | env,
        )
        assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


SERVER_PYTHON = sys.executable
