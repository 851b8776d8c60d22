"""Debian packages for the folder of toolchains: apt with a private state, separate from the host's packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unsandbox.errors import EngineError

ESSENTIAL: Final = ("?essential", "usr-is-merged", "ca-certificates", "tzdata", "python3")
"""Packages that every system needs, and that programs in many languages expect."""

_STEP = re.compile(r"(Inst|Conf) (\S+) .*?\[([a-z0-9]+)\]\)", re.MULTILINE)
_FILE = re.compile(r"^'[^']*' (\S+) (\d+)", re.MULTILINE)
_UNKNOWN = re.compile(r"(?:Unable to locate package|Package '?)\s*([a-z0-9][a-z0-9.+-]+)")
_INSTALLED_KIB = re.compile(r"^Installed-Size: (\d+)$", re.MULTILINE)
_FETCHING = re.compile(r"dlstatus:\d+:([\d.]+):")

Percent = Callable[[float], None]


class UnknownPackagesError(EngineError):
    """The registry has no such packages.

    Attributes:
        packages: Their names.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        super().__init__(f"apt knows no package {', '.join(packages)}")
        self.packages = tuple(packages)


@dataclass(frozen=True, slots=True)
class Step:
    """One step for a package: unpack it, or configure it."""

    action: str
    package: str
    architecture: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of an installation. Sizes in bytes.

    Attributes:
        steps: The steps in dpkg's order.
        files: Names of the archives.
        download_bytes: Bytes that still have to be downloaded.
        disk_bytes: How much the folder grows, about.
    """

    steps: Sequence[Step]
    files: Sequence[str]
    download_bytes: int
    disk_bytes: int


class PrivateApt:
    """apt with the host's sources and keys, but separate lists, archives and package database.

    Args:
        work: Folder for lists and archives.
        status: The package database of the folder of toolchains.
    """

    def __init__(self, work: Path, status: Path) -> None:
        for program in ("apt-get", "dpkg-deb", "tar"):
            if shutil.which(program) is None:
                raise EngineError(
                    f"{program} is missing: toolchains are installed from Debian packages, by apt. Elsewhere "
                    "install them with the system's own means; they are used from /usr (--host)"
                )
        self.archives = work / "archives"
        self._lists = work / "state" / "lists"
        for folder in (self._lists / "partial", work / "cache", self.archives / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        configuration = work / "apt.conf"
        configuration.write_text(
            f'Dir::State "{work}/state";\nDir::State::status "{status}";\n'
            f'Dir::Cache "{work}/cache";\nDir::Cache::archives "{self.archives}";\n'
            'APT::Install-Recommends "false";\nAPT::Sandbox::User "root";\n'
            # This apt only plans and downloads. dpkg would change the host, so running it must fail.
            'DPkg::Pre-Invoke { "echo this apt installs nothing >&2; exit 1"; };\n'
            'DPkg::Post-Invoke "";\nAPT::Update::Post-Invoke "";\nAPT::Update::Post-Invoke-Success "";\n'
        )
        self._environment = os.environ | {"APT_CONFIG": str(configuration), "LC_ALL": "C"}

    def has_lists(self) -> bool:
        """Whether the lists of packages have been downloaded before."""
        return any(self._lists.glob("*_Packages*"))

    def update(self, percent: Percent) -> None:
        """Fetch the lists of packages.

        Raises:
            EngineError: Apt failed; the message holds what it said.
        """
        self._fetch(["update"], percent)

    def plan(self, packages: Sequence[str]) -> Plan:
        """Plan the installation of `packages`.

        Raises:
            UnknownPackagesError: Some of them do not exist in the sources.
            EngineError: They cannot be installed together.
        """
        wanted = [*ESSENTIAL, *packages]
        simulated = self._ask(["--yes", "--simulate", "install", *wanted])
        steps = [Step(*match) for match in _STEP.findall(simulated)]
        listed = _FILE.findall(self._ask(["--yes", "--print-uris", "install", *wanted]))
        files = {name: int(size) for name, size in listed}
        new = [step.package for step in steps if step.action == "Inst"]
        disk = sum(map(int, _INSTALLED_KIB.findall(self._show(new)))) << 10
        return Plan(steps, sorted(files), sum(files.values()), disk)

    def fetch(self, packages: Sequence[str], percent: Percent) -> None:
        """Download the archives that a plan for `packages` needs; partial downloads are resumed.

        Raises:
            EngineError: Apt failed; the message holds what it said.
        """
        self._fetch(["--download-only", "install", *ESSENTIAL, *packages], percent)

    def archive(self, step: Step) -> Path:
        """Return the archive of a package that has been fetched.

        Raises:
            EngineError: It is not there.
        """
        for architecture in (step.architecture, "all"):
            found = sorted(self.archives.glob(f"{step.package.partition(':')[0]}_*_{architecture}.deb"))
            if found:
                # If there are several versions, apt has downloaded the wanted one last.
                return max(found, key=lambda path: path.stat().st_mtime)
        raise EngineError(f"the archive of {step.package} was not downloaded; run the same command again")

    def _show(self, packages: Sequence[str]) -> str:
        return self.run(["apt-cache", "--no-all-versions", "show", *packages]) if packages else ""

    def _ask(self, arguments: Sequence[str]) -> str:
        return self.run(["apt-get", *arguments])

    def run(self, command: Sequence[str]) -> str:
        """Run a program of apt with these settings and return what it wrote.

        Raises:
            EngineError: It failed; the message holds what it said.
        """
        result = subprocess.run(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            if unknown := _UNKNOWN.findall(result.stderr):
                raise UnknownPackagesError(unknown)
            raise EngineError(f"apt-get failed: {(result.stderr or result.stdout).strip()[-2000:]}")
        return result.stdout

    def _fetch(self, arguments: Sequence[str], percent: Percent) -> None:
        read, write = os.pipe()
        command = ["apt-get", "-qq", "--yes", "-o", f"APT::Status-Fd={write}", *arguments]
        with os.fdopen(read) as status:
            process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=[write],
            )
            os.close(write)
            for line in status:
                if match := _FETCHING.match(line):
                    percent(float(match[1]))
            _, said = process.communicate()
        if process.returncode:
            raise EngineError(f"apt-get could not download: {said.strip()[-2000:]}")
        percent(100.0)
