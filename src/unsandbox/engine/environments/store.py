"""The environments of this machine: where they are, by which names they are known, and what is in them.

objects/SHA256/environment.json   the manifest
objects/SHA256/packages.tar.zst   the content, whose hash is the name of the folder
objects/SHA256/root/              the content as sandboxes see it
names/NAME                        the hash of the environment with this name
new-*/                            an environment that is being made
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from unsandbox.errors import EngineError
from unsandbox.sandbox.launcher.cleanup import remove_tree

VARIABLE = "UNSANDBOX_ENVIRONMENTS"
"""Environment variable with the folder of environments."""
ARCHIVE = "packages.tar.zst"
ROOT = "root"
_MANIFEST = "environment.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NEW = "new-"
_CHUNK = 1 << 20


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package of an environment.

    Attributes:
        name: Its name.
        version: Its version.
        sha256: Hash of the file that was installed.
    """

    name: str
    version: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The description of an environment.

    Attributes:
        sha256: Hash of its content, which is its identity.
        python: Version of Python that its packages are for: `3.11`.
        packages: Its packages.
        size: Bytes of its files.
        archive_size: Bytes of its archive.
        created_at: Unix time of the build.
        requirements: The packages that were asked for.
    """

    sha256: str
    python: str
    packages: list[Package]
    size: int
    archive_size: int
    created_at: float
    requirements: list[str]


def default_folder() -> Path:
    """Return the folder of environments: the variable's, a public one for root, or one in the user's home.

    As root, each sandbox runs as a separate user, which has no access to root's home folder.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/unsandbox/environments")
    return Path("~/.unsandbox/environments").expanduser()


def check_name(name: str) -> str:
    """Return the name of an environment.

    Raises:
        EngineError: It is not one.
    """
    if not _NAME.fullmatch(name):
        raise EngineError(
            f"{name[:80]!r} cannot name an environment: use up to 63 lower-case letters, digits, `.`, `_`, `-`"
        )
    return name


class EnvironmentStore:
    """Reads and changes the environments in a folder. Servers see a change at once.

    Args:
        folder: The folder; by default `default_folder()`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._objects = self.folder / "objects"
        self._names = self.folder / "names"

    def names(self) -> dict[str, str]:
        """Return the hash of every environment by its name."""
        if not self._names.is_dir():
            return {}
        found = {path.name: self._hash_of(path.name) for path in sorted(self._names.iterdir())}
        return {name: digest for name, digest in found.items() if digest is not None}

    def manifest(self, name: str) -> Manifest | None:
        """Return the description of an environment; None if there is none with this name."""
        digest = self._hash_of(name)
        return None if digest is None else self._manifest(digest)

    def root(self, name: str) -> Path | None:
        """Return the folder that sandboxes mount; None if there is no environment with this name."""
        digest = self._hash_of(name)
        root = self._objects / digest / ROOT if digest else None
        return root if root is not None and root.is_dir() else None

    def archive(self, manifest: Manifest) -> Path:
        """Return the archive with the content of an environment."""
        return self._objects / manifest.sha256 / ARCHIVE

    @contextlib.contextmanager
    def making(self) -> Iterator[Path]:
        """Give an empty folder for an environment that is being made. It is removed afterwards."""
        self._make_folders()
        folder = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.folder))
        # Holds a lock, so that `collect` does not remove the folder of a build that runs.
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(fd)
            if folder.exists():
                remove_tree(folder)

    def add(self, name: str, manifest: Manifest, folder: Path) -> None:
        """Give a name to a complete environment: `folder` has its archive and its root, and is moved.

        Args:
            name: The name; an environment that has it loses it.
            manifest: The description.
            folder: A folder of `making`.
        """
        check_name(name)
        target = self._objects / manifest.sha256
        if not target.exists():
            (folder / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
            folder.chmod(0o755)
            with contextlib.suppress(OSError):  # Another build may have made the same one.
                folder.rename(target)
        if not (target / ROOT).is_dir():
            raise EngineError(f"{target} is not complete; remove it and try again")
        temporary = self._names / f".{name}-{os.getpid()}"
        temporary.write_text(manifest.sha256)
        temporary.chmod(0o644)
        temporary.replace(self._names / name)

    def remove(self, name: str) -> bool:
        """Remove a name; return whether it existed. `collect` removes the content."""
        if self._hash_of(name) is None:
            return False
        (self._names / name).unlink(missing_ok=True)
        return True

    def collect(self) -> list[str]:
        """Remove the environments without a name, and what is left of interrupted builds.

        Returns:
            The hashes of the removed environments. One that a sandbox has mounted stays.
        """
        kept = set(self.names().values())
        removed = []
        for path in list(self._objects.iterdir()) if self._objects.is_dir() else ():
            if path.name not in kept and not _mounted(path / ROOT):
                remove_tree(path)
                removed.append(path.name)
        for path in self.folder.glob(f"{_NEW}*"):
            with _unlocked(path) as free:
                if free:
                    remove_tree(path)
        return removed

    def _make_folders(self) -> None:
        for folder in (self.folder, self._objects, self._names):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)

    def _hash_of(self, name: str) -> str | None:
        if not _NAME.fullmatch(name):
            return None
        try:
            text = (self._names / name).read_text().strip()
        except OSError:
            return None
        return text if re.fullmatch(r"[0-9a-f]{64}", text) else None

    def _manifest(self, digest: str) -> Manifest | None:
        try:
            return msgspec.json.decode((self._objects / digest / _MANIFEST).read_bytes(), type=Manifest)
        except (OSError, msgspec.MsgspecError):
            return None


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _mounted(root: Path) -> bool:
    """Return whether a process has the folder mounted, which is then in use by a sandbox."""
    wanted = os.fsencode(root)
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            if wanted in mounts.read_bytes():
                return True
    return False


@contextlib.contextmanager
def _unlocked(folder: Path) -> Iterator[bool]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)
