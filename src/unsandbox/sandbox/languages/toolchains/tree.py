"""A folder that becomes the system of sandboxes: unpacks archives, and runs maintainer scripts in a sandbox.

dpkg needs root and the right to change owners. Here every file belongs to the calling user. After a package is
unpacked, its script (alternatives, caches, links) runs as root of a user namespace that sees only this folder
and has no network.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from unsandbox.errors import EngineError

_MERGED: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FOLDERS: Final = (
    *(
        "etc",
        "proc",
        "dev",
        "tmp",
        "run",
        "root",
        "home",
        "var/cache",
        "var/log",
        "usr/local/bin",
        "usr/local/lib",
    ),
    *("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"),
    # Alternatives also have links for manuals, and fail without these folders.
    *(f"usr/share/man/man{section}" for section in range(1, 9)),
)
_LEFT_OUT: Final = (
    *("usr/share/doc/*", "usr/share/man/*/*", "usr/share/info/*", "usr/share/locale/*"),
    *("usr/share/lintian/*", "usr/share/help/*", "dev/*"),
)
_DO_NOTHING: Final = (
    *("chown", "chgrp", "adduser", "addgroup", "useradd", "groupadd", "mknod", "dpkg-statoverride"),
    *("invoke-rc.d", "systemctl", "deb-systemd-invoke", "deb-systemd-helper", "start-stop-daemon"),
)
_FAKES = "/tmp/fakes"  # noqa: S108 - inside the sandbox
_SCRIPT_TIMEOUT_S = 300.0
_STATUS = re.compile(r"^Status: .*$", re.MULTILINE)
_FIELD = re.compile(r"^([A-Za-z-]+):[ \t]*(.*)$", re.MULTILINE)


class Tree:
    """The folder and its package database.

    Args:
        root: The folder that stands for `/`.
        program: Path of bubblewrap.
    """

    def __init__(self, root: Path, program: Path) -> None:
        self.root = root
        self.status = root / "var/lib/dpkg/status"
        self._info = root / "var/lib/dpkg/info"
        self._program = program
        self._stanzas = self._read_status()

    def prepare(self) -> None:
        """Create the files and folders that the first package needs; may be repeated."""
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.root.chmod(0o755)
        for name in _MERGED:
            (self.root / "usr" / name).mkdir(mode=0o755, parents=True, exist_ok=True)
            if not (self.root / name).is_symlink():
                (self.root / name).symlink_to(f"usr/{name}")
        for name in _FOLDERS:
            (self.root / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        self.status.touch()
        for name, text in (("format", "1\n"), ("arch", "")):
            if not (path := self._info / name).exists() and text:
                path.write_text(text)
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")

    def reload(self) -> None:
        """Read the package database again, because another process may have changed it before the lock."""
        self._stanzas = self._read_status()

    def unpack(self, archive: Path) -> str:
        """Unpack an archive over the folder and register its package as unpacked; return its name.

        Raises:
            EngineError: The archive is broken, or the disk is full.
        """
        control = _output(["dpkg-deb", "--field", str(archive)])
        fields = dict(_FIELD.findall(control))
        name = fields["Package"]
        known = name if fields.get("Multi-Arch") != "same" else f"{name}:{fields['Architecture']}"
        listed = self._extract(archive)
        scripts = self.root / "tmp" / "control"
        _output(["dpkg-deb", "--control", str(archive), str(scripts)])
        for path in scripts.iterdir():
            if path.name != "control":
                path.rename(self._info / f"{known}.{path.name}")
            else:
                path.unlink()
        scripts.rmdir()
        (self._info / f"{known}.list").write_text(listed)
        if name == "base-passwd":
            for database in ("passwd", "group"):
                master = self.root / "usr/share/base-passwd" / f"{database}.master"
                (self.root / "etc" / database).write_bytes(master.read_bytes())
        stanza = control.strip().replace("\n", "\nStatus: install ok unpacked\n", 1)
        self._stanzas[name, fields["Architecture"]] = stanza
        self._write_status()
        return known

    def configure(self, name: str, architecture: str) -> str | None:
        """Run the script that ends a package's installation; return its output if it failed.

        A failure is not an error here: such scripts mostly deal with daemons and users. Whether a language
        runs is found out by running it.
        """
        problem = self._script(name, architecture, "configure", "")
        self._set_state(name, "installed")
        return problem

    def run_triggers(self) -> list[str]:
        """Run the triggers of every package (caches, registries); return complaints."""
        problems = []
        if problem := self.run(["ldconfig"]):
            problems.append(f"ldconfig: {problem}")
        for path in sorted(self._info.glob("*.triggers")):
            interests = re.findall(r"^interest\S*\s+(\S+)", path.read_text(), re.MULTILINE)
            name, _, architecture = path.name.removesuffix(".triggers").partition(":")
            if interests and (problem := self._script(name, architecture, "triggered", " ".join(interests))):
                problems.append(f"{name}: {problem}")
        return problems

    def disarm(self) -> None:
        """Remove the bits of files that would give a host user the rights of another one."""
        for folder, _, names in os.walk(self.root / "usr"):
            for name in names:
                path = Path(folder, name)
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                    path.chmod(stat.S_IMODE(mode) & 0o777)

    def run(self, command: Sequence[str], environment: Sequence[tuple[str, str]] = ()) -> str | None:
        """Run a command in the folder, as its root and without network; return its output if it failed."""
        words = [str(self._program), "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
        words += ["--uid", "0", "--gid", "0", "--clearenv", "--bind", str(self.root), "/"]
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run", "--dir", _FAKES]  # noqa: S108
        for fake in _DO_NOTHING:
            words += ["--symlink", "/usr/bin/true", f"{_FAKES}/{fake}"]
        settings = {
            "PATH": f"{_FAKES}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/tmp",  # noqa: S108
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            "DEBCONF_NONINTERACTIVE_SEEN": "true",
        }
        for name, value in (*settings.items(), *environment):
            words += ["--setenv", name, value]
        try:
            result = subprocess.run(
                [*words, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=_SCRIPT_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return f"took more than {_SCRIPT_TIMEOUT_S:g} s"
        if result.returncode == 0:
            return None
        return result.stdout.decode("utf-8", "replace").strip()[-1000:] or f"exit status {result.returncode}"

    def _extract(self, archive: Path) -> str:
        tar = ["tar", "--extract", "--directory", str(self.root), "--no-same-owner", "--keep-directory-symlink"]
        tar += ["--verbose", "--quoting-style=literal", "--warning=no-timestamp", "--delay-directory-restore"]
        tar += [f"--exclude=./{pattern}" for pattern in _LEFT_OUT]
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as source:
            result = subprocess.run(
                tar, stdin=source.stdout, capture_output=True, text=True, errors="replace", check=False
            )
        if source.returncode or result.returncode:
            raise EngineError(f"{archive.name} could not be unpacked: {result.stderr.strip()[-1000:]}")
        paths = [line.removeprefix(".").rstrip("/") or "/." for line in result.stdout.splitlines()]
        return "\n".join(paths) + "\n"

    def _script(self, name: str, architecture: str, *arguments: str) -> str | None:
        for known in (name, f"{name}:{architecture}"):
            if (self._info / f"{known}.postinst").exists():
                settings = [
                    ("DPKG_MAINTSCRIPT_PACKAGE", name),
                    ("DPKG_MAINTSCRIPT_ARCH", architecture),
                    ("DPKG_MAINTSCRIPT_NAME", "postinst"),
                    ("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1"),
                    ("DPKG_ADMINDIR", "/var/lib/dpkg"),
                    ("DPKG_ROOT", ""),
                ]
                return self.run([f"/var/lib/dpkg/info/{known}.postinst", *arguments], settings)
        return None

    # The package database

    def _read_status(self) -> dict[tuple[str, str], str]:
        stanzas = {}
        for stanza in self.status.read_text().split("\n\n") if self.status.exists() else []:
            fields = dict(_FIELD.findall(stanza))
            if "Package" in fields:
                stanzas[fields["Package"], fields["Architecture"]] = stanza
        return stanzas

    def _set_state(self, name: str, state: str) -> None:
        for key, stanza in self._stanzas.items():
            if key[0] == name:
                self._stanzas[key] = _STATUS.sub(f"Status: install ok {state}", stanza, count=1)
        self._write_status()

    def _write_status(self) -> None:
        new = self.status.with_name("status-new")
        new.write_text("\n\n".join(self._stanzas.values()) + "\n\n")
        new.rename(self.status)


def _output(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise EngineError(f"{command[0]} failed: {result.stderr.strip()[-1000:]}")
    return result.stdout
