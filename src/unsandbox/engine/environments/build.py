"""Builds an environment: wheels are downloaded on the host, and installed in a sandbox without a network."""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath

from unsandbox.engine.environments import wheels
from unsandbox.engine.environments.store import (
    ARCHIVE,
    ROOT,
    EnvironmentStore,
    Manifest,
    Package,
    check_name,
)
from unsandbox.errors import EngineError
from unsandbox.sandbox.backend import Backend
from unsandbox.sandbox.host.blocking import run_to_end
from unsandbox.sandbox.layout import ENVIRONMENT
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSandbox, PersistentSpec
from unsandbox.sandbox.spec import GIB
from unsandbox.sandbox.storage.archive_check import examine, opened
from unsandbox.sandbox.system import System

RECIPES: dict[str, tuple[str, ...]] = {
    "data": ("numpy", "pandas", "matplotlib", "scipy", "pillow", "openpyxl", "ipykernel"),
}
"""Requirements of the built-in environments by their names."""
MAX_BYTES = 8 * GIB
"""Bytes of the files of an environment."""
MAX_FILES = 500_000
_TIMEOUT_S = 1800.0
_SHOWN = 2000
Progress = Callable[[str], None]


class EnvironmentBuilder:
    """Builds environments, one at a time.

    Args:
        store: Where they are kept.
        backend: An open backend; its sandboxes install the packages.
        system: The system of its sandboxes.
        progress: Called with a line about each step.
    """

    def __init__(
        self,
        store: EnvironmentStore,
        backend: Backend,
        system: System,
        progress: Progress = lambda line: None,  # noqa: ARG005
    ) -> None:
        self._store = store
        self._backend = backend
        self._system = system
        self._progress = progress

    async def build(self, name: str, requirements: Sequence[str]) -> Manifest:
        """Build an environment and give it a name. If this fails or is interrupted, nothing changes.

        Args:
            name: The name; an environment that has it is replaced, and sandboxes that use it keep it.
            requirements: Requirements; see `wheels.read_requirements`.

        Returns:
            Its description.

        Raises:
            EngineError: A package cannot be downloaded or installed.
            SandboxError: The sandbox failed.
        """
        check_name(name)
        with self._store.making() as folder:
            self._progress("downloading packages")
            packages, python, archive_sha256 = await self._make(requirements, folder)
            self._progress("unpacking")
            size = await run_to_end(lambda: unpack(folder / ARCHIVE, folder / ROOT, python))
            manifest = Manifest(
                sha256=archive_sha256,
                python=python,
                packages=packages,
                size=size,
                archive_size=(folder / ARCHIVE).stat().st_size,
                created_at=round(time.time(), 3),
                requirements=list(requirements),
            )
            self._store.add(name, manifest, folder)
            return manifest

    async def _make(self, requirements: Sequence[str], folder: Path) -> tuple[list[Package], str, str]:
        content = folder / "content"
        for part in (content, content / "wheels", content / "pip"):
            part.mkdir()
        found = await run_to_end(lambda: wheels.download(requirements, content / "wheels", self._system))
        if sum(wheel.stat().st_size for wheel in found) > wheels.MAX_DOWNLOAD:
            raise EngineError(f"the packages have more than {wheels.MAX_DOWNLOAD >> 30} GiB")
        await run_to_end(lambda: wheels.download_pip(content / "pip"))
        packages = [wheels.package_of(wheel) for wheel in found]
        (content / "pinned.txt").write_text(
            "".join(f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in packages)
        )
        (content / "requirements.txt").unlink(missing_ok=True)
        (content / "install.py").write_bytes(_program())
        packed = folder / "content.tar"
        await run_to_end(lambda: _pack(content, packed))
        shutil.rmtree(content)
        self._progress(f"installing {len(packages)} packages")
        limits = PersistentLimits(work_bytes=2 * MAX_BYTES, processes=256, vcpu=2.0)
        sandbox = await self._backend.open_persistent(PersistentSpec(limits=limits, work_archive=packed))
        try:
            python = await _install(sandbox)
            packed.unlink()
            self._progress("packing")
            hashed = await sandbox.archive_work(folder / ARCHIVE)
        finally:
            await sandbox.close()
        (folder / ARCHIVE).chmod(0o644)
        return packages, python, hashed.sha256


async def _install(sandbox: PersistentSandbox) -> str:
    """Install the packages inside the sandbox; return the version of its Python."""
    outcome = await sandbox.run(["/usr/bin/python3", "-I", "/work/install.py"], timeout_s=_TIMEOUT_S)
    said = outcome.stderr.data.decode("utf-8", "replace").strip()
    if outcome.timed_out:
        raise EngineError(f"the packages were not installed within {_TIMEOUT_S:g} s")
    python = outcome.stdout.data.decode("utf-8", "replace").strip().rpartition("\n")[2]
    if outcome.exit_code != 0 or not (len(python) < 8 and python.replace(".", "").isdigit()):
        raise EngineError(f"the packages could not be installed: {said[-_SHOWN:]}")
    return python


def unpack(archive: Path, root: Path, python: str) -> int:
    """Unpack the content of an environment, of which no name is trusted; return its size in bytes.

    Only regular files and folders are taken, so that nothing can be written through a link.

    Raises:
        EngineError: The archive has too many or too large files.
        InvalidArchiveError: It is damaged, or has a name outside its folder.
    """
    examine(archive, 2 * MAX_BYTES)
    root.mkdir(mode=0o755)
    size = count = 0
    with opened(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if ".." in parts or member.name.startswith("/"):
                raise EngineError("the archive of the environment has a name outside its folder")
            target = root.joinpath(*parts)
            size, count = size + member.size, count + 1
            if size > MAX_BYTES or count > MAX_FILES:
                raise EngineError(f"an environment has at most {MAX_FILES} files and {MAX_BYTES >> 30} GiB")
            if member.isdir():
                target.mkdir(mode=0o755, exist_ok=True)
            elif member.isreg() and (source := tar.extractfile(member)) is not None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
                    shutil.copyfileobj(source, file)
                    os.fchmod(file.fileno(), 0o755 if member.mode & 0o100 else 0o644)
    for name in ("python", "python3", f"python{python}"):
        (root / "bin" / name).symlink_to("/usr/bin/python3")
    (root / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n"
    )
    _publish(root)
    return size


def _publish(root: Path) -> None:
    """Make folders and the last file readable for everybody, regardless of the umask."""
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(0o755)
    (root / "pyvenv.cfg").chmod(0o644)


def _pack(content: Path, target: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(content.rglob("*")):
            tar.add(path, str(path.relative_to(content)), recursive=False)


def _program() -> bytes:
    source = resources.files("unsandbox.sandbox.guest").joinpath("install.py").read_bytes()
    return source.replace(b"@ENVIRONMENT@", ENVIRONMENT.encode())
