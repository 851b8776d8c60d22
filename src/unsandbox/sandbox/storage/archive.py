"""Files as tar archives: input files of sandboxes, and whole work folders.

A work folder is read and replaced by `tar` *inside* the sandbox, as its user, while the tenant's programs are
suspended: an archive can only reach what the tenant can reach, and the quota applies. The server only
    compresses, and
checks an archive first (`archive_check`). This module does not depend on a backend.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import secrets
import shlex
import tarfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self, TypeVar

from unsandbox.protocol.contents import CHUNK, ChunkReader, Content, Spool, chunks_of
from unsandbox.sandbox.errors import InvalidArchiveError, SandboxError
from unsandbox.sandbox.host.blocking import run_to_end
from unsandbox.sandbox.host.stream_capture import StreamCapture
from unsandbox.sandbox.persistent_spec import HashedBytes, RunningProcess
from unsandbox.sandbox.spec import MIB, SandboxFile
from unsandbox.sandbox.storage.archive_check import DEEPEST, opened
from unsandbox.sandbox.storage.hashed_file import HashedFile

_T = TypeVar("_T")

_LEVEL = 3
_THREADS = min(2, len(os.sched_getaffinity(0)))
_JOB_BYTES = MIB
"""What a thread compresses at a time: by itself zstd takes 8 MiB, and much more memory."""
_FRAME_BYTES = 32 * MIB
_WORTH_IT = 0.8
"""Of the size before: several threads compress what becomes as small as this."""
several_threads = threading.Semaphore()
"""Held by the one archive that several threads compress: others would gain nothing, and it takes 20 MiB."""
_PIECE = MIB // 4
_MAX_SHOWN = 200
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "Wrote only")
"""How tar says that there is no room."""


_TOO_DEEP = 3
_NESTED = f"folders are nested more than {DEEPEST} deep"


def write_archive(files: Sequence[SandboxFile], folders: Sequence[str], target: IO[bytes]) -> None:
    """Write files and folders, given by absolute paths, as a tar archive relative to `/`."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        now = int(time.time())
        made = {"/", "/work", "/tmp", "/dev", "/dev/shm"}  # noqa: S108 - inside the sandbox

        def make(folder: PurePosixPath) -> None:
            for step in (*reversed(folder.parents), folder):
                if str(step) not in made:
                    made.add(str(step))
                    member = tarfile.TarInfo(str(step).lstrip("/"))
                    member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, now
                    archive.addfile(member)

        for folder in folders:
            make(PurePosixPath(folder))
        for file in files:
            make(PurePosixPath(file.path).parent)
            member = tarfile.TarInfo(file.path.lstrip("/"))
            member.size, member.mode, member.mtime = len(file.data), file.mode, now
            archive.addfile(member, io.BufferedReader(ChunkReader(chunks_of(file.data))))


class _SpoolWriter(io.RawIOBase):
    """A spool as a file object."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._spool.size

    def write(self, data: Any) -> int:
        written = bytes(data)
        self._spool.write(written)
        return len(written)


def archive_of(files: Sequence[SandboxFile]) -> bytes | Content:
    """Return files, given by absolute paths, as a tar archive relative to `/`; a large one lies on a disk."""
    if any(not isinstance(file.data, bytes) for file in files):
        spool = Spool()
        with io.BufferedWriter(_SpoolWriter(spool), CHUNK) as target:
            write_archive(files, (), target)
        return spool.since(0)
    buffer = io.BytesIO()
    write_archive(files, (), buffer)
    return buffer.getvalue()


_TAR = [
    *[
        "tar",
        "--create",
        "--blocking-factor=256",
        "--format=pax",
        "--sort=name",
        "--sparse",
        "--one-file-system",
        "--numeric-owner",
    ],
    *["--owner=sandbox:1000", "--group=sandbox:1000", "--mode=u-s,g-s"],
    *["--pax-option=delete=atime,delete=ctime", "--directory=/work", "."],
]
# tar writes the whole name of each nested folder, and its stack ends before 12,000 do, after 11 seconds.
_PACK_SCRIPT = f"""
if [ -n "$(find /work -xdev -mindepth {DEEPEST + 1} -print -quit | head -c 1)" ]; then
    echo "{_NESTED}" >&2
    exit {_TOO_DEEP}
fi
exec {shlex.join(_TAR)}
"""
PACK = ["sh", "-c", _PACK_SCRIPT]
"""Run inside, by the sandbox's user with the right to read all of its files: its work folder goes to stdout."""

# Not -p: set-user-id bits are dropped; and no umask that takes others.
_UNPACK_SCRIPT = """
umask 0
find /work -xdev -mindepth 1 -delete || exit
options="--no-same-owner --no-same-permissions --delay-directory-restore"
exec tar --extract --blocking-factor=256 $options --directory=/work
"""
UNPACK = ["sh", "-c", _UNPACK_SCRIPT]
"""Run inside, likewise: the archive on stdin replaces the content of the work folder."""


async def save(tar: RunningProcess, destination: Path) -> HashedBytes:
    """Write the output of a started `PACK` as a compressed archive; return its hash and size.

    Written to a temporary name beside `destination`, fsynced and renamed: never half there.

    Raises:
        InvalidArchiveError: Its folders are nested too deeply.
        SandboxError: The work folder could not be read.
        OSError: The disk is full or failed.
    """
    temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(6)}.tmp")
    try:
        async with _Running(tar) as running:
            hashed = await running.in_thread(partial(compress, running.take("stdout_fd"), temporary))
            await running.must_succeed("the work folder could not be read")
            await run_to_end(partial(_publish, temporary, destination))
    finally:
        temporary.unlink(missing_ok=True)
    return hashed


async def load(tar: RunningProcess, archive: Path) -> None:
    """Feed an archive, compressed or not, to a started `UNPACK`.

    Raises:
        SandboxError: It could not be unpacked.
        OSError: It does not fit into the work folder (`EDQUOT`), or cannot be read.
    """
    async with _Running(tar) as running:
        await running.in_thread(partial(decompress, archive, running.take("stdin_fd")))
        await running.must_succeed("the archive could not be unpacked")


async def copy(tar: RunningProcess, unpacking: Sequence[Callable[[], Awaitable[RunningProcess]]]) -> None:
    """Feed the output of a started `PACK` to several `UNPACK`, which the functions start.

    Raises:
        InvalidArchiveError: Its folders are nested too deeply.
        SandboxError: The folder could not be read, or not be written.
        OSError: It does not fit into one of the work folders (`EDQUOT`).
    """
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(_Running(tar))
        targets = [await stack.enter_async_context(_Running(await start())) for start in unpacking]
        pipes = [target.take("stdin_fd") for target in targets]
        await source.in_thread(partial(_pour, source.take("stdout_fd"), pipes))
        await source.must_succeed("the work folder could not be read")
        for target in targets:
            await target.must_succeed("the copy of the work folder could not be written")


def _pour(source: int, targets: Sequence[int]) -> None:
    """Copy a pipe to its end into others; all are closed then."""
    piece = memoryview(bytearray(_PIECE))
    with ExitStack() as stack:
        stream = stack.enter_context(os.fdopen(source, "rb", buffering=0))
        pipes = [stack.enter_context(os.fdopen(target, "wb", buffering=0)) for target in targets]
        while count := stream.readinto(piece):
            for pipe in list(pipes):
                rest = piece[:count]
                try:
                    while rest:
                        rest = rest[pipe.write(rest) :]
                except BrokenPipeError:
                    # It says why when it is asked.
                    pipes.remove(pipe)


class _Running:
    """A started tar: collects its error messages and ensures that it ends."""

    def __init__(self, tar: RunningProcess) -> None:
        self._tar = tar
        self._null = -1
        self._complaints: StreamCapture | None = None

    async def __aenter__(self) -> Self:
        self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        fd, self._tar.stderr_fd = self._tar.stderr_fd, None
        if fd is not None:
            self._complaints = StreamCapture(
                "stderr",
                fd,
                keep_bytes=4096,
                flood_bytes=1 << 62,
                discard_fd=self._null,
                sink=None,
                on_flood=lambda: None,
                on_end=lambda: None,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._tar.kill()
        self._tar.close()
        if self._complaints is not None:
            self._complaints.close()
        os.close(self._null)

    def take(self, name: str) -> int:
        """Take over a pipe, for blocking use in a thread."""
        fd: int = getattr(self._tar, name)
        setattr(self._tar, name, None)
        os.set_blocking(fd, True)
        # The larger it is the less often tar and this process wait for each other. The kernel may refuse.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, MIB)
        return fd

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Do something that blocks on one of its pipes."""
        # Its death ends the pipe, and with it the thread.
        return await run_to_end(work, on_cancel=self._tar.kill)

    async def must_succeed(self, otherwise: str) -> None:
        """Wait for its end; raise unless it went well."""
        code = await self._tar.wait()
        if code == 0:
            return
        if code == _TOO_DEEP:
            raise InvalidArchiveError(_NESTED)
        said = self._complaints.result().data.decode("utf-8", "replace").strip() if self._complaints else ""
        must_have_room(said, otherwise)
        raise SandboxError(f"{otherwise}: {said[:_MAX_SHOWN] or f'exit status {code}'}")


def must_have_room(said: str, otherwise: str) -> None:
    """Raise when what tar complained of is a lack of room.

    Raises:
        OSError: It is (EDQUOT).
    """
    if any(words in said for words in _FULL):
        raise OSError(errno.EDQUOT, f"{otherwise}: the quota of the folder is exceeded")


def compress(source: int, temporary: Path) -> HashedBytes:
    """Compress the data of a descriptor, to its end, into a new file, which is then durable.

    The first frame is short and tells whether more than one thread is worth it: for what cannot be compressed,
    as it often is, more threads take longer. Later ones tell it for what follows them.
    """
    from zstandard import ZstdCompressionParameters, ZstdCompressor

    alone = ZstdCompressor(level=_LEVEL)
    threaded = ZstdCompressor(
        compression_params=ZstdCompressionParameters.from_level(_LEVEL, threads=_THREADS, job_size=_JOB_BYTES)
    )
    piece = memoryview(bytearray(_PIECE))
    frame, frame_bytes, taken, given = alone.compressobj(), MIB, 0, 0
    with open(source, "rb", buffering=0) as stream, HashedFile(temporary) as file, ExitStack() as turn:
        while count := stream.readinto(piece):
            given += file.write(frame.compress(piece[:count]))
            taken += count
            if taken >= frame_bytes:
                given += file.write(frame.flush())
                turn.close()
                chosen = alone
                if given < taken * _WORTH_IT and several_threads.acquire(blocking=False):
                    turn.callback(several_threads.release)
                    chosen = threaded
                frame, frame_bytes, taken, given = chosen.compressobj(), _FRAME_BYTES, 0, 0
        file.write(frame.flush())
        return file.finish()


def _publish(temporary: Path, destination: Path) -> None:
    temporary.replace(destination)
    folder = os.open(destination.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def decompress(archive: Path, target: int) -> None:
    """Write what an archive holds to a descriptor, which is closed then."""
    # One buffer for everything, because new memory costs more than copying into it.
    piece = memoryview(bytearray(_PIECE))
    with (
        open(target, "wb", buffering=0) as pipe,
        opened(archive) as stream,
        # Who stops to read says why when asked.
        contextlib.suppress(BrokenPipeError),
    ):
        while count := stream.readinto(piece):
            rest = piece[:count]
            while rest:
                rest = rest[pipe.write(rest) :]
