"""The blob store: files named by their SHA-256, in a folder or object store, kept while they have holders.

A file is either complete or absent: it is written elsewhere, synced and renamed (in an object store: uploaded
in parts and completed). Equal content is stored once. Its holders are counted, and it is deleted with the
last one. The counts are in memory: at the start every holder registers again, then `sweep` removes the rest.

obstore is called by its blocking functions, in threads: after an awaited call, one of its threads may still
need the interpreter when that ends, and abort the process (PyO3/pyo3-async-runtimes#40; seen in 3 of 18
runs).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import os
import shutil
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from unsandbox.engine.errors import Damaged, StorageUnavailable
from unsandbox.errors import EngineError
from unsandbox.sandbox.host.blocking import run_long
from unsandbox.sandbox.persistent_spec import HashedBytes
from unsandbox.sandbox.spec import MIB

logger = logging.getLogger("unsandbox.engine.saved.blobs")

_PREFIX = "blobs"
_CHUNK = 4 * MIB
_PARTS_AT_ONCE = 4
_FOREIGN_AFTER_S = 86400.0
"""In a store that other servers may share, blobs without a holder are deleted only after a day."""


class Blobs:
    """A content-addressed store.

    Args:
        store: Where the bytes lie.
        scratch: A local folder for bytes on their way; emptied now. On the same file system as `folder`.
        folder: The root of `store`, when that is a local folder.
    """

    def __init__(self, store: ObjectStore, scratch: Path, folder: Path | None = None) -> None:
        self._store = store
        self._scratch = scratch
        self._folder = folder
        self._holders: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        # Half-written files of an earlier process.
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700, parents=True)

    @classmethod
    def open(cls, folder: Path, url: str | None = None) -> Blobs:
        """Open the blob store of a data folder.

        Args:
            folder: The data folder.
            url: Where blobs lie instead: `file:///path`, `s3://bucket/prefix`, `gs://…`, `az://…`. Credentials
                come from the environment, as the tools of these services read them.

        Raises:
            EngineError: The folder cannot be made, or the URL means no store.
        """
        parts = urllib.parse.urlsplit(url or "")
        try:
            if parts.scheme not in {"", "file"}:
                return cls(from_url(url or ""), folder / "scratch")
            root = Path(urllib.parse.unquote(parts.path)) if url else folder / _PREFIX
            if not root.is_absolute():
                root = root.resolve()
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(LocalStore(prefix=root), root / "scratch", root)
        except OSError as error:
            raise EngineError(f"the blob store cannot be used: {error}") from error
        except (BaseError, ValueError) as error:
            # Its message may show credentials of the URL.
            raise EngineError(
                f"the blob store's URL ({parts.scheme}://…) cannot be used ({type(error).__name__}); "
                "pass a folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
            ) from error

    @contextlib.asynccontextmanager
    async def scratch(self) -> AsyncIterator[Path]:
        """Return a private temporary folder, which is removed at the end of the block."""
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._scratch))
        try:
            yield folder
        finally:
            await run_long(functools.partial(shutil.rmtree, folder, ignore_errors=True))

    async def put(self, path: Path, hashed: HashedBytes) -> None:
        """Store a file from a scratch folder, and hold it once; it is durable when this returns.

        The file is moved away where that saves a copy.

        Args:
            path: The file.
            hashed: Hash and size from its writer; readers find out if the disk has changed the bytes.

        Raises:
            OSError: The disk is full or failed.
            StorageUnavailable: The object store cannot be reached or refused.
        """
        sha256 = hashed.sha256
        self._holders[sha256] += 1
        try:
            async with self._lock(sha256):
                if self._folder is not None:
                    await run_long(_move, path, self._folder / _key(sha256))
                else:
                    await run_long(self._upload, path, hashed)
        except BaseException:
            await self.release(sha256)
            raise

    def hold(self, sha256: str) -> None:
        """Keep bytes for one more holder."""
        self._holders[sha256] += 1

    async def release(self, sha256: str) -> None:
        """Release bytes for one holder; bytes without holders are deleted."""
        self._holders[sha256] -= 1
        if self._holders[sha256] > 0:
            return
        async with self._lock(sha256):
            if self._holders[sha256] > 0:
                return
            del self._holders[sha256]
            try:
                await run_long(self._delete, _key(sha256))
            except (OSError, StorageUnavailable):
                # The bytes have no holder, so the next start deletes them.
                logger.warning("blob %s could not be deleted", sha256)

    @contextlib.asynccontextmanager
    async def file(self, sha256: str) -> AsyncIterator[Path]:
        """Return the bytes as a verified local file, which must not be changed and is valid within the block.

        Raises:
            Damaged: They are missing or were changed.
            StorageUnavailable: The object store cannot be reached or refused.
        """
        self.hold(sha256)
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self._folder is not None:
                    path = self._folder / _key(sha256)
                else:
                    path = await stack.enter_async_context(self.scratch()) / sha256
                    await run_long(self._download, sha256, path)
                try:
                    found = await run_long(_hash, path)
                except FileNotFoundError as error:
                    raise Damaged(
                        "the stored data is missing from the blob store; nothing was changed"
                    ) from error
                if found != sha256:
                    raise Damaged("the stored data is damaged (wrong SHA-256); nothing was changed")
                yield path
        finally:
            await self.release(sha256)

    async def sweep(self) -> int:
        """Delete blobs without holders; return their number. Call it when every holder has registered."""
        try:
            return await self._sweep()
        except (OSError, StorageUnavailable):
            # Remaining blobs do no harm, but a failure here would prevent the server from starting.
            logger.warning("the blob store could not be swept", exc_info=True)
            return 0

    async def _sweep(self) -> int:
        stored = await run_long(self._stored)
        orphans = [key for key in stored if not self._holders[key.rpartition("/")[2]]]
        self._holders = +self._holders  # Looking made entries.
        for key in orphans:
            await run_long(self._delete, key)
        if orphans:
            logger.info("%d unreferenced blobs were deleted", len(orphans))
        return len(orphans)

    @contextlib.asynccontextmanager
    async def _lock(self, sha256: str) -> AsyncIterator[None]:
        """Let one at a time store or delete the same bytes."""
        lock = self._locks.setdefault(sha256, asyncio.Lock())
        async with lock:
            yield
        if not lock.locked() and not self._holders[sha256]:
            self._locks.pop(sha256, None)

    def _upload(self, path: Path, hashed: HashedBytes) -> None:
        key = _key(hashed.sha256)
        with _store_errors():
            try:
                if obstore.head(self._store, key)["size"] == hashed.size:
                    return
            except FileNotFoundError:
                pass
            obstore.put(self._store, key, path, max_concurrency=_PARTS_AT_ONCE)

    def _download(self, sha256: str, path: Path) -> None:
        with _store_errors():
            try:
                found = obstore.get(self._store, _key(sha256))
            except FileNotFoundError:
                return
            with path.open("wb") as file:
                for chunk in found.stream(min_chunk_size=_CHUNK):
                    file.write(chunk)

    def _stored(self) -> list[str]:
        """Return the blobs in the store that are old enough to be deleted."""
        oldest = time.time() - (_FOREIGN_AFTER_S if self._folder is None else 0.0)
        with _store_errors():
            return [
                item["path"]
                for batch in obstore.list(self._store, prefix=_PREFIX)
                for item in batch
                if self._folder is not None or item["last_modified"].timestamp() < oldest
            ]

    def _delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError), _store_errors():
            obstore.delete(self._store, key)


def _key(sha256: str) -> str:
    return f"{_PREFIX}/{sha256[:2]}/{sha256}"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(path: Path, target: Path) -> None:
    """Rename a file to its place, durably. A file that is there already is replaced: it may be damaged."""
    new = not target.parent.exists()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o600)
    _sync(path)
    path.rename(target)
    _sync(target.parent)
    if new:
        _sync(target.parent.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        logger.warning("the blob store failed: %s", type(error).__name__)
        raise StorageUnavailable("the blob store failed or cannot be reached; try again later") from error
