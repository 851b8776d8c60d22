"""Installs toolchains into a folder: estimates and executes. After an interruption, it continues."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unsandbox.errors import EngineError
from unsandbox.sandbox import rootfs
from unsandbox.sandbox.languages.table import Language
from unsandbox.sandbox.languages.toolchains.apt import Plan, PrivateApt, UnknownPackagesError
from unsandbox.sandbox.languages.toolchains.registries import install_modules, install_wheels
from unsandbox.sandbox.languages.toolchains.tree import Tree
from unsandbox.sandbox.spec import MIB
from unsandbox.sandbox.system import COMPLETE, System

_WORK = ".install"
Progress = Callable[[str, float], None]
"""Called with the current step and its progress, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of an installation. Sizes in bytes; those of PyPI and npm packages are approximate.

    Attributes:
        languages: Those that can be installed and are not there yet, or not wholly.
        unknown: Languages whose packages the sources do not have, with the packages.
        packages: Number of Debian packages to unpack.
        download_bytes: Bytes to download.
        disk_bytes: Growth of the folder.
    """

    languages: Sequence[Language]
    unknown: dict[str, Sequence[str]]
    packages: int
    download_bytes: int
    disk_bytes: int

    @property
    def nothing_to_do(self) -> bool:
        """Whether everything is installed already."""
        return not self.languages


@dataclass(slots=True)
class Report:
    """The result of an installation.

    Attributes:
        installed: Names of the languages that the folder can run now.
        missing: Names of the languages whose program is still missing.
        complaints: What maintainer scripts had to say, by package; mostly harmless.
    """

    installed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    complaints: dict[str, str] = field(default_factory=dict)


class Installer:
    """Installs toolchains into `folder`, which it locks; a second installer waits.

    Args:
        folder: The folder that sandboxes will see as their system.
        scratch: Where bubblewrap is copied to be executed; any private folder.

    Example:
        >>> from unsandbox.sandbox import load_languages
        >>> def bring(folder: Path, scratch: Path) -> list[str]:
        ...     with Installer(folder, scratch).locked() as installer:
        ...         estimate = installer.estimate([load_languages()["forth"]])
        ...         return installer.install(estimate).installed
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder.absolute()
        self._work = self.folder / _WORK
        _check_reachable(self.folder)
        self._tree = Tree(self.folder, rootfs.install_program(scratch))

    @contextlib.contextmanager
    def locked(self) -> Iterator[Installer]:
        """Prepare the folder and hold its lock."""
        try:
            self._tree.prepare()
            self._work.mkdir(mode=0o700, exist_ok=True)
            lock = (self._work / "lock").open("w")
        except OSError as error:
            raise EngineError(f"{self.folder} cannot be used for toolchains: {error.strerror}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._tree.reload()
            self._apt = PrivateApt(self._work, self._tree.status)
            yield self

    def estimate(
        self, languages: Sequence[Language], *, refresh: bool = False, progress: Progress | None = None
    ) -> Estimate:
        """Estimate the installation of `languages`; the first call downloads the lists of packages.

        Args:
            languages: The languages; those without packages are unknown.
            refresh: Fetch the lists of packages anew, for newer versions.
            progress: Called with the progress of the download.

        Raises:
            EngineError: Apt cannot be used.
        """
        wanted = [language for language in languages if refresh or not self._has(language)]
        unknown: dict[str, Sequence[str]] = {}
        if not wanted:
            return Estimate([], unknown, 0, 0, 0)
        if refresh or not self._apt.has_lists():
            self._apt.update(_part(progress, "package lists"))
        _tell(progress, "what it takes", 0.0)
        while True:
            try:
                plan = self._apt.plan(_all(language.packages for language in wanted))
                break
            except UnknownPackagesError as error:
                bad = [language for language in wanted if set(error.packages) & set(language.packages)]
                if not bad:
                    raise
                unknown |= {language.name: error.packages for language in bad}
                wanted = [language for language in wanted if language not in bad]
        extra = sum(language.size_mib for language in wanted if not self._has(language)) * MIB
        return Estimate(
            wanted,
            unknown,
            sum(step.action == "Inst" for step in plan.steps),
            plan.download_bytes + extra // 3,
            plan.disk_bytes + extra,
        )

    def install(self, estimate: Estimate, progress: Progress | None = None) -> Report:
        """Execute an estimate.

        Raises:
            EngineError: A package could not be downloaded or unpacked. Completed steps are kept.
        """
        report = Report()
        languages = estimate.languages
        packages = _all(language.packages for language in languages)
        plan = self._apt.plan(packages)
        if plan.download_bytes:
            self._apt.fetch(packages, _part(progress, "packages"))
        try:
            self._install_packages(plan, report, progress)
        finally:
            self._tree.disarm()
        self._install_extras(languages, report, progress)
        self._finish(languages, report)
        return report

    def drop_downloads(self) -> None:
        """Remove the archives, which are not needed after the installation."""
        for name in ("archives", "wheels", "npm"):
            shutil.rmtree(self._work / name, ignore_errors=True)

    def _install_packages(self, plan: Plan, report: Report, progress: Progress | None) -> None:
        # Scripts of the base system call programs of packages that follow them in apt's order.
        steps = sorted(plan.steps, key=lambda step: step.action != "Inst")
        for number, step in enumerate(steps):
            doing = "unpacking" if step.action == "Inst" else "configuring"
            _tell(progress, f"{doing} {step.package}", number / len(steps))
            if step.action == "Inst":
                self._tree.unpack(self._apt.archive(step))
            elif problem := self._tree.configure(step.package, step.architecture):
                report.complaints[step.package] = problem
        _tell(progress, "triggers", 1.0)
        if problems := self._tree.run_triggers():
            report.complaints["triggers"] = "\n".join(problems)

    def _install_extras(self, languages: Sequence[Language], report: Report, progress: Progress | None) -> None:
        for number, language in enumerate(languages):
            _tell(progress, language.name, number / len(languages))
            if language.pypi:
                install_wheels(self.folder, self._work, language.pypi)
            if language.npm:
                install_modules(self.folder, self._work, language.npm)
            for name, target in language.links.items():
                link = self.folder / "usr/local/bin" / name
                link.unlink(missing_ok=True)
                link.symlink_to(target)
            if language.prepare and (problem := self._tree.run(language.prepare)):
                report.complaints[language.name] = problem

    def _finish(self, languages: Sequence[Language], report: Report) -> None:
        system = System(self.folder)
        names = set(self._installed())
        for language in languages:
            if language.installed(system):
                report.installed.append(language.name)
                names.add(language.name)
            else:
                report.missing.append(language.name)
        marker = self.folder / f".{COMPLETE}"
        marker.write_text(json.dumps({"languages": sorted(names)}) + "\n")
        marker.chmod(0o644)
        marker.rename(self.folder / COMPLETE)

    def _has(self, language: Language) -> bool:
        return language.name in self._installed() and language.installed(System(self.folder))

    def _installed(self) -> list[str]:
        try:
            names = json.loads((self.folder / COMPLETE).read_text())["languages"]
        except FileNotFoundError:
            return []
        return [str(name) for name in names]


def _check_reachable(folder: Path) -> None:
    """Refuse a folder that the sandboxes' users cannot reach; as root, each sandbox has a separate user.

    Raises:
        EngineError: The folder cannot be reached.
    """
    if os.geteuid() != 0:
        return
    for parent in folder.parents:
        if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
            raise EngineError(
                f"{folder} cannot hold toolchains: sandboxes run as other users, who cannot enter {parent}"
            )


def _all(groups: Iterator[Sequence[str]]) -> list[str]:
    return sorted({name for group in groups for name in group})


def _part(progress: Progress | None, what: str) -> Callable[[float], None]:
    return lambda percent: _tell(progress, what, percent / 100.0)


def _tell(progress: Progress | None, what: str, share: float) -> None:
    if progress is not None:
        progress(what, share)
