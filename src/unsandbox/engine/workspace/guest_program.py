"""A program of ours inside a sandbox, and the messages to and from it."""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import os
from importlib import resources
from typing import Any

from unsandbox.engine.background import run_large
from unsandbox.engine.errors import (
    Conflict,
    Forbidden,
    InsufficientStorage,
    InvalidRequest,
    RequestError,
    UnknownObject,
)
from unsandbox.sandbox.errors import ProgramStartError, SandboxError
from unsandbox.sandbox.guest.files import HEADER, MAX_DATA
from unsandbox.sandbox.host.descriptors import readable, writable
from unsandbox.sandbox.persistent_spec import PersistentSandbox, RunningProcess

_PROGRAM = ("/usr/bin/python3", "-I", "-S", "-c")
_MOST_JSON = 8 << 20
_CHUNK = 1 << 18

_REFUSALS: dict[int, tuple[type[RequestError], str]] = {
    errno.ENOENT: (UnknownObject, "file_not_found"),
    errno.EACCES: (Forbidden, "permission_denied"),
    errno.EPERM: (Forbidden, "permission_denied"),
    errno.EROFS: (Forbidden, "permission_denied"),
    errno.EISDIR: (Conflict, "is_a_directory"),
    errno.ENOTDIR: (Conflict, "not_a_directory"),
    errno.EEXIST: (Conflict, "file_exists"),
    errno.ENXIO: (InvalidRequest, "not_a_regular_file"),
    errno.ENOTEMPTY: (Conflict, "directory_not_empty"),
    errno.E2BIG: (InvalidRequest, "too_many_files"),
    errno.ESTALE: (Conflict, "file_changed"),
    errno.ENOSPC: (InsufficientStorage, "insufficient_storage"),
    errno.EDQUOT: (InsufficientStorage, "insufficient_storage"),
    errno.EFBIG: (InsufficientStorage, "insufficient_storage"),
}
_SHOWN = 200


class GuestProgram:
    """A running program of `unsandbox.sandbox.guest`. The tenant can replace it: its answers are not trusted.

    Args:
        process: The program.
    """

    def __init__(self, process: RunningProcess) -> None:
        self._process = process
        self._stdin = process.take("stdin_fd")
        self._stdout = process.take("stdout_fd")
        os.close(process.take("stderr_fd"))
        self._waiting = bytearray()

    @classmethod
    async def start(cls, sandbox: PersistentSandbox, name: str) -> GuestProgram:
        """Start a program inside a sandbox.

        Args:
            sandbox: The sandbox.
            name: Name of the module.

        Raises:
            SandboxError: The sandbox has ended, or has no Python.
        """
        try:
            return cls(await sandbox.spawn([*_PROGRAM, _source(name)]))
        except ProgramStartError as error:
            raise SandboxError(f"files need Python 3 in the session: {error}") from error

    async def ask(self, request: dict[str, Any], data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Send a request and return the answer.

        Raises:
            SandboxError: The program ended, or its answer is invalid.
        """
        encoded = json.dumps(request).encode()
        try:
            await self._write(HEADER.pack(len(encoded), len(data)) + encoded)
            await self._write(data)
        except OSError as error:
            raise SandboxError("the file helper of the session ended") from error
        return await self.receive()

    async def receive(self, most_json: int = _MOST_JSON) -> tuple[dict[str, Any], bytes]:
        """Return the next answer.

        Args:
            most_json: Bytes that its JSON may have.

        Raises:
            SandboxError: The program ended, or its answer is invalid.
        """
        try:
            json_size, data_size = HEADER.unpack(await self._read(HEADER.size))
            if json_size > most_json or data_size > MAX_DATA:
                raise SandboxError("the file helper of the session sent an invalid answer")
            answer = await run_large(json_size, json.loads, await self._read(json_size))
            payload = await self._read(data_size)
        except (OSError, ValueError, RecursionError) as error:
            raise SandboxError("the file helper of the session ended") from error
        if not isinstance(answer, dict):
            raise SandboxError("the file helper of the session sent an invalid answer")
        return answer, payload

    def close(self) -> None:
        """End the program."""
        if self._stdin >= 0:
            os.close(self._stdin)
            os.close(self._stdout)
            self._stdin = self._stdout = -1
            self._process.kill_session()
            self._process.close()

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._stdin, view[:_CHUNK]) :]
            except BlockingIOError:
                await writable(self._stdin)

    async def _read(self, size: int) -> bytes:
        while len(self._waiting) < size:
            # The tenant may send byte by byte, as fast as they are read: others have a turn in between.
            await asyncio.sleep(0)
            try:
                data = os.read(self._stdout, _CHUNK)
            except BlockingIOError:
                await readable(self._stdout)
                continue
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the program has ended")
            self._waiting += data
        found = bytes(self._waiting[:size])
        del self._waiting[:size]
        return found


@functools.cache
def _source(name: str) -> str:
    return resources.files("unsandbox.sandbox.guest").joinpath(f"{name}.py").read_text("utf-8")


def refusal_of(answer: dict[str, Any]) -> RequestError | None:
    """Return the error that an answer stands for; None if it stands for none."""
    if "errno" not in answer:
        return None
    number, said, path = answer.get("errno"), str(answer.get("error", ""))[:_SHOWN], str(answer.get("at", ""))
    known = _REFUSALS.get(number) if isinstance(number, int) else None
    kind, code = known or (InvalidRequest, "invalid_path")
    shown = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}..."
    return kind(f"{said}: {shown!r}" if shown else said, code=code)
