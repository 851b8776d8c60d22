"""Finds gVisor's program `runsc`, and checks its features instead of its version.

Only the platform systrap is used: ptrace makes every system call dozens of times slower, and kvm hangs
instead of failing on machines without nested virtualisation.
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
"""The oldest release that this backend was tested with."""
HOW_TO_GET = "un doctor --install-gvisor"
_FEATURES = ("-pass-fd", "-bundle")
_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Runsc:
    """A usable `runsc`: its path and the version that it reports."""

    path: Path
    version: str


def own_folder() -> Path:
    """Return the folder of `un doctor --install-gvisor`; for root, one that every user can reach."""
    if os.geteuid() == 0:
        return Path("/var/lib/unsandbox/gvisor")
    return Path("~/.unsandbox/gvisor").expanduser()


def candidates() -> list[Path]:
    """Return the candidates for `runsc`: from the environment, otherwise in the engine's folder and on PATH."""
    if named := os.environ.get(VARIABLE):
        return [Path(named)]
    places = [own_folder() / "runsc", Path("/var/lib/unsandbox/gvisor/runsc")]
    if on_path := shutil.which("runsc"):
        places.append(Path(on_path))
    return [place for place in dict.fromkeys(places) if os.access(place, os.X_OK)]


def find() -> Runsc:
    """Return the first suitable `runsc`, after running each candidate once.

    Raises:
        SandboxUnavailable: None is suitable; the message says why, and what to type.
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
    """Return the `runsc` at `path` if it is suitable.

    Raises:
        SandboxUnavailable: It cannot be run, lacks a feature, or may be changed by other users.
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
