"""The public API as type checkers see it: a file of typical use, under two of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import REPO

import unsandbox

USE = REPO / "tests" / "client" / "typing_api.py"


def run(*command: str | Path) -> None:
    """Run a type checker; a line that is marked to be wrong and is not fails, too."""
    done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_are_announced() -> None:
    assert Path(unsandbox.__file__).with_name("py.typed").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)  # Seconds of a machine that has much else to do.
def test_mypy_sees_the_public_api_as_documented() -> None:
    run("mypy", "--strict", "--warn-unused-ignores", USE)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pyright_sees_the_public_api_as_documented(tmp_path: Path) -> None:
    settings = {
        "include": [str(USE)],
        "extraPaths": [str(REPO / "src")],
        "typeCheckingMode": "strict",
        "enableTypeIgnoreComments": True,
        "reportUnnecessaryTypeIgnoreComment": "error",
        "pythonVersion": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    run("basedpyright", "--project", project, "--pythonpath", sys.executable)
