"""Sessions and services without a sandbox: folders that are archived for real, to test what is kept of them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import zstandard

from unsandbox.engine import EngineConfig
from unsandbox.engine.accounts.logbook import LogBook
from unsandbox.engine.accounts.quotas import Quotas
from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.backends import Backends
from unsandbox.engine.context import Context
from unsandbox.engine.environments.store import EnvironmentStore
from unsandbox.engine.errors import Conflict, UnknownObject
from unsandbox.engine.persistent.limits import check_room
from unsandbox.engine.saved.blobs import Blobs
from unsandbox.engine.saved.images import Images
from unsandbox.engine.saved.snapshots import Snapshots
from unsandbox.engine.saved.sources import SavedState, SourceInfo
from unsandbox.engine.store.database import open_database
from unsandbox.engine.store.objects import new_id
from unsandbox.engine.store.sql import SqlStore
from unsandbox.protocol.services import Service, ServiceRequest
from unsandbox.protocol.sessions import Session, SessionRequest
from unsandbox.protocol.snapshots import SnapshotRequest
from unsandbox.sandbox import BubblewrapBackend, load_languages
from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.persistent_spec import HashedBytes
from unsandbox.sandbox.storage.hashed_file import HashedFile


def archive_of(files: dict[str, bytes]) -> bytes:
    """Return a zstd-compressed tar archive of files."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return zstandard.compress(plain.getvalue())


class FolderSandbox:
    """What `capture` needs of a live sandbox; memory is a text beside the folder."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder = folder
        self.backend = backend
        self.memory = ""

    async def archive_work(self, destination: Path) -> HashedBytes:
        files = {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}
        with HashedFile(destination) as file:
            file.write(archive_of(files))
            return await asyncio.to_thread(file.finish)

    async def checkpoint(self, folder: Path) -> int:
        if self.backend != "gvisor":
            raise SandboxUnavailable("bubblewrap cannot save memory")
        folder.mkdir()
        (folder / "memory").write_text(self.memory)
        return len(self.memory)


class FolderSource:
    """A `Source` of folders."""

    def __init__(self, kind: str, root: Path, backend: str = "bubblewrap") -> None:
        self.kind = kind
        self._root = root
        self._backend = backend
        self.made: dict[str, tuple[str, Any, FolderSandbox]] = {}
        self.env_names: tuple[str, ...] = ()

    def add(self, owner: str, object_id: str | None = None, request: Any = None, **files: bytes) -> str:
        object_id = object_id or new_id(self.kind)
        folder = self._root / object_id
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        request = request or (SessionRequest() if self.kind == "session" else ServiceRequest(name="web"))
        self.made[object_id] = (owner, request, FolderSandbox(folder, self._backend))
        return object_id

    def adopt(self, owner: str, object_id: str) -> None:
        """Take up a session whose folder an earlier process left, or make it."""
        folder = self._root / object_id
        folder.mkdir(parents=True, exist_ok=True)
        self.made[object_id] = (owner, SessionRequest(), FolderSandbox(folder, self._backend))

    def drop(self, object_id: str) -> None:
        shutil.rmtree(self._root / object_id)
        del self.made[object_id]

    def read(self, object_id: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self._root / object_id).iterdir()}

    def write(self, object_id: str, **files: bytes) -> None:
        for name, data in files.items():
            (self._root / object_id / name).write_bytes(data)

    def source(self, owner: str, name: str) -> SourceInfo:
        found = self.made.get(name)
        if found is None or found[0] != owner:
            raise UnknownObject(f"no {self.kind} {name!r}", code=f"{self.kind}_not_found")
        request = found[1].replace(isolation=self._backend)
        return SourceInfo(name, f"unsb-vm-{name[-10:]}", self._backend, request, self.env_names)

    @contextlib.asynccontextmanager
    async def lend(self, object_id: str) -> AsyncIterator[Any]:
        yield self.made[object_id][2]

    async def make_from(
        self,
        owner: str,
        request: Any,
        state: SavedState,
        object_id: str | None = None,
        limit: int | None = None,
    ) -> Session | Service:
        check_room(
            self.kind, sum(made[0] == owner for made in self.made.values()), 100 if limit is None else limit
        )
        if any(
            getattr(other, "name", None) == request.name and request.name for _, other, _ in self.made.values()
        ):
            raise Conflict(f"the name {request.name!r} is taken", code="name_taken")
        object_id = self.add(owner, object_id, request)
        await self.put_back(object_id, state)
        if self.kind == "session":
            return Session(session_id=object_id, name=request.name)
        return Service(service_id=object_id, name=request.name, source_image=state.origin)

    async def put_back(self, object_id: str, state: SavedState) -> None:
        folder, sandbox = self._root / object_id, self.made[object_id][2]
        if state.hot_image is not None:
            assert state.work_archive is None
            sandbox.memory = (state.hot_image / "memory").read_text()
            return
        assert state.work_archive is not None
        for name in os.listdir(folder):
            (folder / name).unlink()
        plain = zstandard.ZstdDecompressor().stream_reader(state.work_archive.open("rb"), closefd=True)
        with plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            tar.extractall(folder, filter="data")


class World:
    """Snapshots and images over folders; `restarted` is what a new process finds."""

    def __init__(self, folder: Path, backend: str, **config: int) -> None:
        self.folder = folder
        self.store = SqlStore(open_database(folder))
        self.context = Context(
            config=EngineConfig(**config),
            store=self.store,
            backends=Backends(BubblewrapBackend()),
            languages=load_languages(),
            logbook=LogBook(),
            box=SecretBox.of_this_process(),
            quotas=Quotas(EngineConfig(**config), self.store),
            environments=EnvironmentStore(folder / "environments"),
        )
        self.sessions = FolderSource("session", folder / "work", backend)
        self.services = FolderSource("service", folder / "work", backend)
        self.sources = {"session": self.sessions, "service": self.services}
        self._open()

    def _open(self) -> None:
        self.blobs = Blobs.open(self.folder)
        self.snapshots = Snapshots(self.context, self.blobs, self.sources)
        self.images = Images(self.context, self.blobs, self.snapshots, self.sources)

    async def restart(self) -> None:
        self._open()
        await self.snapshots.start()
        await self.images.start()
        await self.blobs.sweep()

    def stored(self) -> list[Path]:
        return [path for path in (self.folder / "blobs").rglob("*") if path.is_file()]

    async def snapshot(self, session_id: str, **options: object):
        return await self.snapshots.create("me", SnapshotRequest(session_id=session_id, **options))
