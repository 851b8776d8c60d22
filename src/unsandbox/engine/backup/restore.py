"""Makes a data folder from a backup, after everything in it was verified."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import stat
from pathlib import Path

import msgspec

from unsandbox.engine.accounts.audit import audit_key, verify
from unsandbox.engine.accounts.secretbox import SecretBox, write_private
from unsandbox.engine.backup.backup import (
    DATABASE,
    FORMAT,
    KEY,
    MANIFEST,
    Manifest,
    blob_path,
    named_blobs,
)
from unsandbox.engine.backup.files import copy_file, copy_tree, file_hash, made_whole
from unsandbox.errors import EngineError

_LOCK = "serve.lock"


def restore_backup(backup: Path, folder: Path, *, key: Path | None = None) -> Manifest:
    """Create a data folder from a backup; it appears when it is complete.

    Args:
        backup: The backup.
        folder: The data folder; must not exist, or be empty.
        key: The server key, for a backup without one.

    Returns:
        The description of the backup.

    Raises:
        EngineError: The folder is in use or not empty, or the backup is damaged. Nothing was changed.
    """
    folder = folder.absolute()
    _must_be_empty(folder)
    manifest = _verified(backup, key)
    try:
        with made_whole(folder) as partial:
            for path in sorted(backup.iterdir()):
                if path.is_dir():
                    copy_tree(path, partial / path.name)
                elif path.name != MANIFEST:
                    copy_file(path, partial / path.name)
            if key is not None:
                (partial / KEY).unlink(missing_ok=True)
                write_private(partial / KEY, key.read_bytes())
            partial.chmod(0o700)
            for path in partial.iterdir():
                path.chmod(0o700 if path.is_dir() else 0o600)
    except OSError as error:
        raise EngineError(f"the data folder {folder} was not made: {error}") from error
    return manifest


def _must_be_empty(folder: Path) -> None:
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
    except OSError as error:
        raise EngineError(f"the folder {folder} cannot be used: {error.strerror}") from error
    if _is_locked(folder / _LOCK):
        raise EngineError(f"a running un serve uses {folder}; restore into another folder, or stop it first")
    raise EngineError(f"{folder} is not empty; move it away, or name another folder with --data")


def _is_locked(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _verified(backup: Path, key: Path | None) -> Manifest:
    """Check a whole backup and return its description."""
    try:
        manifest = msgspec.json.decode((backup / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise EngineError(
            f"{backup} is not a backup (no readable {MANIFEST}); `un backup` makes one"
        ) from error
    if manifest.format != FORMAT:
        raise EngineError(
            f"the backup has the format {manifest.format}, and this version reads {FORMAT}; restore it with "
            f"unsandbox {manifest.version} or newer"
        )
    try:
        _verify_kinds(backup)
        _verify_files(backup, manifest)
        _verify_blobs(backup, manifest)
        _verify_key(backup, key)
    except (OSError, sqlite3.Error, ValueError, KeyError) as error:
        raise EngineError(f"the backup {backup} is damaged: {error}; use another one") from error
    return manifest


def _verify_kinds(backup: Path) -> None:
    """Refuse links, which would bring files of this machine into the data folder, and pipes."""
    for path in backup.iterdir():
        if not (stat.S_ISREG(mode := path.lstat().st_mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"{path.name} is neither a file nor a folder")


def _verify_files(backup: Path, manifest: Manifest) -> None:
    for name, sha256 in manifest.files.items():
        if Path(name).name != name or file_hash(backup / name) != sha256:
            raise ValueError(f"{name} is not the file that was saved")
    with contextlib.closing(
        sqlite3.connect(f"{(backup / DATABASE).absolute().as_uri()}?mode=ro", uri=True)
    ) as db:
        (answer,) = db.execute("PRAGMA integrity_check").fetchone()
        if answer != "ok":
            raise ValueError(f"{DATABASE}: {answer}")


def _verify_blobs(backup: Path, manifest: Manifest) -> None:
    for sha256 in named_blobs(backup / DATABASE) if manifest.has_blobs else ():
        if file_hash(blob_path(backup / "blobs", sha256)) != sha256:
            raise ValueError(f"the blob {sha256} has another hash")


def _verify_key(backup: Path, key: Path | None) -> None:
    """Check that the key is there and fits the backup."""
    path = key or backup / KEY
    if not path.exists():
        raise EngineError(f"the backup has no {KEY}; name yours with --key")
    box = SecretBox.from_file(path)
    with contextlib.closing(
        sqlite3.connect(f"{(backup / DATABASE).absolute().as_uri()}?mode=ro", uri=True)
    ) as db:
        row = db.execute("SELECT sealed_secret FROM keys LIMIT 1").fetchone()
    if row is not None:
        box.open(row[0])
    if problem := verify(backup, audit_key(box)).problem:
        raise ValueError(f"audit log: {problem}")
