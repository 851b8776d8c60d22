"""Environments as single files, for machines without a network."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import msgspec

from unsandbox.engine.environments.build import MAX_BYTES, unpack
from unsandbox.engine.environments.store import ARCHIVE, ROOT, EnvironmentStore, Manifest, check_name, hash_of
from unsandbox.errors import EngineError

_MANIFEST = "environment.json"
_MAX_MANIFEST = 16 << 20


def export_environment(store: EnvironmentStore, manifest: Manifest, target: Path) -> None:
    """Write an environment to a file: a tar archive with its description and its content.

    Args:
        store: Where it is kept.
        manifest: Its description.
        target: The file; it is complete when this returns, or does not change.
    """
    temporary = target.with_name(f".{target.name}.part")
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            tar.add(store.archive(manifest).with_name(_MANIFEST), _MANIFEST)
            tar.add(store.archive(manifest), ARCHIVE)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def import_environment(store: EnvironmentStore, name: str, source: Path) -> Manifest:
    """Add the environment in a file of `export_environment`; return its description.

    Raises:
        EngineError: The file is damaged, or its content does not have the hash of its description.
        InvalidArchiveError: Its content has a name outside its folder.
    """
    check_name(name)
    with store.making() as folder:
        try:
            manifest = _read(source, folder)
        except (tarfile.TarError, msgspec.MsgspecError, KeyError, EOFError) as error:
            raise EngineError(f"{source} is not an environment: {error}") from error
        if hash_of(folder / ARCHIVE) != manifest.sha256:
            raise EngineError(f"{source} is damaged: the hash of its content is not that of its description")
        unpack(folder / ARCHIVE, folder / ROOT, manifest.python)
        store.add(name, manifest, folder)
        return manifest


def _read(source: Path, folder: Path) -> Manifest:
    with tarfile.open(source, "r:") as tar:
        described = tar.getmember(_MANIFEST)
        content = tar.getmember(ARCHIVE)
        if described.size > _MAX_MANIFEST or content.size > MAX_BYTES:
            raise EngineError(f"{source} is too large")
        opened = tar.extractfile(described), tar.extractfile(content)
        if opened[0] is None or opened[1] is None:
            raise EngineError(f"{source} is not an environment")
        manifest = msgspec.json.decode(opened[0].read(), type=Manifest)
        with (folder / ARCHIVE).open("wb") as file:
            shutil.copyfileobj(opened[1], file)
    (folder / ARCHIVE).chmod(0o644)
    if not manifest.python.replace(".", "").isdigit():
        raise EngineError(f"{source} names no version of Python")
    return manifest
