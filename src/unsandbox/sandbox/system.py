"""The read-only system that sandboxes see: this machine's own, or a folder of toolchains."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unsandbox.errors import EngineError

VARIABLE = "UNSANDBOX_TOOLCHAINS"
"""Environment variable that selects the system: `auto`, `host`, or the path of a folder."""
COMPLETE = "unsandbox-toolchains.json"
"""File in the root of a folder with toolchains; it exists when the folder is complete."""

CACHES = "/var/cache/toolchains"
"""Where sandboxes see the toolchain caches; see `languages/caches.py`."""

_MOST_LINKS = 40
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class System:
    """The source of `/usr` and of the few paths outside it that toolchains read.

    Attributes:
        root: The folder that stands for `/`; the host itself by default.
        caches: Host folder that sandboxes see at `/var/cache/toolchains`; None for no caches.

    Example:
        >>> System().usr, System(Path("/srv/tools")).path("/etc/php")
        (PosixPath('/usr'), PosixPath('/srv/tools/etc/php'))
    """

    root: Path = Path("/")
    caches: Path | None = None

    @property
    def always_mounted(self) -> tuple[str, ...]:
        """The paths that every sandbox sees in addition to /usr."""
        # /etc/alternatives has hundreds of links, which are slow to copy one by one.
        return ("/etc/alternatives", *([CACHES] if self.caches is not None else []))

    @property
    def usr(self) -> Path:
        """The host folder that sandboxes see as `/usr`."""
        return self.root / "usr"

    @property
    def etc(self) -> Path:
        """The source of the shared files in `/etc`."""
        return self.root / "etc"

    @property
    def is_host(self) -> bool:
        """Whether this is the machine's own system."""
        return self.root == Path("/")

    def path(self, inside: str) -> Path:
        """Return the host path of an absolute path in a sandbox; links are resolved below `root`."""
        if inside == CACHES and self.caches is not None:
            return self.caches
        if self.is_host:
            return Path(inside)
        found, links = self.root, 0
        parts = list(reversed(PurePosixPath(inside).parts[1:]))
        while parts:
            part = parts.pop()
            if part == "..":
                found = found.parent if found != self.root else found
                continue
            step = found / part
            if links < _MOST_LINKS and step.is_symlink():
                links += 1
                target = PurePosixPath(step.readlink())
                if target.is_absolute():
                    found = self.root
                parts += [name for name in reversed(target.parts) if name != "/"]
            else:
                found = step
        return found

    def existing(self, patterns: Iterable[str]) -> list[str]:
        """Return the absolute paths inside sandboxes that match the shell patterns."""
        found = []
        for pattern in patterns:
            if _WILDCARD.search(pattern):
                matches = sorted(self.root.glob(pattern.lstrip("/")))
                names = [f"/{path.relative_to(self.root)}" for path in matches]
            else:
                names = [pattern]
            found += [name for name in names if self.path(name).exists()]
        return found

    def has_program(self, name: str) -> bool:
        """Return whether sandboxes see a program; a name with a slash is a pattern for any file."""
        if "/" in name:
            return bool(self.existing([name]))
        return any(os.access(self.path(f"/usr/{folder}/{name}"), os.X_OK) for folder in ("local/bin", "bin"))


HOST = System()


def default_folder() -> Path:
    """Return the folder of toolchains: a public one for root, otherwise one in the user's home.

    As root, each sandbox runs as a separate user, which has no access to root's home folder.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/unsandbox/toolchains")
    return Path("~/.unsandbox/toolchains").expanduser()


def find_system(choice: str | None = None) -> System:
    """Return the system that sandboxes see.

    Args:
        choice: `host`, the path of a folder with toolchains, or `auto`: the default folder if toolchains are
            installed there, otherwise the host. None uses the environment variable, by default `auto`.

    Raises:
        EngineError: The named folder contains no toolchains.
    """
    choice = choice or os.environ.get(VARIABLE) or "auto"
    if choice == "host":
        return HOST
    if choice == "auto":
        folder = default_folder()
        return System(folder) if (folder / COMPLETE).is_file() else HOST
    folder = Path(choice).expanduser().absolute()
    if not (folder / COMPLETE).is_file():
        raise EngineError(
            f"{folder} contains no toolchains; install some with `un languages install --folder {folder} NAME`"
        )
    return System(folder)
