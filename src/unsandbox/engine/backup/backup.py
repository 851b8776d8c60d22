"""Makes a backup of a data folder while a server uses it.

The database is copied by SQLite's own means, which give one state of it. Blobs never change and are named by
their hash: those that this state names are pinned with hard links before they are copied, so that the server
cannot delete them meanwhile. The audit log is only appended to; its copy ends with a whole line. Disks of
sessions and services are flushed and then copied as they are, as after a power failure; those that changed
meanwhile are named.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from unsandbox._version import __version__
from unsandbox.engine.accounts.audit import audit_files
from unsandbox.engine.backup.files import copy_file, copy_tree, file_hash, made_whole
from unsandbox.errors import EngineError

FORMAT = 1
DATABASE = "unsandbox.sqlite3"
KEY = "server.key"
MANIFEST = "backup.json"
_TREES = ("sessions", "services")
_PINS = ".backup-"
_TRIES = 10


@dataclass(slots=True)
class Manifest:
    """The description of a backup, in `backup.json`.

    Attributes:
        format: Version of this description.
        version: Version of the package that made it.
        created_at: Time in ISO format.
        has_blobs: Whether blobs are part of it.
        files: SHA-256 of the files at its top.
        blobs: Number of blobs.
        bytes: Size of all files.
        inexact: Disks and files that changed while they were copied or could not be read.
    """

    format: int = FORMAT
    version: str = __version__
    created_at: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
    has_blobs: bool = True
    files: dict[str, str] = field(default_factory=dict)
    blobs: int = 0
    bytes: int = 0
    inexact: list[str] = field(default_factory=list)


def make_backup(folder: Path, target: Path, *, blobs: Path | None, with_key: bool = True) -> Manifest:
    """Copy a data folder into a new folder, which appears when it is complete.

    Args:
        folder: The data folder; a server may use it.
        target: The backup; must not exist, or be an empty folder.
        blobs: The folder that holds `blobs/`; None when they lie in an object store.
        with_key: Whether to copy `server.key`, which decrypts keys, vaults and hot snapshots.

    Returns:
        The description of the backup.

    Raises:
        EngineError: `folder` is not a data folder, `target` cannot be used, or something cannot be copied.
    """
    if not (folder / DATABASE).exists():
        raise EngineError(f"{folder} is not a server's data folder; name one with --data")
    target = target.absolute()
    if target.resolve().is_relative_to(folder.resolve()):
        raise EngineError(f"the backup {target} would be inside the data folder; name another place")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise EngineError(f"{target} exists and is not an empty folder; name a new one")
    manifest = Manifest(has_blobs=blobs is not None)
    try:
        with made_whole(target) as partial:
            _copy_state(folder, blobs, partial, manifest)
            _copy_audit_log(folder, partial)
            for name in ("accounts.csv", *([KEY] if with_key else [])):
                with contextlib.suppress(FileNotFoundError):
                    copy_file((folder / name).resolve(), partial / name)
            # The disks are mounted file systems; what programs wrote into them may be in memory only.
            os.sync()
            for name in _TREES:
                if (folder / name).is_dir():
                    inexact = copy_tree((folder / name).resolve(), partial / name)
                    manifest.inexact += [f"{name}/{path}" for path in inexact]
            manifest.files = {
                path.name: file_hash(path) for path in sorted(partial.iterdir()) if path.is_file()
            }
            manifest.bytes = sum(path.lstat().st_blocks * 512 for path in partial.rglob("*"))
            (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n")
    except (OSError, sqlite3.Error) as error:
        raise EngineError(f"the backup {target} was not made: {error}") from error
    return manifest


def read_only(database: Path) -> contextlib.closing[sqlite3.Connection]:
    """Open a database that nobody writes to; close it with the block."""
    return contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True))


def named_blobs(database: Path) -> list[str]:
    """Return the SHA-256 of all blobs that a database refers to, sorted.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    with read_only(database) as connection:
        rows = connection.execute("SELECT document FROM objects WHERE kind IN ('snapshot', 'image')")
        return sorted({str(json.loads(document)["sha256"]) for (document,) in rows})


def blob_path(root: Path, sha256: str) -> Path:
    """Return where a blob lies below the folder of a blob store."""
    return root / "blobs" / sha256[:2] / sha256


def _copy_state(folder: Path, blobs: Path | None, partial: Path, manifest: Manifest) -> None:
    """Copy the database and the blobs that it names."""
    if blobs is None:
        _copy_database(folder / DATABASE, partial / DATABASE)
        return
    with _pins(blobs) as pins:
        for _ in range(_TRIES):
            _copy_database(folder / DATABASE, partial / DATABASE)
            wanted = named_blobs(partial / DATABASE)
            # A missing one was deleted since: the next copy of the database does not name it any more.
            missing = [sha256 for sha256 in wanted if not _pin(blob_path(blobs, sha256), pins / sha256)]
            if not missing:
                break
        else:
            raise EngineError(
                f"the blob {missing[0]} is missing in {blobs}; its snapshot is damaged. Delete it, or name the "
                "place of the blobs with --blobs"
            )
        for sha256 in wanted:
            place = blob_path(partial / "blobs", sha256)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copy_file(pins / sha256, place)
    manifest.blobs = len(wanted)


def _copy_database(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    uri = f"{source.absolute().as_uri()}?mode=rw"  # never makes one
    with (
        contextlib.closing(sqlite3.connect(uri, uri=True, timeout=60)) as live,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)
        # One file, without a log beside it.
        copy.execute("PRAGMA journal_mode=DELETE")


def _copy_audit_log(folder: Path, partial: Path) -> None:
    """Copy the log up to its last whole line."""
    for path in audit_files(folder):
        copy_file(path, partial / path.name)
        with (partial / path.name).open("r+b") as file:
            data = file.read()
            file.truncate(data.rfind(b"\n") + 1)


@contextlib.contextmanager
def _pins(blobs: Path) -> Iterator[Path]:
    """Yield a folder for hard links of blobs; those of backups that were killed are removed."""
    for old in blobs.glob(f"{_PINS}*"):
        if not Path(f"/proc/{old.name.removeprefix(_PINS)}").exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = blobs / f"{_PINS}{os.getpid()}"
    if blobs.is_dir():
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pin(blob: Path, pin: Path) -> bool:
    with contextlib.suppress(FileExistsError):
        try:
            pin.hardlink_to(blob)
        except FileNotFoundError:
            return False
    return True
