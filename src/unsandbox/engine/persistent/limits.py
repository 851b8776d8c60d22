"""What sessions and services have in common: a live sandbox behind a stored object."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from unsandbox.engine.accounts.quotas import Reservation
from unsandbox.engine.backends import check_network
from unsandbox.engine.context import Context
from unsandbox.engine.errors import InvalidRequest, LimitReached
from unsandbox.engine.store.objects import Collection, Record
from unsandbox.protocol.contents import Content
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.layout import INPUT_FOLDER
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSandbox, PersistentSpec
from unsandbox.sandbox.spec import SandboxFile

_SAVE_ACTIVITY_EVERY_S = 30.0
_BEGAN = time.time() - time.monotonic()


def steady_time() -> float:
    """Return Unix time by a clock that was set when this process began and never again; no jump moves it."""
    return _BEGAN + time.monotonic()


class PersistentRecord(Record, kw_only=True):
    """What is stored of a session or service alike."""

    container: str
    network_mode: str
    vcpu: int
    last_activity: float
    isolation: str = "auto"


L = TypeVar("L", bound=PersistentRecord)


def check_room(kind: str, mine: int, limit: int) -> None:
    """Refuse one more object of a kind.

    Raises:
        LimitReached: The key has as many as it may have.
    """
    if mine >= limit:
        raise LimitReached(
            f"this key already has {mine} {kind}s; delete one", active_executions=mine, concurrency_limit=limit
        )


def persistent_limits(context: Context, owner: str, vcpu: int) -> PersistentLimits:
    """Return the limits of a key's sandbox with so many CPUs."""
    return PersistentLimits(
        vcpu=float(vcpu),
        memory_bytes=context.quotas.memory_bytes(owner, vcpu),
        work_bytes=context.config.work_bytes,
    )


def held_by_one(context: Context, owner: str, vcpu: int) -> Reservation:
    """Return what a session or service with so many CPUs takes of what its key may have."""
    limits = persistent_limits(context, owner, vcpu)
    return Reservation(limits.memory_bytes, limits.work_bytes)


def held_by_all(context: Context, owner: str, documents: Iterable[PersistentRecord]) -> Reservation:
    """Return what sessions or services of a key take together, open or not: they may be opened at any time."""
    return sum((held_by_one(context, owner, document.vcpu) for document in documents), Reservation())


def sandbox_files(files: Mapping[str, bytes | Content]) -> list[SandboxFile]:
    """Return input files as a sandbox takes them."""
    return [SandboxFile(f"{INPUT_FOLDER}/{name}", data) for name, data in files.items()]


async def open_persistent(context: Context, isolation: str, spec: PersistentSpec) -> PersistentSandbox:
    """Make a sandbox that stays; the toolchains of all languages find what they read outside /usr.

    Raises:
        InvalidRequest: The isolation or network cannot be had here, or a file's place is not usable.
    """
    if spec.work_disk is not None:
        spec.work_disk.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        backend = context.backends.live(isolation)
        check_network(backend, spec.network)
        sandbox = await backend.open_persistent(replace(spec, system_paths=context.languages.system_paths()))
    except SandboxUnavailable as error:
        raise InvalidRequest(str(error), code="isolation_unavailable") from error
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    context.quotas.stirred.set()
    return sandbox


async def set_vcpu(context: Context, document: PersistentRecord, sandbox: PersistentSandbox, vcpu: int) -> None:
    """Give a living sandbox so many CPUs and the memory that belongs to them.

    Raises:
        InvalidRequest: This machine cannot enforce it, or the kernel refuses.
        LimitReached: Its key has not so much memory left.
    """
    limits = persistent_limits(context, document.owner, vcpu)
    more = limits.memory_bytes - persistent_limits(context, document.owner, document.vcpu).memory_bytes
    context.quotas.check_room(document.owner, Reservation(max(0, more)))
    try:
        await sandbox.set_limits(vcpu=limits.vcpu, memory_bytes=limits.memory_bytes)
    except SandboxError as error:
        raise InvalidRequest(str(error), code="limits_unavailable") from error


def remove_tree(path: Path) -> None:
    """Remove a file or a folder with all that is in it; what is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class InFlight:
    """Counts what is being made for each key, so that two at once do not pass a limit."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def of(self, owner: str) -> int:
        """Return how many are being made for a key."""
        return self._counts.get(owner, 0)

    @contextlib.contextmanager
    def one_more(self, owner: str) -> Iterator[None]:
        """Count one while it is being made."""
        self._counts[owner] = self.of(owner) + 1
        try:
            yield
        finally:
            self._counts[owner] -= 1
            if not self._counts[owner]:
                del self._counts[owner]


class Background:
    """Work that nobody waits for, until the engine stops."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do it as a task that is kept until it has ended."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self) -> None:
        """Wait for all of it."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


class Activity(Generic[L]):
    """Notes when an object was last used; it is stored now and then, so that a restart knows about it.

    Args:
        shelf: Where the objects are.
        background: Does the storing.
    """

    def __init__(self, shelf: Collection[L], background: Background) -> None:
        self._shelf = shelf
        self._background = background
        self._saved: dict[str, float] = {}

    def touch(self, document: L) -> None:
        """Take note of a use."""
        document.last_activity = steady_time()
        saved = self._saved.get(document.object_id, document.created_at)
        if document.last_activity - saved > _SAVE_ACTIVITY_EVERY_S:
            self._saved[document.object_id] = document.last_activity
            if self._shelf.find(document.object_id) is document:
                self._background.start(self._shelf.update(document))

    def forget(self, object_id: str) -> None:
        """Take note that an object is gone."""
        self._saved.pop(object_id, None)
