"""A system of a handful of programs, copied from the host with the libraries that they load."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("cat", "chmod", "env", "id", "ls", "sh", "true")


def fill(folder: Path) -> None:
    """Copy the programs; a loader or library lies below /usr where it lay below /."""
    for name in PROGRAMS:
        program = Path(shutil.which(name) or "").resolve()
        _copy(program, folder / "usr/bin" / name)
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+)", listed):
            _copy(Path(library), folder / "usr" / library.lstrip("/").removeprefix("usr/"))


def _copy(source: Path, target: Path) -> None:
    os.makedirs(target.parent, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)
