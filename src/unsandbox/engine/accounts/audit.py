"""The audit log: which key ran what, under which policy, with which outcome. It is append-only.

Each line is a JSON object with a MAC (HMAC-SHA256, keyed by the server's key) over itself and the previous
line. Without the key, nobody can change, remove or insert a line unnoticed by `verify`. A chain cannot show
that its *end* was removed; store its length and last MAC elsewhere (`un audit verify` prints them). The log
never contains code and output, only the SHA-256 of the code.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.errors import EngineError

logger = logging.getLogger("unsandbox.engine.accounts.audit")

FILE_BYTES = 64 << 20
_SYNC_EVERY_S = 1.0
_FIRST_MAC = "0" * 64
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of `verify`: the number of valid lines, the last MAC, and the problem, if any."""

    lines: int
    last_mac: str
    problem: str = ""


class AuditLog:
    """Appends to the files `audit-NNNNNN.jsonl` of a folder.

    Args:
        folder: The data folder.
        key: Key of the MACs.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._key = key
        self._fd = -1
        self._size = 0
        self._number = 0
        self._sequence = 0
        self._mac = _FIRST_MAC
        self._missed = 0
        self._syncing: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Continue where an earlier process ended; an incomplete last line is set aside and noted.

        Raises:
            EngineError: The file cannot be written, or its last line is not ours.
        """
        files = audit_files(self._folder)
        path = files[-1] if files else self._path(1)
        self._number = int(path.stem.rpartition("-")[2])
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            torn = self._resume(files)
        except OSError as error:
            raise EngineError(f"the audit log {path} cannot be used: {error.strerror}") from error
        if torn:
            self.note("recovered", torn_bytes=torn)

    def note(self, event: str, **members: Any) -> None:
        """Append a line. The kernel has it when this returns; it is on disk within a second.

        Lines that a full disk refuses are counted, and their number is noted as soon as there is space.
        """
        if self._fd < 0:
            return
        if self._missed and self._write("lines_missing", {"count": self._missed}):
            self._missed = 0
        if self._missed or not self._write(event, members):
            self._missed += 1
            return
        if self._size > FILE_BYTES:
            self._next_file()
        if self._syncing is None:
            with contextlib.suppress(RuntimeError):
                self._syncing = asyncio.get_running_loop().call_later(_SYNC_EVERY_S, self._sync)

    def _write(self, event: str, members: Mapping[str, Any]) -> bool:
        """Append a whole line or nothing; what is not there is no part of the chain either."""
        known = {"seq": self._sequence + 1, "time": round(time.time(), 3), "event": event}
        line, mac = _sealed(self._key, self._mac, known | dict(members))
        try:
            written = os.write(self._fd, line)
            if written < len(line):
                os.ftruncate(self._fd, self._size)
        except OSError:
            logger.exception("the audit log could not be written")
            return False
        if written < len(line):
            logger.error("the audit log could not be written: the disk is full")
            return False
        self._mac = mac
        self._sequence += 1
        self._size += len(line)
        return True

    def close(self) -> None:
        """Write everything to disk and close the file."""
        if self._syncing is not None:
            self._syncing.cancel()
            self._syncing = None
        if self._fd >= 0:
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _path(self, number: int) -> Path:
        return self._folder / f"audit-{number:06}.jsonl"

    def _resume(self, files: list[Path]) -> int:
        """Find the last whole line; return how many bytes after it were cut off."""
        self._size = os.fstat(self._fd).st_size
        start = max(0, self._size - _TAIL_BYTES)
        tail = os.pread(self._fd, _TAIL_BYTES, start)
        whole, newline, torn = tail.rpartition(b"\n")
        if torn:
            os.ftruncate(self._fd, self._size - len(torn))
            self._size -= len(torn)
        last = whole.rpartition(b"\n")[2] if newline else b""
        if not last and len(files) > 1:
            last = files[-2].read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
        if last:
            try:
                members = json.loads(last)
                self._sequence, self._mac = int(members["seq"]), str(members["mac"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise EngineError(
                    f"the last line of the audit log in {self._folder} is damaged; move the file away "
                    "and keep it for inspection"
                ) from error
        return len(torn)

    def _next_file(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            # Before the old file is closed: if there is no space for a new one, the old one continues.
            os.fsync(self._fd)
            fd = os.open(self._path(self._number + 1), flags, 0o600)
        except OSError:
            logger.exception("the audit log could not begin another file")
            return
        os.close(self._fd)
        self._fd = fd
        self._number += 1
        self._size = 0

    def _sync(self) -> None:
        self._syncing = None
        if self._fd >= 0:
            # A copy, because the file may be closed meanwhile.
            asyncio.get_running_loop().run_in_executor(None, _sync_and_close, os.dup(self._fd))


def audit_key(box: SecretBox) -> bytes:
    """Return the key of the MACs of a data folder."""
    return box.derived_key("unsandbox audit log")


def audit_files(folder: Path) -> list[Path]:
    """Return the files of an audit log, oldest first."""
    return sorted(folder.glob("audit-[0-9]*.jsonl"))


def code_hash(text: str | bytes) -> str:
    """Return the SHA-256 of a program, command or body, as the log has it."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()


def verify(folder: Path, key: bytes) -> Verdict:
    """Check the MAC and the position of every line of a log.

    Args:
        folder: The data folder.
        key: Key of the MACs.
    """
    sequence, mac = 0, _FIRST_MAC
    for where, line in _lines(folder):
        try:
            members = json.loads(line)
            claimed = members.pop("mac")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return Verdict(sequence, mac, f"{where} is no line of an audit log")
        expected = _mac_of(key, mac, members)
        if not isinstance(claimed, str) or not hmac.compare_digest(expected, claimed):
            return Verdict(sequence, mac, f"{where} was changed, or a line before it was removed or inserted")
        if members.get("seq") != sequence + 1:
            return Verdict(sequence, mac, f"{where} has the number {members.get('seq')}, not {sequence + 1}")
        sequence, mac = sequence + 1, claimed
    return Verdict(sequence, mac)


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log, oldest first, unchecked."""
    for _, line in _lines(folder):
        with contextlib.suppress(ValueError, RecursionError):
            yield json.loads(line)


def _lines(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in audit_files(folder):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield f"{path.name}:{number}", line


def _sealed(key: bytes, previous: str, members: dict[str, Any]) -> tuple[bytes, str]:
    mac = _mac_of(key, previous, members)
    return _canonical(members | {"mac": mac}) + b"\n", mac


def _mac_of(key: bytes, previous: str, members: dict[str, Any]) -> str:
    return hmac.new(key, previous.encode() + _canonical(members), hashlib.sha256).hexdigest()


def _canonical(members: dict[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":"), ensure_ascii=True).encode()


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
