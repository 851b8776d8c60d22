"""What compilers made, kept for the next run of the same source: per key, by content, bounded, in memory.

A program is found again only by the hash of everything that went into it: whose it is, its source files, the
compiler's command and variables, and the toolchain as it lies on the disk. So one key's programs are never
another's, and a source that was changed, or a compiler that was, misses. What the compiler said is kept too and
said again.
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
    """What a compile step left: its one file, and what it wrote to stderr."""

    data: bytes
    mode: int
    said: bytes = b""

    @property
    def size(self) -> int:
        """Bytes that it takes here."""
        return len(self.data) + len(self.said) + 500


class CompileCache:
    """Programs of one backend.

    Args:
        system: Where the compilers are.
        most_bytes: All programs together; the one that was not used for longest leaves first.
        most_each: A larger program is not kept.
        most_per_key: All programs of one key together.
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

    def key_of(self, spec: SandboxSpec) -> tuple[str, bytes] | None:
        """Return what a job's program is found by; None when it is not to be kept."""
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
        """Return a program."""
        found = self._found.get(key)
        if found is not None:
            self._found.move_to_end(key)
        return found

    def keep(self, key: tuple[str, bytes], program: Compiled) -> None:
        """Keep a program, if it is not too large; older ones may leave."""
        if program.size > self.most_each or key in self._found:
            return
        scope = key[0]
        self._found[key] = program
        self._held[scope] = self._held.get(scope, 0) + program.size
        while self._held[scope] > self._most_per_key:
            self._drop(next(other for other in self._found if other[0] == scope))
        while sum(self._held.values()) > self._most:
            self._drop(next(iter(self._found)))
        self._held = {name: size for name, size in self._held.items() if size}

    def _drop(self, key: tuple[str, bytes]) -> None:
        self._held[key[0]] -= self._found.pop(key).size

    def _toolchain(self, program: str) -> str:
        """Return a text that changes when the compiler, or any package of the system, does."""
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
    """Return the job that only runs what was compiled before."""
    file = SandboxFile(spec.compiled or "", program.data, program.mode)
    return replace(spec, compile=None, compiled=None, files=[*spec.files, file])


def read_program(fd: int, most: int) -> tuple[bytes, int] | None:
    """Read what a sandbox handed over: content and mode of a regular file that is not too large, else None."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > most:
        return None
    try:
        data = os.pread(fd, most + 1, 0)
    except OSError:
        # Opened for something else than reading, by a tenant.
        return None
    return (data, stat.S_IMODE(status.st_mode) & 0o777) if len(data) == status.st_size else None
