"""Works on the files of a sandbox through a program that runs inside it, as its user."""

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
_MOST_HELPERS = 4
_CALL_S = 120.0
_IDLE_S = 30.0
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
    errno.ESTALE: (Conflict, "file_changed"),
    errno.ENOSPC: (InsufficientStorage, "insufficient_storage"),
    errno.EDQUOT: (InsufficientStorage, "insufficient_storage"),
    errno.EFBIG: (InsufficientStorage, "insufficient_storage"),
}
_SHOWN = 200


class Guest:
    """The helpers of one sandbox. Each does one thing at a time; they are started when needed.

    Args:
        sandbox: The sandbox.
    """

    def __init__(self, sandbox: PersistentSandbox) -> None:
        self._sandbox = sandbox
        self._idle: list[_Helper] = []
        self._room = asyncio.Semaphore(_MOST_HELPERS)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def call(self, operation: str, data: bytes = b"", **members: Any) -> tuple[dict[str, Any], bytes]:
        """Carry out an operation of the program inside.

        Args:
            operation: Its name.
            data: The bytes that belong to it.
            members: Its arguments.

        Returns:
            The members and the bytes of its answer.

        Raises:
            RequestError: The file is missing, or is not what the operation needs.
            SandboxError: The sandbox has ended, or the program in it failed.
        """
        async with self._room:
            helper = self._idle.pop() if self._idle else await self._start()
            try:
                async with asyncio.timeout(_CALL_S):
                    answer, payload = await helper.ask({"operation": operation, **members}, data)
            except TimeoutError:
                helper.close()
                raise SandboxError(f"the file operation did not end within {_CALL_S:g} s") from None
            except BaseException:
                helper.close()
                raise
            if self._closed:
                helper.close()
            else:
                self._idle.append(helper)
                self._rest()
        if "errno" in answer:
            raise _refusal(answer)
        return answer, payload

    def close(self) -> None:
        """End the helpers. Later calls start new ones."""
        for helper in self._idle:
            helper.close()
        self._idle.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def shut(self) -> None:
        """End the helpers for good."""
        self._closed = True
        self.close()

    async def _start(self) -> _Helper:
        try:
            return _Helper(await self._sandbox.spawn([*_PROGRAM, _source()]))
        except ProgramStartError as error:
            raise SandboxError(f"files need Python 3 in the session: {error}") from error

    def _rest(self) -> None:
        """Close unused helpers, because each uses memory of the tenant."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_IDLE_S, self.close)


class _Helper:
    """One running program."""

    def __init__(self, process: RunningProcess) -> None:
        self._process = process
        self._stdin = process.take("stdin_fd")
        self._stdout = process.take("stdout_fd")
        os.close(process.take("stderr_fd"))
        self._waiting = bytearray()

    async def ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Send a request and return the answer."""
        encoded = json.dumps(request).encode()
        try:
            await self._write(HEADER.pack(len(encoded), len(data)) + encoded)
            await self._write(data)
            json_size, data_size = HEADER.unpack(await self._read(HEADER.size))
            if json_size > _MOST_JSON or data_size > MAX_DATA:
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
def _source() -> str:
    return resources.files("unsandbox.sandbox.guest").joinpath("files.py").read_text("utf-8")


def _refusal(answer: dict[str, Any]) -> RequestError:
    number, said, path = answer.get("errno"), str(answer.get("error", ""))[:_SHOWN], str(answer.get("at", ""))
    known = _REFUSALS.get(number) if isinstance(number, int) else None
    kind, code = known or (InvalidRequest, "invalid_path")
    shown = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}..."
    return kind(f"{said}: {shown!r}" if shown else said, code=code)
