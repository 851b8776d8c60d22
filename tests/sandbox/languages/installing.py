"""A program that installs one language from a source on this disk, and kills itself at a given step.

python -m tests.sandbox.languages.installing FOLDER SCRATCH SOURCE STEP
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from unsandbox.sandbox.languages.table import Language
from unsandbox.sandbox.languages.toolchains import Installer, apt, install

TOOL = Language(
    "tool",
    source="main",
    run=["tool"],
    executable="tool",
    packages=["tool", "other"],
    tier="more",
    version=["tool"],
    hello="",
)


class LocalApt(apt.PrivateApt):
    """Apt that knows one folder of packages, and nothing of the network."""

    source = ""

    def __init__(self, work: Path, status: Path) -> None:
        super().__init__(work, status)
        (work / "sources.list").write_text(f"deb [trusted=yes] copy:{self.source} ./\n")
        with (work / "apt.conf").open("a") as settings:
            settings.write(f'Dir::Etc::sourcelist "{work}/sources.list";\nDir::Etc::sourceparts "-";\n')


def main(folder: str, scratch: str, source: str, step: str) -> None:
    """Install; print what it was estimated to take, what was installed, and what was told meanwhile."""
    setattr(install, "PrivateApt", LocalApt)  # noqa: B010 - stands in for a class
    setattr(apt, "ESSENTIAL", ())  # noqa: B010 - a constant
    LocalApt.source = source
    told: list[str] = []

    def progress(what: str, share: float) -> None:
        assert 0 <= share <= 1
        told.append(what)
        if what == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with Installer(Path(folder), Path(scratch)).locked() as installer:
        estimate = installer.estimate([TOOL], progress=progress)
        numbers = (estimate.packages, estimate.download_bytes, estimate.disk_bytes)
        report = None if estimate.nothing_to_do else installer.install(estimate, progress)
    installed = [] if report is None else report.installed
    sys.stdout.write(json.dumps({"numbers": numbers, "installed": installed, "told": told}))


if __name__ == "__main__":
    main(*sys.argv[1:])
