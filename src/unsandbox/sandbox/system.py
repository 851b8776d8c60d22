"""The read-only system that sandboxes see: this machine's own, or a folder of toolchains."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unsandbox.errors import EngineError

VARIABLE = "UNSANDBOX_TOOLCHAINS"
"""Environment variable that chooses the system: `auto`, `host`, or the path of a folder."""
COMPLETE = "unsandbox-toolchains.json"
"""File in the root of a folder with toolchains; it is there when the folder can be used."""

CACHES = "/var/cache/toolchains"
"""Where sandboxes see what was made for toolchains once; see `toolchain_cache.py`."""

_MOST_LINKS = 40
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class System:
    """Where `/usr`, and the few names outside it that a toolchain reads, come from.

    Attributes:
        root: The folder that stands for `/`; the host itself by default.
        caches: Folder of the host that sandboxes see at `/var/cache/toolchains`; None for no such thing.

    Example:
        >>> System().usr, System(Path("/srv/tools")).path("/etc/php")
        (PosixPath('/usr'), PosixPath('/srv/tools/etc/php'))
    """

    root: Path = Path("/")
    caches: Path | None = None

    @property
    def always_mounted(self) -> tuple[str, ...]:
        """What every sandbox gets besides /usr."""
        # Hundreds of links, slow to copy one by one.
        return ("/etc/alternatives", *([CACHES] if self.caches is not None else []))

    @property
    def usr(self) -> Path:
        """What sandboxes see as `/usr`."""
        return self.root / "usr"

    @property
    def etc(self) -> Path:
        """Where the shared files of `/etc` come from."""
        return self.root / "etc"

    @property
    def is_host(self) -> bool:
        """Whether this is the machine's own system."""
        return self.root == Path("/")

    def path(self, inside: str) -> Path:
        """Return where an absolute path of a sandbox lies on the host; links lead to places below `root`."""
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
        """Return the absolute paths, as sandboxes see them, that the shell patterns match."""
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
        """Whether sandboxes see this program; a name with a slash is a pattern of any file."""
        if "/" in name:
            return bool(self.existing([name]))
        return any(os.access(self.path(f"/usr/{folder}/{name}"), os.X_OK) for folder in ("local/bin", "bin"))


HOST = System()


def default_folder() -> Path:
    """Return where toolchains are installed: of root where every user may look, else in the user's home.

    As root each sandbox runs as a user of its own, who cannot pass through root's home folder.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/unsandbox/toolchains")
    return Path("~/.unsandbox/toolchains").expanduser()


def find_system(choice: str | None = None) -> System:
    """Return the system that sandboxes shall see.

    Args:
        choice: `host`, the path of a folder with toolchains, or `auto`: the default folder if toolchains are
            installed there, else the host. None takes the environment's choice, and `auto` without one.

    Raises:
        EngineError: The folder that was named holds no toolchains.
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
