"""Finds the program `runsc` of gVisor, and judges it by what it can do, not by its version.

Only the platform systrap is ever used: ptrace makes every system call dozens of times slower, and kvm hangs on
machines without nested virtualisation instead of saying no.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from unsandbox.sandbox.errors import SandboxUnavailable

VARIABLE = "UNSANDBOX_RUNSC"
"""Environment variable with the path of the program."""
NEEDED = "20240729"
"""The oldest release that this backend was tried with."""
HOW_TO_GET = "un doctor --install-gvisor"
_FEATURES = ("-pass-fd", "-bundle")
_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Runsc:
    """A usable `runsc`: its path and what it says its version is."""

    path: Path
    version: str


def own_folder() -> Path:
    """Return where `un doctor --install-gvisor` puts it: as root where every user may reach it."""
    if os.geteuid() == 0:
        return Path("/var/lib/unsandbox/gvisor")
    return Path("~/.unsandbox/gvisor").expanduser()


def candidates() -> list[Path]:
    """Return where a `runsc` is: as the environment says, else in the engine's folder or on PATH."""
    if named := os.environ.get(VARIABLE):
        return [Path(named)]
    places = [own_folder() / "runsc", Path("/var/lib/unsandbox/gvisor/runsc")]
    if on_path := shutil.which("runsc"):
        places.append(Path(on_path))
    return [place for place in dict.fromkeys(places) if os.access(place, os.X_OK)]


def find() -> Runsc:
    """Return the first `runsc` that has what the backend needs. It runs each candidate once.

    Raises:
        SandboxUnavailable: There is none; the message says why, and what to type.
    """
    problems = []
    for path in candidates():
        try:
            return examine(path)
        except SandboxUnavailable as error:
            problems.append(str(error))
    found = "; ".join(problems) or "gVisor's runsc is not installed"
    raise SandboxUnavailable(f"{found}. Install a usable one: {HOW_TO_GET}")


def examine(path: Path) -> Runsc:
    """Return what `path` is, if it can be used.

    Raises:
        SandboxUnavailable: It cannot be run, lacks something, or is not to be trusted.
    """
    try:
        status = path.stat()
        if os.geteuid() == 0 and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SandboxUnavailable(f"{path} can be changed by other users, so root does not run it")
        version = _ask(path, "--version")
        features = _ask(path, "help", "run")
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(f"{path} cannot be run: {error}") from error
    name = version.splitlines()[0].removeprefix("runsc version ").strip() if version else "unknown"
    if missing := [feature for feature in _FEATURES if feature not in features]:
        raise SandboxUnavailable(
            f"{path} (version {name[:60]}) lacks {' and '.join(missing)}; release {NEEDED} or newer is needed"
        )
    return Runsc(path, name[:60])


def _ask(path: Path, *arguments: str) -> str:
    return subprocess.run(
        [path, *arguments],
        env={},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_S,
        check=False,
    ).stdout
