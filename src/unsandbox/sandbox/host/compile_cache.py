"""Caches compiled programs for the next run of the same source: per key, by content, bounded, in memory.

The cache key is the hash of everything that the program depends on: the owner's key, the source files, the
compiler's command and variables, and the state of the toolchain on the disk. Keys therefore never share
programs, and a changed source or compiler is a miss. The compiler's messages are cached and repeated too.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from unsandbox.protocol.contents import chunks_of
from unsandbox.sandbox.spec import MIB, SandboxFile, SandboxSpec
from unsandbox.sandbox.system import COMPLETE, System

_PACKAGES = "/var/lib/dpkg/status"
_BELIEVED_S = 10.0


@dataclass(frozen=True, slots=True)
class Compiled:
    """The result of a compile step: its one output file, and the text that it wrote to stderr."""

    data: bytes
    mode: int
    said: bytes = b""

    @property
    def size(self) -> int:
        """Bytes that it occupies in the cache."""
        return len(self.data) + len(self.said) + 500


class CompileCache:
    """The compiled programs of one backend.

    Args:
        system: The system that has the compilers.
        most_bytes: Bound for all programs together; the least recently used one is dropped first.
        most_each: Largest program that is cached.
        most_per_key: Bound for the programs of one key.
    """

    def __init__(
        self,
        system: System,
        *,
        most_bytes: int = 64 * MIB,
        most_each: int = 8 * MIB,
        most_per_key: int = 16 * MIB,
    ) -> None:
        self._system = system
        self._most = most_bytes
        self.most_each = most_each
        self._most_per_key = most_per_key
        self._found: OrderedDict[tuple[str, bytes], Compiled] = OrderedDict()
        self._held: dict[str, int] = {}
        self._toolchains: dict[str, tuple[float, str]] = {}

    def __len__(self) -> int:
        """How many programs are kept."""
        return len(self._found)

    @property
    def held_bytes(self) -> int:
        """Bytes that all of them take."""
        return sum(self._held.values())

    def key_of(self, spec: SandboxSpec) -> tuple[str, bytes] | None:
        """Return the cache key of a job's program; None if the program must not be cached."""
        if not spec.cache_scope or spec.compile is None or spec.compiled is None:
            return None
        parts = [*spec.compile, "", spec.compiled, self._toolchain(spec.compile[0])]
        parts += [f"{name}={value}" for name, value in sorted(spec.compile_env.items())]
        text = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape"))
        for file in spec.files:
            text.update(f"\0{file.path}\0{file.mode}\0{len(file.data)}\0".encode("utf-8", "surrogateescape"))
            for chunk in chunks_of(file.data):
                text.update(chunk)
        return spec.cache_scope, text.digest()

    def find(self, key: tuple[str, bytes]) -> Compiled | None:
        """Return the cached program, or None."""
        found = self._found.get(key)
        if found is not None:
            self._found.move_to_end(key)
        return found

    def keep(self, key: tuple[str, bytes], program: Compiled) -> None:
        """Cache a program unless it is too large; older programs may be dropped."""
        if program.size > self.most_each or key in self._found:
            return
        scope = key[0]
        self._found[key] = program
        self._held[scope] = self._held.get(scope, 0) + program.size
        while self._held[scope] > self._most_per_key:
            self._drop(next(other for other in self._found if other[0] == scope))
        while self.held_bytes > self._most:
            self._drop(next(iter(self._found)))
        self._held = {name: size for name, size in self._held.items() if size}

    def _drop(self, key: tuple[str, bytes]) -> None:
        self._held[key[0]] -= self._found.pop(key).size

    def _toolchain(self, program: str) -> str:
        """Return a text that changes when the compiler or any package of the system changes."""
        now = time.monotonic()
        until, mark = self._toolchains.get(program, (0.0, ""))
        if now < until:
            return mark
        marks = []
        places = [f"/usr/local/bin/{program}", f"/usr/bin/{program}", _PACKAGES, f"/{COMPLETE}"]
        for place in places:
            try:
                status = os.stat(self._system.path(place))  # noqa: PTH116
            except OSError:
                continue
            marks.append(f"{place} {status.st_ino} {status.st_size} {status.st_mtime_ns}")
        mark = "\n".join(marks)
        self._toolchains[program] = now + _BELIEVED_S, mark
        return mark


def with_program(spec: SandboxSpec, program: Compiled) -> SandboxSpec:
    """Return a job that runs the cached program, without a compile step."""
    file = SandboxFile(spec.compiled or "", program.data, program.mode)
    return replace(spec, compile=None, compiled=None, files=[*spec.files, file])


def read_program(fd: int, most: int) -> tuple[bytes, int] | None:
    """Return content and mode of a file that a sandbox passed; None if it is too large or not regular."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > most:
        return None
    try:
        data = os.pread(fd, most + 1, 0)
    except OSError:
        # A tenant passed a descriptor that is not open for reading.
        return None
    return (data, stat.S_IMODE(status.st_mode) & 0o777) if len(data) == status.st_size else None
