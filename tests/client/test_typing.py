"""The public API as type checkers see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import unsandbox

ROOT = Path(__file__).resolve().parents[2]


def test_types_are_announced() -> None:
    assert Path(unsandbox.__file__).with_name("py.typed").exists()


def test_mypy_sees_the_public_api_as_documented() -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", str(ROOT / "tests" / "client" / "typing_api.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
